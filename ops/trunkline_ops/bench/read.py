"""Reads into recorded events with their data decoded, beside bare selects that decode nothing."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg

from trunkline_ops.bench import bare, ours
from trunkline_ops.bench.lab import QUERIES, STREAM_EVENTS, Lab, Room, connections
from trunkline_ops.bench.load import Run, drive
from trunkline_ops.bench.rounds import Effort, Measure, Side, compared, interleaved
from trunkline_store import EventStore

READERS: Final = (1, 10, 50)
TARGET: Final = 0.45
TARGET_RSS_MIB: Final = 16

_STREAMS_EVENTS: Final = 100_000
_ALL_EVENTS: Final = 1_000_000


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """A stream of 100 by several readers, then the whole store by one."""
    async with lab.room() as room, EventStore(room.dsn) as store:
        await room.fill(effort.scaled(_STREAMS_EVENTS))
        names = await ours.stream_names(room)
        for readers in READERS:
            yield await _stream(room, store, effort, names, readers)
    async with lab.room() as room, EventStore(room.dsn) as store:
        await room.fill(effort.scaled(_ALL_EVENTS))
        growth = await _growth_of_memory(store)  # first: later everything is as large as it gets
        yield Measure("read all, growth of resident memory", growth, "MiB", target=TARGET_RSS_MIB, at_most=True)
        yield await _all(room, store, effort)


async def _stream(room: Room, store: EventStore, effort: Effort, names: list[str], readers: int) -> Measure:
    ids = [row[0] for row in await room.database.fetch("SELECT DISTINCT stream_id FROM eventstore.events")]

    def bare_reads(bare_ones: list[asyncpg.Connection]) -> Side:
        def reader(connection: asyncpg.Connection) -> Any:
            async def call(stream_id: int) -> None:
                await connection.fetch(QUERIES["floor_read_stream"], stream_id, 0, 1000)

            return call

        callers = [reader(connection) for connection in bare_ones]

        def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
            return partial(drive, callers, random.choices(ids, k=calls), events_each=STREAM_EVENTS)

        return prepare

    async with AsyncExitStack() as stack:
        sides = {"ours": ours.reads_of_streams(store, readers, names)}
        for size in bare.sizes(readers):
            bare_ones = await stack.enter_async_context(connections(room.dsn, size))
            sides[f"bare, {size} connections"] = bare_reads(bare_ones)
        runs = await interleaved(sides, effort, first=2 * readers, events_each=STREAM_EVENTS)
    name = f"read a stream of {STREAM_EVENTS}, {readers} readers"
    curve = f"read a stream of {STREAM_EVENTS}", readers
    return compared(name, "events/s", runs, target=TARGET, curve=curve)


async def _all(room: Room, store: EventStore, effort: Effort) -> Measure:
    async with connections(room.dsn, 1) as (connection,):
        sides = {"ours": ours.reads_of_all(store)}
        for page in bare.PAGES:
            sides[f"bare, pages of {page}"] = bare.reads_of_all(connection, page)
        runs = await interleaved(sides, effort, first=1, fixed=1)
    return compared("read all, one reader", "events/s", runs, target=TARGET)._replace(p50_ms=None, p99_ms=None)


async def _growth_of_memory(store: EventStore) -> float:
    """From after the first pages to the most that is seen, in MiB."""
    first = most = 0
    number = 0
    async for _ in store.stream_all_forward():
        number += 1
        if number % 1000 == 0:
            most = max(most, _resident_bytes())
            if number <= 20_000:
                first = most
    return (most - first) / 2**20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
