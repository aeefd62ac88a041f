"""Where the soak takes place: a database, a vhost, and the networks before their servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg

from trunkline_ops.demo.rooms import fresh_rooms
from trunkline_ops.management import Management
from trunkline_ops.servers import PostgresServer, RabbitMQServer
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import EventStore

TABLES: Final = """
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
    CREATE TABLE soak.forged (above bigint NOT NULL, up_to bigint NOT NULL);
    CREATE TABLE soak.mended (position bigint NOT NULL);
    INSERT INTO soak.mended VALUES (0);
"""


class Stage(NamedTuple):
    """The servers of a run. `name`: of the database and the vhost. `store` and `management` have their own routes to
    the servers; the routes of the programs are the networks that faults break."""

    name: str
    postgres: PostgresServer
    rabbitmq: RabbitMQServer
    to_postgres: Proxy
    audit_to_postgres: Proxy
    to_rabbitmq: Proxy
    store: EventStore
    management: Management
    amqp_url: str
    language: str

    @property
    def dsn(self) -> str:
        """The DSN of the database, directly to PostgreSQL."""
        return urlsplit(self.postgres.dsn)._replace(path=f"/{self.name}").geturl()

    @property
    def environment(self) -> dict[str, str]:
        """Of the programs."""
        return {"TRUNKLINE_DSN": self.to_postgres.url, "TRUNKLINE_AMQP_URL": self.to_rabbitmq.url}


async def spoken(stage: Stage) -> str:
    """Return the language of PostgreSQL's messages, as LANGUAGE names it; "en" if there is no translation."""
    async with stage.store.acquire() as connection:
        try:
            await connection.execute("SELECT 1 / 0")
        except asyncpg.DivisionByZeroError as error:
            return "en" if "division by zero" in str(error) else stage.language
    return "en"


@asynccontextmanager
async def set_up(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, *, keep: bool, language: str
) -> AsyncIterator[Stage]:
    """Makes it, and removes it at the end unless it is to be kept: on servers that go anyway, say."""
    async with (
        fresh_rooms(postgres, rabbitmq, keep=keep, what="soak", tables=TABLES) as rooms,
        Proxy(rooms.dsn) as to_postgres,
        Proxy(rooms.dsn) as audit_to_postgres,
        EventStore(audit_to_postgres.url, timeout=120, application_name="soak audit") as store,
        Proxy(rooms.amqp_url) as to_rabbitmq,
    ):
        yield Stage(
            rooms.name,
            postgres,
            rabbitmq,
            to_postgres,
            audit_to_postgres,
            to_rabbitmq,
            store,
            rooms.management,
            rooms.amqp_url,
            language,
        )
