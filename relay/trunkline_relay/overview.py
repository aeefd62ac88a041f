"""What the status page shows of one store. It is looked at when somebody asks, seldom enough to cost next to nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import structlog

from trunkline_relay.line import Queue, Relayed, stages, waits_for
from trunkline_relay.metrics import COUNTERS, Metrics
from trunkline_relay.status import Status
from trunkline_store import BrokerUnavailable, EventStore, SubscriptionInfo, TrunklineError, names

SUBSCRIPTIONS: Final = 500
"""That the page, and Prometheus, are told of; the first ones by name."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at least; more, where a look takes more than a tenth of it."""
_PATIENCE_SECONDS: Final = 5.0
_STANDBY_SECONDS: Final = 5.0
"""A standby that has said nothing for so long is none: it says it every second or two."""
_COUNTED: Final = 100_000
"""Events at most of which a rate is made."""

log = structlog.get_logger("trunkline.relay")


class Broker(NamedTuple):
    """What is known of the broker beside the relay's own connection.

    ask: gives a store's queues by their names; raises `BrokerUnavailable` with the reason. vhost, management_url: for
    links to its UI, whose URL holds no password.
    """

    ask: Callable[[str], Awaitable[Mapping[str, Queue]]] | None
    vhost: str
    management_url: str | None

    def page_of(self, queue: str) -> str | None:
        """The queue's page in the management UI."""
        if self.management_url is None:
            return None
        return f"{self.management_url.rstrip('/')}/#/queues/{quote(self.vhost, safe='')}/{quote(queue, safe='')}"


class Looked(NamedTuple):
    """What was seen at one time."""

    at: datetime
    relayed: Relayed
    rate: float | None
    processes: Sequence[Any]
    subscriptions: Sequence[SubscriptionInfo]
    queues: Mapping[str, Queue] | str


class Overview:
    """Of one store. `store` is set when it has been opened."""

    def __init__(self, status: Status, metrics: Metrics, broker: Broker | None = None) -> None:
        self.status = status
        self.store: EventStore | None = None
        self.looked: Looked | None = None
        self._metrics = metrics
        self._broker = broker or Broker(None, "/", None)
        self._looking = asyncio.Lock()
        self._next = 0.0

    async def refresh(self) -> None:
        """Looks again, if it is time to; of several who ask at once, one looks. What cannot be seen now stays as it was
        seen before."""
        async with self._looking:
            if self.store is None or time.monotonic() < self._next:
                return
            began = time.monotonic()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    self.looked = await self._look(self.store)
            except (TrunklineError, TimeoutError) as error:
                log.debug("not looked at", store=self.status.store, error=str(error))
            took = time.monotonic() - began
            self._next = began + max(LOOK_SECONDS, 10 * took)

    async def _look(self, store: EventStore) -> Looked:
        sql, safe = store.sql, await store.safe_position()
        lag = await store.fetchrow(sql["relay_lag"], safe, "relay")
        processes = await store.fetch(sql["holder_and_standbys"], "relay", timedelta(seconds=_STANDBY_SECONDS))
        led = any(row["epoch"] is not None for row in processes)
        events, seconds = (lag["events"], max(0.0, lag["seconds"])) if lag else (0, 0.0)
        rate = None
        if (window := self.status.window) is not None:
            took, low, high = window
            rate = await store.fetchval(sql["count_events"], low, high, _COUNTED) / took
        return Looked(
            datetime.now(UTC),
            Relayed(events, seconds, led, self._metrics.values()["blocked"] > 0),
            rate,
            processes,
            await store.subscriptions.list(count=SUBSCRIPTIONS),
            await self._queues(),
        )

    async def _queues(self) -> Mapping[str, Queue] | str:
        if self._broker.ask is None:
            return "not known: no TRUNKLINE_MANAGEMENT_URL"
        try:
            return await self._broker.ask(self.status.store)
        except BrokerUnavailable as error:
            return f"not known: {error}"

    def report(self) -> dict[str, Any]:
        """All of it, for JSON."""
        said = self.status.report()
        holder, looked = self.status.holder, self.looked
        if looked is None:
            return {**said, "looked_at": None, "counts": self._counts()}
        relayed = looked.relayed
        line = stages(holder, relayed, looked.subscriptions, looked.queues)
        return {
            **said,
            "looked_at": looked.at.isoformat(timespec="milliseconds"),
            "events_per_second": None if looked.rate is None else round(looked.rate, 1),
            "line": [{**stage._asdict(), "holds": stage is next((s for s in line if s.late), None)} for stage in line],
            "leader": next((_process(row) for row in looked.processes if row["epoch"] is not None), None),
            "standbys": [_process(row) for row in looked.processes if row["epoch"] is None],
            "counts": self._counts(),
            "subscriptions": [self._subscription(each, looked) for each in looked.subscriptions],
            "more_subscriptions": len(looked.subscriptions) == SUBSCRIPTIONS,
        }

    def _counts(self) -> dict[str, int]:
        """Of this process, since it began."""
        return {name: int(value) for name, value in self._metrics.values().items() if name in COUNTERS}

    def _subscription(self, each: SubscriptionInfo, looked: Looked) -> dict[str, Any]:
        name = names.queue(self.status.store, each.name)
        queue = None if isinstance(looked.queues, str) else looked.queues.get(name)
        halted = json.loads(each.halted) if each.halted is not None else None
        return {
            "name": each.name,
            "feed": each.feed,
            "state": each.state,
            "waits_for": waits_for(each, looked.relayed),
            "owner": None if each.owner is None else each.process or str(each.owner),
            "epoch": each.epoch,
            "checkpoint": each.checkpoint,
            "behind": each.behind,
            "seconds_behind": round(max(0.0, each.seconds_behind), 3),
            "parked": each.parked,
            "halted": halted and {key: halted.get(key) for key in ("position", "attempts", "error", "at")},
            "moved_at": each.updated_at.isoformat(timespec="milliseconds"),
            "queue": None if queue is None else queue._asdict(),
            "queue_name": name,
            "queue_page": self._broker.page_of(name),
        }


def _process(row: Any) -> dict[str, Any]:
    return {"process": row["process"], "epoch": row["epoch"], "seconds_ago": round(row["seconds_ago"], 1)}
