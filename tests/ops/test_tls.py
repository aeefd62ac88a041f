"""TLS with verification, to both servers, for everything that connects; and what is said when it fails."""

import asyncio
import json
import os
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from typer.testing import CliRunner

from tests.tls import Tls, tls_servers
from trunkline_consumer import Consumer
from trunkline_ops.commands import app
from trunkline_ops.management import Management
from trunkline_relay import Replay
from trunkline_store import BrokerUnavailable, EventData, EventStore, StoreUnavailable
from trunkline_store.migrate import initialise

pytestmark = pytest.mark.timeout(300)  # two servers of the module's own are started


@pytest.fixture(scope="module")
def servers() -> Iterator[Tls]:
    """With a store in the database."""

    async def make(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await initialise(connection)
        finally:
            await connection.close()

    with tls_servers() as servers:
        asyncio.run(make(servers.dsn))
        yield servers


def environment(tls: Tls) -> dict[str, str | None]:
    """Only what a test says: nothing of whoever runs it."""
    theirs: dict[str, str | None] = {name: None for name in os.environ if name.startswith("TRUNKLINE_")}
    return {**theirs, "TRUNKLINE_DSN": tls.dsn, "TRUNKLINE_AMQP_URL": tls.amqp_url}


@asynccontextmanager
async def relay(tls: Tls) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, as a process."""
    variables = {name: value for name, value in {**os.environ, **environment(tls)}.items() if value}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline_ops.cli", "relay", env=variables, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        process.terminate()
        await process.communicate()


async def test_everything_goes_by_verified_tls(servers: Tls) -> None:
    """The CLI appends, the relay publishes, a subscription receives from its queue; all connections to the database
    and to the broker, the management API's too, are encrypted, and both certificates were verified."""
    tls = servers.verified
    url = urlsplit(tls.amqp_url)
    async with (
        relay(tls) as relaying,
        EventStore(tls.dsn) as store,
        Consumer(store, tls.amqp_url) as consumer,
        AsyncExitStack() as stack,
    ):
        assert relaying.stderr is not None
        async for line in relaying.stderr:
            if json.loads(line)["event"] == "publishing":
                break
        subscription = await stack.enter_async_context(consumer.subscribe_to_all_streams("tls"))
        async with asyncio.timeout(60):
            while not subscription.counts.from_queue:  # the first ones may still come from the store
                result = await asyncio.to_thread(CliRunner(env=environment(tls)).invoke, app, ["append", "a", "ByTls"])
                assert result.exit_code == 0, result.output
                batch = await anext(aiter(subscription))
                assert [event.type for event in batch] == ["ByTls"]
                await batch.ack()
        plain = await store.fetchval(
            "SELECT array_agg(application_name) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
            "WHERE NOT ssl AND backend_type = 'client backend'"
        )
        assert plain is None
        async with Management(tls.management_url, url.username or "", url.password or "") as management:
            async with asyncio.timeout(60):
                while len(connections := await management.connections("/")) < 2:
                    await asyncio.sleep(0.2)  # what the API says is seconds old
        assert {each["ssl"] for each in connections} == {True}


WRONG: dict[str, tuple[Callable[[Tls], Tls], str]] = {
    "another authority": (lambda tls: tls.trusting(tls.stranger), "not trusted"),
    "another host": (lambda tls: tls.verified.by_address(), "certificate is not valid for '127.0.0.1'"),
    "the system's authorities": (
        lambda tls: tls.verified._replace(
            dsn=tls.dsn + "?sslmode=verify-full&sslrootcert=" + ssl.get_default_verify_paths().openssl_cafile,
            amqp_url=tls.amqp_url,
            management_url=tls.management_url,
        ),
        "not trusted",
    ),
}


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, servers: Tls) -> tuple[Tls, str]:
    """Servers that must not be believed, and what is said of it."""
    make, words = WRONG[request.param]
    if request.param == "the system's authorities" and not os.path.exists(  # noqa: PTH110
        ssl.get_default_verify_paths().openssl_cafile
    ):
        pytest.skip("the system has no file of authorities where OpenSSL expects it")
    return make(servers), words


def test_a_database_that_is_not_believed_is_told_in_one_line(wrong: tuple[Tls, str]) -> None:
    """The line says what is wrong with the certificate, and which parameter counts; no password, no traceback."""
    tls, words = wrong
    for command in (["read"], ["migrations"], ["subscriptions", "list"]):
        result = CliRunner(env=environment(tls)).invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: PostgreSQL shows a certificate that is not trusted")
        assert words in result.stderr
        assert "sslrootcert" in result.stderr
        assert result.stderr.count("\n") == 1
        assert str(urlsplit(tls.dsn).password) not in result.output


def test_a_broker_that_is_not_believed_is_told_in_one_line(servers: Tls, wrong: tuple[Tls, str]) -> None:
    """As above, of RabbitMQ."""
    tls, words = wrong
    tls = tls._replace(dsn=servers.verified.dsn)
    result = CliRunner(env=environment(tls)).invoke(app, ["replay", "--to", "q"], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: RabbitMQ shows a certificate that is not trusted")
    assert words in result.stderr
    assert "cafile" in result.stderr
    assert result.stderr.count("\n") == 1
    assert str(urlsplit(tls.amqp_url).password) not in result.output


@pytest.mark.parametrize("which", ["database", "broker"])
async def test_a_relay_waits_for_servers_that_it_can_believe(which: str, servers: Tls) -> None:
    """It says why, publishes nothing, shows no password, and tries again: certificates are renewed."""
    good, bad = servers.verified, servers.trusting(servers.stranger)
    tls = bad._replace(amqp_url=good.amqp_url) if which == "database" else bad._replace(dsn=good.dsn)
    async with relay(tls) as process:
        assert process.stderr is not None
        said = []
        async for line in process.stderr:
            assert b"publishing" not in line
            for url in (tls.dsn, tls.amqp_url):
                assert str(urlsplit(url).password).encode() not in line
            said += [json.loads(line)] if f"{which} unavailable".encode() in line else []
            if len(said) == 2:
                break
        assert all("not trusted" in each["error"] for each in said)


async def test_the_libraries_say_it_by_their_types(servers: Tls) -> None:
    """`StoreUnavailable` and `BrokerUnavailable`, also where a file is not there, or where nobody speaks TLS."""
    stranger, missing = servers.trusting(servers.stranger), servers.trusting(servers.authority.with_name("missing"))
    for dsn, words in ((stranger.dsn, "not trusted"), (missing.dsn, "sslrootcert, is not there")):
        with pytest.raises(StoreUnavailable, match=words):
            await EventStore(dsn).open()
    async with EventStore(servers.verified.dsn) as store:
        await store.append_to_stream("b", 0, [EventData("Stored", None)])
        plain = servers.dsn.replace("postgresql://", "amqps://")  # whoever listens there speaks something else
        for amqp_url, words in (
            (stranger.amqp_url, "not trusted"),
            (missing.amqp_url, "cafile, is not there"),
            (f"{plain}?cafile={servers.authority}", "cannot be reached"),
        ):
            async with Consumer(store, amqp_url) as consumer, consumer.subscribe_to_stream("b", "s") as subscription:
                async with asyncio.timeout(60):
                    batch = await anext(aiter(subscription))
                assert batch[0].type == "Stored", "the store is enough"
            with pytest.raises(BrokerUnavailable, match=words):
                await Replay(store, amqp_url, "q", patience=20).run()


async def test_the_management_api_is_believed_only_with_its_certificate(servers: Tls) -> None:
    """Another authority or another host ends before the password is sent."""
    url = urlsplit(servers.amqp_url)
    for tls in (servers.trusting(servers.stranger), servers.verified.by_address(), servers):
        async with Management(tls.management_url, url.username or "", url.password or "") as management:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await management.queues("/")
