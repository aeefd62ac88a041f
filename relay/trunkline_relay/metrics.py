"""What the relay of one store counts, for Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from trunkline_relay.status import UNSEEN_SECONDS

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1024)


class Registry:
    """The families of one process, each with the label `store`; nothing of it is global."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seen: dict[str, float] = {}
        """When each store was last seen, by the monotonic clock."""
        self.gauges = {
            name: Gauge(f"trunkline_relay_{name}", text, ["store"], registry=None if name in SEEN else self.registry)
            for name, text in GAUGES.items()
        }
        self.registry.register(_Seen([self.gauges[name] for name in SEEN], self.seen))
        self.counters = {
            name: Counter(f"trunkline_relay_{name}", text, ["store"], registry=self.registry)
            for name, text in COUNTERS.items()
        }
        self.batch_events = Histogram(
            "trunkline_relay_batch_events",
            "Events of a published message.",
            ["store"],
            buckets=_EVENTS,
            registry=self.registry,
        )
        self.confirm_seconds = Histogram(
            "trunkline_relay_confirm_seconds",
            "From publishing to the confirm.",
            ["store"],
            buckets=_SECONDS,
            registry=self.registry,
        )


GAUGES = {
    "position": "Everything up to here is confirmed, and recorded.",
    "safe_position": "Everything up to here can be read.",
    "lag_events": "Events and links between the recorded and the safe position; from 10,000 on, at least as many.",
    "lag_seconds": "Age of the first event among them, by its time of creation: imported ones bring their own.",
    "holder_seconds": "Age of the oldest open transaction that has appended: it holds the safe position back.",
    "leader": "1 while this process publishes the store, 0 while it stands by.",
    "connected": "1 while this process publishes through a connection to RabbitMQ; only a leader does.",
    "blocked": "1 while RabbitMQ has an alarm and takes nothing.",
}
SEEN: Final = ("position", "safe_position", "lag_events", "lag_seconds", "holder_seconds")
"""Those that are seen of the store, and left out when nobody has seen it lately: an old lag is nobody's."""
COUNTERS = {
    "published": "Messages sent, repeated ones too.",
    "confirmed": "Messages that RabbitMQ has confirmed.",
    "retries": "Times that publishing began again after a fault of RabbitMQ, or in another history.",
    "broker_faults": "Times that RabbitMQ was found to be away, stuck, or against us.",
    "database_faults": "Times that PostgreSQL was found to be away, stuck, or read-only.",
    "unroutable": "Messages that no queue wanted.",
    "refused": "Refusals (nacks) of RabbitMQ.",
    "skipped": "Messages given up after a queue refused them, or never confirmed them.",
}


class _Seen(Collector):
    """Gauges, without what they say of stores that were not seen lately."""

    def __init__(self, gauges: list[Gauge], seen: dict[str, float]) -> None:
        self._gauges = gauges
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """What still holds."""
        least = time.monotonic() - UNSEEN_SECONDS
        for gauge in self._gauges:
            for family in gauge.collect():
                family.samples = [s for s in family.samples if self._seen.get(s.labels["store"], -math.inf) >= least]
                yield family


class Metrics:
    """Those of one store."""

    def __init__(self, store: str, registry: Registry | None = None) -> None:
        self.registry = registry = registry or Registry()
        gauges = {name: family.labels(store) for name, family in registry.gauges.items()}
        counters = {name: family.labels(store) for name, family in registry.counters.items()}
        self.position, self.safe_position = gauges["position"], gauges["safe_position"]
        self.lag_events, self.lag_seconds = gauges["lag_events"], gauges["lag_seconds"]
        self.holder_seconds = gauges["holder_seconds"]
        self.leader, self.connected, self.blocked = gauges["leader"], gauges["connected"], gauges["blocked"]
        self.published, self.confirmed, self.retries = counters["published"], counters["confirmed"], counters["retries"]
        self.broker_faults, self.database_faults = counters["broker_faults"], counters["database_faults"]
        self.unroutable, self.refused, self.skipped = counters["unroutable"], counters["refused"], counters["skipped"]
        self._store = store
        self.batch_events = registry.batch_events.labels(store)
        self.confirm_seconds = registry.confirm_seconds.labels(store)

    def see(self, events: int, seconds: float, holder_seconds: float) -> None:
        """What is ahead of the relay, and whose transaction holds readers back, as the store says now."""
        self.lag_events.set(events)
        self.lag_seconds.set(seconds)
        self.holder_seconds.set(holder_seconds)
        self.registry.seen[self._store] = time.monotonic()

    def forget(self) -> None:
        """Nobody looks at the store any more."""
        self.registry.seen.pop(self._store, None)

    def values(self) -> dict[str, float]:
        """What gauges and counters say now, by their names."""
        samples = {**{name: name for name in GAUGES}, **{name: f"{name}_total" for name in COUNTERS}}
        value = self.registry.registry.get_sample_value
        return {n: value(f"trunkline_relay_{s}", {"store": self._store}) or 0.0 for n, s in samples.items()}
