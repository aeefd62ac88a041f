"""What a subscription follows: all streams, a category, a stream with its links; and transient ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.consumer_sdk.test_subscription import append, data, take
from tests.whole.flow import QUICK, relay_running
from tests.whole.test_faults import vhost_of
from trunkline_consumer import CURRENT, Batch, Consumer, State, Subscription
from trunkline_consumer.follow import Follower
from trunkline_ops.management import Management
from trunkline_store import ANY_VERSION, EventStore, InvalidArgument, StreamDeleted
from trunkline_store.wire import BadMessage

FEEDS = [("all_streams", ()), ("category", ("a",)), ("stream", ("a-1",))]
"""As the face's methods call them, and what they take before the subscription's name."""


@pytest_asyncio.fixture
async def consumer(store: EventStore, vhost: str) -> AsyncIterator[Consumer]:
    """The SDK on the test's own store and vhost."""
    async with Consumer(store, vhost) as consumer:
        yield consumer


async def rest(subscription: Subscription) -> list[Batch]:
    """What is handed out until it ends, which it must do soon."""
    async with asyncio.timeout(20):
        return [batch async for batch in subscription]


async def live(store: EventStore, subscription: Subscription, stream: str) -> None:
    """Appends until something has come by the queue."""
    while not subscription.counts.from_queue:
        await append(store, "ready?", stream=stream)
        await (await take(subscription)).ack()


@pytest.mark.parametrize("relayed", [False, True])
async def test_a_category_is_its_streams_and_no_others(
    store: EventStore, database: str, vhost: str, consumer: Consumer, relayed: bool
) -> None:
    """From the store and from the queue; a category whose name begins alike is another one."""
    await append(store, 1, stream="order-1")
    await append(store, 0, stream="orders-1")
    async with consumer.subscribe_to_category("order", "s", options=QUICK) as subscription:
        assert data(await take(subscription)) == [1]
        if relayed:
            async with relay_running(database, vhost):
                await live(store, subscription, "order-2")
        await append(store, 0, stream="invoice-1")
        await append(store, 2, stream="order")
        assert data(await take(subscription)) == [2]


async def test_a_stream_is_its_own_events_and_linked_ones_in_order_live_too(
    store: EventStore, database: str, vhost: str, consumer: Consumer
) -> None:
    """Catching up and live: numbers are versions in the stream that is read, the checkpoint is a feed position."""
    await append(store, "other", stream="b-1")
    other = await store.read_stream_forward("b-1")
    await append(store, "own", stream="a-1")
    await store.link_to_stream("a-1", 1, other)
    async with relay_running(database, vhost):
        async with consumer.subscribe_to_stream("a-1", "s", options=QUICK, checkpoint_threshold=1) as subscription:
            own, linked = await take(subscription), await take(subscription)
            assert (data(own), data(linked)) == (["own"], ["other"])
            assert [(e.event_number, e.stream, e.stream_version) for e in linked] == [(2, "b-1", 1)]
            assert linked.stream == "a-1"
            await linked.ack()
            assert subscription.checkpoint == linked[0].feed_position > own[0].position
            await live(store, subscription, "a-1")
            before = subscription.counts.from_queue
            await append(store, "more", stream="b-1")
            version = (await store.stream_info("a-1")).version
            await store.link_to_stream("a-1", version, [(await store.read_stream_forward("b-1"))[1]])
            last = await take(subscription)
            assert data(last) == ["more"]
            assert last[0].event_number == version + 1
            assert subscription.counts.from_queue > before
    async with consumer.subscribe_to_stream("a-1", "replayed", start_from=1, options=QUICK) as subscription:
        assert data(await take(subscription)) == ["other"]
    with pytest.raises(InvalidArgument, match="version 99"):
        await consumer.subscribe_to_stream("a-1", "too far", start_from=99, options=QUICK).start()


async def test_a_transient_subscription_keeps_nothing(store: EventStore, database: str, vhost: str) -> None:
    """It gets what is appended from now on, by a queue of its own, and leaves neither row nor lease."""
    await append(store, "before")
    async with relay_running(database, vhost), Consumer(store, vhost) as consumer:
        async with consumer.subscribe(options=QUICK) as one, consumer.subscribe("a-1", options=QUICK) as two:
            await append(store, "elsewhere", stream="b-1")
            await append(store, "here")
            assert data(await take(two)) == ["here"]
            assert data(await take(one)) == ["elsewhere"]
            await live(store, one, "b-1")
        assert await store.subscriptions.list() == []
        assert await store.fetchval("SELECT count(*) FROM eventstore.leases WHERE name LIKE 'subscription%'") == 0


async def test_what_a_selector_leaves_out_counts_as_finished(store: EventStore, consumer: Consumer) -> None:
    """The checkpoint passes it, also where nothing is handed out; a mapper makes what is handed out."""
    for n in range(6):
        last = await store.append_to_stream("a-1", n, [])
        await append(store, n)
    last = await store.append_to_stream("a-1", 6, [])
    async with consumer.subscribe_to_all_streams(
        "s", selector=lambda e: e.data == 3, mapper=lambda e: e.data * 10, options=QUICK
    ) as subscription:
        batch = await take(subscription)
        assert list(batch) == [30]
        assert batch.events[0].data == 3
        await batch.ack()
        await store.subscriptions.wait_for("s", last.last_position)


async def test_what_a_selector_leaves_out_of_one_append_moves_the_checkpoint(
    store: EventStore, consumer: Consumer
) -> None:
    """Filtered events of one append move the checkpoint up to the first event that is in flight, and between two that
    are."""
    await append(store, *range(10))
    positions = [event.position for event in await store.read_all_streams_forward()]
    begun, ended = asyncio.Event(), {3: asyncio.Event(), 8: asyncio.Event()}

    @consumer.handler(
        "s",
        selector=lambda event: event.data in ended,
        partition_by=lambda event: str(event.data),
        concurrency=2,
        options=QUICK,
        checkpoint_threshold=1,
    )
    async def handle(batch: Batch) -> None:
        begun.set()
        await ended[batch[0].data].wait()

    running = asyncio.create_task(consumer.run())
    await asyncio.wait_for(begun.wait(), 20)
    for last, end in ((2, 3), (7, 8), (9, None)):
        async with asyncio.timeout(20):
            while (await store.subscriptions.get("s")).checkpoint != positions[last]:
                await asyncio.sleep(0.01)  # between two looks
        if end is not None:
            ended[end].set()
    running.cancel()
    await asyncio.wait([running])


async def test_a_name_follows_one_feed(store: EventStore, consumer: Consumer) -> None:
    """P9: the same name with another feed is refused; deleted, it can begin again anywhere."""
    await append(store, 1)
    async with consumer.subscribe_to_category("a", "s", start_from=CURRENT, options=QUICK):
        pass
    with pytest.raises(InvalidArgument, match=r"category-a"):
        await consumer.subscribe_to_all_streams("s", options=QUICK).start()
    with pytest.raises(InvalidArgument, match=r"category-a"):
        await consumer.delete_all_streams_subscription("s")
    await consumer.delete_category_subscription("a", "s")
    async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
        assert data(await take(subscription)) == [1]


@pytest.mark.parametrize(("feed", "followed"), FEEDS)
async def test_an_unsubscribed_subscription_is_stopped_and_keeps_its_place(
    store: EventStore, consumer: Consumer, feed: str, followed: tuple[str, ...]
) -> None:
    """Its iteration ends, others of the program go on; the next one of the name goes on behind the checkpoint."""
    subscribe, unsubscribe = getattr(consumer, f"subscribe_to_{feed}"), getattr(consumer, f"unsubscribe_from_{feed}")
    await append(store, 1)
    async with (
        consumer.subscribe_to_all_streams("other", options=QUICK) as other,
        subscribe(*followed, "s", options=QUICK) as subscription,
    ):
        await (await take(subscription)).ack()
        with pytest.raises(InvalidArgument, match="category-another"):
            await consumer.unsubscribe_from_category("another", "s")  # the name follows something else
        assert set(consumer.subscriptions) == {subscription, other}
        await unsubscribe(*followed, "s")
        assert await rest(subscription) == []
        assert (subscription.state, consumer.subscriptions) == (State.STOPPED, (other,))
        await append(store, 2)
        assert [data(await take(other)) for _ in range(2)] == [[1], [2]]
    async with subscribe(*followed, "s", options=QUICK) as again:
        assert data(await take(again)) == [2]


@pytest.mark.parametrize(("feed", "followed"), FEEDS)
async def test_a_deleted_subscription_is_gone_with_its_queue(
    store: EventStore, consumer: Consumer, vhost: str, management: Management, feed: str, followed: tuple[str, ...]
) -> None:
    """Row, checkpoint and queue, also while it is followed; the next one of the name begins anew. One that is not there
    is no error."""
    subscribe, delete = getattr(consumer, f"subscribe_to_{feed}"), getattr(consumer, f"delete_{feed}_subscription")
    await append(store, 1)

    async def queues() -> list[str]:
        return [queue["name"] for queue in await management.queues(vhost_of(vhost))]

    async with subscribe(*followed, "s", options=QUICK) as subscription:
        await (await take(subscription)).ack()
        async with asyncio.timeout(30):
            while await queues() != ["eventstore.s"]:
                await asyncio.sleep(0.05)  # between two looks
        await delete(*followed, "s")
        assert await rest(subscription) == []
        assert await store.subscriptions.list() == []
        assert await queues() == []
    await delete(*followed, "s")
    async with subscribe(*followed, "s", options=QUICK) as again:
        assert data(await take(again)) == [1]


async def test_a_running_owner_adopts_a_reset(store: EventStore, consumer: Consumer) -> None:
    """Back to the origin while it runs: everything comes again, and an ack from before the reset has no effect."""
    await append(store, 1)
    await append(store, 2)
    async with consumer.subscribe_to_all_streams("s", options=QUICK, checkpoint_threshold=1) as subscription:
        await (await take(subscription)).ack()
        second = await take(subscription)
        await store.subscriptions.reset("s", 0)
        again = await take(subscription)
        assert data(again) == [1]
        await second.ack()
        assert subscription.checkpoint == 0
        await again.ack()
        assert data(await take(subscription)) == [2]


async def test_a_reset_to_a_time_brings_what_was_appended_since(store: EventStore, consumer: Consumer) -> None:
    """While it runs; what was there before the time does not come again."""
    await append(store, 1)
    await append(store, 2)
    when = await store.fetchval("SELECT clock_timestamp()")
    await append(store, 3)
    await append(store, 4)
    async with consumer.subscribe_to_all_streams("s", options=QUICK, checkpoint_threshold=1) as subscription:
        for n in range(1, 5):
            batch = await take(subscription)
            assert data(batch) == [n]
            await batch.ack()
        await store.subscriptions.reset("s", when)
        for n in (3, 4):
            batch = await take(subscription)
            assert data(batch) == [n]
            await batch.ack()


@pytest.mark.parametrize("linked", [False, True])
async def test_what_is_too_large_for_a_message_is_fetched_and_is_no_hole(
    store: EventStore, database: str, vhost: str, consumer: Consumer, linked: bool
) -> None:
    """The message has a reference; the handler gets the event, whole, in its place, and the chain goes on."""
    large = "x" * 300_000
    async with relay_running(database, vhost):
        async with consumer.subscribe_to_stream("t-1", "s", options=QUICK, idle=60.0) as subscription:
            await live(store, subscription, "t-1")
            before = subscription.counts.from_queue
            version = (await store.stream_info("t-1")).version
            if linked:
                await append(store, large, stream="a-1")
                await store.link_to_stream("t-1", version, await store.read_stream_forward("a-1"))
            else:
                await append(store, large, stream="t-1")
            await append(store, "next", stream="t-1")
            batch = await take(subscription)
            assert list(batch) == list(await store.read_stream_forward("t-1", start=version + 1, count=1))
            assert data(batch) == [large]
            assert data(await take(subscription)) == ["next"]
            assert subscription.counts.from_queue - before == 2, "it did not come by a message: this shows nothing"


async def test_a_message_that_is_bad_when_its_channel_has_gone_is_not_acknowledged_in_the_next_one(
    store: EventStore, database: str, vhost: str, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event is fetched meanwhile, and is no longer there: the broker would refuse its tag and close the channel."""
    generations: list[int] = []

    async def fetched(*_: Any) -> Any:
        receiver = subscription._receiver
        receiver._on_lost(receiver.generation, None)
        while not receiver.connected:
            await asyncio.sleep(0.01)  # between two looks
        generations.append(receiver.generation)
        raise BadMessage("the event is no longer in the store")

    async with relay_running(database, vhost):
        async with consumer.subscribe_to_stream("t-1", "s", options=QUICK, checkpoint_threshold=1) as subscription:
            tenure = subscription._tenure
            assert tenure is not None
            await live(store, subscription, "t-1")
            for n in range(10):  # its tag is above those of the next channel
                await append(store, n, stream="t-1")
                await (await take(subscription)).ack()
            monkeypatch.setattr(Follower, "_fetched", fetched)
            await append(store, "x" * 300_000, stream="t-1")
            await (await take(subscription)).ack()  # from the store
            monkeypatch.undo()
            for _ in range(2):
                subscription.counts.from_queue = 0
                await live(store, subscription, "t-1")
                async with asyncio.timeout(20):
                    while tenure.acks.held:
                        await asyncio.sleep(0.01)  # between two looks
            assert [subscription._receiver.generation] == generations


async def test_the_window_is_of_bytes_too(store: EventStore, consumer: Consumer) -> None:
    """P8: what is in flight is over the limit by one batch at most, and one that is larger by itself comes alone."""
    for n in (600, 700, 5000, 1):
        await append(store, "x" * n)
    async with consumer.subscribe_to_all_streams("s", options=QUICK, buffer_bytes=1000) as subscription:
        first, second = await take(subscription), await take(subscription)
        for held, expected in ((first, 5000), (second, None)):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):  # long enough for a batch that should not come
                    await anext(subscription)
            await held.ack()
            if expected is not None:
                third = await take(subscription)
                assert len(third[0].data) == expected
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):  # as above: the third alone is over the limit
                await anext(subscription)
        await third.ack()
        assert data(await take(subscription)) == ["x"]


async def test_a_stream_need_not_be_there_yet(store: EventStore, consumer: Consumer) -> None:
    """Its events come when it is made; one whose name begins alike is another one."""
    async with consumer.subscribe_to_stream("a-1", "s", start_from=CURRENT, options=QUICK) as subscription:
        await append(store, 0, stream="a-10")
        await append(store, 1, stream="a-1")
        batch = await take(subscription)
        assert (data(batch), batch[0].event_number) == ([1], 1)


async def test_below_the_threshold_the_checkpoint_is_written_after_a_while(
    store: EventStore, consumer: Consumer
) -> None:
    """The acknowledgement does not wait for it, and no other one is needed."""
    await append(store, 1)
    async with consumer.subscribe_to_all_streams(
        "s", options=QUICK, checkpoint_threshold=1000, checkpoint_after=0.2
    ) as subscription:
        batch = await take(subscription)
        await batch.ack()
        await store.subscriptions.wait_for("s", batch[0].position, seconds=60)
        assert (await store.subscriptions.get("s")).checkpoint == batch[0].position


async def test_a_program_may_follow_a_stream_and_all_of_them(store: EventStore, consumer: Consumer) -> None:
    """One event comes by each subscription, as the same event under another number: its version in the stream, its
    position in `$all`; and each has a checkpoint of its own."""
    await append(store, "elsewhere", stream="b-1")
    await append(store, "here", stream="a-1")
    one_by_one = msgspec.structs.replace(QUICK, checkpoint_threshold=1)
    async with (
        consumer.subscribe_to_stream("a-1", "one", options=one_by_one) as one,
        consumer.subscribe_to_all_streams("all", options=one_by_one) as every,
    ):
        assert data(await take(every)) == ["elsewhere"]
        in_all, in_stream = await take(every), await take(one)
        (event,) = in_stream
        assert (in_all[0].event_id, in_all[0].event_number) == (event.event_id, event.position)
        assert (event.event_number, event.stream_version) == (1, 1)
        await in_stream.ack()
        assert (one.checkpoint, every.checkpoint) == (event.position, 0)


async def test_a_transient_subscription_hands_out_what_is_left_and_nothing_else(
    store: EventStore, consumer: Consumer
) -> None:
    """The selector first, then the mapper; of an append of which nothing is left there is no empty batch."""
    async with consumer.subscribe(
        selector=lambda e: e.data["wanted"], mapper=lambda e: e.data["n"] * 10, options=QUICK
    ) as subscription:
        await append(store, *({"n": n, "wanted": False} for n in range(3)))
        await append(store, *({"n": n, "wanted": n == 4} for n in range(3, 6)))
        batch = await take(subscription)
        assert list(batch) == [40]
        await batch.ack()


async def test_two_transient_subscriptions_of_a_program_do_not_share(store: EventStore, consumer: Consumer) -> None:
    """Each gets everything, once, by a name and a queue of its own; the end of one is none of the other's business."""
    async with consumer.subscribe("a-1", options=QUICK) as one:
        async with consumer.subscribe("a-1", options=QUICK) as two:
            assert one.name != two.name
            for n in range(3):
                await append(store, n)
                for subscription in (one, two):
                    batch = await take(subscription)
                    assert data(batch) == [n]
                    await batch.ack()
        await append(store, 3)
        assert data(await take(one)) == [3]


@pytest.mark.parametrize("relayed", [False, True])
async def test_what_was_deleted_for_good_holds_nobody_up(
    store: EventStore, database: str, vhost: str, consumer: Consumer, relayed: bool
) -> None:
    """Before it was handed out, and behind the checkpoint of one that comes back: the rest comes, from the store and
    from the queue, and the checkpoint crosses the gap."""
    for n, stream in enumerate(("a-1", "gone-1", "a-1", "gone-1", "a-1")):
        await append(store, n, stream=stream)
    options = msgspec.structs.replace(QUICK, checkpoint_threshold=1)
    async with consumer.subscribe_to_all_streams("s", options=options) as subscription:
        assert data(await take(subscription)) == [0]
        second = await take(subscription)
        await second.ack()
    await store.delete_stream("gone-1", ANY_VERSION, hard=True)
    async with AsyncExitStack() as stack:
        if relayed:
            await stack.enter_async_context(relay_running(database, vhost))
        subscription = await stack.enter_async_context(consumer.subscribe_to_all_streams("s", options=options))
        for n in (2, 4):
            batch = await take(subscription)
            assert data(batch) == [n]
            await batch.ack()
        if relayed:
            await live(store, subscription, "a-1")
        await append(store, "last", stream="gone-1")
        batch = await take(subscription)
        assert (data(batch), batch[0].stream_version) == (["last"], 1)
        await batch.ack()
        assert subscription.checkpoint == batch[0].position


async def test_of_a_deleted_stream_nothing_comes(store: EventStore, consumer: Consumer) -> None:
    """Its own followers get nothing, and cannot begin at its end; those of all streams get what it had."""
    await append(store, 1, stream="gone-1")
    await store.delete_stream("gone-1", ANY_VERSION)
    await append(store, 2, stream="a-1")
    with pytest.raises(StreamDeleted):
        await consumer.subscribe_to_stream("gone-1", "current", start_from=CURRENT, options=QUICK).start()
    async with (
        consumer.subscribe_to_stream("gone-1", "own", options=QUICK) as own,
        consumer.subscribe_to_all_streams("all", options=QUICK) as every,
    ):
        assert [data(await take(every)) for _ in range(2)] == [[1], [2]]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * QUICK.idle):  # it has looked meanwhile
                await anext(own)


async def test_of_a_stream_that_is_deleted_while_its_follower_is_behind_nothing_more_comes(
    store: EventStore, consumer: Consumer
) -> None:
    """Its follower gets no error; a follower of its category gets all of its events."""
    for n in range(3):
        await append(store, n, stream="gone-1")
    async with consumer.subscribe_to_stream("gone-1", "own", options=QUICK, checkpoint_threshold=1) as own:
        await (await take(own)).ack()
    await store.delete_stream("gone-1", ANY_VERSION)
    async with (
        consumer.subscribe_to_stream("gone-1", "own", options=QUICK) as own,
        consumer.subscribe_to_category("gone", "category", options=QUICK) as category,
    ):
        assert [data(await take(category)) for _ in range(3)] == [[0], [1], [2]]
        assert await own.next(timeout=2 * QUICK.idle) is None  # it has looked meanwhile
        assert own.state not in (State.HALTED, State.LOST)
