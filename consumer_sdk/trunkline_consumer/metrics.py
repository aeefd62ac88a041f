"""What a consumer does, for Prometheus. It is looked at when somebody asks: nobody else pays for it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(f"{missing.name} is missing: install prometheus-client", name=missing.name) from missing

from trunkline_consumer.consumer import Consumer
from trunkline_consumer.subscription import State, Subscription
from trunkline_store import SubscriptionInfo, TrunklineError

LOOK_SECONDS: Final = 2.0
UNSEEN_SECONDS: Final = 10.0
"""After which what was seen of the store says nothing any more."""

log = logging.getLogger("trunkline.consumer")

_GAUGES: Final[dict[str, tuple[str, Callable[[Subscription], float]]]] = {
    "checkpoint": ("Everything up to this position is finished.", lambda each: each.checkpoint),
}
_COUNTERS: Final[dict[str, tuple[str, Callable[[Subscription], float]]]] = {
    "handled": ("Events that were finished.", lambda each: each.handled),
    "from_queue": ("Events that came from the queue.", lambda each: each.counts.from_queue),
    "from_store": ("Events that were read from the store.", lambda each: each.counts.from_store),
    "duplicates": ("Messages that brought nothing new.", lambda each: each.counts.duplicates),
    "holes": ("Holes in the chain of messages.", lambda each: each.counts.holes),
    "damaged": ("Messages that were damaged or forged.", lambda each: each.counts.damaged),
    "healed": ("Events from the store after it had been live.", lambda each: each.counts.healed),
    "retries": ("Attempts of handlers that followed a failed one.", lambda each: each.counts.retries),
    "parked": ("Batches that were put aside.", lambda each: each.counts.parked),
    "unreadable": ("Queues deleted over a message that cannot be decoded.", lambda each: each.counts.unreadable),
}
_SEEN: Final[dict[str, tuple[str, Callable[[SubscriptionInfo], float]]]] = {
    "behind_events": ("Events that can be read and are not finished; up to 10,000.", lambda info: info.behind),
    "behind_seconds": ("Since when the first of them is there.", lambda info: info.seconds_behind),
    "parked_batches": ("Batches that are parked now.", lambda info: info.parked),
}
_LABELS: Final = ("store", "subscription")


class Metrics(Collector):
    """The subscriptions of one consumer: `registry` holds them, `observe` keeps up how far they are behind."""

    def __init__(self, consumer: Consumer) -> None:
        self.registry = CollectorRegistry()
        self._consumer = consumer
        self._seen: dict[str, SubscriptionInfo] = {}
        self._seen_at: float | None = None
        self.registry.register(self)

    async def observe(self) -> None:
        """For ever: asks the store every two seconds."""
        while True:
            try:
                found = await self._consumer.store.subscriptions.list()
                self._seen = {info.name: info for info in found}
                self._seen_at = time.monotonic()
            except TrunklineError as error:  # subscriptions meet it too, and say so
                log.debug("not observed: %s", error)
            except Exception:
                log.exception("not observed")
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.9, 1.1))

    def report(self) -> dict[str, Any]:
        """Whether it is ready (the database answers, and no handler has ended), and what its subscriptions do."""
        subscriptions = {each.name: each.state.value for each in self._consumer.subscriptions}
        problem = None
        if not self._fresh:
            problem = "the database does not answer"
        elif not {State.HALTED.value, State.LOST.value}.isdisjoint(subscriptions.values()):
            problem = "a subscription has ended"
        return {"ready": problem is None, "problem": problem, "subscriptions": subscriptions}

    @property
    def _fresh(self) -> bool:
        return self._seen_at is not None and time.monotonic() - self._seen_at <= UNSEEN_SECONDS

    def describe(self) -> list[Metric]:
        """Nothing: what there is shows when it is collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of it, as it is now."""
        store = self._consumer.store.schema
        every = {each.name: each for each in self._consumer.subscriptions}.values()  # the latest of a name
        state = GaugeMetricFamily("trunkline_consumer_state", "1 for the state it is in.", labels=[*_LABELS, "state"])
        for each in every:
            for possible in State:
                state.add_metric([store, each.name, possible.value], float(each.state is possible))
        yield state
        for name, (text, of) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"trunkline_consumer_{name}", text, labels=_LABELS)
            for each in every:
                gauge.add_metric([store, each.name], of(each))
            yield gauge
        for name, (text, of) in _COUNTERS.items():
            counter = CounterMetricFamily(f"trunkline_consumer_{name}", text, labels=_LABELS)
            for each in every:
                counter.add_metric([store, each.name], of(each))
            yield counter
        ours = [self._seen[each.name] for each in every if each.name in self._seen and self._fresh]
        for name, (text, of_info) in _SEEN.items():
            gauge = GaugeMetricFamily(f"trunkline_consumer_{name}", text, labels=_LABELS)
            for info in ours:
                gauge.add_metric([store, info.name], of_info(info))
            yield gauge
