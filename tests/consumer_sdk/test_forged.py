"""Messages of events that nobody stored: no checkpoint rests on them, and no event is skipped because of them."""

import asyncio
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import msgspec
import pytest

from tests.consumer_sdk.test_handlers import EFFECTS, running, until
from tests.consumer_sdk.test_subscription import append
from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import Batch, Consumer, State
from trunkline_store import EventStore
from trunkline_store.wire import CONTENT_TYPE, Chain, StoredEvent, encode

ONE_BY_ONE = msgspec.structs.replace(QUICK, checkpoint_threshold=1)


async def forge(store: EventStore, url: str, position: int, previous: int) -> None:
    """Publish a message with a place of its own, as a login that may publish to the store's exchange can."""
    event = StoredEvent(
        position=position,
        stream="a-1",
        category="a",
        stream_version=1,
        event_id=str(uuid4()),
        type="E",
        size=6,
        data='"forged"',
        metadata=None,
        correlation_id=None,
        causation_id=None,
        traceparent=None,
        time="2026-01-01T00:00:00.000000Z",
    )
    history = (await store.look()).history
    chain = Chain(previous, previous, previous)
    message = encode([event], chain, store=store.schema, history=history, epoch=1, content_type=store.content_type)
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(store.schema)
        await exchange.publish(
            aio_pika.Message(message.body, headers=message.headers, content_type=CONTENT_TYPE), message.routing_key
        )


async def last_position(store: EventStore) -> int:
    """Return the position of the last event of all streams."""
    return (await store.stream_info("$all")).version


@pytest.mark.parametrize("tx", [False, True])
@pytest.mark.parametrize("when", ["before the event of its place", "after it"])
async def test_a_forged_message_takes_no_events_place(store: EventStore, vhost: str, tx: bool, when: str) -> None:
    """P2: a message at a position that no event has yet is handed out, but never becomes a checkpoint. The event that
    gets the position is handled, and so are those after it. With `tx`, it is handled once, and the forged effect is
    rolled back."""
    await store.fetch(EFFECTS)
    seen: list[Any] = []
    forged, go_on = asyncio.Event(), asyncio.Event()
    async with relay_running(store._dsn, vhost), Consumer(store, vhost) as consumer:

        @consumer.handler("s", tx=tx, options=ONE_BY_ONE)
        async def handle(batch: Batch, *given: asyncpg.Connection) -> None:
            if batch[0].data == "forged":
                forged.set()
                await go_on.wait()
            for connection in given:
                await connection.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)
            seen.extend(event.data for event in batch)

        await append(store, 1)
        async with running(consumer):
            await until(lambda: seen == [1])
            (subscription,) = consumer.subscriptions
            await until(lambda: subscription.state is State.LIVE)
            await append(store, 2)
            await until(lambda: seen == [1, 2])
            last = await last_position(store)
            await forge(store, vhost, last + 1024, last)
            async with asyncio.timeout(30):
                await forged.wait()
            if when == "after it":
                await append(store, 3)
                assert await last_position(store) == last + 1024, "the same place: else this shows nothing"
                await append(store, 4)
                go_on.set()
            else:
                go_on.set()
                await until(lambda: subscription.counts.damaged == 1)
                assert (await store.subscriptions.get("s")).checkpoint == last
                await append(store, 3)
                assert await last_position(store) == last + 1024, "the same place: else this shows nothing"
                await append(store, 4)
            await store.subscriptions.wait_for("s", await last_position(store), seconds=60)
            await until(lambda: seen[-1] == 4)
        handled = [each for each in seen if each != "forged"]
        assert handled[:2] + handled[-2:] == [1, 2, 3, 4]
        assert tx is False or handled == [1, 2, 3, 4]
        assert subscription.counts.damaged == 1
        if tx:
            stored = [event.position for event in await store.read_all_streams_forward()]
            effects = [row[0] for row in await store.fetch("SELECT position FROM public.effects ORDER BY position")]
            assert effects == stored


async def test_an_event_that_is_erased_in_flight_is_handled_once_and_goes_by(store: EventStore, vhost: str) -> None:
    """A hard delete takes the event on which a checkpoint would stand: the owner begins again once, and continues.
    Batches in flight behind it may come again."""
    seen: list[Any] = []
    taken, go_on = asyncio.Event(), asyncio.Event()
    async with relay_running(store._dsn, vhost), Consumer(store, vhost) as consumer:

        @consumer.handler("s", options=ONE_BY_ONE)
        async def handle(batch: Batch) -> None:
            seen.extend(event.data for event in batch)
            if batch[0].data == "erased":
                taken.set()
                await go_on.wait()

        await append(store, "erased", stream="gone-1")
        async with running(consumer):
            await taken.wait()
            await store.delete_stream("gone-1", 1, hard=True)
            await append(store, "stays")
            go_on.set()
            await store.subscriptions.wait_for("s", await last_position(store), seconds=60)
            (subscription,) = consumer.subscriptions
            assert subscription.counts.damaged == 1
        assert seen.count("erased") == 1
        assert seen[-1] == "stays"
