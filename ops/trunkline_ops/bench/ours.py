"""Our side: what an application would call, in full, with the store's defaults.

The events are made before the clock starts, as the floor's rows are; checking and encoding them is ours to pay.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from trunkline_ops.bench import sample
from trunkline_ops.bench.lab import STREAM_EVENTS, Room
from trunkline_ops.bench.load import Run, drive, whole
from trunkline_ops.bench.rounds import Side
from trunkline_store import NO_STREAM, EventData, EventStore


def appends_many(store: EventStore, writers: int, events_each: int) -> Side:
    """Appends of so many events, each to a new stream."""

    async def call(events: Sequence[EventData]) -> None:
        await store.append_to_stream(_new_stream(), NO_STREAM, events)

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        return partial(drive, [call] * writers, sample.appends(calls, events_each), events_each=events_each)

    return prepare


def appends_one(store: EventStore, writers: int) -> Side:
    """Appends of one event, each writer to a stream of its own, whose version it knows."""

    def writer() -> Any:
        stream, version = _new_stream(), 0

        async def call(events: Sequence[EventData]) -> None:
            nonlocal version
            version = (await store.append_to_stream(stream, version, events)).last_version

        return call

    callers = [writer() for _ in range(writers)]

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        return partial(drive, callers, sample.appends(calls, 1))

    return prepare


async def stream_names(room: Room) -> list[str]:
    """The streams that have all their events."""
    rows = await room.database.fetch(
        "SELECT stream FROM eventstore.streams JOIN eventstore.events USING (stream_id) WHERE stream_version = $1",
        STREAM_EVENTS,
    )
    return [row["stream"] for row in rows]


def reads_of_streams(store: EventStore, readers: int, names: list[str], *, decoded: bool = True) -> Side:
    """Reads of whole streams, chosen at random; `decoded`: all their data is asked for."""

    async def call(name: str) -> None:
        events = await store.read_stream_forward(name)
        if decoded:
            for event in events:
                _ = event.data

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        return partial(drive, [call] * readers, random.choices(names, k=calls), events_each=STREAM_EVENTS)

    return prepare


def reads_of_all(store: EventStore, *, decoded: bool = True) -> Side:
    """Reads of the whole store; `decoded`: all data is asked for."""

    async def do() -> Run:
        begun, events = time.perf_counter(), 0
        async for event in store.stream_all_forward():
            if decoded:
                _ = event.data
            events += 1
        return whole(events, begun)

    return lambda _: do


def _new_stream() -> str:
    return f"order-{secrets.token_hex(8)}"
