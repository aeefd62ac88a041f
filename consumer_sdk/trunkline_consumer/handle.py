"""Runs a handler over the batches of a tenure: several at once, never two of one key. What fails too often halts the
subscription, or is parked.
"""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime

from trunkline_consumer.attempts import Attempts, Exhausted, told
from trunkline_consumer.batch import Batch
from trunkline_consumer.feed import Feed
from trunkline_consumer.follow import Counts
from trunkline_consumer.lanes import Lanes
from trunkline_consumer.options import Handler, Handling
from trunkline_consumer.own import Claim
from trunkline_consumer.parked import Parking, Wanted, lane
from trunkline_consumer.tenure import Tenure
from trunkline_store import EventStore, RecordedEvent, SubscriptionHalted
from trunkline_store.masking import shown

log = logging.getLogger("trunkline.consumer")


def by_stream(event: RecordedEvent) -> str:
    """Partition: batches of different streams may be handled at once."""
    return event.stream


def by_correlation(event: RecordedEvent) -> str | None:
    """Partition: batches of different correlation ids may be handled at once."""
    return event.correlation_id


class Runner:
    """A handler during one tenure."""

    def __init__(
        self,
        store: EventStore,
        feed: Feed,
        handler: Handler,
        handling: Handling,
        tenure: Tenure,
        counts: Counts,
    ) -> None:
        assert isinstance(tenure.claim, Claim)
        self._handling = handling
        self._tenure = tenure
        self._counts = counts
        self._claim = tenure.claim
        self._attempts = Attempts(store, tenure.claim, handler, handling, counts, tenure.outages.database)
        self._parking = Parking(store, feed, handling, tenure, tenure.claim, self._attempts)
        self._lanes: Lanes[Batch | Wanted] = Lanes()
        self._free = tenure.arrived  # the same bell for both: between looking and waiting nothing may ring unheard
        self._running = 0
        self._ending = False
        """Whoever runs is cancelled now."""

    async def run(self) -> None:
        """Until the tenure is closing and no handler runs. Raises `SubscriptionHalted`, `SubscriptionLost`,
        `BeginAgain`."""
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._parking.look(self._wanted), name="parked batches")
            try:
                while True:
                    if self._tenure.closing:
                        if not self._running:
                            looking.cancel()
                            return
                        await self._free.wait()
                        continue
                    while self._tenure.ready:
                        if not self._claim.held:
                            await self._claim.until_held()
                            continue
                        batch = self._tenure.take()
                        self._lanes.add(lane(batch), batch)
                    while self._running < self._handling.concurrency and (found := self._lanes.take()) is not None:
                        self._running += 1
                        tasks.create_task(self._one(*found), name=f"handler of {self._claim.name}")
                    await self._free.wait()
            except BaseException:
                self._ending = True
                raise

    async def _one(self, key: str, work: Batch | Wanted) -> None:
        try:
            if isinstance(work, Wanted):
                await self._parking.do(work)
            elif key in self._parking.keys:
                await self._park(work, 0, None, key)
            else:
                await self._handle(work, key)
        except asyncio.CancelledError as error:
            if self._ending:
                raise
            # A group of tasks says nothing of one that is cancelled: its batch would be left out.
            raise RuntimeError(f"a handler of {self._claim.name} was cancelled from within") from error
        finally:
            self._running -= 1
            self._lanes.done(key)
            self._free.ring()

    def _wanted(self, lane: str, wanted: Wanted) -> None:
        self._lanes.add(lane, wanted)
        self._free.ring()

    async def _handle(self, batch: Batch, key: str) -> None:
        try:
            await self._attempts.handle(batch)
            if not self._handling.tx:
                self._tenure.finished(batch.unit)
        except Exhausted as failed:
            error = failed.__cause__
            assert error is not None
            if self._handling.on_failure == "halt":
                await self._halt(batch, error)
            wait_behind = key if self._handling.on_failure == "park_key" else None
            if wait_behind is not None:
                self._parking.keys.add(wait_behind)
            log.error("subscription %s parks %r: %s", self._claim.name, batch, shown(error))
            await self._park(batch, self._handling.attempts, error, wait_behind)

    async def _park(self, batch: Batch, attempts: int, error: BaseException | None, key: str | None) -> None:
        await self._attempts.until_written(lambda: self._parking.park(batch, attempts, error, key))
        self._counts.parked += 1

    async def _halt(self, batch: Batch, error: BaseException) -> None:
        why = told(error) | {
            "stream": batch.stream,
            "start": batch.unit.start,
            "position": batch.unit.first,
            "last": batch.unit.last,
            "attempts": self._handling.attempts,
            "at": datetime.now(UTC).isoformat(),
        }
        await self._attempts.until_written(lambda: self._claim.halt(json.dumps(why)))
        raise SubscriptionHalted(self._claim.name, batch.unit.first, self._handling.attempts, why["error"]) from error
