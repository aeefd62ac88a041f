"""The face of the store: a pool, and the functions that use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from uuid import UUID

import asyncpg

from trunkline_store import append, read
from trunkline_store.errors import (
    InvalidArgument,
    MigrationPending,
    NotInitialised,
    OperationTimeout,
    SchemaTooNew,
    StoreNotReady,
    StreamDeleted,
    StreamNotFound,
)
from trunkline_store.events import Appended, EventData, RecordedEvent, check_stream
from trunkline_store.migrate import latest
from trunkline_store.names import check_store
from trunkline_store.queries import statements
from trunkline_store.serialize import JsonSerializer, Serializer
from trunkline_store.translate import translated

MAX_POSITION: Final = 2**63 - 1

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


class EventStore:
    """An event store in one schema of a PostgreSQL database.

        async with EventStore("postgresql://localhost/app") as store:
            await store.append_to_stream("order-42", NO_STREAM, [EventData("OrderPlaced", {"total": 12})])

    dsn_or_pool: a DSN, or a pool of the application's, which stays open when the store is closed.
    schema: the store's name. serializer: JSON by default. pool_size: connections at most (with a DSN).
    timeout: seconds that a statement, or waiting for a connection, may take.
    """

    def __init__(
        self,
        dsn_or_pool: str | asyncpg.Pool,
        *,
        schema: str = "eventstore",
        serializer: Serializer | None = None,
        pool_size: int = 10,
        timeout: float = 15.0,
        application_name: str = "trunkline",
    ) -> None:
        self.schema = check_store(schema)
        self.sql: Mapping[str, str] = statements(schema)
        self.serializer: Serializer = serializer or JsonSerializer()
        self.timeout = timeout
        self.history = ""
        self.store_id: UUID | None = None
        self.content_type = ""
        self.batch_count = 0
        self.batch_bytes = 0
        self._as_text = True
        self._own_pool = isinstance(dsn_or_pool, str)
        self._dsn = dsn_or_pool if isinstance(dsn_or_pool, str) else None
        self._pool: asyncpg.Pool | None = None if isinstance(dsn_or_pool, str) else dsn_or_pool
        self._pool_size = pool_size
        self._application_name = application_name

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connects, and checks that schema and code fit. Raises `StoreNotReady` or `StoreUnavailable`."""
        with translated(self.schema):
            if self._pool is None:
                self._pool = await _connect(
                    self._dsn or "",
                    max_size=self._pool_size,
                    seconds=self.timeout,
                    application_name=self._application_name,
                )
        try:
            await self._look()
        except BaseException:
            await self.close()
            raise

    async def _look(self) -> None:
        found, needed = await self.fetchval(self.sql["schema_version"]), latest()
        if found < needed:
            raise MigrationPending(self.schema, found, needed)
        if found > needed:
            raise SchemaTooNew(self.schema, found, needed)
        row = await self.fetchrow(self.sql["store"])
        if row is None:
            raise NotInitialised(self.schema)
        if row["sequence_cache"] != 1:
            raise StoreNotReady(
                self.schema,
                f"sequence {self.schema}.blocks has CACHE {row['sequence_cache']}, with which readers skip events: "
                f"ALTER SEQUENCE {self.schema}.blocks CACHE 1",
            )
        if row["content_type"] != self.serializer.content_type:
            raise InvalidArgument(
                f"the store in {self.schema!r} keeps {row['content_type']}, "
                f"the serializer makes {self.serializer.content_type}"
            )
        self.store_id = row["store_id"]
        self.content_type = row["content_type"]
        self.batch_count = row["batch_count"]
        self.batch_bytes = row["batch_bytes"]
        self.history = row["history"]
        self._as_text = row["data_type"] != "bytea"

    async def close(self) -> None:
        """Closes the pool, if it is ours; waits for what is under way, at most the timeout."""
        pool, self._pool = self._pool, None if self._own_pool else self._pool
        if self._own_pool and pool is not None:
            try:
                async with asyncio.timeout(self.timeout):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection of the pool, in autocommit. Raises `OperationTimeout` where none gets free in time."""
        pool = self._pool
        if pool is None:
            raise InvalidArgument("the store is not open: use `async with EventStore(…)`")
        with translated(self.schema):
            try:
                connection = await pool.acquire(timeout=self.timeout)
            except TimeoutError as error:
                raise OperationTimeout(
                    f"no connection within {self.timeout:g} s: the pool is exhausted, or the database does not answer"
                ) from error
            try:
                yield connection
            finally:
                await pool.release(connection)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """The first row of a statement in autocommit, or None."""
        async with self.acquire() as connection:
            row: asyncpg.Record | None = await connection.fetchrow(query, *args)
            return row

    async def fetchval(self, query: str, *args: object) -> Any:
        """The first value of a statement in autocommit, or None."""
        async with self.acquire() as connection:
            return await connection.fetchval(query, *args)

    @asynccontextmanager
    async def _on(self, connection: Connection | None) -> AsyncIterator[Connection]:
        if connection is None:
            async with self.acquire() as ours:
                yield ours
        else:
            with translated(self.schema):
                yield connection

    # --- writing

    async def append_to_stream(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[EventData],
        *,
        connection: Connection | None = None,
    ) -> Appended:
        """Appends all events, or none.

        expected_version: the stream's version (0: it is new), or ANY_VERSION, NO_STREAM, STREAM_EXISTS.
        connection: a connection of the caller's; the append is then a part of its transaction, and a `Conflict`
        leaves that transaction usable. Readers of `$all` wait for transactions that have appended: keep them short.

        Appending the same events again (ids, types, data, metadata) gives the original answer, whatever version is
        expected. Raises `WrongExpectedVersion`, `StreamNotFound` (STREAM_EXISTS on no stream), `StreamDeleted`,
        `DuplicateEvent`, `InvalidArgument`, `InvalidEvent`, `Unavailable`.
        """
        args = append.arguments(stream, expected_version, events, self.serializer, as_text=self._as_text)
        async with self._on(connection) as c:
            try:
                row = await c.fetchrow(self.sql["append"], *args)
            except asyncpg.UniqueViolationError as error:
                duplicate = append.violation(stream, error)
                if duplicate is None:
                    raise
                raise duplicate from error
        assert row is not None
        return append.outcome(stream, expected_version, row)

    # --- reading

    async def read_stream_forward(
        self,
        stream: str,
        *,
        start: int | None = None,
        count: int = 1000,
        connection: Connection | None = None,
    ) -> list[RecordedEvent]:
        """At most `count` events of a stream in their order, from version `start` on (inclusive; from the first).

        Raises `StreamNotFound`, `StreamDeleted`, `UndecodableEvent`, `InvalidArgument`, `Unavailable`.
        """
        check_stream(stream)
        first, count = _start(start), _count(count)
        async with self._on(connection) as c:
            rows = await c.fetch(self.sql["read_stream_forward"], stream, first, count)
            if not rows:
                state = await c.fetchrow(self.sql["stream_state"], stream)
                if state is None:
                    raise StreamNotFound(stream)
                if state["deleted"]:
                    raise StreamDeleted(stream)
        return read.from_stream(rows, self.serializer)

    async def read_all_streams_forward(
        self, *, start: int | None = None, count: int = 1000, connection: Connection | None = None
    ) -> list[RecordedEvent]:
        """At most `count` events of all streams in the order of `$all`, from position `start` on (inclusive).

        Events above the safe position, among them those of the caller's own open transaction, are not given yet.
        Raises `UnsafeRead` (not at READ COMMITTED, or a replica), `UndecodableEvent`, `InvalidArgument`,
        `Unavailable`.
        """
        first, count = _start(start), _count(count)
        async with self._on(connection) as c:
            safe = await c.fetchval(self.sql["safe_position"])
            rows = await c.fetch(self.sql["read_all_forward"], first, safe, count, MAX_POSITION)
        return read.from_all(rows, self.serializer)

    async def stream_all_forward(
        self, *, start: int | None = None, page: int = read.PAGE_EVENTS
    ) -> AsyncIterator[RecordedEvent]:
        """All events of all streams in the order of `$all`, page by page: up to the safe position at the call's
        first page, then to where it has moved meanwhile, until there is nothing more."""
        position, page = _start(start), _count(page)
        while True:
            safe = await self.safe_position()
            found = False
            while rows := await self._page(position, safe, page):
                found = True
                for event in read.from_all(rows, self.serializer):
                    yield event
                position = rows[-1][0] + 1
            if not found:
                return

    async def _page(self, start: int, safe: int, count: int) -> list[asyncpg.Record]:
        async with self.acquire() as c:
            return await c.fetch(self.sql["read_all_forward"], start, safe, count, read.PAGE_BYTES)

    async def safe_position(self, *, connection: Connection | None = None) -> int:
        """The position up to which no event can appear any more. Raises `UnsafeRead`, `Unavailable`."""
        async with self._on(connection) as c:
            return int(await c.fetchval(self.sql["safe_position"]))


async def _connect(dsn: str, *, max_size: int, seconds: float, application_name: str) -> asyncpg.Pool:
    """A pool as the store wants it: no JIT for its short statements, no second round trip at release."""
    pool: asyncpg.Pool = await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=max_size,
        timeout=seconds,
        command_timeout=seconds,
        reset=_nothing_to_reset,
        server_settings={"application_name": application_name, "jit": "off"},
    )
    return pool


async def _nothing_to_reset(_: Connection) -> None:
    """Our statements leave nothing behind in a session; asyncpg itself rolls back a transaction that was left open."""


def _start(start: int | None) -> int:
    if start is None:
        return 0
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start <= MAX_POSITION:
        raise InvalidArgument(f"start: {start!r} is no version or position")
    return start


def _count(count: int) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_POSITION:
        raise InvalidArgument(f"count: {count!r} is not at least 1")
    return count
