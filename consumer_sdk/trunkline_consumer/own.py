"""Who owns a subscription, and what only the owner may write.

A claim is one owner's right to a subscription's row: from its lease on, in one epoch and one history. It ends when
somebody else has the lease, when the subscription is reset (the same owner begins again) or deleted, or with its past.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, Final, NoReturn
from uuid import UUID

from trunkline_consumer.acks import Unit
from trunkline_consumer.feed import Feed, Kind
from trunkline_consumer.options import Options
from trunkline_consumer.sessions import Sessions
from trunkline_store import (
    EventStore,
    HistoryChanged,
    InvalidArgument,
    Start,
    StreamDeleted,
    SubscriptionAlreadyExists,
    SubscriptionDeleted,
    SubscriptionLost,
    Unavailable,
)
from trunkline_store.connections import Connection
from trunkline_store.lease import Keeper, Lease
from trunkline_store.pages import Look
from trunkline_store.store import MAX_POSITION
from trunkline_store.translate import translated

_NOTHING_KEPT: Final = "a transient subscription keeps no checkpoint that a transaction could write"


class BeginAgain(SubscriptionLost):
    """The subscription was reset, or the past is another one: its rows say where we are now, and the same owner goes on
    from there. Whoever is within a transaction is told."""

    def __init__(self, subscription: str) -> None:
        super().__init__(subscription, "was reset, or its history changed", "what is not finished comes again")


class Disproved(BeginAgain):
    """The store does not hold an event that was handed over: a message was forged, an older data folder was restored,
    or the event was erased meanwhile."""


class Claim:
    """What the owner holds. `checkpoint` and `finished` are as it found them: intervals (previous, last] above it."""

    def __init__(
        self,
        store: EventStore,
        sessions: Sessions,
        name: str,
        number: int,
        lease: Lease,
        history: str,
        row: Any,
        keys: set[str],
        transaction_idle: float,
    ) -> None:
        self.name = name
        self.lease = lease
        self.history = history
        self.checkpoint: int = row["checkpoint"]
        self.finished = [(each.lower - 1, each.upper - 1) for each in row["finished"]]
        self.parked_keys = keys
        self._store = store
        self._sessions = sessions
        self._number = number
        self.transaction_idle = transaction_idle

    @property
    def held(self) -> bool:
        """Whether nobody else can own it yet, judged without asking."""
        return self.lease.held

    async def until_held(self) -> None:
        await self.lease.until_held()

    async def until_lost(self) -> None:
        """Raises what has become of the claim, when it has ended."""
        await self.lease.lost.wait()
        while True:
            with suppress(Unavailable):  # then it is asked again
                await self.ended()
                raise BeginAgain(self.name)  # nobody else has it, but it is not renewed any more
            await asyncio.sleep(0.1)

    async def ended(self) -> None:
        """Raises `BeginAgain` or `SubscriptionLost`, if the claim has ended."""
        with self._in_history():
            row = await self._store.fetchrow(self._store.sql["standing"], self._number, self.history)
        if row is None:
            raise SubscriptionDeleted(self.name)
        if row["owner"] == self.lease.owner and row["epoch"] != self.lease.epoch:
            raise BeginAgain(self.name)
        if row["owner"] != self.lease.owner:
            raise SubscriptionLost(self.name)

    @contextmanager
    def _in_history(self) -> Iterator[None]:
        """Raise `BeginAgain` if a statement within finds another history."""
        try:
            yield
        except HistoryChanged as error:
            raise BeginAgain(self.name) from error

    async def write(self, position: int, proof: Mapping[int, UUID]) -> int:
        """Write the checkpoint: everything up to `position` is finished, and the store holds the events of `proof` (ids
        by feed position). Return the checkpoint. Raises `BeginAgain`, `SubscriptionLost`."""
        args = self._number, self.lease.owner, self.lease.epoch, position, self.history, [*proof], [*proof.values()]
        with self._in_history():
            written: int | None = await self._store.fetchval(self._store.sql["checkpoint"], *args)
        if written is None:
            await self.ended()
            raise Disproved(self.name)
        return written

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction that the server ends if this process stalls (`transaction_idle`)."""
        return self._sessions.transaction(self.transaction_idle)

    async def finish(self, connection: Connection, unit: Unit, proof: Mapping[int, UUID]) -> int | None:
        """Finish this batch in a transaction, as its last statement, if the store holds the events of `proof`.

        Return the checkpoint, or None if a transaction whose answer was lost finished the batch before. Raises
        `BeginAgain`, `SubscriptionLost`.
        """
        args = self._number, self.lease.owner, self.lease.epoch, unit.start, self.history, unit.last
        with self._in_history(), translated(self._store.schema):
            written: int | None = await connection.fetchval(
                self._store.sql["finish"], *args, [*proof], [*proof.values()]
            )
            if written is not None:
                return written
            row = await connection.fetchrow(self._store.sql["standing"], self._number, self.history)
        if row is not None and (row["owner"], row["epoch"]) == (self.lease.owner, self.lease.epoch):
            if row["checkpoint"] >= unit.last or any(unit.last in each for each in row["finished"]):
                return None
            raise Disproved(self.name)
        await self.ended()
        raise SubscriptionLost(self.name)

    async def guard(self, connection: Connection) -> None:
        """In a transaction: nobody else can become the owner until it ends. Raises as `finish`."""
        args = self._number, self.lease.owner, self.lease.epoch, self.history
        with self._in_history(), translated(self._store.schema):
            if await connection.fetchval(self._store.sql["guard"], *args) is None:
                await self.ended()
                raise SubscriptionLost(self.name)

    async def execute(self, connection: Connection, query: str, *args: object) -> bool:
        """A statement about this subscription, in a transaction. Returns whether it changed anything."""
        with translated(self._store.schema):
            status: str = await connection.execute(self._store.sql[query], self._number, *args)
        return not status.endswith(" 0")

    async def fetch(self, query: str, *args: object) -> list[Any]:
        """The rows of a question about this subscription."""
        return await self._store.fetch(self._store.sql[query], self._number, *args)

    async def fetchrow(self, query: str, *args: object) -> Any:
        """The first row of a question about this subscription."""
        return await self._store.fetchrow(self._store.sql[query], self._number, *args)

    async def halt(self, why: str) -> None:
        """Keeps why the owner gave up (JSON)."""
        args = self.lease.owner, self.lease.epoch, why
        await self._store.fetch(self._store.sql["halt"], self._number, *args)


class Owner:
    """Makes claims to one subscription, one after the other."""

    def __init__(
        self,
        store: EventStore,
        keeper: Keeper,
        sessions: Sessions,
        name: str,
        feed: Feed,
        start: Start | int,
        owner: UUID,
        options: Options,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._sessions = sessions
        self._name = name
        self._feed = feed
        self._start = start
        self._owner = owner
        self._options = options

    async def claim(self, *, standby: bool) -> Claim:
        """Waits for an owner that has vanished, at most its lease; with `standby`, for any.

        Raises `SubscriptionAlreadyExists`, `SubscriptionDeleted` (meanwhile), `InvalidArgument`, `Unavailable`.
        """
        store = self._store
        look = await store.look()
        history = look.history
        number = await self._row(look)
        lease = await self._lease(f"subscription {number}", standby=standby)
        self._keeper.add(lease)
        try:
            row = await store.fetchrow(store.sql["fence_subscription"], number, self._owner, lease.epoch, history)
            if row is None:
                await self._refused(number, history)
            keys = {each["key"] for each in await store.fetch(store.sql["parked_keys"], number)}
        except BaseException:
            await self.release(lease)
            raise
        return Claim(
            store, self._sessions, self._name, number, lease, history, row, keys, self._options.transaction_idle
        )

    async def release(self, lease: Lease) -> None:
        """Lets the next one in at once."""
        self._keeper.remove(lease)
        with suppress(Unavailable):
            await lease.release()

    async def _refused(self, number: int, history: str) -> NoReturn:
        """Raises why there is no row for the lease that was had."""
        if await self._store.fetchrow(self._store.sql["standing"], number, history) is None:
            raise SubscriptionDeleted(self._name)
        raise SubscriptionLost(self._name)

    async def _row(self, look: Look) -> int:
        store = self._store
        while (row := await store.fetchrow(store.sql["see_subscription"], self._name)) is None:
            async with store.acquire() as connection:  # one session: another server may have other events there
                first = await first_checkpoint(store, connection, self._feed, self._start, look)
                with translated(store.schema):
                    await connection.fetchrow(store.sql["create_subscription"], self._name, self._feed.label, first)
        if row["feed"] != self._feed.label:
            raise InvalidArgument(f"subscription {self._name!r} follows {row['feed']!r}, not {self._feed.label!r}")
        return int(row["subscription_id"])

    async def _lease(self, name: str, *, standby: bool) -> Lease:
        store = self._store
        seen: Any = None
        while True:
            lease = await Lease.acquire(store, name, self._owner, self._options.lease)
            if lease is not None:
                return lease
            row = await store.fetchrow(store.sql["see_lease"], name)
            if not standby and row is not None and seen is not None and row != seen:
                raise SubscriptionAlreadyExists(self._name)  # it was renewed, or taken: somebody is alive
            seen = row
            await asyncio.sleep(0.1)


async def first_checkpoint(
    store: EventStore, connection: Connection, feed: Feed, start: Start | int, look: Look
) -> int:
    """Return the position behind which a new subscription begins: that of an event, or 0, never the safe position.
    Raises `HistoryChanged` if the look was made on another server than the connection's."""
    if start in (Start.ORIGIN, 0):
        return 0
    with translated(store.schema):
        if start is Start.CURRENT:
            if feed.kind is Kind.STREAM:
                stream = await connection.fetchrow(store.sql["stream_info"], feed.name)
                if stream is not None and stream["deleted_at"] is not None:  # one that is not there may come
                    raise StreamDeleted(feed.name)
            return int(await connection.fetchval(store.sql["last_feed_position"], *look))
        if feed.kind is not Kind.STREAM:
            last = int(await connection.fetchval(store.sql["last_feed_position"], MAX_POSITION, look.history))
            if start > last:
                raise InvalidArgument(f"start_from: position {start} is after the last event ({last}): use CURRENT")
            return start
        position: int | None = await connection.fetchval(store.sql["feed_position_of"], feed.name, start, look.history)
    if position is None:
        raise InvalidArgument(f"start_from: stream {feed.name!r} has no version {start}")
    return position


REMEMBERED: Final = 1000
"""The number of a transient subscription's batches that are remembered, to find the end of a common history."""


async def resumed(store: EventStore, look: Look, start: int, handled: Mapping[int, UUID]) -> int:
    """Return the position behind which a transient subscription continues in another history: that of the last handled
    event that the store still holds. A position alone proves nothing, since another event may have it by now."""
    held = await store.fetchval(store.sql["last_held"], [*handled], [*handled.values()], look.history)
    if held is None:
        return min(int(await store.fetchval(store.sql["last_feed_position"], *look)), start)
    return int(held)


class NoClaim:
    """The claim of a transient subscription: nobody else can own it, and nothing is stored.

    `handed`: the last event of each batch that was handed to it, by feed position.
    """

    def __init__(self, name: str, history: str, checkpoint: int, handed: Mapping[int, UUID] | None = None) -> None:
        self.name = name
        self.history = history
        self.checkpoint = checkpoint
        self.handed = dict(handed or {})
        self.finished: Sequence[tuple[int, int]] = ()
        self.held = True

    async def until_held(self) -> None:
        return

    async def until_lost(self) -> None:
        await asyncio.Event().wait()

    async def write(self, position: int, proof: Mapping[int, UUID]) -> int:
        """Keep the proof for `resumed`."""
        self.handed.update(proof)
        for place in [*self.handed][:-REMEMBERED]:
            del self.handed[place]
        return position

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        raise InvalidArgument(_NOTHING_KEPT)

    async def finish(self, connection: Connection, unit: Unit, proof: Mapping[int, UUID]) -> int | None:
        raise InvalidArgument(_NOTHING_KEPT)
