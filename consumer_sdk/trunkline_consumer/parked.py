"""Batches that were put aside, and what an operator wants done with them. The command line only sets flags: the owner
acts, in the order of each key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Final

import msgspec

from trunkline_consumer.attempts import Attempts, Exhausted, told
from trunkline_consumer.batch import Batch
from trunkline_consumer.feed import Feed
from trunkline_consumer.options import Handler, Handling
from trunkline_consumer.own import Claim
from trunkline_consumer.replay import replay
from trunkline_consumer.tenure import Tenure
from trunkline_consumer.trace import processing
from trunkline_store import EventStore, Unavailable
from trunkline_store.connections import Connection

log = logging.getLogger("trunkline.consumer")

LOOK_SECONDS: Final = 0.5
"""How often the owner looks for what an operator wants."""


class Wanted(msgspec.Struct):
    """What an operator wants done with a parked batch."""

    first: int
    last: int
    key: str | None
    wanted: str | None


class Parking:
    """The parked batches of a subscription, during one tenure. `keys`: those whose batches wait."""

    def __init__(
        self,
        store: EventStore,
        feed: Feed,
        handler: Handler,
        handling: Handling,
        tenure: Tenure,
        claim: Claim,
        attempts: Attempts,
    ) -> None:
        self.keys = set(claim.parked_keys)
        self._store = store
        self._feed = feed
        self._handler = handler
        self._handling = handling
        self._tenure = tenure
        self._claim = claim
        self._attempts = attempts
        self._doing: set[int] = set()

    async def park(self, batch: Batch, attempts: int, error: BaseException | None, key: str | None) -> None:
        """In the transaction that also finishes it. Nothing is parked by somebody who is no longer the owner."""
        why = {"error": None, "traceback": None} if error is None else told(error)
        unit = batch.unit
        async with batch.transaction() as connection:
            await self._claim.guard(connection)
            await self._claim.execute(
                connection, "park", unit.first, unit.last, batch.stream, key, attempts, why["error"], why["traceback"]
            )

    async def look(self, found: Callable[[Wanted], None]) -> None:
        """For ever. Tells of each wanted batch once, until it was done."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                row = await self._claim.fetchrow("parked_wanted")
            except Unavailable:
                continue
            if row is not None and row[0] not in self._doing:
                self._doing.add(row[0])
                found(Wanted(*row))

    async def do(self, work: Wanted) -> None:
        """In its key's own lane: nothing else of the key is handled meanwhile. What waits behind the first of a key
        follows: it is wanted as soon as that one is gone, so that the next owner goes on where this one ends."""
        try:
            head = None if work.key is None else await self._claim.fetchrow("parked_of_key", work.key)
            leads = head is not None and head[0] == work.first  # what waits behind another is discarded by itself
            next_one: Wanted | None = work
            while next_one is not None and await self._gone(next_one, leads) and leads:
                row = await self._claim.fetchrow("parked_of_key", work.key)
                next_one = None if row is None else Wanted(*row)
                if next_one is None:
                    self.keys.discard(work.key)
        except Unavailable as error:
            log.warning("subscription %s: %s", self._claim.name, error)  # it is still wanted, and comes again
        finally:
            self._doing.discard(work.first)

    async def _gone(self, work: Wanted, leads: bool) -> bool:
        """Handles or discards it. Returns whether it is parked no longer."""

        async def attempt() -> None:
            if await self._claim.fetchrow("still_parked", work.first) is None:
                return  # it was done already: it was told of twice, or the answer to a commit was lost
            if not self._handling.tx:
                await self._handle(batches)
            async with self._attempts.within(self._claim.transaction()) as connection:
                if self._handling.tx:
                    await self._handle(batches, connection)
                await self._claim.guard(connection)
                await self._claim.execute(connection, "unpark", work.first)
                if leads:
                    await self._claim.execute(connection, "want_next", work.key)

        batches = [] if work.wanted == "discard" else await self._read(work)
        try:
            await self._attempts.tried(attempt)
        except Exhausted as failed:
            why = told(failed.__cause__ or failed)
            async with self._claim.transaction() as connection:
                await self._claim.guard(connection)
                await self._claim.execute(
                    connection, "park_again", work.first, self._handling.attempts, why["error"], why["traceback"]
                )
            return False
        return True

    async def _handle(self, batches: Iterable[Batch], *transaction: Connection) -> None:
        for batch in batches:
            if batch.error is not None:
                raise batch.error
            if not self._claim.held:
                await self._claim.until_held()
            async with processing(self._store, self._claim.name, batch), asyncio.timeout(self._handling.timeout):
                await self._handler(batch, *transaction)

    async def _read(self, work: Wanted) -> list[Batch]:
        """The parked events from the store, as the handler would be given them."""
        shelf = self._tenure.shelf(work.first - 1)
        async with aclosing(replay(self._store, self._feed, work.first - 1, work.last, self._claim.history)) as found:
            async for events in found:
                shelf.deliver(events)
        return list(shelf.ready)
