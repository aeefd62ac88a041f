"""Runs a handler over the batches of a tenure: several at once, never two of one key; again after failures; and what
fails too often halts the subscription, or is parked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

import asyncpg
import msgspec
import stamina

from trunkline_consumer.batch import Batch
from trunkline_consumer.feed import Feed
from trunkline_consumer.follow import Counts
from trunkline_consumer.lanes import Lanes
from trunkline_consumer.own import BeginAgain, Claim
from trunkline_consumer.replay import replay
from trunkline_consumer.tenure import Tenure
from trunkline_consumer.trace import processing
from trunkline_store import (
    EventStore,
    InvalidArgument,
    OperationTimeout,
    RecordedEvent,
    StoreUnavailable,
    SubscriptionHalted,
    SubscriptionLost,
    Unavailable,
)
from trunkline_store.connections import Connection, alive

log = logging.getLogger("trunkline.consumer")

Handler = Callable[..., Awaitable[None]]
_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""What a statement raises whose connection goes."""
LOOK_SECONDS: Final = 0.5
"""How often the owner of parked batches looks for what an operator wants."""


def by_stream(event: RecordedEvent) -> str:
    """Partition: batches of different streams may be handled at once."""
    return event.stream


def by_correlation(event: RecordedEvent) -> str | None:
    """Partition: batches of different correlation ids may be handled at once."""
    return event.correlation_id


class Handling(msgspec.Struct, frozen=True, kw_only=True):
    """How a handler is run.

    - `concurrency`: batches that are handled at once, of different keys.
    - `tx`: the handler gets a connection, in a transaction that also holds the checkpoint.
    - `attempts`: how often a batch is tried; between them, `wait_initial` seconds doubling up to `wait_max`.
    - `timeout`: seconds that one attempt may take.
    - `on_failure`: what is done with a batch whose attempts are used up. `halt`: the subscription ends, nothing of it
      is finished. `park`: it is put aside. `park_key`: as well, and later batches of its key wait behind it.
    - `grace`: seconds that running handlers have to come to their end, when the subscription is stopped.
    """

    concurrency: int = 1
    tx: bool = False
    attempts: int = 5
    wait_initial: float = 0.1
    wait_max: float = 5.0
    timeout: float | None = None
    on_failure: Literal["halt", "park", "park_key"] = "halt"
    grace: float = 5.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidArgument(f"{name}: {value!r} is not at least 1")
        if self.on_failure not in ("halt", "park", "park_key"):
            raise InvalidArgument(f"on_failure: {self.on_failure!r} is neither halt, park nor park_key")
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidArgument(f"timeout: {self.timeout!r} is not above 0")
        if not self.grace >= 0:
            raise InvalidArgument(f"grace: {self.grace!r} is not at least 0")


class _Failed(Exception):
    """The attempts are used up; the cause is the last error."""


class _Parked(msgspec.Struct):
    """What an operator wants done with a parked batch."""

    first: int
    last: int
    key: str | None
    wanted: str | None


class _Clock:
    """Since when a transaction is open."""

    def __init__(self) -> None:
        self.began = time.monotonic()


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
        self._store = store
        self._feed = feed
        self._handler = handler
        self._handling = handling
        self._tenure = tenure
        self._counts = counts
        self._claim = tenure.claim
        self._lanes: Lanes[Batch | _Parked] = Lanes()
        self._free = tenure.arrived  # the same bell for both: between looking and waiting nothing may ring unheard
        self._running = 0
        self._parked_keys = set(self._claim.parked_keys)
        self._replaying: set[int] = set()

    async def run(self) -> None:
        """Until the tenure is closing and no handler runs. Raises `SubscriptionHalted`, `SubscriptionLost`,
        `BeginAgain`."""
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._look(), name="parked batches")
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
                    self._lanes.add(_text(batch.key), batch)
                while self._running < self._handling.concurrency and (found := self._lanes.take()) is not None:
                    self._running += 1
                    tasks.create_task(self._one(*found), name=f"handler of {self._claim.name}")
                await self._free.wait()

    async def _one(self, key: Hashable, work: Batch | _Parked) -> None:
        try:
            if isinstance(work, _Parked):
                await self._do_wanted(work)
            elif str(key) in self._parked_keys:
                await self._until_written(lambda: self._park(work, 0, None, str(key)))
            else:
                await self._handle(work, str(key))
        finally:
            self._running -= 1
            self._lanes.done(key)
            self._free.ring()

    async def _handle(self, batch: Batch, key: str) -> None:
        try:
            await self._tried(lambda: self._attempt(batch))
        except _Failed as failed:
            error = failed.__cause__
            assert error is not None
            if self._handling.on_failure == "halt":
                await self._halt(batch, error)
            wait_behind = key if self._handling.on_failure == "park_key" else None
            if wait_behind is not None:
                self._parked_keys.add(wait_behind)
            log.error("subscription %s parks %r: %s", self._claim.name, batch, error)
            await self._until_written(lambda: self._park(batch, self._handling.attempts, error, wait_behind))

    async def _tried(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """With a pause after each failure. A database that is away is waited for, and is nobody's failure."""
        handling = self._handling
        try:
            return await self._until_written(attempt)
        except (SubscriptionLost, BeginAgain):
            raise
        except Exception as error:  # noqa: BLE001 - the handler's: it counts as the first attempt
            failed: Exception | None = error
        try:
            async for again in stamina.retry_context(
                on=_counts,
                attempts=handling.attempts,
                timeout=None,
                wait_initial=handling.wait_initial,
                wait_max=handling.wait_max,
            ):
                with again:
                    if failed is not None:
                        first, failed = failed, None
                        raise first
                    self._counts.retries += 1
                    await self._until_written(attempt)
        except (SubscriptionLost, BeginAgain):
            raise
        except Exception as error:
            raise _Failed from error

    async def _until_written(self, do: Callable[[], Awaitable[None]]) -> None:
        pause = 0.1
        while True:
            try:
                return await do()
            except StoreUnavailable as error:
                log.warning("subscription %s waits for the database: %s", self._claim.name, error)
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _attempt(self, batch: Batch) -> None:
        if batch.error is not None:
            raise batch.error
        if not self._claim.held:
            await self._claim.until_held()
        async with processing(self._store, self._claim.name, batch):
            if not self._handling.tx:
                async with asyncio.timeout(self._handling.timeout):
                    await self._handler(batch)
                self._tenure.finished(batch.unit)
            else:
                async with self._never_idle() as clock, batch.transaction() as connection, self._connected(connection):
                    clock.began = time.monotonic()
                    async with asyncio.timeout(self._handling.timeout):
                        await self._handler(batch, connection)

    @asynccontextmanager
    async def _connected(self, connection: Connection) -> AsyncIterator[None]:
        """Whose connection is lost cannot go on: that is not the handler's failure, whatever it makes of it."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, StoreUnavailable) and (isinstance(error, _LOST) or not alive(connection)):
                raise StoreUnavailable(f"the transaction's connection was lost: {error}") from error
            raise

    @asynccontextmanager
    async def _never_idle(self) -> AsyncIterator[_Clock]:
        """A transaction that its handler left idle for too long was ended by the server: that is the handler's failure.
        asyncpg knows only that the connection has gone; but if leases are renewed, and the server was not started
        since, the database has not."""
        clock = _Clock()
        try:
            yield clock
        except StoreUnavailable as error:
            limit = self._claim.transaction_idle
            took = time.monotonic() - clock.began
            if (
                took < limit
                or not self._claim.held
                or await self._store.fetchval(self._store.sql["started_within"], took)
            ):
                raise
            raise OperationTimeout(
                f"the transaction waited over {limit:g} s (transaction_idle) between two statements, and was ended"
            ) from error

    async def _halt(self, batch: Batch, error: BaseException) -> None:
        why = _failure(error) | {
            "position": batch.unit.first,
            "attempts": self._handling.attempts,
            "at": datetime.now(UTC).isoformat(),
        }
        await self._until_written(lambda: self._claim.halt(json.dumps(why)))
        raise SubscriptionHalted(self._claim.name, batch.unit.first, self._handling.attempts) from error

    # --- parked batches

    async def _park(self, batch: Batch, attempts: int, error: BaseException | None, key: str | None) -> None:
        """In the transaction that also finishes it. Nothing is parked by somebody who is no longer the owner."""
        why = {"error": None, "traceback": None} if error is None else _failure(error)
        unit = batch.unit
        async with batch.transaction() as connection:
            await self._claim.guard(connection)
            await self._claim.execute(
                connection, "park", unit.first, unit.last, batch.stream, key, attempts, why["error"], why["traceback"]
            )
        self._counts.parked += 1

    async def _look(self) -> None:
        """For what an operator wants done."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                row = await self._claim.fetchrow("parked_wanted")
            except Unavailable:
                continue
            if row is not None and row[0] not in self._replaying:
                work = _Parked(*row)
                self._replaying.add(work.first)
                self._lanes.add(work.key if work.key is not None else f"parked {work.first}", work)
                self._free.ring()

    async def _do_wanted(self, work: _Parked) -> None:
        """In its key's own lane: nothing else of the key is handled meanwhile. What waits behind it follows."""
        try:
            head = None if work.key is None else await self._claim.fetchrow("parked_of_key", work.key)
            leads = head is not None and head[0] == work.first  # what waits behind another is discarded by itself
            next_one: _Parked | None = work
            while next_one is not None and await self._replay(next_one) and leads:
                row = await self._claim.fetchrow("parked_of_key", work.key)
                next_one = None if row is None else _Parked(*row)
                if next_one is None:
                    self._parked_keys.discard(work.key)
        except Unavailable as error:
            log.warning("subscription %s: %s", self._claim.name, error)  # it is still wanted, and comes again
        finally:
            self._replaying.discard(work.first)

    async def _replay(self, work: _Parked) -> bool:
        """Returns whether it is gone."""

        async def attempt() -> None:
            async with (
                self._never_idle() as clock,
                self._claim.transaction() as connection,
                self._connected(connection),
            ):
                clock.began = time.monotonic()
                if work.wanted != "discard":
                    for batch in batches:
                        if batch.error is not None:
                            raise batch.error
                        async with asyncio.timeout(self._handling.timeout):
                            await (self._handler(batch, connection) if self._handling.tx else self._handler(batch))
                await self._claim.guard(connection)
                await self._claim.execute(connection, "unpark", work.first)

        batches = await self._read(work)
        try:
            await self._tried(attempt)
        except _Failed as failed:
            why = _failure(failed.__cause__ or failed)
            async with self._claim.transaction() as connection:
                await self._claim.guard(connection)
                await self._claim.execute(
                    connection, "park_again", work.first, self._handling.attempts, why["error"], why["traceback"]
                )
            return False
        return True

    async def _read(self, work: _Parked) -> list[Batch]:
        """The parked events from the store, as the handler would be given them."""
        shelf = self._tenure.shelf(work.first - 1)
        async with aclosing(replay(self._store, self._feed, work.first - 1, work.last, self._claim.history)) as found:
            async for events in found:
                shelf.deliver(events)
        return list(shelf.ready)


def _counts(error: BaseException) -> bool:
    """A cancellation is nobody's failure, though it is shown to us too."""
    return isinstance(error, Exception) and not isinstance(error, SubscriptionLost | BeginAgain)


def _text(key: Hashable) -> str:
    """Keys are kept as text: two that are written alike count as one."""
    return str(key)


def _failure(error: BaseException) -> dict[str, Any]:
    text = "".join(traceback.format_exception(error))
    return {"error": repr(error).replace("\0", ""), "traceback": text.replace("\0", "")[-20_000:]}
