"""The floor: asyncpg and one table, without an event store.

Its rows are encoded before the clock starts, it keeps no versions, checks nothing, and knows no order of commits.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import asyncpg

from trunkline_ops.bench import sample
from trunkline_ops.bench.lab import QUERIES
from trunkline_ops.bench.load import Run, drive, whole
from trunkline_ops.bench.rounds import Side
from trunkline_store import EventData

CATEGORY: Final = "order"
PAGES: Final = (1000, 2000)
"""Rows of a page of everything: the better one is the floor."""

# Processes that write into one table do not meet; each counts up, as a sequence does.
_positions = itertools.count(os.getpid() % 4096, 4096)
_stream_ids = itertools.count(os.getpid() % 4096, 4096)


def sizes(callers: int) -> list[int]:
    """Numbers of connections of which one should serve so many callers best."""
    return sorted({min(callers, 4), min(callers, 10), min(callers, 50), callers} if callers <= 50 else {4, 10, 50})


def inserts_many(connections: Sequence[asyncpg.Connection], events_each: int) -> Side:
    """Inserts of so many rows, each into a new stream."""

    def caller(connection: asyncpg.Connection) -> Any:
        async def call(arrays: Sequence[Any]) -> None:
            await connection.execute(QUERIES["floor_insert_many"], *arrays)

        return call

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        versions = list(range(1, events_each + 1))
        work = [
            (next(_stream_ids), versions, CATEGORY, *map(list, zip(*map(_row, events), strict=True)))
            for events in sample.appends(calls, events_each)
        ]
        return partial(drive, [caller(connection) for connection in connections], work, events_each=events_each)

    return prepare


def inserts_one(connections: Sequence[asyncpg.Connection]) -> Side:
    """Inserts of one row, each connection into a stream of its own."""
    streams = [(next(_stream_ids), itertools.count(1)) for _ in connections]

    def caller(connection: asyncpg.Connection, stream_id: int, versions: itertools.count[int]) -> Any:
        async def call(row: Sequence[Any]) -> None:
            await connection.execute(QUERIES["floor_insert_one"], stream_id, next(versions), CATEGORY, *row)

        return call

    callers = [caller(connection, *stream) for connection, stream in zip(connections, streams, strict=True)]

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        return partial(drive, callers, [_row(event) for event in sample.events(calls)])

    return prepare


def reads_of_all(connection: asyncpg.Connection, page: int) -> Side:
    """Everything that is there, in pages of so many rows, undecoded."""

    async def do() -> Run:
        begun, events, position = time.perf_counter(), 0, 0
        while rows := await connection.fetch(QUERIES["floor_read_all"], position, page):
            events += len(rows)
            position = rows[-1][0]
        return whole(events, begun)

    return lambda _: do


def _row(event: EventData) -> tuple[Any, ...]:
    data, metadata = sample.as_text(event.data), sample.as_text(event.metadata)
    return next(_positions), event.id, len(data) + len(metadata), event.type, metadata, data
