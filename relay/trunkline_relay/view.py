"""What the status page shows of a store. It is looked at when somebody asks, seldom enough to cost next to nothing."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import structlog

from trunkline_relay.metrics import COUNTERS, Metrics
from trunkline_relay.stages import Queues, is_late, stages
from trunkline_relay.status import Status
from trunkline_store import BrokerUnavailable, EventStore, SubscriptionInfo, TrunklineError, names
from trunkline_store.line import Depth, Waiting, line
from trunkline_store.overview import RELAY, Overview, overview
from trunkline_store.subscriptions import halt_of
from trunkline_store.words import age, counted

SUBSCRIPTIONS: Final = 500
"""That the page, and Prometheus, are told of: those that somebody should see to, then the others, each by name."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at least; more, where a look takes more than a tenth of it."""
PAUSE_SECONDS: Final = 10.0
"""Between two looks at most, and after one that failed."""
WAIT_SECONDS: Final = 2.0
"""For a look, of whoever asks; then it is told what was seen before."""
PATIENCE_SECONDS: Final = 5.0
_STALE_SECONDS: Final = 10.0
_TROUBLE_SECONDS: Final = 30.0
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

    ask: Callable[[str], Awaitable[Mapping[str, Depth]]] | None = None
    vhost: str = "/"
    management_url: str | None = None

    def page_of(self, queue: str) -> str | None:
        """The queue's page in the management UI."""
        if self.management_url is None:
            return None
        return f"{self.management_url}/#/queues/{quote(self.vhost, safe='')}/{quote(queue, safe='')}"


class Looked(NamedTuple):
    """What was seen at one time. processes: who leads (with an epoch), and who stands by; rate: events per second."""

    seen: Overview
    processes: Sequence[Any]
    queues: Queues
    rate: float | None

    @property
    def subscriptions(self) -> Sequence[SubscriptionInfo]:
        """As many as are told of."""
        return sorted(self.seen.subscriptions, key=lambda each: (not _in_trouble(each), each.name))[:SUBSCRIPTIONS]


def _in_trouble(each: SubscriptionInfo) -> bool:
    """Whether an alert may be due."""
    return bool(each.halted is not None or each.parked or (each.behind and each.seconds_behind >= _TROUBLE_SECONDS))


class View:
    """Of one store. `store` is set when it has been opened."""

    def __init__(self, status: Status, metrics: Metrics, broker: Broker | None = None) -> None:
        self.status = status
        self.metrics = metrics
        self.store: EventStore | None = None
        self.looked: Looked | None = None
        self._broker = broker or Broker()
        self._looking: asyncio.Task[None] | None = None
        self._problem: str | None = None  # why the last look failed
        self._next = self._pause = 0.0
        self._looked_at = -math.inf

    async def refresh(self) -> None:
        """Looks again, if it is time to; of several who ask at once, one looks, and nobody waits for it for longer than
        two seconds: who asks later is told. What cannot be seen now stays as it was seen before."""
        if self._looking is None or self._looking.done():
            if self.store is None or time.monotonic() < self._next:
                return
            self._looking = asyncio.create_task(self._try(self.store), name="relay look")
        await asyncio.wait({self._looking}, timeout=WAIT_SECONDS)

    async def close(self) -> None:
        """Ends a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _try(self, store: EventStore) -> None:
        began = time.monotonic()
        self._next = began + PAUSE_SECONDS
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self.looked = await self._look(store)
        except TimeoutError:
            self._failed(f"it did not answer within {PATIENCE_SECONDS:g} s: is a table locked?")
        except TrunklineError as error:
            self._failed(str(error))
        except Exception as error:
            if self._problem is None:
                log.exception("the status page cannot look at the store", store=self.status.store)
            self._problem = f"{type(error).__name__}: {error}"
        else:
            self._looked_at = time.monotonic()
            self._pause = min(PAUSE_SECONDS, max(LOOK_SECONDS, 10 * (self._looked_at - began)))
            self._next = began + self._pause
            if self._problem is not None:
                log.warning("the status page looks at the store again", store=self.status.store)
            self._problem = None

    def _failed(self, problem: str) -> None:
        """Told when it begins, and not with each try."""
        if self._problem is None:
            log.warning("the status page cannot look at the store", store=self.status.store, error=problem)
        self._problem = problem

    @property
    def fresh(self) -> Looked | None:
        """What was seen, unless that is so old that it says nothing any more."""
        return self.looked if time.monotonic() - self._looked_at <= max(_STALE_SECONDS, 2 * self._pause) else None

    async def _look(self, store: EventStore) -> Looked:
        seen, sql = await overview(store), store.sql
        processes = await store.fetch(sql["holder_and_standbys"], RELAY, timedelta(seconds=_STANDBY_SECONDS))
        rate = None
        if (window := self.status.window) is not None:
            took, low, high = window
            rate = await store.fetchval(sql["count_events"], low, high, _COUNTED) / took
        return Looked(seen, processes, await self._queues(), rate)

    async def _queues(self) -> Queues:
        if self._broker.ask is None:
            return "not known: no management URL is set"
        try:
            return await self._broker.ask(self.status.store)
        except BrokerUnavailable as error:
            return f"not known: {error}"

    def report(self) -> dict[str, Any]:
        """All of it, for JSON."""
        said, values = self.status.report(), self.metrics.values()
        counts = {name: int(value) for name, value in values.items() if name in COUNTERS}
        look = {"fresh": self.fresh is not None, "look_problem": self._problem}
        if self.looked is None:
            return {**said, **look, "looked_at": None, "counts": counts}
        seconds = time.monotonic() - self._looked_at
        seen, processes, queues, rate = self.looked
        waiting = line(seen, None if isinstance(queues, str) else queues)
        leader = next((_process(row) for row in processes if row["epoch"] is not None), None)
        places = stages(seen, waiting, queues, led=leader is not None, blocked=values["blocked"] > 0)
        first = next((place for place in places if place.late), None)
        by_name = {each.subscription: each for each in waiting if each.subscription is not None}
        return {
            **said,
            **look,
            "looked_at": seen.at.isoformat(timespec="milliseconds"),
            "seconds_since_look": round(seconds, 1),
            "look_age": age(seconds),
            "events_per_second": None if rate is None else round(rate, 1),
            "line": [{**place._asdict(), "holds": place is first} for place in places],
            "leader": leader,
            "standbys": [_process(row) for row in processes if row["epoch"] is None],
            "counts": counts,
            "subscriptions": [
                self._subscription(each, by_name.get(each.name), queues, seen.at) for each in self.looked.subscriptions
            ],
            "more_subscriptions": max(0, len(seen.subscriptions) - SUBSCRIPTIONS),
        }

    def _subscription(
        self, each: SubscriptionInfo, waiting: Waiting | None, queues: Queues, now: datetime
    ) -> dict[str, Any]:
        name = names.queue(self.status.store, each.name)
        queue = None if isinstance(queues, str) else queues.get(name)
        halted = halt_of(each.halted)
        return {
            "name": each.name,
            "feed": each.feed,
            "state": each.state,
            "owner": None if each.owner is None else each.process or str(each.owner),
            "epoch": each.epoch,
            "checkpoint": each.checkpoint,
            "behind": each.behind,
            "behind_words": counted(each.behind, or_more=each.or_more),
            "seconds_behind": round(max(0.0, each.seconds_behind), 3),
            "age": age(max(0.0, each.seconds_behind)),
            "late": each.halted is not None or (waiting is not None and is_late(waiting)),
            "waits_for": None if waiting is None else waiting.stage,
            "why": None if waiting is None else waiting.who,
            "parked": each.parked,
            "halted": halted and {key: getattr(halted, key) for key in ("position", "attempts", "error", "at")},
            "moved_at": each.updated_at.isoformat(timespec="milliseconds"),
            "moved_ago": age(max(0.0, (now - each.updated_at).total_seconds())),
            "queue": None if queue is None else queue._asdict(),
            "queue_name": name,
            "queue_page": self._broker.page_of(name),
        }


def _process(row: Any) -> dict[str, Any]:
    return {"process": row["process"], "epoch": row["epoch"], "seconds_ago": round(row["seconds_ago"], 1)}
