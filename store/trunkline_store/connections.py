"""The store's connections.

Whenever a connection is taken from asyncpg's pool and given back, the pool makes a proxy, a timeout and a task: as much
work as a short statement. So after a statement of the store's own, which leaves nothing behind, its connection is not
given back but kept at hand for the next one, unless the pool is the application's. What was not needed for a while goes
back to the pool, which closes it in its time.

A connection can be lost, or turn out to lead to a server that is read-only or left behind. Then every connection that
was opened before is suspect: a server that ends one session often ends all of them, and the client learns of each only
when it uses it. So all of them are abandoned (`Connections.after`), an application pool's too. A statement that is
retried goes over a connection that was made afterwards (`Connections.run`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeVar

import asyncpg

from trunkline_store.errors import InvalidArgument, OperationTimeout, StoreUnavailable
from trunkline_store.translate import STATEMENT_ERRORS, is_alive, is_unusable, translated

KEPT_SECONDS: Final = 5.0

OUR_PATH: Final = "pg_catalog, pg_temp"
"""The search path that resolves names to PostgreSQL's own objects only: to none that others made in `public`, and to no
temporary ones, which come first unless `pg_temp` is named
(https://www.postgresql.org/docs/current/runtime-config-client.html)."""
LEND: Final = "RESET search_path"
"""The statement that gives a session of ours the search path of the application's login in this database."""
_TYPES = ("bigint[]", "integer[]", "uuid[]", "text[]", "bytea[]", "timestamptz[]", "int8multirange")
_MEET: Final = "SELECT " + ", ".join(f"${number}::{name}" for number, name in enumerate(_TYPES, 1))

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
T = TypeVar("T")


class OurConnection(asyncpg.Connection):
    """A connection of the store's own pool. Its search path is ours, except while it is lent to the application."""

    def get_reset_query(self) -> str:
        """Return the statements that undo every setting of the application, its role included."""
        return f"RESET SESSION AUTHORIZATION;\n{super().get_reset_query()}\nSET search_path = {OUR_PATH};"


async def make_ours(connection: Connection) -> None:
    """Give a new session our search path. As a startup parameter, RESET could not undo it.

    asyncpg looks types up in the catalogue when it first meets them. That must not happen while the session is lent, so
    it meets the types of our statements here.
    """
    await connection.execute(f"SET search_path = {OUR_PATH}")
    await connection.prepare(_MEET)


class Connections:
    """Of one pool. own: whether nobody else uses it."""

    def __init__(self, pool: asyncpg.Pool, schema: str, timeout: float, *, own: bool) -> None:
        self.own = own
        self._closing = False
        self._taken = 0
        self._pool = pool
        self._schema = schema
        self._timeout = timeout
        self._queue: deque[asyncio.Future[None]] = deque()
        self._kept: list[tuple[asyncpg.pool.PoolConnectionProxy, float]] = []  # and since when; used from its end
        self._tidying: asyncio.TimerHandle | None = None
        self._given_back: set[asyncio.Task[None]] = set()
        self.generation = 0
        """How many times all connections were abandoned; those of an earlier generation are not used again."""

    async def run(self, do: Callable[[asyncpg.pool.PoolConnectionProxy], Awaitable[T]]) -> T:
        """Run a statement of the store's own in autocommit, and return its result.

        If its connection is lost or leads to the wrong server, retry once on a connection that is made afterwards, all
        within the timeout. Raises what `do` raises, `StoreUnavailable`, and `OperationTimeout`.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with self.statement() as connection:
                return await do(connection)
        except StoreUnavailable as error:
            if self._closing or not _is_of_connection(error):
                raise
        try:
            async with asyncio.timeout_at(deadline), self.statement() as connection:
                return await do(connection)
        except TimeoutError as error:
            raise OperationTimeout(f"the database did not answer within {self._timeout:g} s") from error

    async def take(self) -> asyncpg.pool.PoolConnectionProxy:
        """A connection. Raises `OperationTimeout` where none gets free in time, and `StoreUnavailable`."""
        try:
            return await self._take()
        except StoreUnavailable as error:
            if is_unusable(error):  # an application's pool runs `setup` on a connection before it hands it out
                await self._leave()
            raise

    async def _take(self) -> asyncpg.pool.PoolConnectionProxy:
        with translated(self._schema):
            try:
                if not self.own:
                    return await self._pool.acquire(timeout=self._timeout)
                await self._turn()
                try:
                    while self._kept:
                        connection, _ = self._kept.pop()
                        if is_alive(connection):
                            return connection
                        await self._leave()
                        await self._pool.release(connection)
                    return await self._pool.acquire(timeout=self._timeout)
                except BaseException:
                    self._put_back()
                    raise
            except TimeoutError as error:
                raise OperationTimeout(
                    f"no connection within {self._timeout:g} s: the pool is exhausted, or the database does not answer"
                ) from error

    async def _turn(self) -> None:
        """Until there is one for us, in the order of coming."""
        if self._taken < self._pool.get_max_size():
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._put_back()
            raise

    def at_hand(self) -> asyncpg.pool.PoolConnectionProxy | None:
        """A connection, if that takes no time: as `take`."""
        # One that is kept may be promised to whoever waited for it, and has not come to take it yet.
        if self._kept and self._taken < self._pool.get_max_size() and is_alive(self._kept[-1][0]):
            self._taken += 1
            return self._kept.pop()[0]
        return None

    async def done(self, connection: asyncpg.pool.PoolConnectionProxy, generation: int) -> None:
        """After a statement of the store's own, which has left the session as it was: keeps the connection at hand.
        generation: the one in which it was taken."""
        if not self.own or self._closing or generation != self.generation:
            await self.release(connection)
            return
        loop = asyncio.get_running_loop()
        self._kept.append((connection, loop.time()))
        self._put_back()
        if self._tidying is None:
            self._tidying = loop.call_later(KEPT_SECONDS, self._tidy)

    async def after(self, error: BaseException | None, connection: asyncpg.pool.PoolConnectionProxy) -> None:
        """Release a connection, whether or not its use failed with `error`.

        If it is lost, or leads to a server that is read-only or left behind, close it, and abandon all that were opened
        before. After a cancellation or a timeout, release it in the background: the server may hang.
        """
        gave_up = isinstance(error, asyncio.CancelledError | OperationTimeout)
        if is_unusable(error) or not (gave_up or error is None or is_alive(connection)):
            with suppress(asyncpg.InterfaceError):  # the pool has taken it back
                connection.terminate()
            await self._leave()
        if gave_up:
            self._soon(self.release(connection))
        else:
            await self.release(connection)

    async def _leave(self) -> None:
        """Abandon all open connections; new ones may lead to another server. Those in use are closed when released."""
        self.generation += 1
        await self._pool.expire_connections()
        for connection, _ in self._kept:
            with suppress(asyncpg.InterfaceError):
                connection.terminate()
        self._kept.clear()

    def _soon(self, giving_back: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(giving_back)
        self._given_back.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._given_back.discard(task)
        if not task.cancelled():
            task.exception()  # the pool has terminated the connection then

    async def release(self, connection: asyncpg.pool.PoolConnectionProxy) -> None:
        """Gives it back to the pool, which ends what is still under way in it."""
        try:
            with suppress(*STATEMENT_ERRORS):  # asyncpg has terminated it then
                await self._pool.release(connection)
        finally:
            if self.own:
                self._put_back()

    def _put_back(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    @property
    def spare(self) -> bool:
        """Whether one can be taken, and another is left for whoever comes meanwhile."""
        taken = self._taken if self.own else self._pool.get_size() - self._pool.get_idle_size()
        return bool(self._pool.get_max_size() - taken >= 2)

    async def close(self) -> None:
        """Gives everything back that is at hand, and keeps no more; the pool can be closed then."""
        self._closing = True
        if self._tidying is not None:
            self._tidying.cancel()
        for connection, _ in self._kept:
            await self._pool.release(connection)
        self._kept.clear()

    def statement(self) -> Statement:
        """A connection for a statement of the store's own, in autocommit: `async with connections.statement() as c`."""
        return Statement(self)

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        unneeded = [connection for connection, since in self._kept if since < loop.time() - KEPT_SECONDS]
        del self._kept[: len(unneeded)]
        for connection in unneeded:
            self._soon(self._pool.release(connection))
        self._tidying = loop.call_later(KEPT_SECONDS, self._tidy) if self._kept else None


def _is_of_connection(error: StoreUnavailable) -> bool:
    """Return True if the statement may succeed on another connection."""
    return is_unusable(error) or isinstance(error.__cause__, asyncpg.InterfaceError)


def is_read_only(error: BaseException | None) -> bool:
    """Whether the server refused to write anything at all."""
    return isinstance(error, asyncpg.ReadOnlySQLTransactionError) or (
        error is not None and isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError)
    )


def callers(connection: object) -> Connection:
    """Return the caller's `connection`. Raises `InvalidArgument` if it is not a connection of asyncpg."""
    if not isinstance(connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        raise InvalidArgument(f"connection: {type(connection).__name__!r} is not an asyncpg connection: pass one")
    return connection


def callers_transaction(connection: object) -> Connection:
    """Return the caller's `connection` for a statement that writes.

    Raises `InvalidArgument` like `callers`, and outside a transaction, where the statement would commit by itself.
    """
    found = callers(connection)
    if is_alive(found) and not found.is_in_transaction():
        raise InvalidArgument(
            "connection: it is not in a transaction: put the statements in `async with connection.transaction():`"
        )
    return found


async def is_lost(connection: Connection) -> bool:
    """Whether a transaction's connection has gone. That is asked: what a statement raised may come before the loss is
    known, or be the application's own mistake."""
    try:
        await connection.execute("SELECT")
    except (asyncpg.InFailedSQLTransactionError, asyncpg.QueryCanceledError):  # the last one's cancellation came late
        return False
    except asyncpg.InterfaceError:
        return not is_alive(connection)  # or another statement is still under way in it
    except STATEMENT_ERRORS:
        return True
    return False


class Statement:
    """What `Connections.statement` gives."""

    __slots__ = ("_connection", "_connections", "_generation")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def __aenter__(self) -> asyncpg.pool.PoolConnectionProxy:
        self._generation = self._connections.generation
        self._connection = await self._connections.take()
        return self._connection

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._connections.done(self._connection, self._generation)
        else:
            await self._connections.after(error, self._connection)
