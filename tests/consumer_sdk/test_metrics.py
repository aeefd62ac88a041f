"""What Prometheus is told of subscriptions."""

import asyncio

from tests.consumer_sdk.test_handlers import running, store_has
from tests.consumer_sdk.test_subscription import append
from tests.whole.flow import QUICK
from trunkline_consumer import Batch, Consumer
from trunkline_consumer.metrics import Metrics
from trunkline_store import EventStore

NAMES = {
    *("state", "checkpoint", "handled", "from_queue", "from_store", "duplicates", "holes", "healed", "retries"),
    *("damaged", "parked", "unreadable", "behind_events", "behind_seconds", "parked_batches"),
}


async def test_metrics_say_what_became_of_events(store: EventStore, vhost: str) -> None:
    """Handled, tried again and parked are counted; the lag and what is parked now are the store's own figures; their
    names are pinned."""
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", attempts=3, wait_initial=0.01, on_failure="park", options=QUICK)
        async def handle(batch: Batch) -> None:
            if batch[0].data == "poison":
                raise ValueError("poison")

        metrics = Metrics(consumer)
        assert not metrics.report()["ready"]
        for data in ("good", "poison", "good"):
            await append(store, data)
        last = (await store.stream_info("$all")).version
        async with running(consumer):
            await store_has(store, "s")
            await store.subscriptions.wait_for("s", last, seconds=60)
            observing = asyncio.create_task(metrics.observe())
            labels = {"store": "eventstore", "subscription": "s"}

            def value(name: str) -> float | None:
                return metrics.registry.get_sample_value(f"trunkline_consumer_{name}", labels)

            async with asyncio.timeout(30):
                while value("parked_batches") is None:
                    await asyncio.sleep(0.01)  # between two looks
            observing.cancel()
            assert (value("handled_total"), value("retries_total"), value("parked_total")) == (3, 2, 1)
            assert (value("checkpoint"), value("behind_events"), value("parked_batches")) == (last, 0, 1)
            assert metrics.report()["ready"]
            assert {family.name.removeprefix("trunkline_consumer_") for family in metrics.collect()} == NAMES
