"""A program that follows `$all` and writes down what it was given: python -m trunkline_ops.demo.subscriber NUMBER

Batches that wait together are written down together, in one statement; then the last one is acknowledged, and with it
those before.
"""

import asyncio
import os
import sys
import time

import asyncpg

from trunkline_consumer import Batch, Consumer, Options, Subscription
from trunkline_ops.demo.leash import report, told_to_stop
from trunkline_store import EventStore

REPORT_SECONDS = 0.2

Delivery = tuple[Batch, float]
"""A batch, and when it came."""


def subscription_name(number: int) -> str:
    """The name of the demo's first or second subscription, and of the table that its subscriber writes."""
    return f"subscriber_{number}"


class Handler:
    """Handles what a subscription gives, in two steps: take it, and write it down."""

    def __init__(self, subscription: Subscription, table: str, connection: asyncpg.Connection) -> None:
        self._subscription = subscription
        self._table = table
        self._connection = connection
        self._taken: asyncio.Queue[Delivery] = asyncio.Queue()
        self.handled = 0
        self.position = 0

    async def take(self) -> None:
        """Takes batches; how many may wait to be acknowledged is the subscription's `buffer_size`."""
        async for batch in self._subscription:
            self._taken.put_nowait((batch, time.time()))

    async def write_down(self) -> None:
        """Makes durable what was taken, then acknowledges it."""
        while True:
            deliveries = [await self._taken.get()]
            while not self._taken.empty():
                deliveries.append(self._taken.get_nowait())
            rows = [
                (event.position, event.stream, event.stream_version, (came - event.metadata["begun"]) * 1000)
                for batch, came in deliveries
                for event in batch
                if event.metadata
            ]
            await self._connection.copy_records_to_table(
                self._table,
                schema_name="demo",
                columns=["position", "stream", "stream_version", "latency_ms"],
                records=rows,
            )
            last, _ = deliveries[-1]
            await last.ack()
            self.handled += len(rows)
            self.position = last[-1].position

    def report(self) -> None:
        subscription = self._subscription
        report(
            handled=self.handled,
            position=self.position,
            state=subscription.state.value,
            from_queue=subscription.counts.from_queue,
            from_store=subscription.counts.from_store,
            healed=subscription.counts.healed,
        )


async def main(number: int) -> None:
    """Follows from the first event on until it is told to stop."""
    stop, name, dsn = told_to_stop(), subscription_name(number), os.environ["TRUNKLINE_DSN"]
    connection = await asyncpg.connect(dsn, server_settings={"application_name": f"demo {name}"})
    options = Options(buffer_size=200, checkpoint_threshold=500, checkpoint_after=0.2)
    async with (
        EventStore(dsn, application_name=f"demo {name}") as store,
        Consumer(store, os.environ["TRUNKLINE_AMQP_URL"]) as consumer,
        consumer.subscribe_to_all_streams(name, options=options) as subscription,
        asyncio.TaskGroup() as tasks,
    ):
        handler = Handler(subscription, name, connection)
        working = [tasks.create_task(handler.take()), tasks.create_task(handler.write_down())]
        while not stop.is_set():
            handler.report()
            await asyncio.sleep(REPORT_SECONDS)
        for each in working:
            each.cancel()
    handler.report()
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
