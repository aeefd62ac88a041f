"""A PostgreSQL with real settings, and in it a database for each measure; a RabbitMQ beside it where one is needed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg

from trunkline_ops.bench import sample
from trunkline_ops.bench.broker import Broker
from trunkline_store.migrate import initialise
from trunkline_store.queries import parts_of

SETTINGS: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",  # a checkpoint in one round and not in the next would be all that is seen
    "max_connections": "700",
}
"""Of a server of one's own; fsync and synchronous_commit stay on."""

STREAM_EVENTS: Final = 100
"""In each stream of a filled database."""

_FILL_AT_ONCE: Final = 500_000

QUERIES: Final = parts_of((files(__package__) / "queries.sql").read_text())


class Room(NamedTuple):
    """A database with an empty store, and an empty table of the same shape beside it."""

    dsn: str
    database: asyncpg.Connection

    async def fill(self, events: int) -> None:
        """Brings in events without the store's help, in streams of 100, of which 1,000 are written to at a time."""
        streams = events // STREAM_EVENTS
        mixed = min(1000, streams)
        await self.database.execute(QUERIES["fill_streams"], streams)
        data, metadata = sample.as_text(sample.data(0)), sample.as_text(sample.metadata())
        for first in range(0, events, _FILL_AT_ONCE):
            last = min(first + _FILL_AT_ONCE, events) - 1
            await self.database.execute(QUERIES["fill_events"], first, last, data, metadata, mixed)
        await self.database.execute(QUERIES["after_filling"], events)
        # As autovacuum would leave it in time; nothing of the filling is left to be written during a measure.
        await self.database.execute("VACUUM (ANALYZE) eventstore.events")
        await self.database.execute("VACUUM (ANALYZE) eventstore.streams")
        await self.database.execute("CHECKPOINT")


@asynccontextmanager
async def connections(dsn: str, count: int) -> AsyncIterator[list[asyncpg.Connection]]:
    """Bare connections, with the settings that the store's have."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            connection = await asyncpg.connect(dsn, server_settings={"jit": "off"})
            stack.push_async_callback(connection.close)
            found.append(connection)
        yield found


class Lab:
    """The servers."""

    def __init__(self, dsn: str, broker: Broker | None = None) -> None:
        self._dsn = dsn
        self._broker = broker

    @property
    def broker(self) -> Broker:
        """RabbitMQ, for the families that the command knows to need it."""
        assert self._broker is not None
        return self._broker

    @asynccontextmanager
    async def room(self) -> AsyncIterator[Room]:
        """A new database; it is gone at the end."""
        name = f"trunkline_bench_{secrets.token_hex(3)}"
        dsn = urlsplit(self._dsn)._replace(path=f"/{name}").geturl()
        server = await asyncpg.connect(self._dsn)
        try:
            await server.execute(f"CREATE DATABASE {name}")
            try:
                database = await asyncpg.connect(dsn)
                try:
                    await initialise(database)
                    await database.execute(QUERIES["floor_table"])
                    yield Room(dsn, database)
                finally:
                    await database.close(timeout=5)
            finally:
                await asyncio.shield(server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        finally:
            await server.close(timeout=5)

    async def setting(self, name: str) -> str:
        """A setting of the server."""
        server = await asyncpg.connect(self._dsn)
        try:
            return str(await server.fetchval("SELECT current_setting($1)", name))
        finally:
            await server.close()
