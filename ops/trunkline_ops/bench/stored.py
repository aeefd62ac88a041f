"""Events that wait in the store: read by a subscription, beside bare pages; handled in transactions, beside the same by
hand; and how much memory a subscriber takes that is far behind."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from trunkline_consumer import Batch, Consumer
from trunkline_ops.bench import bare, queued
from trunkline_ops.bench.broker import channel_to, declared_exchange
from trunkline_ops.bench.lab import QUERIES, Lab, Room, connections
from trunkline_ops.bench.load import Run, whole
from trunkline_ops.bench.programs import programs
from trunkline_ops.bench.rounds import Effort, Measure, Side, compared, interleaved
from trunkline_store import EventStore

TARGET_CATCH_UP: Final = 0.3
TARGET_TRANSACTIONS: Final = 0.7
TARGET_MIB: Final = 150

_BACKLOG: Final = 1_000_000
_TRANSACTIONS: Final = 4000
_names = (f"subscriber-{number}" for number in itertools.count())


@asynccontextmanager
async def backlog(lab: Lab, effort: Effort) -> AsyncIterator[tuple[Room, str, int]]:
    """A room with so many events, in batches of 10, and a vhost in which nothing is published."""
    events = effort.scaled(_BACKLOG)
    async with lab.room() as room, _vhost(lab) as url:
        await room.fill(events)
        yield room, url, events


@asynccontextmanager
async def _vhost(lab: Lab) -> AsyncIterator[str]:
    """One with an exchange to which nothing is published."""
    async with lab.broker.vhost() as url:
        async with channel_to(url) as channel:
            await declared_exchange(channel)
        yield url


async def catch_up(room: Room, url: str, events: int, effort: Effort) -> Measure:
    """A handler that counts, from the origin on."""
    async with EventStore(room.dsn) as store, Consumer(store, url) as consumer, connections(room.dsn, 1) as (one,):

        async def ours() -> Run:
            handled, begun = 0, time.perf_counter()
            async with consumer.subscribe_to_all_streams(next(_names), checkpoint_threshold=1000) as subscription:
                async for batch in subscription:
                    handled += queued.decoded(batch)
                    await batch.ack()
                    if handled == events:
                        break
                return whole(handled, begun)

        sides: dict[str, Side] = {"ours": lambda _: ours}
        for page in bare.PAGES:
            sides[f"bare, pages of {page}"] = bare.reads_of_all(one, page)
        runs = await interleaved(sides, effort, first=1, fixed=1)
    name = f"catch-up over {events:,} events, batches of 10"
    return compared(name, "events/s", runs, target=TARGET_CATCH_UP)._replace(p50_ms=None, p99_ms=None)


async def memory(room: Room, url: str, events: int) -> Measure:
    """Of a process that begins so far behind, and catches up."""
    told: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def peak() -> float:
        return await told

    async with programs(room, url) as processes:
        await processes.start(
            "subscriber",
            "trunkline_ops.bench.behind",
            str(events),
            on_report=lambda report: told.set_result(report["peak_mib"]),
        )
        value = await processes.during(peak())
    return Measure(f"peak memory, {events:,} events behind", value, "MiB", target=TARGET_MIB, at_most=True)


async def transactions(lab: Lab, effort: Effort) -> Measure:
    """A projection's row for each event, batches of one event, one after the other."""
    most = max(20, int(_TRANSACTIONS * effort.seconds))
    async with lab.room() as room, _vhost(lab) as url, EventStore(room.dsn) as store:
        await room.database.execute(QUERIES["projection_tables"])
        await queued.append(store, most + 1, 1)
        events = await store.read_all_streams_forward(count=most)

        def ours(calls: int) -> Callable[[], Awaitable[Run]]:
            return lambda: _handled(store, url, min(calls, most))

        def by_hand(calls: int) -> Callable[[], Awaitable[Run]]:
            async def do() -> Run:
                name = next(_names)
                await connection.execute(QUERIES["floor_begin"], name)
                begun = time.perf_counter()
                for event in events[:calls]:
                    async with connection.transaction():
                        await connection.execute(QUERIES["project"], name, event.position, event.data["customer"])
                        await connection.execute(QUERIES["floor_checkpoint"], name, event.position)
                return _each(min(calls, most), begun, time.perf_counter())

            return do

        async with connections(room.dsn, 1) as (connection,):
            runs = await interleaved({"ours": ours, "by hand": by_hand}, effort, first=10)
    return compared("tx=True, a row for each event", "events/s", runs, target=TARGET_TRANSACTIONS)


async def _handled(store: EventStore, url: str, calls: int) -> Run:
    """From the first call of the handler to the one after so many: by then as many transactions are committed."""
    name, seen, begun = next(_names), 0, 0.0
    ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    async with Consumer(store, url) as consumer:

        @consumer.handler(name, tx=True)
        async def project(batch: Batch, tx: asyncpg.Connection) -> None:
            nonlocal seen, begun
            if seen == 0:
                begun = time.perf_counter()
            elif seen == calls:
                ended.set_result(time.perf_counter())
            seen += len(batch)
            for event in batch:
                await tx.execute(QUERIES["project"], name, event.position, event.data["customer"])

        running = asyncio.create_task(consumer.run())
        running.add_done_callback(lambda _: ended.cancel())  # it has failed
        try:
            await asyncio.wait([ended])
        finally:
            running.cancel()
            await asyncio.wait([running])
        if not running.cancelled():
            running.result()
    return _each(calls, begun, ended.result())


def _each(calls: int, begun: float, ended: float) -> Run:
    return Run(calls, begun, ended, [(ended - begun) / calls] * calls)
