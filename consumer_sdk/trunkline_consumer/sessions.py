"""Sessions for handlers' transactions, made ready before they are needed.

To take a connection of the pool, to set its limits, and to reset it afterwards takes as long as a short transaction
itself. So that is done to one session while another one works; what is not needed for a moment goes back. A pool of the
application's has its own way of making sessions ready (`setup`): there, each transaction has one that is fresh from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

import asyncpg

from trunkline_consumer.bell import Bell
from trunkline_store import EventStore
from trunkline_store.connections import LEND, Connection
from trunkline_store.translate import is_alive, translated

KEPT_SECONDS: Final = 0.2


class _Session(NamedTuple):
    """limit: of seconds, which is set in it. since: when it was made ready. stack: gives the connection back."""

    connection: Connection
    stack: AsyncExitStack
    limit: float | None = None
    since: float = 0.0


class Sessions:
    """Of one consumer: not so many at a time that leases and reading could not go on meanwhile."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._free = max(1, store.pool_size - 2)
        self._ready: list[_Session] = []
        self._changed = Bell()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tidying: asyncio.TimerHandle | None = None

    @property
    def _keeps(self) -> bool:
        return self._store.has_sessions and self._store.open_connections().own

    @asynccontextmanager
    async def transaction(self, limit: float) -> AsyncIterator[Connection]:
        """A connection in a transaction that the server ends if it waits for so many seconds, between two statements or
        for a lock: a program that was paused cannot hold up others without end. Raises as `EventStore.transaction`."""
        session = await self._take()
        connection, failure = session.connection, None
        clean = False
        try:
            if session.limit != limit and self._keeps:
                await self._set(connection, _limits("SET", limit))
            async with self._store.transaction_on(connection):
                if not self._keeps:
                    await self._set(connection, _limits("SET LOCAL", limit))
                yield connection
            clean = True
        except Exception as error:
            failure = error
            raise
        finally:
            # Only of a transaction that has begun and ended well is it known what is left of it: nothing.
            self._start(self._make_ready(session, limit) if clean else self._give_back(session, failure))

    async def close(self) -> None:
        """Gives all of them back."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tidying is not None:
            self._tidying.cancel()
        while self._ready:
            await self._give_back(self._ready.pop())

    async def _take(self) -> _Session:
        while not self._ready and not self._free:
            await self._changed.wait()
        while self._ready:
            session = self._ready.pop()
            if is_alive(session.connection):
                return session
            await self._give_back(session)
        self._free -= 1
        stack = AsyncExitStack()
        try:
            connection = await stack.enter_async_context(self._store.acquire())
            await self._store.lend(connection)
            return _Session(connection, stack)
        except BaseException:
            await stack.aclose()
            self._one_more()
            raise

    async def _make_ready(self, session: _Session, limit: float) -> None:
        """For the next transaction: nothing that an application set in the session is left."""
        connection = session.connection
        try:
            if not self._keeps or not is_alive(connection) or connection.is_in_transaction():
                await self._give_back(session)
                return
            await connection.execute(f"{connection.get_reset_query()}\n{LEND};\n{_limits('SET', limit)}")
        except Exception:  # noqa: BLE001 - after any error the session is released, or its place would be lost
            _terminate(connection)
            await self._give_back(session)
            return
        self._ready.append(session._replace(limit=limit, since=time.monotonic()))
        self._changed.ring()
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._tidy)

    async def _give_back(self, session: _Session, failure: Exception | None = None) -> None:
        """Release a session. After a failure the store decides whether other connections are suspect, too."""
        try:
            try:
                if self._store.has_sessions and is_alive(session.connection):
                    await session.connection.reset()
            except Exception:  # noqa: BLE001 - as above
                _terminate(session.connection)
            finally:
                with suppress(Exception):
                    await session.stack.__aexit__(type(failure) if failure else None, failure, None)
        finally:
            self._one_more()

    def _one_more(self) -> None:
        self._free += 1
        self._changed.ring()

    def _tidy(self) -> None:
        self._tidying = None
        before = time.monotonic() - KEPT_SECONDS
        for session in [session for session in self._ready if session.since < before]:
            self._ready.remove(session)
            self._start(self._give_back(session))
        if self._ready:
            self._tidying = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._tidy)

    async def _set(self, connection: Connection, limits: str) -> None:
        with translated(self._store.schema):
            await connection.execute(limits)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="session")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _terminate(connection: Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # it was lost, and the pool has taken it back
        connection.terminate()


def _limits(how: str, seconds: float) -> str:
    value = f"'{seconds * 1000:.0f}ms'"
    return f"{how} idle_in_transaction_session_timeout = {value}; {how} lock_timeout = {value}"
