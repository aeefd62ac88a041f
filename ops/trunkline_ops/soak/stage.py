"""Where the soak takes place: servers of its own, which may be broken, and the network before them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg

from trunkline_ops.management import Management
from trunkline_ops.servers import PostgresServer, RabbitMQServer
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import EventStore
from trunkline_store.migrate import initialise

NAME: Final = "soak"
"""Of the database, of the vhost, and of the schema that holds what the subscribers write."""

_TABLES: Final = """
    CREATE SCHEMA soak;
    CREATE TABLE soak.effects (
        seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        subscriber     text NOT NULL,
        position       bigint NOT NULL,
        stream         text NOT NULL,
        stream_version bigint NOT NULL,
        pid            integer NOT NULL,
        replayed       boolean NOT NULL DEFAULT false
    );
    CREATE INDEX ON soak.effects (subscriber, seq);
    CREATE TABLE soak.holes (above bigint NOT NULL, up_to bigint NOT NULL);
    CREATE TABLE soak.mended (position bigint NOT NULL);
    INSERT INTO soak.mended VALUES (0);
"""


class Stage(NamedTuple):
    """`store` and `management` go straight to the servers; what the programs use goes through the networks."""

    postgres: PostgresServer
    rabbitmq: RabbitMQServer
    to_postgres: Proxy
    to_rabbitmq: Proxy
    store: EventStore
    management: Management
    amqp_url: str

    @property
    def environment(self) -> dict[str, str]:
        """Of the programs."""
        return {"TRUNKLINE_DSN": self.to_postgres.url, "TRUNKLINE_AMQP_URL": self.to_rabbitmq.url}


@asynccontextmanager
async def set_up(postgres: PostgresServer, rabbitmq: RabbitMQServer) -> AsyncIterator[Stage]:
    """A database with a store, a vhost, and the networks."""
    dsn = urlsplit(postgres.dsn)._replace(path=f"/{NAME}").geturl()
    amqp_url = urlsplit(rabbitmq.amqp_url)._replace(path=f"/{NAME}").geturl()
    await _create_database(postgres.dsn, dsn)
    async with (
        Management(rabbitmq.management_url, rabbitmq.user, rabbitmq.password) as management,
        EventStore(dsn, timeout=120, application_name="soak audit") as store,
        Proxy(dsn) as to_postgres,
        Proxy(amqp_url) as to_rabbitmq,
    ):
        await management.create_vhost(NAME)
        yield Stage(postgres, rabbitmq, to_postgres, to_rabbitmq, store, management, amqp_url)


async def _create_database(server: str, dsn: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {NAME}")
    finally:
        await connection.close()
    connection = await asyncpg.connect(dsn)
    try:
        await initialise(connection)
        await connection.execute(_TABLES)
    finally:
        await connection.close()
