"""A table of 5 million events beside one of 100 thousand: what grows with it, and what must not."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from trunkline_ops.bench import ours, sample
from trunkline_ops.bench.lab import STREAM_EVENTS, Lab, Room, connections
from trunkline_ops.bench.load import Run, drive
from trunkline_ops.bench.rounds import Effort, Measure, Side, compared, interleaved
from trunkline_store import ANY_VERSION, EventData, EventStore

LARGE: Final = 5_000_000
SMALL: Final = 100_000
RARE: Final = "audit"
DOMINANT: Final = "order"
EARLY: Final = 0.01
LATE: Final = 0.95
CALLERS: Final = 10
MANY: Final = 100
TARGET: Final = 0.8
TARGET_LATE: Final = 1.5
IDLE: Final = 500

_RESERVED_CONNECTIONS: Final = 50


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Measure appends and reads in both stores, early and late reads of one's categories, and the safe position beside
    idle sessions."""
    async with AsyncExitStack() as stack:
        stores, names, last = dict[str, EventStore](), dict[str, list[str]](), dict[str, int]()
        for side, events in (("large", LARGE), ("small", SMALL)):
            room = await stack.enter_async_context(lab.room())
            await room.fill(effort.scaled(events))
            stores[side] = await stack.enter_async_context(EventStore(room.dsn))
            names[side] = await ours.stream_names(room)
            last[side] = (await stores[side].stream_info("$all")).version

        async def both(name: str, side_of: Callable[[str], Side], events_each: int, target: float | None) -> Measure:
            sides = {side: side_of(side) for side in stores}
            runs = await interleaved(sides, effort, first=2 * CALLERS, events_each=events_each)
            return compared(f"growth: {name}, {CALLERS} callers", "events/s", runs, ours="large", target=target)

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
            f"read {MANY} events of a category of 1 in 1,000",
            lambda side: _reads_of_category(stores[side], last[side]),
            MANY,
            None,
        )
        for category, share in ((DOMINANT, "999"), (RARE, "1")):
            sides = {
                place: _reads_from(stores["large"], category, int(last["large"] * part))
                for place, part in (("late", LATE), ("early", EARLY))
            }
            runs = await interleaved(sides, effort, first=20, events_each=MANY)
            name = f"growth: {MANY} events at 95 % of a category of {share} in 1,000, against 1 %, p50"
            yield compared(name, "ms", runs, ours="late", by="p50_ms", target=TARGET_LATE, at_most=True)
    async with lab.room() as room:
        yield await _safe_position(lab, room, effort)


def _appends_to_old_streams(store: EventStore, names: list[str]) -> Side:
    async def call(append: tuple[str, list[EventData]]) -> None:
        await store.append_to_stream(append[0], ANY_VERSION, append[1])

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        work = zip(random.choices(names, k=calls), sample.appends(calls, 1), strict=True)
        return partial(drive, [call] * CALLERS, list(work))

    return prepare


def _reads_of_category(store: EventStore, last: int) -> Side:
    """Each from anywhere in the table, but from where there are enough."""

    async def call(start: int) -> None:
        await store.read_category_forward(RARE, start=start, count=MANY)

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        most = max(0, last - last * SMALL // LARGE * 2)
        return partial(drive, [call] * CALLERS, [random.randint(0, most) for _ in range(calls)], events_each=MANY)

    return prepare


def _reads_from(store: EventStore, category: str, start: int) -> Side:
    """Return a side with one caller: it measures the time of a page, not how many the machine can read."""

    async def call(start: int) -> None:
        await store.read_category_forward(category, start=start, count=MANY)

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        return partial(drive, [call], [start] * calls, events_each=MANY)

    return prepare


async def _safe_position(lab: Lab, room: Room, effort: Effort) -> Measure:
    idle = min(IDLE, int(await lab.setting("max_connections")) - _RESERVED_CONNECTIONS)

    async with EventStore(room.dsn) as store:

        async def call(_: int) -> None:
            await store.safe_position()

        def alone(calls: int) -> Callable[[], Awaitable[Run]]:
            return partial(drive, [call], range(calls))

        def beside_idle_ones(calls: int) -> Callable[[], Awaitable[Run]]:
            async def do() -> Run:
                async with connections(room.dsn, idle):
                    return await alone(calls)()

            return do

        sides = {"beside": beside_idle_ones, "alone": alone}
        runs = await interleaved(sides, effort, first=100, fixed=100 if effort.quick else 1000)
    name = f"safe position beside {idle} idle connections, p50"
    return compared(name, "ms", runs, ours="beside", by="p50_ms", at_most=True)
