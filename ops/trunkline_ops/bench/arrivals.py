"""A program that follows all streams and reports when each event came: python -m trunkline_ops.bench.arrivals"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import Final

import uvloop

from trunkline_consumer import CURRENT, Consumer, Options, Subscription
from trunkline_ops.demo.leash import report, told_to_stop
from trunkline_store import EventStore

REPORT_SECONDS: Final = 0.2
OPTIONS: Final = Options(buffer_size=1000, prefetch=1000, checkpoint_threshold=100_000, checkpoint_after=0.1)
"""An ack writes no checkpoint by itself: ten a second are enough for a handler that only looks at its clock."""


async def follow() -> None:
    """Until it is told to stop."""
    stop, came = told_to_stop(), list[tuple[float, float]]()
    async with (
        EventStore(os.environ["TRUNKLINE_DSN"], application_name="bench subscriber") as store,
        Consumer(store, os.environ["TRUNKLINE_AMQP_URL"]) as consumer,
        consumer.subscribe_to_all_streams("bench", start_from=CURRENT, options=OPTIONS) as subscription,
    ):
        handling = asyncio.create_task(_handle(subscription, came))
        while not stop.is_set() and not handling.done():
            report(received=subscription.counts.from_queue, arrivals=came)
            came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await stop.wait()
        handling.cancel()
        with suppress(asyncio.CancelledError):
            await handling


async def _handle(subscription: Subscription, came: list[tuple[float, float]]) -> None:
    async for batch in subscription:
        arrived = time.perf_counter()
        came += [(event.data["begun"], arrived) for event in batch]
        await batch.ack()


if __name__ == "__main__":
    uvloop.run(follow())
