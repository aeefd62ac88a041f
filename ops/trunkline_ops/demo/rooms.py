"""A database with a store and a vhost, made for this run of the demo."""

import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import httpx

from trunkline_ops.management import Management
from trunkline_ops.servers import PostgresServer, RabbitMQServer
from trunkline_store.migrate import initialise

TABLES = """
    CREATE SCHEMA demo;
    CREATE TABLE demo.subscriber_1 (
        seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        position       bigint NOT NULL,
        stream         text NOT NULL,
        stream_version bigint NOT NULL,
        latency_ms     double precision NOT NULL,
        handled_at     timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE TABLE demo.subscriber_2 (LIKE demo.subscriber_1 INCLUDING ALL);
    CREATE VIEW demo.handled AS
        SELECT 1 AS subscriber, * FROM demo.subscriber_1
        UNION ALL SELECT 2, * FROM demo.subscriber_2;
"""


class Rooms(NamedTuple):
    """Where the demo takes place."""

    name: str
    """Of the database and of the vhost."""
    dsn: str
    amqp_url: str
    database: asyncpg.Connection
    management: Management


@asynccontextmanager
async def fresh_rooms(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, *, keep: bool, what: str = "demo", tables: str = TABLES
) -> AsyncIterator[Rooms]:
    """Makes them, with these tables, and removes them at the end unless they are to be kept."""
    name = f"trunkline_{what}_{secrets.token_hex(3)}"
    dsn = urlsplit(postgres.dsn)._replace(path=f"/{name}").geturl()
    amqp_url = urlsplit(rabbitmq.amqp_url)._replace(path=f"/{name}").geturl()
    server = await asyncpg.connect(postgres.dsn)
    async with Management(rabbitmq.management_url, rabbitmq.user, rabbitmq.password) as management:
        try:
            await server.execute(f"CREATE DATABASE {name}")
            await management.create_vhost(name)
            database = await asyncpg.connect(dsn)
            try:
                await initialise(database)
                await database.execute(tables)
                yield Rooms(name, dsn, amqp_url, database, management)
            finally:
                await database.close(timeout=5)
        finally:
            if not keep:
                await _remove(name, server, management)
            await server.close(timeout=5)


async def _remove(name: str, server: asyncpg.Connection, management: Management) -> None:
    for what, removing in (
        ("vhost", partial(management.delete_vhost, name)),
        ("database", partial(server.execute, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")),
    ):
        try:
            await removing()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, httpx.HTTPError) as error:
            print(f"{what} {name} could not be removed: {error}", file=sys.stderr)
