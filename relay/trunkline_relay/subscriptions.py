"""What Prometheus is told of a store's subscriptions: what the last look saw, by the leader alone, so that it is told
once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trunkline_relay.view import View
from trunkline_store import SubscriptionInfo

GAUGES: Final[dict[str, tuple[str, Callable[[SubscriptionInfo], float]]]] = {
    "checkpoint": ("Everything of its feed up to here is finished.", lambda each: each.checkpoint),
    "behind_events": ("Events of its feed that are not finished, counted up to 10,000.", lambda each: each.behind),
    "behind_seconds": ("Since when the first of them is there.", lambda each: max(0.0, each.seconds_behind)),
    "parked": ("Batches that could not be handled, or wait behind such.", lambda each: each.parked),
    "followed": ("1 while a process follows it.", lambda each: each.owner is not None),
    "halted": ("1 where its last owner gave up.", lambda each: each.halted is not None),
}
STANDBYS: Final = "Relays that wait to lead."


class Subscriptions(Collector):
    """The families `trunkline_subscription_…`, and the number of standbys, of all stores that this process leads."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    def describe(self) -> list[GaugeMetricFamily]:
        """Their names, so that none is given twice."""
        return [*self._families().values(), self._standbys()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What was seen; nothing of a store that another process leads."""
        families, standbys = self._families(), self._standbys()
        for view in self._views:
            store, looked = view.status.store, view.fresh
            if looked is None or not view.status.leading:
                continue
            standbys.add_metric([store], sum(row["epoch"] is None for row in looked.processes))
            for each in looked.subscriptions:
                for name, (_, value) in GAUGES.items():
                    families[name].add_metric([store, each.name], value(each))
        yield standbys
        yield from families.values()

    def _families(self) -> dict[str, GaugeMetricFamily]:
        return {
            name: GaugeMetricFamily(f"trunkline_subscription_{name}", text, labels=["store", "subscription"])
            for name, (text, _) in GAUGES.items()
        }

    def _standbys(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("trunkline_relay_standbys", STANDBYS, labels=["store"])
