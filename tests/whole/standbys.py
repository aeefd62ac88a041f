"""A primary, its standbys, and the events that a subscription received from them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests.conftest import POSTGRES_SETTINGS
from trunkline_consumer import Subscription
from trunkline_ops.servers import PostgresServer, postgres_server, standby_of
from trunkline_store import ANY_VERSION, EventData, EventStore, RecordedEvent, Unavailable
from trunkline_store.migrate import initialise


class Pair:
    """A primary and its standby. dsn: names both, and leads to the one that is writable."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary = primary
        self.standby = standby
        one, two = urlsplit(primary.dsn), urlsplit(standby.dsn)
        both = f"{one.netloc},{two.hostname}:{two.port}"
        self.dsn = one._replace(netloc=both, query="target_session_attrs=read-write").geturl()

    async def ask(self, server: PostgresServer, question: str) -> Any:
        connection = await asyncpg.connect(server.dsn)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    async def until(self, server: PostgresServer, question: str) -> None:
        async with asyncio.timeout(30):
            while not await self.ask(server, question):
                await asyncio.sleep(0.02)  # between two looks

    async def in_step(self) -> None:
        """Wait until the standby has all that the primary has."""
        at = await self.ask(self.primary, "SELECT pg_current_wal_flush_lsn()::text")
        await self.until(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{at}'")

    async def part(self) -> None:
        """Stop replication to the standby."""
        await self.ask(self.standby, "ALTER SYSTEM SET primary_conninfo = ''")
        await self.ask(self.standby, "SELECT pg_reload_conf()")
        await self.until(self.primary, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)")

    async def synchronous(self) -> None:
        """Let no transaction commit without the standby."""
        await self.ask(self.primary, "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        await self.ask(self.primary, "SELECT pg_reload_conf()")
        await self.until(self.primary, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")

    async def fence(self) -> None:
        """Make the primary read-only; it keeps running."""
        await self.ask(self.primary, "ALTER SYSTEM SET default_transaction_read_only = on")
        await self.ask(self.primary, "SELECT pg_reload_conf()")
        await self.until(self.primary, "SELECT current_setting('default_transaction_read_only')::boolean")

    async def fail_over(self) -> None:
        """End the primary without an orderly shutdown, and promote the standby."""
        await asyncio.to_thread(self.primary.kill)
        await self.promote()

    async def promote(self) -> None:
        assert await self.ask(self.standby, "SELECT pg_promote()")


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """A running primary and standby, with a store; commits are streamed as they happen."""
    with postgres_server(private=True, settings=POSTGRES_SETTINGS) as primary:
        connection = await asyncpg.connect(primary.dsn)
        await initialise(connection)
        await connection.close()
        with standby_of(primary, settings=POSTGRES_SETTINGS) as standby:
            yield Pair(primary, standby)


class Handled:
    """The events that a subscription received, in its order."""

    def __init__(self, subscription: Subscription) -> None:
        self.events: list[RecordedEvent] = []
        self.going = asyncio.Event()
        """Cleared, the handler stands still."""
        self.going.set()
        self._subscription = subscription

    @asynccontextmanager
    async def handling(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._handle())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _handle(self) -> None:
        async for batch in self._subscription:
            await self.going.wait()
            self.events += batch
            await batch.ack()

    def types(self) -> list[str]:
        return [event.type for event in self.events]


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not fact():
            await asyncio.sleep(0.01)  # between two looks


async def appended(store: EventStore, type: str, count: int) -> list[int]:
    """Append this many events, with retries while no server is writable."""
    positions: list[int] = []
    for number in range(count):
        event = EventData(type, number)
        while True:
            with suppress(Unavailable):
                done = await store.append_to_stream(f"s-{number % 3}", ANY_VERSION, [event])
                positions.append(done.first_position)
                break
            await asyncio.sleep(0.05)  # between tries
    return positions
