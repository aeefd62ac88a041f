"""One consumer, made in a module, in several event loops."""

import asyncio
import threading

import pytest

from tests.consumer_sdk.test_handlers import running, until
from tests.consumer_sdk.test_subscription import append
from tests.whole.flow import QUICK
from trunkline_consumer import Batch, Consumer
from trunkline_store import EventStore, InvalidArgument


def test_a_consumer_can_be_used_in_one_loop_after_the_other(database: str, vhost: str) -> None:
    """Whether it was left or not, it can be used again: everything is handled, for longer than a lease."""
    store = EventStore(database)
    consumer = Consumer(store, vhost)
    seen: list[int] = []

    @consumer.handler("s", tx=True, options=QUICK)
    async def handle(batch: Batch, _: object) -> None:
        seen.extend(event.data for event in batch)

    async def use(first: int) -> None:
        async with store, consumer, running(consumer):
            await append(store, first)
            await until(lambda: first in seen)
            await asyncio.sleep(2 * QUICK.lease)  # it is renewed
            await append(store, first + 1)
            await until(lambda: first + 1 in seen)

    for first in (1, 3, 5):
        asyncio.run(use(first))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_consumer_in_use_in_another_loop_says_so(database: str, vhost: str) -> None:
    """Entering it, running its handlers and starting a subscription raise an error of ours."""
    consumer = Consumer(EventStore(database), vhost)
    entered, leave = threading.Event(), threading.Event()

    @consumer.handler("handled")
    async def handle(batch: Batch) -> None:
        pass

    async def use() -> None:
        async with consumer:
            entered.set()
            await asyncio.to_thread(leave.wait)

    async def use_too() -> None:
        subscription = consumer.subscribe_to_all_streams("s")
        for attempt in (consumer.__aenter__, consumer.run, subscription.start):
            with pytest.raises(InvalidArgument, match="another event loop"):
                await attempt()

    using = threading.Thread(target=asyncio.run, args=[use()])
    using.start()
    try:
        entered.wait()
        asyncio.run(use_too())
    finally:
        leave.set()
        using.join()
