"""Wake-ups: a process that has committed an append says so, and a relay need not wait for its next look.

NOTIFY makes all transactions that use it commit one after the other, so it is never a part of an append: it is a
statement of its own, after the commit, which no append waits for, and which may get lost. Whoever follows the store
looks from time to time anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import asyncpg

from trunkline_store.translate import STATEMENT_ERRORS

log = logging.getLogger("trunkline.store")

NUDGE_SECONDS: Final = 0.05
"""Between two nudges of one process, at least. Whoever has been woken looks every few milliseconds by itself while
events come; at ten times as many nudges a lone writer was a fifth slower."""
SEND_SECONDS: Final = 1.0
"""For one nudge to be sent; after a failure, until the next one is tried."""
PROBE_SECONDS: Final = 30.0
"""Between two questions to a silent connection, whether it is still there."""
RETRY_SECONDS: Final = (0.1, 5.0)


def channel(schema: str) -> str:
    """On which a store's writers notify. Channels belong to a database; nothing else will have this name."""
    return f"trunkline {schema}"


class Nudger:
    """Sends the nudges of one store. send: sends one, or returns False where no connection can be spared; told True, it
    spares one in any case."""

    def __init__(self, send: Callable[[bool], Awaitable[bool]]) -> None:
        self._send = send
        self._wanted = False
        self._owed = False
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        """Something was committed. Returns at once, and never fails."""
        self._wanted = True
        if self._task is None:
            self._task = asyncio.create_task(self._nudge(), name="trunkline nudge")

    async def drain(self) -> None:
        """Sends what is left to be sent. There must be no appends any more."""
        self._closing.set()
        if self._task is not None:
            await self._task
        if self._owed:
            await self._once(True)
        self._closing.clear()

    async def _nudge(self) -> None:
        try:
            while self._wanted:
                self._wanted = False
                sent = await self._once(False)
                with suppress(TimeoutError):
                    async with asyncio.timeout(NUDGE_SECONDS if sent else SEND_SECONDS):
                        await self._closing.wait()
        finally:
            self._task = None

    async def _once(self, anyway: bool) -> bool:
        """Whether it came to an answer. What fails is not tried again: it would come too late."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                self._owed = not await self._send(anyway)
        except Exception:  # noqa: BLE001 - whatever it was, the append has succeeded, and readers look anyway
            return False
        return True


async def listen(connect: Callable[[], Awaitable[asyncpg.Connection]], schema: str, wake: Callable[[], None]) -> None:
    """Calls `wake` at every nudge, and whenever one may have been missed, until it is cancelled.

    connect: makes a connection, which is used for this alone. One that is lost is replaced.
    """
    shortest, longest = RETRY_SECONDS
    pause = shortest
    while True:
        try:
            connection = await connect()
            try:
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _, gone=gone: gone.set())
                await connection.add_listener(channel(schema), lambda *_: wake())
                pause = shortest
                wake()
                while not gone.is_set():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_SECONDS):
                            await gone.wait()
                    if not gone.is_set():
                        await connection.execute("SELECT 1")
            finally:
                await _closed(connection)
        except STATEMENT_ERRORS:
            pass  # the server is away: the statements that need it report that
        except Exception:
            log.exception("wake-ups stopped because of an unknown error: listening again")
        await asyncio.sleep(pause)
        pause = min(longest, pause * 2)


async def _closed(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=1)
    except Exception:  # noqa: BLE001 - the connection is thrown away, whatever its error
        connection.terminate()
