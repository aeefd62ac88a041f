"""Messages that wait in queues: taken by a subscription, and by a bare consumer that decodes the same bodies.

Both queues are filled before the clock starts, through a relay, with the same messages.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import aiormq
import msgspec
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp import commands

from trunkline_consumer import CURRENT, Batch, Consumer, Subscription
from trunkline_ops.bench import sample
from trunkline_ops.bench.broker import bounded_queue, channel_to
from trunkline_ops.bench.lab import Lab
from trunkline_ops.bench.load import Run, nothing_to_collect, whole
from trunkline_ops.bench.programs import programs, start_relay, until
from trunkline_ops.bench.rounds import Effort, Measure, compared
from trunkline_ops.servers import ServerError
from trunkline_store import NO_STREAM, EventStore, StreamAppend

TARGET: Final = 0.6
SHAPES: Final = ((15_000, 1), (3_000, 100))
MOST: Final = 100_000
"""Messages in a queue: the SDK's own limit."""
ACK_EVERY: Final = 200
PREFETCH: Final = 400

_EVENTS_AT_ONCE: Final = 1000

_decode = msgspec.json.Decoder().decode


async def live(lab: Lab, effort: Effort, shapes: Sequence[tuple[int, int]]) -> AsyncIterator[Measure]:
    """shapes: messages for each second of effort, and events in each of them."""
    async with (
        lab.room() as room,
        lab.broker.vhost() as url,
        channel_to(url) as setting_up,
        programs(room, url) as processes,
        EventStore(room.dsn) as store,
        Consumer(store, url) as consumer,
        await aiormq.connect(url) as connection,
    ):
        bare = (await bounded_queue(setting_up, "bare", length=MOST)).name
        await start_relay(processes, store)
        channel = await connection.channel(publisher_confirms=False)
        for each_second, events_each in shapes:
            least = 2 * ACK_EVERY if not effort.quick else 400 // events_each
            messages = min(MOST, max(least, 0 if effort.quick else int(each_second * effort.seconds)))
            runs: dict[str, list[Run]] = {"ours": [], "bare": []}
            async with consumer.subscribe_to_all_streams(
                f"ours-{events_each}",
                start_from=CURRENT,
                checkpoint_threshold=ACK_EVERY * events_each,
                checkpoint_after=None,
                prefetch=PREFETCH,
                idle=10.0,  # the store is not to be asked while the queue is being filled
            ) as subscription:
                sides: dict[str, Callable[[], Awaitable[Run]]] = {
                    "ours": partial(taken, subscription, messages, events_each),
                    "bare": partial(taken_barely, channel, bare, messages, events_each),
                }
                await _first_messages(store, subscription, channel, bare)
                for number in range(effort.rounds + (not effort.quick)):
                    await relayed(store, await append(store, messages, events_each))
                    for name in sides if number % 2 == 0 else reversed(list(sides)):
                        runs[name].append(await processes.during(_run(sides[name])))
            if not effort.quick:
                runs = {name: done[1:] for name, done in runs.items()}  # the first ones warmed up
            name = (
                f"live, {events_each} event{'s' * (events_each > 1)} a message, checkpoint every {ACK_EVERY} messages"
            )
            yield compared(name, "events/s", runs, target=TARGET)._replace(p50_ms=None, p99_ms=None)


async def _run(side: Callable[[], Awaitable[Run]]) -> Run:
    with nothing_to_collect():
        return await side()


async def _first_messages(store: EventStore, subscription: Subscription, channel: AbstractChannel, queue: str) -> None:
    """Until the subscription has heard of its queue."""
    while not subscription.counts.from_queue:
        await relayed(store, await append(store, 1, 1))
        await (await anext(subscription)).ack()
        await taken_barely(channel, queue, 1, 1)


async def append(store: EventStore, appends: int, events_each: int) -> int:
    """So many appends, each to a new stream: as many batches, and messages. Returns the last position."""
    last, at_once = 0, _EVENTS_AT_ONCE // events_each
    for first in range(0, appends, at_once):
        some = sample.appends(min(at_once, appends - first), events_each)
        parts = [StreamAppend(f"order-{secrets.token_hex(8)}", NO_STREAM, events) for events in some]
        last = max(each.last_position for each in await store.append_to_streams(parts))
    return last


async def relayed(store: EventStore, position: int) -> None:
    """Waits until the relay has everything up to `position` confirmed."""

    async def confirmed() -> bool:
        row = await store.fetchrow(store.sql["see_relay"], "relay")
        return row is not None and row["position"] >= position

    await until(confirmed)


def decoded(batch: Batch) -> int:
    """A handler that asks for the data of all events, and counts them."""
    for event in batch:
        _ = event.data
    return len(batch)


async def taken(subscription: Subscription, messages: int, events_each: int) -> Run:
    """Takes so many messages out of a live subscription's queue, and acknowledges each batch. The clock starts when
    those are handled that may have waited here already."""
    before, events, waited = subscription.counts.from_store, messages * events_each, _waited(messages) * events_each
    handled, begun = 0, time.perf_counter()
    async for batch in subscription:
        handled += decoded(batch)
        await batch.ack()
        if handled == waited:
            begun = time.perf_counter()
        if handled >= events:
            break
    run = whole(events - waited, begun)
    if handled > events or subscription.counts.from_store > before:
        raise ServerError("the subscription did not stay live: what the store gave says nothing of the queue")
    return run


async def taken_barely(channel: AbstractChannel, queue: str, messages: int, events_each: int) -> Run:
    """Takes so many messages out of a queue, decodes them, and acknowledges every 200 of them; timed as `taken`."""
    count, waited, begun = 0, _waited(messages), time.perf_counter()
    done = asyncio.get_running_loop().create_future()

    async def on_message(message: DeliveredMessage) -> None:
        nonlocal count, begun
        _decode(message.body)
        count += 1
        if count % ACK_EVERY == 0 or count == messages:
            assert isinstance(message.delivery, commands.Basic.Deliver)
            assert message.delivery.delivery_tag is not None
            await channel.basic_ack(message.delivery.delivery_tag, multiple=True, wait=False)
        if count == waited:
            begun = time.perf_counter()
        if count == messages:
            done.set_result(None)

    await channel.basic_qos(prefetch_count=PREFETCH)
    consumer = await channel.basic_consume(queue, on_message)
    await done
    run = whole((messages - waited) * events_each, begun)
    assert consumer.consumer_tag is not None
    await channel.basic_cancel(consumer.consumer_tag)
    return run


def _waited(messages: int) -> int:
    return PREFETCH if messages > 2 * PREFETCH else 0
