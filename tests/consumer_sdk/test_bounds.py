"""The memory of an owner is bounded, and neither an erasure nor a lease that is renewed no more ends its work."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.consumer_sdk.test_handlers import running, until
from tests.consumer_sdk.test_subscription import append, data, take
from tests.whole.flow import QUICK
from trunkline_consumer import Batch, Consumer, Options
from trunkline_consumer.tenure import UNPROVEN
from trunkline_store import ANY_VERSION, EventData, EventStore


@pytest_asyncio.fixture
async def consumer(store: EventStore, vhost: str) -> AsyncIterator[Consumer]:
    """The SDK on the test's own store and vhost."""
    async with Consumer(store, vhost) as consumer:
        yield consumer


async def append_singly(store: EventStore, count: int) -> None:
    """Events in blocks, and so in batches, of their own."""
    async with store.transaction() as connection:
        for number in range(count):
            await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", number)], connection=connection)


async def test_what_a_selector_leaves_out_is_remembered_up_to_a_bound(store: EventStore, consumer: Consumer) -> None:
    """However much there is, and where no checkpoint is due by time or by a threshold."""
    await append_singly(store, 12 * UNPROVEN)
    most = 0
    never = Options(checkpoint_after=None)
    async with consumer.subscribe_to_all_streams("s", selector=lambda _: False, options=never) as subscription:
        tenure = subscription._tenure
        assert tenure is not None
        while tenure.delivered < await store.safe_position() - 1023:
            most = max(most, len(tenure._unproven))
            await asyncio.sleep(0)  # meanwhile it reads on
        await until(lambda: subscription.checkpoint > 10 * UNPROVEN * 1024)
    assert most <= 4 * UNPROVEN + 1


async def test_what_is_finished_behind_a_batch_that_takes_long_is_remembered_up_to_a_bound(
    store: EventStore, consumer: Consumer
) -> None:
    """The checkpoint cannot move, and proves it all the same."""
    await append(store, "first", stream="b-1")
    await append_singly(store, 6 * UNPROVEN)
    go_on, handled, most = asyncio.Event(), 0, 0

    @consumer.handler("s", concurrency=2, checkpoint_after=None, checkpoint_threshold=10**6, buffer_size=100)
    async def handle(batch: Batch) -> None:
        nonlocal handled, most
        if batch.stream == "b-1":
            await go_on.wait()
        handled += 1
        tenure = consumer.subscriptions[0]._tenure
        assert tenure is not None
        most = max(most, len(tenure._unproven))

    async with running(consumer):
        await until(lambda: handled == 6 * UNPROVEN)
        assert consumer.subscriptions[0].checkpoint == 0
        go_on.set()
        await until(lambda: handled == 6 * UNPROVEN + 1)
    assert most <= 4 * UNPROVEN + 100


async def test_an_erased_event_in_flight_does_not_take_back_what_was_finished_before_it(
    store: EventStore, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its stream is deleted for good while it waits to be handled: the checkpoint stands on the one before it."""
    for number in (1, 2):
        await append(store, number, stream=f"a-{number}")
    async with consumer.subscribe_to_all_streams("s") as subscription:
        first, second = await take(subscription), await take(subscription)
        await store.delete_stream("a-2", ANY_VERSION, hard=True)
        await first.ack()
        assert subscription.checkpoint == first.unit.last
        await append(store, 3, stream="a-3")
        assert data(second) == [2]
        assert data(await take(subscription)) == [3]
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_an_owner_whose_lease_is_renewed_no_more_takes_it_again(store: EventStore, consumer: Consumer) -> None:
    """Whatever ended the renewals, such as a program that cancels all tasks: it does not stand still for ever."""
    seen: list[int] = []

    @consumer.handler("s", options=QUICK)
    async def handle(batch: Batch) -> None:
        seen.extend(data(batch))

    async with running(consumer):
        await append(store, 1)
        await until(lambda: 1 in seen)
        next(task for task in asyncio.all_tasks() if task.get_name() == "leases").cancel()
        await append(store, 2)
        await until(lambda: 2 in seen)
        await asyncio.sleep(2 * QUICK.lease)  # it is renewed again
        await append(store, 3)
        await until(lambda: 3 in seen)
