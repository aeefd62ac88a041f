"""A table of 5 million events beside one of 100 thousand: what grows with it, and what must not."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from trunkline_ops.bench import ours
from trunkline_ops.bench.lab import STREAM_EVENTS, Lab
from trunkline_ops.bench.load import Run, drive
from trunkline_ops.bench.rounds import Effort, Measure, Side, compared, interleaved
from trunkline_store import ANY_VERSION, EventData, EventStore

LARGE: Final = 5_000_000
SMALL: Final = 100_000
CALLERS: Final = 10
MANY: Final = 100
TARGET: Final = 0.8
IDLE: Final = 500

_RESERVED_CONNECTIONS: Final = 50


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Appends and reads in both; then a rare category, and the safe position beside idle connections."""
    async with AsyncExitStack() as stack:
        stores, names = dict[str, EventStore](), dict[str, list[str]]()
        for side, events in (("ours", LARGE), ("small", SMALL)):
            room = await stack.enter_async_context(lab.room())
            await room.fill(effort.scaled(events))
            stores[side] = await stack.enter_async_context(EventStore(room.dsn))
            names[side] = await ours.stream_names(room)

        async def both(name: str, side_of: Callable[[str], Side], events_each: int, target: float | None) -> Measure:
            sides = {side: side_of(side) for side in stores}
            runs = await interleaved(sides, effort, first=2 * CALLERS, events_each=events_each)
            return compared(f"growth: {name}, {CALLERS} callers", "events/s", runs, target=target)

        yield await both(
            f"read a stream of {STREAM_EVENTS}",
            lambda side: ours.reads_of_streams(stores[side], CALLERS, names[side]),
            STREAM_EVENTS,
            TARGET,
        )
        yield await both(
            f"append {MANY} events to a new stream",
            lambda side: ours.appends_many(stores[side], CALLERS, MANY),
            MANY,
            TARGET,
        )
        yield await both(
            "append 1 event to any old stream",
            lambda side: _appends_to_old_streams(stores[side], names[side]),
            1,
            TARGET,
        )
        yield await both(
            "read 100 of a category that has 1 event in 1,000", lambda side: _reads_of_category(stores[side]), 100, None
        )
    async with lab.room() as room:
        yield await _safe_position(lab, room, effort)


def _appends_to_old_streams(store: EventStore, names: list[str]) -> Side:
    async def call(append: tuple[str, list[EventData]]) -> None:
        await store.append_to_stream(append[0], ANY_VERSION, append[1])

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        work = zip(random.choices(names, k=calls), ours.sample.appends(calls, 1), strict=True)
        return partial(drive, [call] * CALLERS, list(work))

    return prepare
