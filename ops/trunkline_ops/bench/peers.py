"""The library `eventsourcing` on the same server: its recorders for PostgreSQL, without the application around them.

They take and give bytes: what encodes is left out on their side, and is in ours; data that is read is decoded by
neither. Their callers are threads, as many as serve them best.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresAggregateRecorder, PostgresApplicationRecorder, PostgresDatastore

from trunkline_ops.bench import bare, ours, sample
from trunkline_ops.bench.lab import QUERIES, STREAM_EVENTS, Lab, Room
from trunkline_ops.bench.load import Run, drive_threads, whole
from trunkline_ops.bench.rounds import Effort, Measure, Side, compared, interleaved
from trunkline_store import EventStore

CALLERS: Final = (1, 10, 50)
MANY: Final = 100
TARGET: Final = 1.0

_STREAMS_EVENTS: Final = 100_000
_ALL_EVENTS: Final = 1_000_000
_PAGE: Final = 1000

Recorder = PostgresAggregateRecorder | PostgresApplicationRecorder

_KINDS: Final = {"aggregate recorder": PostgresAggregateRecorder, "application recorder": PostgresApplicationRecorder}


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Appends to both recorders, then reads of streams, then of everything."""
    for kind in _KINDS:
        for events_each in (MANY, 1):
            for callers in CALLERS:
                yield await _append(lab, effort, kind, events_each, callers)
    async with lab.room() as room, EventStore(room.dsn) as store:
        await room.fill(effort.scaled(_STREAMS_EVENTS))
        for callers in CALLERS:
            yield await _read_stream(room, store, effort, callers)
    async with lab.room() as room, EventStore(room.dsn) as store:
        await room.fill(effort.scaled(_ALL_EVENTS))
        yield await _read_all(room, store, effort)


async def _append(lab: Lab, effort: Effort, kind: str, events_each: int, callers: int) -> Measure:
    async with lab.room() as room, EventStore(room.dsn) as store:
        our_side = (
            ours.appends_one(store, callers) if events_each == 1 else ours.appends_many(store, callers, events_each)
        )
        with _recorder(room, kind, callers) as recorder:
            sides = {"ours": our_side}
            for threads in bare.sizes(callers):
                side = _appends_one if events_each == 1 else _appends_many
                sides[f"{threads} threads"] = side(recorder, threads)
            runs = await interleaved(sides, effort, first=2 * callers, events_each=events_each)
    events = "1 event" if events_each == 1 else f"{events_each} events"
    name = f"append {events}, {callers} callers, eventsourcing's {kind}"
    return compared(name, "events/s", runs, target=TARGET)


def _appends_many(recorder: Recorder, threads: int) -> Side:
    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        work = []
        for states in (_states(MANY) for _ in range(calls)):
            stream = uuid4()
            work.append([StoredEvent(stream, number, sample.TYPE, state) for number, state in enumerate(states, 1)])
        return partial(asyncio.to_thread, drive_threads, recorder.insert_events, threads, work, events_each=MANY)

    return prepare


def _appends_one(recorder: Recorder, threads: int) -> Side:
    """Each thread to a stream of its own: that is all the work made before, dealt out in turns."""
    streams = [(uuid4(), itertools.count(1)) for _ in range(threads)]

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        turns = zip(itertools.cycle(streams), _states(calls), strict=False)
        work = [[StoredEvent(stream, next(versions), sample.TYPE, state)] for (stream, versions), state in turns]
        return partial(asyncio.to_thread, drive_threads, recorder.insert_events, threads, work)

    return prepare


async def _read_stream(room: Room, store: EventStore, effort: Effort, callers: int) -> Measure:
    names = await ours.stream_names(room)
    with _recorder(room, "aggregate recorder", callers) as recorder:
        await room.database.execute(QUERIES["fill_recorder"])
        ids = [row[0] for row in await room.database.fetch("SELECT DISTINCT originator_id FROM stored_events")]

        def side(threads: int) -> Side:
            def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
                work = random.choices(ids, k=calls)
                return partial(
                    asyncio.to_thread, drive_threads, recorder.select_events, threads, work, events_each=STREAM_EVENTS
                )

            return prepare

        sides = {"ours": ours.reads_of_streams(store, callers, names, decoded=False)}
        sides |= {f"{threads} threads": side(threads) for threads in bare.sizes(callers)}
        runs = await interleaved(sides, effort, first=2 * callers, events_each=STREAM_EVENTS)
        await room.database.execute("TRUNCATE stored_events")
    name = f"read a stream of {STREAM_EVENTS}, {callers} callers, eventsourcing's recorders"
    return compared(name, "events/s", runs, target=TARGET)


async def _read_all(room: Room, store: EventStore, effort: Effort) -> Measure:
    with _recorder(room, "application recorder", 1) as recorder:
        await room.database.execute(QUERIES["fill_recorder"])

        def theirs() -> Run:
            assert isinstance(recorder, PostgresApplicationRecorder)
            begun, events, last = time.perf_counter(), 0, 0
            while found := recorder.select_notifications(last, _PAGE, inclusive_of_start=False):
                events += len(found)
                last = found[-1].id
            return whole(events, begun)

        sides: dict[str, Side] = {
            "ours": ours.reads_of_all(store, decoded=False),
            "theirs": lambda _: partial(asyncio.to_thread, theirs),
        }
        runs = await interleaved(sides, effort, first=1, fixed=1)
    name = "read all, one reader, eventsourcing's application recorder"
    return compared(name, "events/s", runs, target=TARGET)._replace(p50_ms=None, p99_ms=None)


@contextmanager
def _recorder(room: Room, kind: str, callers: int) -> Iterator[Recorder]:
    url = urlsplit(room.dsn)
    assert url.hostname is not None
    with PostgresDatastore(
        url.path.removeprefix("/"),
        url.hostname,
        url.port or 5432,
        unquote(url.username or ""),
        unquote(url.password or ""),
        pool_size=callers,
    ) as datastore:
        recorder = _KINDS[kind](datastore)
        recorder.create_table()
        yield recorder


def _states(count: int) -> Sequence[bytes]:
    """Data and metadata of each event, as one."""
    return [(sample.as_text(event.data) + sample.as_text(event.metadata)).encode() for event in sample.events(count)]
