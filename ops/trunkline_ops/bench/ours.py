"""Our side: what an application would call, in full, with the store's defaults.

The events are made before the clock starts, as the floor's rows are; checking and encoding them is ours to pay.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from trunkline_ops.bench import sample
from trunkline_ops.bench.load import Run, drive
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


def _new_stream() -> str:
    return f"order-{secrets.token_hex(8)}"
