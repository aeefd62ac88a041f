"""Appends, beside bare inserts of the same rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from trunkline_ops.bench import bare, ours
from trunkline_ops.bench.lab import QUERIES, Lab, connections
from trunkline_ops.bench.load import Run
from trunkline_ops.bench.rounds import Effort, Measure, Side, compared, interleaved
from trunkline_ops.bench.writers import in_processes
from trunkline_store import EventStore

MANY: Final = 100
PROCESSES: Final = 4
WRITERS_EACH: Final = 10

TARGETS_MANY: Final = {1: 0.8, 10: 0.8, 50: 0.75, 100: None}
TARGETS_ONE: Final = {1: None, 10: None, 50: 1.8, 100: None}
TARGET_LONE_P50: Final = 1.5
TARGET_PROCESSES: Final = 1.1
TARGET_WAL: Final = 1.15

_WAL_CALLS: Final = {1: 2_000, MANY: 100}


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Throughput over writers, the latency of a lone one, several processes, and bytes of WAL."""
    for writers, target in TARGETS_MANY.items():
        if target is not None or effort.curves:
            yield await _many(lab, effort, writers, target)
    for writers, target in TARGETS_ONE.items():
        if writers == 1 or target is not None or effort.curves:
            for measure in await _one(lab, effort, writers, target):
                yield measure
    yield await _processes(lab, effort)
    for events_each in _WAL_CALLS:
        yield await _wal(lab, effort, events_each)


async def _many(lab: Lab, effort: Effort, writers: int, target: float | None) -> Measure:
    async with lab.room() as room, EventStore(room.dsn) as store, AsyncExitStack() as stack:
        sides = {"ours": ours.appends_many(store, writers, MANY)}
        for size in bare.sizes(writers):
            bare_ones = await stack.enter_async_context(connections(room.dsn, size))
            sides[f"bare, {size} connections"] = bare.inserts_many(bare_ones, MANY)
        runs = await interleaved(sides, effort, first=2 * writers, events_each=MANY)
    name = f"append {MANY} events, {writers} writers"
    return compared(name, "events/s", runs, target=target, curve=(f"append, {MANY} events each", writers))


async def _one(lab: Lab, effort: Effort, writers: int, target: float | None) -> list[Measure]:
    """Against as many bare connections as there are writers: the coalesced call is to be ahead of them."""
    async with (
        lab.room() as room,
        EventStore(room.dsn) as store,
        connections(room.dsn, writers) as bare_ones,
    ):
        sides = {"ours": ours.appends_one(store, writers), "bare": bare.inserts_one(bare_ones)}
        runs = await interleaved(sides, effort, first=2 * writers)
    name = f"append 1 event, {writers} writers"
    curve = "append, 1 event each", writers
    found = [compared(name, "events/s", runs, target=target, curve=curve)]
    if writers == 1:
        name = "append 1 event, lone writer, p50"
        found.append(compared(name, "ms", runs, by="p50_ms", target=TARGET_LONE_P50, at_most=True))
    return found


async def _processes(lab: Lab, effort: Effort) -> Measure:
    async with (
        lab.room() as room,
        in_processes(room, "ours", PROCESSES, WRITERS_EACH) as our_side,
        in_processes(room, "bare", PROCESSES, WRITERS_EACH) as bare_side,
    ):
        runs = await interleaved({"ours": our_side, "bare": bare_side}, effort, first=2 * PROCESSES * WRITERS_EACH)
    name = f"append 1 event, {PROCESSES} processes of {WRITERS_EACH} writers"
    return compared(name, "events/s", runs, target=TARGET_PROCESSES)


async def _wal(lab: Lab, effort: Effort, events_each: int) -> Measure:
    """Of a lone writer, whose commits nobody shares."""
    async with lab.room() as room, EventStore(room.dsn) as store, connections(room.dsn, 1) as bare_ones:
        if events_each == 1:
            sides = {"ours": ours.appends_one(store, 1), "bare": bare.inserts_one(bare_ones)}
        else:
            sides = {
                "ours": ours.appends_many(store, 1, events_each),
                "bare": bare.inserts_many(bare_ones, events_each),
            }
        counted = {name: _counting_wal(room.database, side) for name, side in sides.items()}
        calls = effort.scaled(_WAL_CALLS[events_each])
        runs = await interleaved(counted, effort, first=10, fixed=max(calls, 10))
    name = f"WAL, {events_each} events an append" if events_each > 1 else "WAL, 1 event an append"
    return compared(name, "bytes/event", runs, target=TARGET_WAL, at_most=True)


def _counting_wal(database: asyncpg.Connection, side: Side) -> Side:
    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        do = side(calls)

        async def counted() -> Run:
            before = await database.fetchval(QUERIES["wal"])
            run = await do()
            after = await database.fetchval(QUERIES["wal"])
            return run._replace(value=float(after - before) / run.events)

        return counted

    return prepare
