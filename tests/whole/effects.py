"""A projection whose effects are counted: rows in the store's own database, written by four handlers at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from trunkline_consumer import Batch, Consumer
from trunkline_store import EventStore, TrunklineError

TABLE = "CREATE TABLE public.effects (position bigint, event_id uuid)"


@asynccontextmanager
async def projecting(store: EventStore, url: str, name: str = "effects") -> AsyncIterator[None]:
    """Run the projection until the end of the block. The table must exist."""
    async with Consumer(store, url) as consumer:

        @consumer.handler(name, tx=True, concurrency=4, attempts=100, wait_max=0.5, lease=1.0, idle=0.3)
        async def project(batch: Batch, tx: asyncpg.Connection) -> None:
            rows = [(event.position, event.event_id) for event in batch]
            await tx.executemany("INSERT INTO public.effects VALUES ($1, $2)", rows)

        running = asyncio.create_task(consumer.run())
        try:
            yield
            assert not running.done(), "the projection has ended by itself"
        finally:
            running.cancel()
            await asyncio.wait([running])


@asynccontextmanager
async def projecting_anew(store: EventStore, url: str) -> AsyncIterator[None]:
    """Make a table, and run the projection with it."""
    await store.fetch(TABLE)
    async with projecting(store, url):
        yield


async def until_each_event_has_its_effect(store: EventStore, *, but: set[int] | None = None) -> None:
    """Wait until every event of the store has had an effect; then check that none has had two, and that there is no
    effect without an event. but: positions without an effect."""
    seen: Counter[object] = Counter()
    wanted: set[object] = set()
    try:
        async with asyncio.timeout(60):
            while not wanted or not wanted <= set(seen):
                with suppress(TrunklineError, asyncpg.PostgresError):  # a server that is on its way
                    events = await store.fetch("SELECT position, event_id FROM eventstore.events")
                    rows = await store.fetch("SELECT position, event_id FROM public.effects")
                    wanted = {tuple(row) for row in events if row["position"] not in (but or ())}
                    seen = Counter(tuple(row) for row in rows)
                await asyncio.sleep(0.05)  # between two looks
    except TimeoutError:
        raise AssertionError(f"without effect: {sorted(map(str, wanted - set(seen)))}") from None
    assert seen == Counter(wanted)
