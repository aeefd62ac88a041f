"""Attempts of a handler: again after failures, with a pause between. A database that is away is nobody's failure."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import asyncpg
import stamina

from trunkline_consumer.follow import Counts
from trunkline_consumer.options import Handling
from trunkline_consumer.own import BeginAgain, Claim
from trunkline_store import EventStore, OperationTimeout, StoreUnavailable, SubscriptionLost
from trunkline_store.connections import Connection, alive

log = logging.getLogger("trunkline.consumer")

_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""What a statement raises whose connection goes."""


class Exhausted(Exception):
    """The attempts are used up; the cause is the last error."""


class Attempts:
    """During one tenure."""

    def __init__(self, store: EventStore, claim: Claim, handling: Handling, counts: Counts) -> None:
        self._store = store
        self._claim = claim
        self._handling = handling
        self._counts = counts

    async def tried(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """As often as the handler was told. Raises `Exhausted`, `SubscriptionLost`, `BeginAgain`."""
        handling = self._handling
        try:
            return await self.until_written(attempt)
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
                wait_jitter=handling.wait_initial,
            ):
                with again:
                    if failed is not None:
                        first, failed = failed, None
                        raise first
                    self._counts.retries += 1
                    await self.until_written(attempt)
        except (SubscriptionLost, BeginAgain):
            raise
        except Exception as error:
            raise Exhausted from error

    async def until_written(self, do: Callable[[], Awaitable[None]]) -> None:
        """Waits for a database that is away."""
        pause = 0.1
        while True:
            try:
                return await do()
            except StoreUnavailable as error:
                log.warning("subscription %s waits for the database: %s", self._claim.name, error)
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    @asynccontextmanager
    async def within(self, transaction: AbstractAsyncContextManager[Connection]) -> AsyncIterator[Connection]:
        """A transaction for a handler. Whose connection is lost cannot go on, whatever the handler makes of it: that is
        `StoreUnavailable`, and not its failure. Unless it left the transaction idle for too long, and the server ended
        it: that is `OperationTimeout`."""
        began = time.monotonic()
        try:
            async with transaction as connection:
                began = time.monotonic()
                try:
                    yield connection
                except Exception as error:
                    if not isinstance(error, StoreUnavailable) and (isinstance(error, _LOST) or not alive(connection)):
                        raise StoreUnavailable(f"the transaction's connection was lost: {error}") from error
                    raise
        except StoreUnavailable as error:
            if await self._left_idle(time.monotonic() - began):
                limit = self._claim.transaction_idle
                raise OperationTimeout(
                    f"the transaction waited over {limit:g} s (transaction_idle) between two statements, and was ended"
                ) from error
            raise

    async def _left_idle(self, took: float) -> bool:
        """asyncpg knows only that the connection has gone; but if leases are renewed, and the server was not started
        since, the database has not."""
        return (
            took >= self._claim.transaction_idle
            and self._claim.held
            and not await self._store.fetchval(self._store.sql["started_within"], took)
        )


def told(error: BaseException) -> dict[str, Any]:
    """What is kept of a failure, as text."""
    text = "".join(traceback.format_exception(error))
    return {"error": repr(error).replace("\0", ""), "traceback": text.replace("\0", "")[-20_000:]}


def _counts(error: BaseException) -> bool:
    """A cancellation is nobody's failure, though it is shown to us too."""
    return isinstance(error, Exception) and not isinstance(error, SubscriptionLost | BeginAgain)
