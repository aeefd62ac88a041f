"""Batches that were put aside, and what an operator wants done with them. The command line only sets flags: the owner
acts, in the order of each key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Final, NamedTuple
from uuid import UUID

from trunkline_consumer.acks import Unit
from trunkline_consumer.attempts import Attempts, Exhausted, storable, told
from trunkline_consumer.batch import Batch
from trunkline_consumer.feed import Feed
from trunkline_consumer.options import Handling
from trunkline_consumer.own import Claim, NoClaim
from trunkline_consumer.replay import replay
from trunkline_consumer.tenure import Tenure
from trunkline_store import EventStore, Unavailable
from trunkline_store.connections import Connection
from trunkline_store.pages import Look

log = logging.getLogger("trunkline.consumer")

LOOK_SECONDS: Final = 0.5
"""How often the owner looks for what an operator wants."""
AT_ONCE: Final = 20
"""Of what is wanted, so much waits for its turn at a time."""


class Wanted(NamedTuple):
    """A parked batch that an operator wants something done with. key: of those that wait behind it, if they do."""

    first: int
    last: int
    key: str | None


class Parking:
    """The parked batches of a subscription, during one tenure. `keys`: those whose batches wait."""

    def __init__(
        self, store: EventStore, feed: Feed, handling: Handling, tenure: Tenure, claim: Claim, attempts: Attempts
    ) -> None:
        self.keys = set(claim.parked_keys)
        self._store = store
        self._feed = feed
        self._handling = handling
        self._tenure = tenure
        self._claim = claim
        self._attempts = attempts
        self._doing: set[int] = set()
        self._look = asyncio.Event()

    async def park(self, batch: Batch, attempts: int, error: BaseException | None, key: str | None) -> None:
        """In the transaction that also finishes it, which nobody does who is no longer the owner."""
        why = {"error": None, "traceback": None} if error is None else told(error)
        unit = batch.unit
        async with batch.transaction() as connection:
            await self._claim.execute(
                connection, "park", unit.first, unit.last, batch.stream, key, attempts, why["error"], why["traceback"]
            )

    async def look(self, found: Callable[[str, Wanted], None]) -> None:
        """For ever. Tells of each wanted batch, until it was done, with the lane in which it is to be handled: that of
        its key, so that nothing else of the key is handled meanwhile."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look.wait()
            self._look.clear()
            with suppress(Unavailable):  # then later
                room = AT_ONCE - len(self._doing)
                for row in await self._claim.fetch("parked_wanted", [*self._doing], room):
                    wanted = Wanted(*row)
                    lane = wanted.key if wanted.key is not None else await self._lane(wanted)
                    self._doing.add(wanted.first)
                    found(lane, wanted)

    async def do(self, wanted: Wanted) -> None:
        """Handles or forgets it. What waits behind the first of a key is wanted as soon as that one is gone, and then
        told of in its turn, if need be to the next owner."""
        try:
            await self._attempts.until_written(lambda: self._do(wanted))
            if wanted.key is not None:
                await self._attempts.until_written(lambda: self._look_behind(str(wanted.key)))
        finally:
            self._doing.discard(wanted.first)
            self._look.set()

    async def _do(self, wanted: Wanted) -> None:
        row = await self._claim.fetchrow("still_parked", wanted.first)
        if row is None:
            return  # the answer to a commit was lost
        batches = [] if row["wanted"] == "discard" else await self._read(wanted)
        try:
            if batches:
                await self._attempts.handle(*batches)
        except Exhausted as failed:
            why = told(failed.__cause__ or failed)
            again = wanted.first, self._handling.attempts, why["error"], why["traceback"]
            await self._attempts.until_written(lambda: self._park_again(*again))
            return
        if not batches or not self._handling.tx:
            await self._attempts.until_written(lambda: self._unpark(wanted))

    async def _park_again(self, first: int, attempts: int, error: str, traceback: str) -> None:
        async with self._claim.transaction() as connection:
            await self._claim.guard(connection)
            await self._claim.execute(connection, "park_again", first, attempts, error, traceback)

    async def _unpark(self, wanted: Wanted) -> None:
        async with self._claim.transaction() as connection:
            await unpark(self._claim, connection, wanted)

    async def _look_behind(self, key: str) -> None:
        """Whether anything of a key still waits is asked, not concluded: answers to commits may have been lost."""
        if await self._claim.fetchrow("parked_of_key", key) is None:
            self.keys.discard(key)

    async def _lane(self, wanted: Wanted) -> str:
        batches = await self._read(wanted)
        return lane(batches[0]) if batches else f"parked {wanted.first}"

    async def _read(self, wanted: Wanted) -> list[Batch]:
        """The parked events from the store, as the handler would be given them."""
        shelved = Shelved(self._claim, wanted)
        shelf = self._tenure.shelf(shelved)
        begin = wanted.first - 1
        async with aclosing(replay(self._store, self._feed, begin, Look(wanted.last, self._claim.history))) as found:
            async for events in found:
                shelf.deliver(events)
        batches = [shelf.take() for _ in range(len(shelf.ready))]
        if batches:
            shelved.last = batches[-1].unit.last
        return batches


class Shelved(NoClaim):
    """What the batches of a parked range are finished with: the row goes, in the same transaction."""

    def __init__(self, claim: Claim, wanted: Wanted) -> None:
        super().__init__(claim.name, claim.history, wanted.first - 1)
        self.last = wanted.last
        """Of the last batch that is made of it: there may be several by now."""
        self._claim = claim
        self._wanted = wanted

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        return self._claim.transaction()

    async def finish(self, connection: Connection, unit: Unit, proof: Mapping[int, UUID]) -> int | None:
        """Do what `Claim.finish` does; with the last batch, the parked one is done."""
        if unit.last < self.last:
            await self._claim.guard(connection)
            return unit.last
        return unit.last if await unpark(self._claim, connection, self._wanted) else None


async def unpark(claim: Claim, connection: Connection, wanted: Wanted) -> bool:
    """In a transaction: it is parked no longer, and if it was the first of a key, the next one is wanted. Returns False
    where it was done before. Raises as `Claim.guard`."""
    await claim.guard(connection)
    gone = await claim.execute(connection, "unpark", wanted.first)
    if gone and wanted.key is not None:
        await claim.execute(connection, "want_next", wanted.key, wanted.first)
    return gone


def lane(batch: Batch) -> str:
    """The batch's key as text, as it is kept: two that are written alike count as one."""
    return storable(str(batch.key))
