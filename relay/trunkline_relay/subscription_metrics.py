"""What Prometheus is told of a store's subscriptions: what the last look saw, by the leader alone, so that it is told
once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trunkline_relay.view import Looked, View
from trunkline_store import SubscriptionInfo

GAUGES: Final[dict[str, tuple[str, Callable[[SubscriptionInfo], float]]]] = {
    "checkpoint": ("Everything of its feed up to here is finished.", lambda each: each.checkpoint),
    "behind_events": (
        "Events of its feed that are not finished, counted up to 10,000, to fewer where there are many subscriptions.",
        lambda each: each.behind,
    ),
    "behind_seconds": (
        "Age of the first of them, by its time of creation: imported ones bring their own.",
        lambda each: max(0.0, each.seconds_behind),
    ),
    "parked": ("Batches that could not be handled, or wait behind such.", lambda each: each.parked),
    "followed": ("1 while a process follows it.", lambda each: each.owner is not None),
    "halted": ("1 where its last owner gave up.", lambda each: each.halted is not None),
}
OF_STORES: Final[dict[str, tuple[str, Callable[[Looked], float]]]] = {
    "trunkline_relay_standbys": (
        "Relays that wait to lead.",
        lambda looked: sum(row["epoch"] is None for row in looked.processes),
    ),
    "trunkline_subscriptions": (
        "Subscriptions, those included that are too many to be told of. There while the store can be looked at.",
        lambda looked: len(looked.seen.subscriptions),
    ),
}


class SubscriptionMetrics(Collector):
    """The families `trunkline_subscription_…` and those of whole stores, of all stores that this process leads."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    def describe(self) -> list[GaugeMetricFamily]:
        """Their names, so that none is given twice."""
        return [*self._families().values(), *self._of_stores().values()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What was seen; nothing of a store that another process leads."""
        families, of_stores = self._families(), self._of_stores()
        for view in self._views:
            store, looked = view.status.store, view.fresh
            if looked is None or not view.status.leading:
                continue
            for name, (_, said) in OF_STORES.items():
                of_stores[name].add_metric([store], said(looked))
            for each in looked.subscriptions:
                for name, (_, value) in GAUGES.items():
                    families[name].add_metric([store, each.name], value(each))
        yield from of_stores.values()
        yield from families.values()

    def _families(self) -> dict[str, GaugeMetricFamily]:
        return {
            name: GaugeMetricFamily(f"trunkline_subscription_{name}", text, labels=["store", "subscription"])
            for name, (text, _) in GAUGES.items()
        }

    def _of_stores(self) -> dict[str, GaugeMetricFamily]:
        return {name: GaugeMetricFamily(name, text, labels=["store"]) for name, (text, _) in OF_STORES.items()}
