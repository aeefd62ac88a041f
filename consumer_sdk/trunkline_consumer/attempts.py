"""Attempts of a handler: again after failures, with a pause between. What a handler raises is its failure; a database
that is away is nobody's.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg

from trunkline_consumer.batch import Batch
from trunkline_consumer.follow import Counts
from trunkline_consumer.options import Handler, Handling
from trunkline_consumer.outages import Server, database_pause
from trunkline_consumer.own import Claim
from trunkline_consumer.trace import processing
from trunkline_store import (
    ConcurrencyFailure,
    EventStore,
    OperationTimeout,
    StoreUnavailable,
    SubscriptionLost,
    Unavailable,
)
from trunkline_store.cancellation import ends_program
from trunkline_store.connections import Connection, is_lost, is_read_only
from trunkline_store.masking import named, shown, traced
from trunkline_store.translate import is_alive

log = logging.getLogger("trunkline.consumer")


class Failed(Exception):
    """The handler's own failure, which counts as an attempt; the cause is what it raised."""


class Exhausted(Exception):
    """The attempts are used up; the cause is the last error."""


class Attempts:
    """During one tenure."""

    def __init__(
        self,
        store: EventStore,
        claim: Claim,
        handler: Handler,
        handling: Handling,
        counts: Counts,
        database: Server,
    ) -> None:
        self._store = store
        self._claim = claim
        self._handler = handler
        self._handling = handling
        self._counts = counts
        self._database = database

    async def handle(self, *batches: Batch) -> None:
        """As often as the handler was told; all of them or, with `tx`, none: they are finished then. Raises
        `Exhausted`, `SubscriptionLost`."""
        handling = self._handling
        for number in range(1, handling.attempts + 1):
            try:
                await self.until_written(lambda: self._attempt(batches))
                return
            except Failed as failed:
                if number == handling.attempts:
                    raise Exhausted from failed.__cause__
                pause = self._pause(number)
                log.warning(
                    "subscription %s: attempt %d of %d failed at position %d (%s), again in %.2f s: %s",
                    *(self._claim.name, number, handling.attempts, batches[0].unit.first, batches[0].stream, pause),
                    named(failed.__cause__ or failed),
                )
            self._counts.retries += 1
            await asyncio.sleep(pause)

    def _pause(self, number: int) -> float:
        """Doubling, and at random, so that many do not come back at once."""
        handling = self._handling
        return min(handling.wait_max, handling.wait_initial * (2.0 ** min(number - 1, 32) + random.random()))

    async def until_written(self, do: Callable[[], Awaitable[None]]) -> None:
        """Waits for a database that is away."""
        pause = database_pause()
        while True:
            try:
                return await do()
            except Unavailable as error:
                self._database.away(error)
            await asyncio.sleep(pause.next())

    async def _attempt(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if batch.error is not None:
                raise Failed(batch.error) from batch.error
        if not self._claim.held:
            await self._claim.until_held()
        try:
            if not self._handling.tx:
                for batch in batches:
                    async with processing(self._store, self._claim.name, batch):
                        await self._call(batch)
                return
            async with self._within(batches[-1].transaction()) as connection:
                for batch in batches:
                    async with processing(self._store, self._claim.name, batch):
                        await self._call(batch, connection)
        except (Failed, Unavailable, SubscriptionLost):
            raise
        except BaseException as error:  # such as a constraint that is checked at the end
            if ends_program(error):
                raise
            raise Failed(error) from error

    async def _call(self, batch: Batch, *transaction: Connection) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._handling.timeout):
                work = self._handler(batch, *transaction)
                if not inspect.isawaitable(work):
                    raise TypeError(f"the handler returned {work!r}, no awaitable: define it with `async def`")
                await work
        except SubscriptionLost as error:
            if error.subscription == self._claim.name:
                raise
            raise Failed(error) from error
        except BaseException as error:
            if ends_program(error):
                raise
            if await self._away(error, time.monotonic() - began, *transaction):
                raise StoreUnavailable(f"the database went away while a handler ran: {shown(error)}") from error
            raise Failed(error) from error

    async def _away(self, error: BaseException, took: float, *transaction: Connection) -> bool:
        """Return True if an outage of the database, and not the handler, caused `error`.

        Either the handler's connection was lost, whatever the handler made of that. Or the handler's store, which may
        be another one, is unavailable, and ours is or was too. Raises `Unavailable`.
        """
        if transaction and await is_lost(*transaction):
            return True
        if is_read_only(error):
            return bool(await self._store.fetchval(self._store.sql["read_only"]))
        if isinstance(error, StoreUnavailable | OperationTimeout):
            return not self._claim.held or await self._another_server(took)
        return False

    @asynccontextmanager
    async def _within(self, transaction: AbstractAsyncContextManager[Connection]) -> AsyncIterator[Connection]:
        """A transaction for a handler. What it left behind is its failure: if it was idle for too long, and the server
        ended it; if a statement is under way still, or it may write nothing, or cannot be serialized."""
        entered: Connection | None = None
        began = 0.0
        try:
            async with transaction as connection:
                began, entered = time.monotonic(), connection
                yield connection
        except Unavailable as error:
            if entered is None:
                raise
            if isinstance(error, StoreUnavailable) and await self._left_idle(time.monotonic() - began):
                limit = self._claim.transaction_idle
                idle = OperationTimeout(
                    f"the transaction waited over {limit:g} s (transaction_idle) between two statements, and was ended:"
                    f" {error}"
                )
                raise Failed(idle) from idle
            if await self._left_so(error, entered):
                raise Failed(error) from error
            raise

    async def _left_so(self, error: Unavailable, connection: Connection) -> bool:
        """Whether the handler made of its transaction what cannot be finished, however often it is tried."""
        if is_read_only(error):
            return not await self._store.fetchval(self._store.sql["read_only"])
        in_use = isinstance(error.__cause__, asyncpg.InterfaceError) and is_alive(connection)
        return in_use or isinstance(error, ConcurrencyFailure)

    async def _left_idle(self, took: float) -> bool:
        """asyncpg knows only that the connection has gone; but if leases are renewed, and the server was not started
        since, the database has not."""
        return took >= self._claim.transaction_idle and self._claim.held and not await self._another_server(took)

    async def _another_server(self, seconds: float) -> bool:
        """Whether the server was started, or another one was promoted, within so many seconds."""
        return bool(await self._store.fetchval(self._store.sql["started_within"], seconds)) or (
            (await self._store.look()).history != self._claim.history
        )


def told(error: BaseException) -> dict[str, Any]:
    """What is kept of a failure, as text that PostgreSQL takes."""
    return {"error": storable(named(error)), "traceback": storable(traced(error))}


def storable(text: str) -> str:
    """Without what PostgreSQL's text cannot hold: NUL, and lone surrogates."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()
