"""The relay: its stages by themselves, then the whole line as it is run, each stage a process of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from trunkline_ops.bench import drain, flow, leader
from trunkline_ops.bench.bare import reads_of_all
from trunkline_ops.bench.broker import bounded_queue, channel_to
from trunkline_ops.bench.lab import Lab, connections
from trunkline_ops.bench.load import Run, nothing_to_collect, whole
from trunkline_ops.bench.messages import messages_of
from trunkline_ops.bench.raw import raw_publisher
from trunkline_ops.bench.rounds import Effort, Measure, Side, compared, interleaved
from trunkline_relay.metrics import Metrics
from trunkline_relay.patience import Patience
from trunkline_relay.publish import WINDOW_BYTES, Publisher
from trunkline_relay.run import PATIENCE_SECONDS, WINDOW
from trunkline_relay.tail import PAGE_EVENTS, Tail
from trunkline_store import EventStore
from trunkline_store.wire import Message

TARGETS_PUBLISH: Final = {1: 0.75, 100: 0.9}
TARGET_TAIL: Final = 0.35
TAIL_EVENTS: Final = 200_000

_PAGES: Final = (500, 2000, 10_000)
"""Of the bare reads: as in reads of all streams."""


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Each of these knows its parts."""
    for family in (_stages, flow.measures, drain.measures, leader.measures):
        async for measure in family(lab, effort):
            yield measure


async def _stages(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    for part, measured in (("publish", _publish), ("tail", _tail)):
        if effort.wants(part):
            async for measure in measured(lab, effort):
                yield measure


async def _publish(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Ready messages to a quorum queue: what marshalling, the window and its books cost beside prepared bytes."""
    for events_each, target in TARGETS_PUBLISH.items():
        messages = messages_of(PAGE_EVENTS, events_each)
        async with (
            lab.broker.vhost() as url,
            channel_to(url) as channel,
            raw_publisher(url, WINDOW, WINDOW_BYTES) as raw,
            Publisher(
                url, "eventstore", 0, window=WINDOW, patience=Patience(PATIENCE_SECONDS), metrics=Metrics("eventstore")
            ) as publisher,
        ):
            await bounded_queue(channel, "all")
            sides = {"ours": _ours(publisher, messages), "raw": raw.side(messages)}
            runs = await interleaved(sides, effort, first=2, events_each=len(messages) * events_each)
        noun = "event" if events_each == 1 else "events"
        name = f"publish, {events_each} {noun} a message"
        yield compared(name, "events/s", runs, target=target)._replace(p50_ms=None, p99_ms=None)


def _ours(publisher: Publisher, messages: Sequence[Message]) -> Side:
    def prepare(pages: int) -> Callable[[], Awaitable[Run]]:
        async def do() -> Run:
            with nothing_to_collect():
                begun, latencies = time.perf_counter(), []
                for _ in range(pages):
                    page_begun = time.perf_counter()
                    await publisher.publish(messages)
                    latencies.append(time.perf_counter() - page_begun)
                await publisher.flush()
                return Run(pages * sum(each.count for each in messages), begun, time.perf_counter(), latencies)

        return do

    return prepare


async def _tail(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """All messages of a filled store, made and thrown away."""
    async with lab.room() as room, EventStore(room.dsn, pool_size=2) as store, connections(room.dsn, 1) as (bare,):
        await room.fill(TAIL_EVENTS // 100 if effort.quick else TAIL_EVENTS)
        sides: dict[str, Side] = {"ours": lambda _: partial(_made, store)}
        for page in _PAGES:
            sides[f"bare, pages of {page}"] = reads_of_all(bare, page)
        runs = await interleaved(sides, effort, first=1, fixed=1)
    name = "tail, batch and encode, batches of 10"
    yield compared(name, "events/s", runs, target=TARGET_TAIL)._replace(p50_ms=None, p99_ms=None)


async def _made(store: EventStore) -> Run:
    begun, events = time.perf_counter(), 0
    async for messages in Tail(store, store.history, 0, 1).until(await store.safe_position()):
        events += sum(message.count for message in messages)
    return whole(events, begun)
