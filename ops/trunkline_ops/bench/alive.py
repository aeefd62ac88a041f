"""Subscriptions while others write: how soon an event is handled, and how soon one that was behind is live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

from trunkline_consumer import CURRENT, Consumer, State, Subscription
from trunkline_ops.bench.broker import channel_to, declared_exchange
from trunkline_ops.bench.lab import QUERIES, Lab, Room
from trunkline_ops.bench.load import percentile_ms
from trunkline_ops.bench.paced import AT
from trunkline_ops.bench.programs import programs, start_relay, until
from trunkline_ops.bench.rounds import Effort, Measure
from trunkline_ops.demo.processes import Processes
from trunkline_store import EventStore

MANY: Final = 10
MANY_RATE: Final = 500
MANY_TARGET_MS: Final = 40.0
JOINING_RATE: Final = 2000
JOINING_TARGET_SECONDS: Final = 5.0

_BACKLOG: Final = 200_000
_WARM_SECONDS: Final = 2.0
_ROUND_SECONDS: Final = 2.0
_STEADY_SECONDS: Final = 5.0


async def many(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Ten subscriptions of one process, each of all streams, while another process appends one event at a time."""
    latencies, late_ms = list[float](), list[float]()
    rounds: list[list[float]] = []

    async def follow(subscription: Subscription) -> None:
        async for batch in subscription:
            now = time.perf_counter()
            for event in batch:
                latencies.append(now - event.data[AT])
            await batch.ack()

    async def begun() -> bool:
        return len(latencies) >= MANY

    async def measure() -> None:
        await until(begun)
        await asyncio.sleep(effort.lasting(_WARM_SECONDS))
        late_ms.clear()
        for _ in range(effort.rounds):
            latencies.clear()
            await asyncio.sleep(_ROUND_SECONDS * effort.seconds)
            rounds.append(latencies.copy())

    async with AsyncExitStack() as stack:
        room = await stack.enter_async_context(lab.room())
        url = await stack.enter_async_context(lab.broker.vhost())
        processes = await stack.enter_async_context(programs(room, url))
        store = await stack.enter_async_context(EventStore(room.dsn))
        async with channel_to(url) as channel:
            await declared_exchange(channel)
        await start_relay(processes, store)
        consumer = await stack.enter_async_context(Consumer(store, url))
        following = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = []
        for number in range(MANY):
            subscription = consumer.subscribe_to_all_streams(
                f"one-{number}", start_from=CURRENT, checkpoint_threshold=100
            )
            await stack.enter_async_context(subscription)
            tasks.append(following.create_task(follow(subscription)))
        await processes.start(
            "timer", "trunkline_ops.bench.lateness", on_report=lambda report: late_ms.extend(report["late_ms"])
        )
        await processes.start("writer", "trunkline_ops.bench.paced", str(_rate(MANY_RATE, effort)), "1")
        await processes.during(measure())
        for task in tasks:
            task.cancel()
    p99s = [percentile_ms(each, 99) for each in rounds]
    every = [latency for each in rounds for latency in each]
    name = f"{MANY} subscriptions, {MANY_RATE} events/s"
    yield Measure(
        f"{name}: p99 end to end",
        median(p99s),
        "ms",
        percentile_ms(every, 50),
        percentile_ms(every, 99),
        target=MANY_TARGET_MS,
        at_most=True,
        lowest=min(p99s),
        highest=max(p99s),
    )
    late = [each / 1000 for each in late_ms]
    yield Measure(
        f"{name}: p99 of a timer's lateness meanwhile", percentile_ms(late, 99), "ms", percentile_ms(late, 50)
    )


class Joined(NamedTuple):
    """seconds: from the last event of the backlog until nothing more came from the store."""

    seconds: float
    wrong: int
    """Events that were handled twice, out of order, or not at all."""


async def joining(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """A subscription begins far behind, while another process appends."""
    async with lab.room() as room, lab.broker.vhost() as url, programs(room, url) as processes:
        await room.fill(effort.scaled(_BACKLOG))
        async with channel_to(url) as channel:
            await declared_exchange(channel)
        async with EventStore(room.dsn) as store, Consumer(store, url) as consumer:
            await start_relay(processes, store, start_from="current")
            found = [
                await _join(room, consumer, processes, f"joining-{number}", effort) for number in range(effort.rounds)
            ]
    seconds = [each.seconds for each in found]
    name = f"catch-up to live, {JOINING_RATE:,} events/s are written"
    yield Measure(
        f"{name}: after the last page",
        median(seconds),
        "s",
        target=JOINING_TARGET_SECONDS,
        at_most=True,
        lowest=min(seconds),
        highest=max(seconds),
    )
    wrong = float(sum(each.wrong for each in found))
    yield Measure(f"{name}: handled twice or never", wrong, "events", target=0, at_most=True)


async def _join(room: Room, consumer: Consumer, processes: Processes, name: str, effort: Effort) -> Joined:
    follower = _Follower()
    writer = await processes.start(
        f"writer for {name}", "trunkline_ops.bench.paced", str(_rate(JOINING_RATE, effort)), "1"
    )
    follower.behind = await _moving(consumer.store)
    async with consumer.subscribe_to_all_streams(name, checkpoint_threshold=1000) as subscription:
        following = asyncio.create_task(follower.follow(subscription))

        async def live() -> bool:
            return bool(follower.caught_up and subscription.state is State.LIVE and subscription.counts.from_queue)

        async def watch() -> None:
            await until(live)
            await asyncio.sleep(effort.lasting(_STEADY_SECONDS))

        await processes.during(watch())
        seconds = max(0.0, follower.from_store - follower.caught_up)
        await writer.stop()
        committed = [row[0] for row in await room.database.fetch(QUERIES["positions"])]

        async def done() -> bool:
            return following.done() or follower.handled[-1] >= committed[-1]

        await until(done)
        following.cancel()
        await asyncio.wait([following])
        return Joined(seconds, _wrong(committed, follower.handled))


class _Follower:
    """What is handled, and when."""

    def __init__(self) -> None:
        self.behind = 0
        """The backlog ends here."""
        self.handled: list[int] = []
        self.caught_up = 0.0
        """When the backlog had been handled."""
        self.from_store = 0.0
        """When the last event came that the store had to give."""

    async def follow(self, subscription: Subscription) -> None:
        before = 0
        async for batch in subscription:
            self.handled += [event.position for event in batch]
            await batch.ack()
            if subscription.counts.from_store > before:
                before, self.from_store = subscription.counts.from_store, time.perf_counter()
            if not self.caught_up and self.handled[-1] >= self.behind:
                self.caught_up = time.perf_counter()


def _rate(rate: int, effort: Effort) -> int:
    """A busy machine must be able to do it too, when nothing else is asked for."""
    return rate // 10 if effort.quick else rate


def _wrong(committed: list[int], handled: list[int]) -> int:
    once = set(handled)
    inverted = sum(a > b for a, b in pairwise(handled))
    return len(once.symmetric_difference(committed)) + len(handled) - len(once) + inverted


async def _moving(store: EventStore) -> int:
    """A position that is safe, after the writer has begun."""
    begun = now = await store.safe_position()

    async def moved() -> bool:
        nonlocal now
        now = await store.safe_position()
        return now > begun

    await until(moved)
    return now
