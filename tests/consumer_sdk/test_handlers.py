"""Handlers: at once, again after failures, parked, and in the checkpoint's transaction."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import pytest_asyncio

from tests.consumer_sdk.test_subscription import append, take
from tests.whole.flow import QUICK
from trunkline_consumer import Batch, Consumer, by_correlation, by_stream
from trunkline_store import EventStore, InvalidArgument, SubscriptionHalted, SubscriptionLost

EFFECTS = "CREATE TABLE public.effects (position bigint)"


@pytest_asyncio.fixture
async def consumer(store: EventStore, vhost: str) -> AsyncIterator[Consumer]:
    """The SDK on the test's own store and vhost."""
    async with Consumer(store, vhost) as consumer:
        yield consumer


@asynccontextmanager
async def running(consumer: Consumer) -> AsyncIterator[asyncio.Task[None]]:
    """Its handlers run."""
    task = asyncio.create_task(consumer.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, SubscriptionHalted):
            await task


async def until(fact: Callable[[], bool]) -> None:
    """Waits for a fact."""
    async with asyncio.timeout(30):
        while not fact():
            await asyncio.sleep(0.01)  # between two looks


async def effects(store: EventStore) -> list[int]:
    """What handlers wrote, by position."""
    return [row[0] for row in await store.fetch("SELECT position FROM public.effects ORDER BY position")]


async def test_different_keys_run_at_once_and_one_key_in_order(store: EventStore, consumer: Consumer) -> None:
    """Two of a key never at once; the order within a key is kept; the checkpoint ends at the last event."""
    active: set[str] = set()
    seen: list[int] = []
    most = 0

    @consumer.handler("s", concurrency=4, partition_by=by_stream, options=QUICK)
    async def handle(batch: Batch) -> None:
        nonlocal most
        assert batch.stream not in active
        active.add(batch.stream)
        most = max(most, len(active))
        await asyncio.sleep(0.002 * (batch[0].data % 3))  # handlers that take their time, each another one
        active.remove(batch.stream)
        seen.extend(event.data for event in batch)

    for n in range(60):
        await append(store, n, stream=f"a-{n % 5}")
    async with running(consumer):
        last = (await store.stream_info("$all")).version
        await store_has(store, "s")
        await store.subscriptions.wait_for("s", last, seconds=30)
    assert sorted(seen) == list(range(60))
    assert all([n for n in seen if n % 5 == k] == list(range(k, 60, 5)) for k in range(5))
    assert most > 1


async def test_by_correlation_one_id_is_handled_in_order_and_others_meanwhile(
    store: EventStore, consumer: Consumer
) -> None:
    """Of one id, batches of different streams come one after the other; of one stream, different ids run at once."""
    begun: list[tuple[str, int]] = []
    go_on = asyncio.Event()

    @consumer.handler("s", concurrency=4, partition_by=by_correlation, options=QUICK)
    async def handle(batch: Batch) -> None:
        begun.append((batch.key, batch[0].data))
        if batch.key == "slow":
            await go_on.wait()

    await append(store, 1, stream="a-1", correlation_id="slow")
    await append(store, 2, stream="b-1", correlation_id="slow")
    await append(store, 3, stream="a-1", correlation_id="quick")
    async with running(consumer):
        await until(lambda: ("quick", 3) in begun)
        assert ("slow", 2) not in begun
        go_on.set()
        await until(lambda: len(begun) == 3)
    assert [n for key, n in begun if key == "slow"] == [1, 2]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_with_tx_effects_and_checkpoint_are_committed_together(
    store: EventStore, consumer: Consumer, concurrency: int
) -> None:
    """A handler that fails after its writes leaves nothing of them: each event has exactly one effect."""
    await store.fetch(EFFECTS)
    failed: set[int] = set()

    @consumer.handler("s", concurrency=concurrency, tx=True, options=QUICK, wait_initial=0.01)
    async def handle(batch: Batch, tx: Any) -> None:
        for event in batch:
            await tx.execute("INSERT INTO public.effects VALUES ($1)", event.position)
            if event.data % 4 == 0 and event.position not in failed:
                failed.add(event.position)
                raise RuntimeError("once")

    for n in range(40):
        await append(store, n, stream=f"a-{n % 5}")
    async with running(consumer):
        last = (await store.stream_info("$all")).version
        await store_has(store, "s")
        await store.subscriptions.wait_for("s", last, seconds=30)
    assert await effects(store) == [event.position for event in await store.read_all_streams_forward()]
    assert len(failed) == 10


async def test_a_restart_repeats_only_what_was_not_finished(store: EventStore, vhost: str) -> None:
    """What is finished above the checkpoint is kept as intervals, and is not handed out again."""
    for n in range(3):
        await append(store, n)
    async with Consumer(store, vhost) as consumer:
        async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
            batches = [await take(subscription) for _ in range(3)]
            for batch in batches[1:]:
                async with batch.transaction():
                    pass
            assert subscription.checkpoint == 0
        async with consumer.subscribe_to_all_streams("s", options=QUICK, checkpoint_threshold=1) as subscription:
            await append(store, 3)
            first, then = await take(subscription), await take(subscription)
            assert [first[0].data, then[0].data] == [0, 3]
            await first.ack()
            assert subscription.checkpoint == batches[2][0].position, "the intervals were joined"


async def test_a_batch_is_finished_once_although_the_answer_was_lost(store: EventStore, consumer: Consumer) -> None:
    """The commit happened and its answer did not come: the same work again is rolled back, and counts as done."""
    await store.fetch(EFFECTS)
    await append(store, 1)
    async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
        batch = await take(subscription)
        for _ in range(2):
            async with batch.transaction() as tx:
                await tx.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)
        assert await effects(store) == [batch[0].position]


async def test_a_replaced_owners_transaction_is_rolled_back(store: EventStore, consumer: Consumer) -> None:
    """P7: somebody else has the lease when it ends: `SubscriptionLost`, and no effect; the control, without the guard,
    has one."""
    await store.fetch(EFFECTS)
    await append(store, 1)
    async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
        batch = await take(subscription)
        with pytest.raises(SubscriptionLost):  # noqa: PT012 - at the end of the block
            async with batch.transaction() as tx:
                await tx.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)
                await store.fetch("UPDATE eventstore.leases SET owner = gen_random_uuid(), epoch = epoch + 1")
                await store.fetch("UPDATE eventstore.subscriptions SET owner = gen_random_uuid(), epoch = epoch + 1")
        assert await effects(store) == []
        async with store.transaction() as tx:
            await tx.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)
        assert await effects(store) == [batch[0].position], "the control"


async def test_a_handler_that_fails_too_often_halts_its_subscription_alone(
    store: EventStore, consumer: Consumer
) -> None:
    """Nothing of the batch is finished, why is kept, and another handler of the program goes on."""
    seen: list[int] = []

    @consumer.handler("bad", attempts=2, wait_initial=0.01, options=QUICK)
    async def bad(batch: Batch) -> None:
        raise RuntimeError("poison")

    @consumer.handler("good", options=QUICK)
    async def good(batch: Batch) -> None:
        seen.append(batch[0].data)

    await append(store, 1)
    async with running(consumer):
        while (await store.subscriptions.get("bad")).state != "halted" if seen else True:
            await asyncio.sleep(0.01)  # between two looks
        info = await store.subscriptions.get("bad")
        assert info.checkpoint == 0
        assert info.halted is not None
        assert "poison" in info.halted
        await append(store, 2)
        await until(lambda: seen == [1, 2])


@pytest.mark.parametrize("tx", [False, True])
async def test_a_poison_event_parks_its_key_and_is_handled_in_order_when_told_to(
    store: EventStore, consumer: Consumer, tx: bool
) -> None:
    """Other keys go on; later batches of the key wait behind it by reference; a retry handles them in order."""
    broken, seen = True, list[tuple[str, int]]()

    @consumer.handler("s", tx=tx, on_failure="park_key", attempts=2, wait_initial=0.01, options=QUICK)
    async def handle(batch: Batch, *_: Any) -> None:
        if broken and batch[0].data == 1:
            raise RuntimeError("poison")
        seen.append((batch.stream, batch[0].data))

    for n in range(1, 4):
        for stream in ("a-1", "b-1"):
            await append(store, n if stream == "a-1" else 10 * n, stream=stream)
    last = (await store.stream_info("$all")).version
    async with running(consumer):
        await store_has(store, "s")
        await store.subscriptions.wait_for("s", last, seconds=30)
        assert seen == [("b-1", 10), ("b-1", 20), ("b-1", 30)]
        parked = await store.subscriptions.parked("s")
        assert [(p.stream, p.key, p.attempts) for p in parked] == [
            ("a-1", "a-1", 2),
            ("a-1", "a-1", 0),
            ("a-1", "a-1", 0),
        ]
        assert "poison" in (parked[0].traceback or "")
        broken = False
        assert await store.subscriptions.retry("s") == 1
        await until(lambda: len(seen) == 6)
        assert seen[3:] == [("a-1", 1), ("a-1", 2), ("a-1", 3)]
        while await store.subscriptions.parked("s"):
            await asyncio.sleep(0.01)  # between two looks
        await append(store, 4, stream="a-1")
        await until(lambda: seen[-1] == ("a-1", 4))


async def store_has(store: EventStore, name: str) -> None:
    """Waits until a subscription is made."""
    while name not in [each.name for each in await store.subscriptions.list()]:
        await asyncio.sleep(0.01)  # between two looks


async def refused(consumer: Consumer, how: Callable[[], object], match: str) -> None:
    """Where it is named, and not when an event comes."""
    with pytest.raises(InvalidArgument, match=match):
        how()
    with pytest.raises(InvalidArgument, match="no handlers"):
        await consumer.run()


async def test_what_cannot_be_called_as_a_handler_is_refused(consumer: Consumer) -> None:
    """P9: with too many or too few arguments, say; what wraps a handler is one."""

    async def plain(batch: Batch) -> None: ...
    async def with_tx(batch: Batch, tx: object) -> None: ...

    await refused(consumer, lambda: consumer.handler("s")(with_tx), "called as \\(batch\\): missing")
    await refused(consumer, lambda: consumer.handler("s", tx=True)(plain), "called as \\(batch, tx\\)")
    await refused(consumer, lambda: consumer.handler("s", start_from=-1), "start_from")
    await refused(consumer, lambda: consumer.handler(plain), "a name is needed")  # type: ignore[arg-type]

    @functools.wraps(plain)
    def wrapped(*given: Any) -> Any:
        return plain(*given)

    consumer.handler("s")(wrapped)
    with pytest.raises(InvalidArgument, match="one of that name"):
        consumer.handler("s")(plain)


async def test_why_a_handler_gave_up_is_not_lost(
    store: EventStore, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own error is the cause and in the message, its traceback in the log, where it failed before too; and whoever
    waits for the subscription is told at once."""

    def price_of(batch: Batch) -> int:
        return int(batch[0].data["price"])

    @consumer.handler("s", attempts=2, wait_initial=0.01, options=QUICK)
    async def handle(batch: Batch) -> None:
        price_of(batch)

    await append(store, {"total": 1})
    [position] = [event.position for event in await store.read_all_streams_forward()]
    with pytest.raises(SubscriptionHalted, match=r"failed 2 times, at last with KeyError\('price'\)") as halted:
        await asyncio.wait_for(consumer.run(), 30)
    assert isinstance(halted.value.__cause__, KeyError)
    assert f"attempt 1 of 2 failed at position {position} (a-1), again in 0.0" in caplog.text
    assert caplog.text.count("in price_of") == 1
    with pytest.raises(SubscriptionHalted, match="KeyError"):
        await asyncio.wait_for(store.subscriptions.wait_for("s", position, seconds=60), 30)


async def test_a_handler_that_is_not_async_is_told_so(store: EventStore, consumer: Consumer) -> None:
    """When it is called: a plain function may well give something to wait for."""

    def not_async(batch: Batch) -> None: ...

    consumer.handler("s", attempts=1, options=QUICK)(not_async)  # type: ignore[type-var]
    await append(store, 1)
    with pytest.raises(SubscriptionHalted, match="define it with `async def`"):
        await asyncio.wait_for(consumer.run(), 30)


async def test_a_handler_that_cancels_its_own_task_is_no_silent_end(store: EventStore, consumer: Consumer) -> None:
    """Its batch would be left out, and the next of its key go on: the subscription ends loudly instead."""

    @consumer.handler("s", options=QUICK)
    async def handle(batch: Batch) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)  # where the cancellation arrives: the case

    await append(store, 1)
    with pytest.raises(RuntimeError, match="cancelled from within"):
        await asyncio.wait_for(consumer.run(), 30)


async def test_what_a_handler_leaves_behind_is_its_failure(store: EventStore, consumer: Consumer) -> None:
    """A statement that is under way when it returns, or a transaction in which nothing can be written: tried for ever,
    nobody would hear of it."""
    left: list[asyncio.Task[Any]] = []

    @consumer.handler("busy", tx=True, attempts=2, wait_initial=0.01, options=QUICK)
    async def busy(batch: Batch, tx: Any) -> None:
        left.append(asyncio.create_task(tx.execute("SELECT pg_sleep(0.5)")))
        await asyncio.sleep(0.1)  # it has begun

    @consumer.handler("shut", tx=True, attempts=2, wait_initial=0.01, options=QUICK)
    async def shut(batch: Batch, tx: Any) -> None:
        await tx.execute("SET TRANSACTION READ ONLY")

    await append(store, 1)
    with pytest.raises(SubscriptionHalted, match=r"'busy' halted .* 2 times"):
        await asyncio.wait_for(consumer.run(), 30)
    await asyncio.gather(*left, return_exceptions=True)
    assert (await store.subscriptions.get("shut")).state == "halted"
