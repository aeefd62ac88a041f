"""How subscriptions and handlers begin and end: whatever ends one is told to somebody."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
import pytest_asyncio

from tests.closing_server import closing_server
from tests.consumer_sdk.test_handlers import running, until
from tests.consumer_sdk.test_subscription import ONE_BY_ONE, append, data, take
from tests.relay.plain import plain
from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import CURRENT, ORIGIN, Batch, Consumer, Options, State, Subscription
from trunkline_consumer.feed import Feed
from trunkline_consumer.metrics import Metrics
from trunkline_consumer.receive import Receiver
from trunkline_consumer.tenure import Shape, Tenure
from trunkline_store import (
    EventStore,
    InvalidArgument,
    SubscriptionAlreadyExists,
    SubscriptionDeleted,
    SubscriptionHalted,
    SubscriptionLost,
)

pytestmark = pytest.mark.both_loops

_PROPERTIES = ("headers", "content_type", "correlation_id", "message_id", "timestamp", "type", "app_id")


@pytest_asyncio.fixture
async def consumer(store: EventStore, vhost: str) -> AsyncIterator[Consumer]:
    """The SDK on the test's own store and vhost."""
    async with Consumer(store, vhost) as consumer:
        yield consumer


def errors(caplog: pytest.LogCaptureFixture) -> str:
    """What was logged at ERROR."""
    return "\n".join(each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR)


async def test_a_subscription_goes_on_while_an_address_accepts_and_closes(store: EventStore) -> None:
    """A load balancer without its broker counts as a broker that is away: events come from the store."""
    with closing_server() as broker:
        async with Consumer(store, broker.url) as consumer:
            seen: list[int] = []

            @consumer.handler("handled", options=QUICK)
            async def handle(batch: Batch) -> None:
                seen.append(batch[0].data)

            async with (
                running(consumer) as task,
                consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as iterated,
            ):
                for n in range(3):
                    await broker.until(4 * (n + 1))
                    await append(store, n)
                    batch = await take(iterated)
                    assert data(batch) == [n]
                    await batch.ack()
                await until(lambda: seen == [0, 1, 2])
                assert not task.done()


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("handler", SystemExit(1)),
        ("handler", pytest.fail.Exception("no")),
        ("handler", StopAsyncIteration()),
        ("selector", SystemExit(1)),
        ("mapper", BaseException()),
        ("partition_by", pytest.fail.Exception("no")),
        ("key", SystemExit(1)),
    ],
)
async def test_whatever_a_batch_raises_is_a_failure_of_that_batch(
    store: EventStore, consumer: Consumer, where: str, error: BaseException
) -> None:
    """Even an error that is no `Exception` parks the batch, and the next one is handled."""
    seen: list[int] = []

    class Key:
        def __str__(self) -> str:
            raise error

    def failing(point: str, event: Any, otherwise: Any) -> Any:
        if event.data == "bad" and where == point:
            raise error
        return otherwise

    @consumer.handler(
        "s",
        attempts=1,
        on_failure="park",
        options=QUICK,
        selector=lambda event: failing("selector", event, True),
        mapper=lambda event: failing("mapper", event, event),
        partition_by=lambda event: (
            Key() if where == "key" and event.data == "bad" else failing("partition_by", event, "")
        ),
    )
    async def handle(batch: Batch) -> None:
        seen.append(failing("handler", batch.events[0], batch.events[0].data))

    await append(store, "bad")
    await append(store, 2)
    async with running(consumer) as task:
        await until(lambda: seen == [2] or task.done())
        assert not task.done()
    (parked,) = await store.subscriptions.parked("s")
    assert parked.error == repr(error)


async def test_an_iteration_never_ends_in_silence(store: EventStore, consumer: Consumer) -> None:
    """An exception of a mapper that would end the iteration as if it were stopped becomes the cause of an error."""

    def mapper(_: Any) -> Any:
        raise StopAsyncIteration

    await append(store, 1)
    async with consumer.subscribe_to_all_streams("s", mapper=mapper, options=QUICK) as subscription:
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await take(subscription)


async def test_a_subscription_that_is_cancelled_from_outside_is_told(store: EventStore, consumer: Consumer) -> None:
    """A caller that iterates, or runs its handler, does not wait for batches that will never come."""

    @consumer.handler("handled", options=QUICK)
    async def handle(batch: Batch) -> None:
        pass

    async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
        handling = asyncio.create_task(consumer.run())
        await until(lambda: len(consumer.subscriptions) == 2 and consumer.subscriptions[1].state is State.LIVE)
        taking = asyncio.create_task(take(subscription))
        await asyncio.sleep(0)  # it waits for a batch
        for task in asyncio.all_tasks():
            if task.get_name().startswith("subscription "):
                task.cancel()
        for waiting in (taking, handling):
            with pytest.raises(RuntimeError, match="was cancelled"):
                await asyncio.wait_for(waiting, 20)


async def test_a_message_that_cannot_be_unpacked_is_read_from_the_store(
    store: EventStore, database: str, vhost: str, consumer: Consumer
) -> None:
    """An event nested deeper than this program can follow, which SQL may append, is handed out all the same, and is a
    failure of its own batch."""
    deep = "[" * 2000 + "]" * 2000
    async with relay_running(database, vhost):

        @consumer.handler("s", attempts=1, on_failure="park", options=QUICK)
        async def handle(batch: Batch) -> None:
            seen.append(batch[0].data)

        seen: list[int] = []
        async with running(consumer) as task:
            while not consumer.subscriptions or not consumer.subscriptions[0].counts.from_queue:
                await append(store, 1)
                await asyncio.sleep(0.05)  # until it is live
            await store.fetch(
                "SELECT * FROM eventstore.append_v1('a-1', -1, ARRAY[gen_random_uuid()], ARRAY['E'], ARRAY[$1])", deep
            )
            await append(store, 3)
            await until(lambda: 3 in seen or task.done())
            assert not task.done()
            assert consumer.subscriptions[0].counts.damaged > 0, "it came from the store at once: this shows nothing"
    (parked,) = await store.subscriptions.parked("s")
    assert "UndecodableEvent" in (parked.error or "")


async def test_old_messages_are_no_progress(store: EventStore, database: str, vhost: str, consumer: Consumer) -> None:
    """However many old messages come, and for however long, the store is read as if none had come."""
    async with plain(vhost, "#") as other:
        async with relay_running(database, vhost):
            await append(store, 1)
            await other.until(1)
        (old,) = other.messages
        again = aio_pika.Message(old.body, **{name: getattr(old, name) for name in _PROPERTIES})

        async def repeat() -> None:
            async with await aio_pika.connect(vhost) as connection, connection.channel() as channel:
                exchange = await channel.get_exchange("eventstore")
                while True:
                    await exchange.publish(again, old.routing_key or "")
                    await asyncio.sleep(0.01)  # it is for long that they come

        async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE, idle=1.0) as subscription:
            await (await take(subscription)).ack()
            repeating = asyncio.create_task(repeat())
            await until(lambda: subscription.counts.duplicates > 5)
            await append(store, 2)
            assert data(await take(subscription)) == [2]
            seen = subscription.counts.duplicates
            await until(lambda: subscription.counts.duplicates > seen)
            repeating.cancel()
            await asyncio.wait([repeating])


async def test_what_ends_a_subscription_that_begins_again_is_told(store: EventStore, consumer: Consumer) -> None:
    """After a reset its row follows something else: iteration and `ended` raise it."""
    async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
        taking = asyncio.create_task(take(subscription))
        async with store.transaction() as connection:
            number = await connection.fetchval(
                "UPDATE eventstore.subscriptions SET feed = '$category-x' RETURNING subscription_id"
            )
            await connection.execute(store.sql["reset_subscription"], number, 0)
        for told in (taking, subscription.ended()):
            with pytest.raises(InvalidArgument, match="category"):
                await asyncio.wait_for(told, 20)
        assert subscription.state is State.HALTED


async def test_a_cancellation_that_nobody_asked_for_ends_a_subscription_loudly(
    consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes from within, and is an error for whoever waits, not a cancellation of his."""

    async def work(_: Tenure) -> None:
        raise asyncio.CancelledError

    async with consumer._subscribe("s", Feed.all(), ORIGIN, Shape(), QUICK, work=work) as subscription:
        with pytest.raises(RuntimeError, match="from within"):
            await asyncio.wait_for(subscription.ended(), 20)
    assert "subscription s failed" in errors(caplog)


async def test_a_handler_that_ends_is_logged_at_once(
    store: EventStore, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    """While another goes on, nobody else would hear of it; what became of it can still be seen, until the handlers are
    run again."""
    async with consumer.subscribe_to_category("x", "mine", options=QUICK):
        pass
    seen: list[int] = []

    @consumer.handler("mine", options=QUICK)
    async def mine(batch: Batch) -> None:
        raise AssertionError("it follows something else")

    @consumer.handler("good", options=QUICK)
    async def good(batch: Batch) -> None:
        seen.append(batch[0].data)

    async with running(consumer) as task:
        await until(lambda: "mine" in errors(caplog))
        await append(store, 1)
        await until(lambda: seen == [1])
        assert not task.done()
        metrics = Metrics(consumer)
        observing = asyncio.create_task(metrics.observe())
        await until(lambda: metrics.report()["problem"] == "a subscription has ended")
        observing.cancel()
    async with running(consumer):
        await until(lambda: errors(caplog).count("mine' follows") == 2)
        assert [each.name for each in consumer.subscriptions].count("mine") == 1


@pytest.mark.parametrize("standby", [False, True])
async def test_a_handler_whose_subscription_is_deleted_ends(
    store: EventStore, consumer: Consumer, vhost: str, caplog: pytest.LogCaptureFixture, standby: bool
) -> None:
    """Loudly: it does not make the subscription anew and handle all of the past again; nor does one that stands by."""
    seen: list[int] = []

    async def handle(batch: Batch) -> None:
        seen.append(batch[0].data)

    for n in range(3):
        await append(store, n)
    async with Consumer(store, vhost) as other:
        for each in (consumer, other):
            each.handler("s", options=QUICK)(handle)
        runs = [asyncio.create_task(consumer.run())]
        await until(lambda: seen == [0, 1, 2])
        if standby:
            runs.append(asyncio.create_task(other.run()))
            await until(lambda: bool(other.subscriptions))
            await asyncio.sleep(0.3)  # it has found the row, and waits for the lease
        await store.subscriptions.delete("s")
        for run in runs:
            with pytest.raises(SubscriptionDeleted):
                await asyncio.wait_for(run, 20)
    assert seen == [0, 1, 2]
    assert await store.subscriptions.list() == []
    assert "was deleted" in errors(caplog)


async def test_a_halt_keeps_what_was_finished_before_it(store: EventStore, consumer: Consumer) -> None:
    """Also where no checkpoint was due: it does not come again."""
    seen: list[int] = []

    @consumer.handler("s", attempts=1, options=QUICK, checkpoint_threshold=1000, checkpoint_after=60.0)
    async def handle(batch: Batch) -> None:
        if batch[0].data == 5:
            raise RuntimeError("poison")
        seen.append(batch[0].data)

    for n in range(1, 6):
        await append(store, n)
    with pytest.raises(SubscriptionHalted):
        await asyncio.wait_for(consumer.run(), 20)
    assert seen == [1, 2, 3, 4]
    fourth = (await store.read_all_streams_forward())[3].position
    assert (await store.subscriptions.get("s")).checkpoint == fourth


@pytest.mark.parametrize("by", ["stop", "unsubscribe", "exit"])
async def test_a_subscription_that_still_waits_can_be_stopped(
    store: EventStore, consumer: Consumer, vhost: str, by: str
) -> None:
    """It never becomes the owner afterwards; whoever started it is told, and an iteration ends."""
    async with Consumer(store, vhost) as other, other.subscribe_to_all_streams("s", options=QUICK):
        waiting = consumer.subscribe_to_all_streams("s", standby=True, options=QUICK)
        starting, iterating = asyncio.create_task(waiting.start()), asyncio.create_task(_all(waiting))
        await asyncio.sleep(0.3)  # it waits for the lease
        async with asyncio.timeout(20):
            match by:
                case "stop":
                    await waiting.stop()
                case "unsubscribe":
                    await consumer.unsubscribe_from_all_streams("s")
                case "exit":
                    await consumer.__aexit__()
            with pytest.raises(SubscriptionLost, match="stopped"):
                await starting
            assert await iterating == []
        assert (waiting.state, consumer.subscriptions) == (State.STOPPED, ())
    assert (await store.subscriptions.get("s")).owner is None


async def _all(subscription: Subscription) -> list[Batch]:
    return [batch async for batch in subscription]


async def test_a_handler_that_stands_by_ends_with_its_consumer(store: EventStore, vhost: str) -> None:
    """It does not subscribe again."""
    async with Consumer(store, vhost) as owner, owner.subscribe_to_all_streams("s", options=QUICK):
        async with Consumer(store, vhost) as consumer:

            @consumer.handler("s", options=QUICK)
            async def handle(batch: Batch) -> None:
                raise AssertionError("it is not the owner")

            task = asyncio.create_task(consumer.run())
            await until(lambda: bool(consumer.subscriptions))
            await asyncio.sleep(0.3)  # it waits for the lease
        await asyncio.wait_for(task, 20)


async def test_a_subscription_that_could_not_start_is_forgotten(store: EventStore, vhost: str) -> None:
    """A program that tries again and again keeps none of them."""
    async with Consumer(store, vhost) as one, Consumer(store, vhost) as two:
        async with one.subscribe_to_all_streams("s", options=QUICK):
            with pytest.raises(SubscriptionAlreadyExists):
                await two.subscribe_to_all_streams("s", options=QUICK).start()
            assert two.subscriptions == ()


async def test_a_queue_may_be_lost_while_it_is_bound_again(
    store: EventStore, database: str, vhost: str, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has what the queue should have had, so it is bound again; it is lost in the middle of that, which is
    nothing but a return to the store."""
    declare, lost = Receiver._declare_once, 0

    async def declare_once(self: Receiver) -> None:
        nonlocal lost
        if self.connected:
            lost += 1
            asyncio.get_running_loop().call_later(0.002, self._on_lost, self.generation, None)
        await declare(self)

    monkeypatch.setattr(Receiver, "_declare_once", declare_once)
    async with relay_running(database, vhost):
        pass  # it has made the exchange, and brings nothing
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE, idle=0.1) as subscription:
        subscription.counts.from_queue = 1  # as if it had brought something before
        async with asyncio.timeout(60):
            n = 0
            while lost < 5:
                await append(store, n)
                batch = await take(subscription)
                assert data(batch) == [n]
                await batch.ack()
                n += 1


async def test_a_reset_within_a_batch_is_told_by_a_documented_error(store: EventStore, consumer: Consumer) -> None:
    """Its transaction is rolled back with `SubscriptionLost`, and the iteration goes on from the place of the reset."""
    await store.fetch("CREATE TABLE public.effects (n int)")
    await append(store, 1)
    async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
        batch = await take(subscription)
        with pytest.raises(SubscriptionLost, match="reset"):  # noqa: PT012 - at the end of the block
            async with batch.transaction() as tx:
                await tx.execute("INSERT INTO public.effects VALUES (1)")
                await store.subscriptions.reset("s", ORIGIN)
        assert await store.fetch("SELECT FROM public.effects") == []
        async with (await take(subscription)).transaction() as tx:
            await tx.execute("INSERT INTO public.effects VALUES (1)")


async def test_a_handler_goes_on_in_its_subscription_after_a_reset(store: EventStore, consumer: Consumer) -> None:
    """It begins again in the same one, and need not be the owner anew."""
    await store.fetch("CREATE TABLE public.effects (n int)")
    calls = 0

    @consumer.handler("s", tx=True, options=QUICK)
    async def handle(batch: Batch, tx: Any) -> None:
        nonlocal calls
        calls += 1
        await tx.execute("INSERT INTO public.effects VALUES ($1)", batch[0].data)
        if calls == 2:
            await store.subscriptions.reset("s", ORIGIN)

    await append(store, 1)
    await append(store, 2)
    async with running(consumer):
        await until(lambda: calls >= 1)
        (subscription,) = consumer.subscriptions
        await until(lambda: calls == 4)
        assert consumer.subscriptions == (subscription,)
        await store.subscriptions.wait_for("s", (await store.stream_info("$all")).version, seconds=30)
    assert [row["n"] for row in await store.fetch("SELECT n FROM public.effects ORDER BY n")] == [1, 1, 2]


async def test_a_transient_subscription_misses_nothing_while_the_past_becomes_another_one(store: EventStore) -> None:
    """What was appended until it noticed a failover is as new as what comes after."""
    async with Consumer(store, "amqp://guest:guest@127.0.0.1:1/") as consumer:
        async with consumer.subscribe(start_from=CURRENT, options=Options(idle=0.3)) as subscription:
            claim = subscription._claim

            async def late(*, standby: bool) -> Any:
                await append(store, 2)
                return await claim(standby=standby)

            subscription._claim = late  # type: ignore[method-assign] # it begins again after an append
            await append(store, 1)
            batch = await take(subscription)
            await batch.ack()
            await store.fetchval("TRUNCATE eventstore.incarnation")
            assert data(await take(subscription)) == [2]
