"""Real servers, one of each for a whole run, and in them a fresh room for each test."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import hypothesis
import pytest
import pytest_asyncio
import uvloop

from trunkline_ops.management import Management
from trunkline_ops.servers import PostgresServer, RabbitMQServer, postgres_server, rabbitmq_server
from trunkline_store import EventStore
from trunkline_store.migrate import initialise
from trunkline_store.rights import ROLES, Role
from trunkline_store.roles import make_login, make_roles

POSTGRES_SETTINGS = {"fsync": "off", "max_connections": "300", "max_prepared_transactions": "64"}
RABBITMQ_SETTINGS = {"collect_statistics_interval": "1000"}  # milliseconds

# A busy machine says nothing about the code: what must be quick has a timeout of its own.
hypothesis.settings.register_profile("trunkline", deadline=None, print_blob=True)
hypothesis.settings.load_profile("trunkline")

_running = pytest.StashKey[ExitStack]()
_dsn = pytest.StashKey[str]()
_urls = pytest.StashKey[tuple[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Holds the servers of the run."""
    config.stash[_running] = ExitStack()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops them."""
    config.stash[_running].close()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests of a life cycle on both event loops: the client libraries raise other errors on uvloop."""
    both = item.get_closest_marker("both_loops") is not None
    return {"asyncio": asyncio.new_event_loop} | ({"uvloop": uvloop.new_event_loop} if both else {})


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Under pytest-xdist the servers are the controller's, and each worker is told where they are."""
    node.workerinput["dsn"] = _postgres_of_run(node.config)
    node.workerinput["urls"] = _rabbitmq_of_run(node.config)


def _postgres_of_run(config: pytest.Config) -> str:
    if _dsn not in config.stash:
        if told := getattr(config, "workerinput", None):
            config.stash[_dsn] = told["dsn"]
        else:
            server = config.stash[_running].enter_context(postgres_server(settings=POSTGRES_SETTINGS))
            config.stash[_dsn] = server.dsn
    return config.stash[_dsn]


def _rabbitmq_of_run(config: pytest.Config) -> tuple[str, str]:
    if _urls not in config.stash:
        if told := getattr(config, "workerinput", None):
            config.stash[_urls] = told["urls"]
        else:
            server = config.stash[_running].enter_context(rabbitmq_server(settings=RABBITMQ_SETTINGS))
            config.stash[_urls] = server.amqp_url, server.management_url
    return config.stash[_urls]


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> PostgresServer:
    """The PostgreSQL of the whole run. All tests share it, so it has no controls."""
    return PostgresServer(_postgres_of_run(pytestconfig))


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> RabbitMQServer:
    """The RabbitMQ of the whole run. All tests share it, so it has no controls."""
    return RabbitMQServer(*_rabbitmq_of_run(pytestconfig))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template(postgres: PostgresServer) -> AsyncIterator[str]:
    """The name of a database that holds an empty store in the schema `eventstore`."""
    async with new_database(postgres.dsn, template="template1") as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            await initialise(connection, "eventstore")
        finally:
            await connection.close()
        yield urlsplit(dsn).path.removeprefix("/")


@pytest_asyncio.fixture
async def database(postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    """The DSN of a fresh database with an empty store, as a superuser."""
    async with new_database(postgres.dsn, template) as dsn:
        yield dsn


@pytest_asyncio.fixture
async def store(database: str) -> AsyncIterator[EventStore]:
    """An empty store of the test's own."""
    async with EventStore(database) as store:
        yield store


@pytest_asyncio.fixture
async def logins(database: str) -> AsyncIterator[dict[Role, str]]:
    """The DSNs of five logins, one in each role of the store."""
    tag = secrets.token_hex(6)
    url = urlsplit(database)
    connection = await asyncpg.connect(database)
    groups = await make_roles(connection)
    for role in ROLES:
        await make_login(connection, f"{role}_{tag}", role)
        await connection.execute(f"ALTER ROLE {role}_{tag} PASSWORD '{tag}'")
    yield {role: url._replace(netloc=f"{role}_{tag}:{tag}@{url.hostname}:{url.port}").geturl() for role in ROLES}
    for name in [*(f"{role}_{tag}" for role in ROLES), *groups.values()]:
        await connection.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')
    await connection.close()


@asynccontextmanager
async def new_database(dsn: str, template: str) -> AsyncIterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield urlsplit(dsn)._replace(path=f"/{name}").geturl()
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def management(rabbitmq: RabbitMQServer) -> AsyncIterator[Management]:
    """A client of the management API of the run's RabbitMQ."""
    async with Management(rabbitmq.management_url, rabbitmq.user, rabbitmq.password) as management:
        yield management


@pytest_asyncio.fixture
async def vhost(rabbitmq: RabbitMQServer, management: Management) -> AsyncIterator[str]:
    """The AMQP URL of a fresh vhost, as an administrator."""
    name = f"test-{secrets.token_hex(6)}"
    await management.create_vhost(name)
    yield urlsplit(rabbitmq.amqp_url)._replace(path=f"/{name}").geturl()
    await management.delete_vhost(name)
