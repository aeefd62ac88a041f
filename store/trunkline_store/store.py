"""The face of the store: a pool, and the functions that use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self
from uuid import UUID

import asyncpg

from trunkline_store import append, nudge, read, snapshots, streams
from trunkline_store.connections import LEND, OUR_PATH, Connection, Connections, OurConnection, callers, make_ours
from trunkline_store.context import span
from trunkline_store.errors import (
    ConcurrencyFailure,
    HistoryChanged,
    InvalidArgument,
    InvalidEvent,
    MigrationPending,
    NotInitialised,
    OperationTimeout,
    SchemaTooNew,
    SnapshotNotFound,
    StoreNotReady,
    StreamDeleted,
    StreamNotFound,
    Unavailable,
)
from trunkline_store.events import (
    Appended,
    EventData,
    ExpectedVersion,
    RecordedEvent,
    check_category,
    check_expected_version,
    check_sequence,
    check_stream,
)
from trunkline_store.migrate import latest
from trunkline_store.names import check_store
from trunkline_store.pages import Look, Names, Pages, lasting
from trunkline_store.queries import statements
from trunkline_store.send import Sender
from trunkline_store.serialize import ANY_CONTENT, JsonSerializer, Serializer
from trunkline_store.snapshots import Snapshot
from trunkline_store.streams import CategoryInfo, SortBy, SortDir, StreamInfo
from trunkline_store.subscriptions import Subscriptions
from trunkline_store.translate import POOLER, STATEMENT_ERRORS, connecting, is_alive, translated
from trunkline_store.urls import Dsn, read_dsn

MAX_POSITION: Final = 2**63 - 1
_SAMPLES: Final[dict[str, object]] = {
    "bigint": 2**40,
    "integer": 7,
    "boolean": True,
    "float8": 0.5,
    "text": "ä",
    "bytea": b"\x00",
    "uuid": UUID(int=1),
    "timestamptz": datetime(2000, 1, 2, tzinfo=UTC),
    "interval": timedelta(seconds=3),
    "int8multirange": [asyncpg.Range(1, 2)],
    "bigint[]": [1],
    "text[]": ["a"],
    "uuid[]": [UUID(int=1)],
}
"""A sample value of each type that the store's statements take or return."""
DEADLOCK_TRIES: Final = 5


class EventStore:
    """An event store in one schema of a PostgreSQL database.

        async with EventStore("postgresql://localhost/app") as store:
            await store.append_to_stream("order-42", NO_STREAM, [EventData("OrderPlaced", {"total": 12})])

    dsn_or_pool: a DSN, or a pool of the application's, which stays open when the store is closed.
    schema: the store's name. serializer: JSON by default. pool_size: connections at most (with a DSN).
    timeout: seconds that a statement, or waiting for a connection, may take.
    application_name: what `pg_stat_activity` calls it (with a DSN).
    statement_cache_size: prepared statements a connection keeps (with a DSN); 0 behind PgBouncer in transaction mode.
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
        statement_cache_size: int = 100,
    ) -> None:
        self.schema = check_store(schema)
        self.sql: Mapping[str, str] = statements(schema)
        self.serializer: Serializer = serializer or JsonSerializer()
        self.timeout = timeout
        self.subscriptions = Subscriptions(self)
        self.history = ""
        self.store_id: UUID | None = None
        self.content_type = ""
        self.batch_count = 0
        self.batch_bytes = 0
        self.pool_size = dsn_or_pool.get_max_size() if isinstance(dsn_or_pool, asyncpg.Pool) else pool_size
        self.data_type = "json"
        self._own_pool = not isinstance(dsn_or_pool, asyncpg.Pool)
        dsn = Dsn("", None) if isinstance(dsn_or_pool, asyncpg.Pool) else read_dsn(dsn_or_pool)
        self._dsn = dsn.url
        self._pool: asyncpg.Pool | None = dsn_or_pool if isinstance(dsn_or_pool, asyncpg.Pool) else None
        self._connections: Connections | None = None
        self._sender: Sender | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._names = "", Names()  # a history, and the names known in it
        self._pooler = self._own_pool and statement_cache_size == 0
        self._pool_options: dict[str, Any] = {
            "max_size": pool_size,
            "timeout": dsn.timeout or timeout,
            "command_timeout": timeout,
            "statement_cache_size": statement_cache_size,
            # Behind a pooler, the session may serve another client the next moment.
            **({} if self._pooler else {"init": make_ours, "connection_class": OurConnection}),
            # Poolers refuse settings that they do not know; without a cache, plans are made for the values at hand, and
            # cannot look so dear that PostgreSQL compiles them.
            "server_settings": {
                "application_name": application_name,
                **({"jit": "off", "default_transaction_isolation": "read committed"} if statement_cache_size else {}),
            },
        }

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, and check that schema and code fit; do nothing if the store is open.

        A store belongs to the event loop in which it is open; once closed, it can be opened in another one. Raises
        `StoreNotReady`, `StoreUnavailable`, `PermissionRefused`, or `InvalidArgument` (the DSN, the pool, or a store
        that is open in another event loop).
        """
        if self._connections is not None and not self._is_left_over():
            self.open_connections()
            return
        self._loop = asyncio.get_running_loop()
        if self._own_pool:
            self._pool = await self._connect()
        assert self._pool is not None
        self._connections = Connections(self._pool, self.schema, self.timeout, own=self._own_pool)
        self._sender = Sender(self)
        try:
            if not self._own_pool:
                await self._check_pool()
            await self._look()
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> asyncpg.Pool:
        with connecting(self.schema):
            try:
                return await asyncpg.create_pool(self._dsn, min_size=1, reset=_nothing_to_reset, **self._pool_options)
            except asyncpg.ProtocolViolationError as error:
                # PgBouncer uses this one SQLSTATE for settings that it does not know, and for much else.
                name = {"application_name": self._pool_options["server_settings"]["application_name"]}
                bare = await asyncpg.connect(
                    self._dsn, timeout=self._pool_options["timeout"], statement_cache_size=0, server_settings=name
                )
                await bare.close()
                raise InvalidArgument(f"the server refuses our settings: {POOLER}") from error

    async def _check_pool(self) -> None:
        """Raise `InvalidArgument` if the application's pool belongs to another event loop, or has its own codecs for
        types that the store's statements use."""
        loop = getattr(self._pool, "_loop", None)
        if loop is not None and loop is not self._loop:
            raise InvalidArgument("the pool belongs to another event loop: make one in this loop")
        async with self.acquire() as connection:
            for name, value in _SAMPLES.items():
                try:
                    with translated(self.schema):
                        found = await connection.fetchval(f"SELECT $1::{name}", value)
                except Unavailable as error:
                    if isinstance(error.__cause__, asyncpg.PostgresError | OSError) or not is_alive(connection):
                        raise
                    found = None
                except InvalidEvent:  # the codec could not encode it, or the server could not read the result
                    found = None
                if (type(found) is not type(value) and not isinstance(found, type(value))) or found != value:
                    raise InvalidArgument(
                        f"the pool has its own codec for {name!r} (set_type_codec), which breaks our statements: "
                        "pass a pool without it, or a DSN"
                    )

    def _is_left_over(self) -> bool:
        """Forget the connections of an event loop that ended while the store was open in it; return True if it did."""
        if self._loop is None or not self._loop.is_closed():
            return False
        self._connections = self._sender = None
        if self._own_pool:
            self._pool = None
        return True

    async def _look(self) -> None:
        if await self.fetchval(self.sql["schema_there"]) is None:
            raise NotInitialised(self.schema)
        found, needed = await self.fetchval(self.sql["schema_version"]) or 0, latest()
        if found < needed:
            raise MigrationPending(self.schema, found, needed)
        if found > needed:
            raise SchemaTooNew(self.schema, found, needed)
        isolation = await self.fetchval("SELECT current_setting('transaction_isolation')")
        if isolation not in ("read committed", "read uncommitted"):
            raise InvalidArgument(
                f"transactions begin at {isolation!r}, which is unsafe for the store: set "
                "default_transaction_isolation to 'read committed' for the login, or in the pool's server_settings"
            )
        row = await self.fetchrow(self.sql["store"])
        if row is None:
            raise NotInitialised(self.schema)
        if row["sequence_cache"] != 1:
            raise StoreNotReady(
                self.schema,
                f"sequence {self.schema}.blocks has CACHE {row['sequence_cache']}, with which readers skip events: "
                f"ALTER SEQUENCE {self.schema}.blocks CACHE 1",
            )
        if self.serializer.content_type not in (ANY_CONTENT, row["content_type"]):
            raise InvalidArgument(
                f"the store in {self.schema!r} keeps {row['content_type']}, "
                f"the serializer makes {self.serializer.content_type}"
            )
        self.sql = statements(self.schema, row["data_type"])
        self.store_id = row["store_id"]
        self.content_type = row["content_type"]
        self.batch_count = row["batch_count"]
        self.batch_bytes = row["batch_bytes"]
        self.history = row["history"]
        self.data_type = row["data_type"]

    async def close(self, *, seconds: float | None = None) -> None:
        """Lets appends that are under way finish, then closes the pool, if it is ours; for `seconds` at most (None: the
        timeout). What is not done by then is given up. Raises `InvalidArgument` if it is open in another event loop."""
        if self._connections is None or self._is_left_over():
            return
        self.open_connections()
        pool = self._pool if self._own_pool else None
        try:
            async with asyncio.timeout(self.timeout if seconds is None else seconds):
                if self._sender is not None:
                    await self._sender.drain()
                if pool is not None and self._connections is not None:
                    await self._connections.close()
                    await pool.close()
        except TimeoutError:
            if pool is not None:
                pool.terminate()
        finally:
            self._connections = self._sender = self._loop = None
            if self._own_pool:
                self._pool = None

    # --- connections

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Take a connection of the pool, in autocommit, with the search path of the store's own statements. Raises
        `OperationTimeout` if none becomes free in time."""
        connections = self.open_connections()
        connection = await connections.take()
        try:
            yield connection
        except BaseException as error:
            await connections.after(error, connection)
            raise
        else:
            await connections.release(connection)

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self._connections is not None

    def open_connections(self) -> Connections:
        """Return the connections of the open store. Raises `InvalidArgument` if it is not open in this event loop."""
        if self._connections is None:
            raise InvalidArgument("the store is not open: use `async with EventStore(…)`")
        if self._loop is not asyncio.get_running_loop():
            raise InvalidArgument("the store is open in another event loop: close it there, then open it in this one")
        return self._connections

    def _opened(self) -> Sender:
        """Return the sender of the open store. Raises as `open_connections` does."""
        self.open_connections()
        assert self._sender is not None
        return self._sender

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, to be given to `append_to_stream` and used for writes of one's own.

        Committed at the end, rolled back on an error. Errors of the application's own statements pass as they are.
        Raises `StoreUnavailable` and `OperationTimeout` where it cannot be committed, or the answer was lost.
        """
        async with self.acquire() as connection:
            try:
                await self.lend(connection)
                async with self.transaction_on(connection):
                    yield connection
            finally:
                if self.has_sessions:
                    await _end_session(connection)

    async def lend(self, connection: Connection) -> None:
        """Lend a session of `acquire` to the application, with the search path of its own sessions. A reset takes it
        back. Raises `StoreUnavailable`, `OperationTimeout`."""
        if self.has_sessions and self._own_pool:
            with translated(self.schema):
                await connection.execute(LEND)

    @asynccontextmanager
    async def transaction_on(self, connection: Connection) -> AsyncIterator[None]:
        """As `transaction`, on a connection of `acquire`, whose session is left as it is."""
        transaction = connection.transaction()
        try:
            with translated(self.schema):
                await transaction.start()
        except BaseException:
            with suppress(asyncpg.InterfaceError):
                connection.terminate()  # whether it has begun is not known, and asyncpg believes that it has
            raise
        try:
            yield
        except BaseException:
            with suppress(*STATEMENT_ERRORS):
                await transaction.rollback()  # of a connection that is lost, the server does it
            raise
        else:
            with translated(self.schema, unknown_pass=True):
                await transaction.commit()
            if self._sender is not None:
                self._sender.committed()

    @property
    def has_sessions(self) -> bool:
        """Whether a connection is a session of its own, which it is not behind a pooler in transaction mode."""
        return not self._pooler

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Return the rows of a statement in autocommit. After a lost connection, it is retried on a new one."""

        async def asked(connection: Connection) -> list[asyncpg.Record]:
            with translated(self.schema):
                rows: list[asyncpg.Record] = await connection.fetch(query, *args)
                return rows

        return await self.open_connections().run(asked)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """The first row of a statement in autocommit, or None."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: object) -> Any:
        """The first value of a statement in autocommit, or None."""
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    async def _read(self, connection: Connection | None, query: str, *args: object) -> list[asyncpg.Record]:
        if connection is None:
            return await self.fetch(self.sql[query], *args)
        connection = callers(connection)
        with translated(self.schema, connection):
            rows: list[asyncpg.Record] = await connection.fetch(self.sql[query], *args)
            return rows

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
        connection: a connection of the caller's; the append is then a part of its transaction, which a refusal
        (`Conflict`, `StreamNotFound`, `StreamDeleted`) leaves usable, unless another transaction was storing an equal
        id at the same moment. Readers of `$all` wait for transactions that have appended: keep them short.
        Without it, appends of this process that are under way at the same time share transactions.

        Appending the same events again (ids, types, data, metadata) gives the original answer, whatever version is
        expected. Raises `WrongExpectedVersion`, `StreamNotFound` (STREAM_EXISTS on no stream), `StreamDeleted`,
        `DuplicateEvent`, `InvalidArgument`, `InvalidEvent`, `Unavailable`.
        """
        check_sequence(events)
        with span("append", stream=stream, events=len(events)):
            args = append.arguments(stream, expected_version, events, self.serializer, data_type=self.data_type)
            if connection is not None:
                row = (await self._opened().theirs(connection, stream, append.query(args), args))[0]
            else:
                row = await self._opened().coalesced(args)
            return append.outcome(stream, expected_version, row)

    async def append_to_streams(
        self, appends: Sequence[append.StreamAppend], *, connection: Connection | None = None
    ) -> list[Appended]:
        """Appends to several streams, each named once: all of it, or nothing. Answers and errors are those of
        `append_to_stream`; the error is that of the first append that was refused. A retry of an append whose events
        are all stored gives the original answer, and checks no versions again, not even those of parts without
        events."""
        names = [part.stream for part in appends]
        if len(set(names)) < len(names):
            raise InvalidArgument("append_to_streams: a stream stands twice in the list")
        every = [event.id for part in appends for event in part.events if isinstance(event, EventData)]
        if len(set(every)) < len(every):
            raise InvalidArgument("append_to_streams: an event stands twice in the list")
        if not appends:
            return []
        args = append.many_arguments(
            True, [append.arguments(*part, self.serializer, data_type=self.data_type) for part in appends]
        )
        rows = await self._together(names[0], args, connection)
        parts = list(zip(appends, rows, strict=True))
        parts.sort(key=lambda part: part[1][0] == "appended")  # what was refused speaks first; all answers come then
        answers = {part.stream: append.outcome(part.stream, part.expected_version, row) for part, row in parts}
        return [answers[name] for name in names]

    async def _together(self, stream: str, args: list[Any], connection: Connection | None) -> list[asyncpg.Record]:
        if connection is not None:
            return await self._opened().theirs(connection, stream, "append_many", args)
        for _ in range(DEADLOCK_TRIES):
            try:
                return await self._opened().send(stream, "append_many", args)
            except ConcurrencyFailure:
                continue  # another transaction locked our streams in another order; nothing of ours is written
        return await self._opened().send(stream, "append_many", args)

    async def link_to_stream(
        self,
        stream: str,
        expected_version: int,
        events_or_ids: Sequence[RecordedEvent | UUID],
        *,
        connection: Connection | None = None,
    ) -> Appended:
        """Links recorded events into a stream: they are read there too, and stay what and where they are.

        The answer's positions are the links' feed positions. Raises `EventNotFound` if one is unknown (nothing is
        linked then), `DuplicateEvent` if one is in the stream already, and as `append_to_stream`.
        """
        check_stream(stream)
        check_expected_version(expected_version)
        ids = [event if isinstance(event, UUID) else _id_of(event) for event in events_or_ids]
        if len(set(ids)) < len(ids):
            raise InvalidArgument("link_to_stream: an event stands twice in the list")
        args = [stream, int(expected_version), ids]
        if connection is not None:
            rows = await self._opened().theirs(connection, stream, "link", args)
        else:
            async with self.acquire() as ours:
                rows = self._opened().told(await self._opened().run(ours, stream, "link", args))
        return append.outcome(stream, expected_version, rows[0])

    async def delete_stream(
        self, stream: str, expected_version: int, *, hard: bool = False, connection: Connection | None = None
    ) -> None:
        """Deletes a stream. Its events stay in `$all`, and the name cannot be used again.

        hard: the events and all links to or from the stream are removed for good; the name can be used again. That
        takes a right of its own (role `eraser`). Subscribers are not told.

        Raises `StreamNotFound`, `StreamDeleted`, `WrongExpectedVersion`, `InvalidArgument`, `Unavailable`.
        """
        check_stream(stream)
        check_expected_version(expected_version)
        if expected_version is ExpectedVersion.NO_STREAM:
            raise InvalidArgument("expected_version: NO_STREAM leaves nothing to delete")
        query = "hard_delete" if hard else "delete"
        if connection is not None:
            rows = await self._opened().theirs(connection, stream, query, [stream, int(expected_version)])
        else:
            async with self.acquire() as ours:
                rows = await self._opened().run(ours, stream, query, [stream, int(expected_version)])
        status, actual = rows[0]
        if status != "deleted":
            raise append.refusal(status, stream, expected_version, actual, None)

    # --- wake-ups

    async def listen(self, wake: Callable[[], None]) -> None:
        """Calls `wake` whenever a process says that it has appended, and whenever that may have been missed, until it
        is cancelled. It may call too often, and keep silent where it should not: it spares a wait, not the question.

        It takes a connection of its own. Where that cannot be (the pool is the application's, or a pooler stands
        between), it returns at once.
        """
        if self._own_pool and not self._pooler:
            settings = self._pool_options["server_settings"]
            name = f"{settings['application_name']} listen"

            async def connect() -> asyncpg.Connection:
                return await asyncpg.connect(
                    self._dsn,
                    timeout=self._pool_options["timeout"],
                    command_timeout=self.timeout,
                    server_settings={**settings, "application_name": name, "search_path": OUR_PATH},
                )

            await nudge.listen(connect, self.schema, wake)

    # --- reading streams

    async def read_stream_forward(
        self, stream: str, *, start: int | None = None, count: int = 1000, connection: Connection | None = None
    ) -> list[RecordedEvent]:
        """At most `count` events of a stream in their order, from version `start` on (inclusive; from the first).

        Linked events keep their own stream, version and position; their number is the version here. Raises
        `StreamNotFound`, `StreamDeleted`, `InvalidArgument`, `Unavailable`. Data that cannot be decoded raises
        `UndecodableEvent` when an event is asked for it.
        """
        return await self._read_stream("forward", stream, _start(start, 0), count, connection)

    async def read_stream_backward(
        self, stream: str, *, start: int | None = None, count: int = 1000, connection: Connection | None = None
    ) -> list[RecordedEvent]:
        """As `read_stream_forward`, from version `start` (inclusive; from the last) down."""
        return await self._read_stream("backward", stream, _start(start, MAX_POSITION), count, connection)

    async def _read_stream(
        self, direction: str, stream: str, start: int, count: int, connection: Connection | None
    ) -> list[RecordedEvent]:
        check_stream(stream)
        with span("read", stream=stream):
            rows = await self._read(connection, f"read_stream_{direction}", stream, start, _count(count))
            if not rows:
                state = await self._read(connection, "stream_state", stream)
                if not state:
                    raise StreamNotFound(stream)
                if state[0]["deleted"]:
                    raise StreamDeleted(stream)
                linked = state[0]["linked"]
            else:
                linked = rows[0]["linked"]
            if linked:
                rows = await self._read(connection, f"read_linked_stream_{direction}", stream, start, count)
                return read.from_linked_stream(rows, self.serializer)
            return read.from_stream(rows, self.serializer)

    async def stream_forward(
        self, stream: str, *, start: int | None = None, page: int = read.PAGE_EVENTS
    ) -> AsyncIterator[RecordedEvent]:
        """All events of a stream, page by page, also those that are appended meanwhile. Errors as when read."""
        position, page = _start(start, 0), _count(page)
        while events := await self.read_stream_forward(
            stream, start=position, count=await self._fits("forward", stream, position, page)
        ):
            for event in events:
                yield event
            position = events[-1].event_number + 1

    async def stream_backward(
        self, stream: str, *, start: int | None = None, page: int = read.PAGE_EVENTS
    ) -> AsyncIterator[RecordedEvent]:
        """All events of a stream from version `start` (the last) down, page by page."""
        position, page = _start(start, MAX_POSITION), _count(page)
        while events := await self.read_stream_backward(
            stream, start=position, count=await self._fits("backward", stream, position, page)
        ):
            for event in events:
                yield event
            position = events[-1].event_number - 1
            if position < 1:
                return

    async def _fits(self, direction: str, stream: str, start: int, page: int) -> int:
        """Of a page, what may be in memory at once."""
        query = f"stream_fits_{direction}"
        return int((await self._read(None, query, check_stream(stream), start, page, read.PAGE_BYTES))[0][0])

    # --- reading all streams, or a category

    async def read_all_streams_forward(
        self, *, start: int | None = None, count: int = 1000, connection: Connection | None = None
    ) -> list[RecordedEvent]:
        """At most `count` events of all streams in the order of `$all`, from position `start` on (inclusive).

        Events above the safe position, among them those of the caller's own open transaction, are not given yet.
        Raises `UnsafeRead` (not at READ COMMITTED), `InvalidArgument`, `Unavailable` (on a replica, too: its primary's
        locks cannot be seen there).
        """
        return await self._read_all("read_all_forward", _start(start, 0), count, connection)

    async def read_all_streams_backward(
        self, *, start: int | None = None, count: int = 1000, connection: Connection | None = None
    ) -> list[RecordedEvent]:
        """As `read_all_streams_forward`, from position `start` (inclusive; from the last safe one) down."""
        return await self._read_all("read_all_backward", _start(start, MAX_POSITION), count, connection)

    async def read_category_forward(
        self, category: str, *, start: int | None = None, count: int = 1000, connection: Connection | None = None
    ) -> list[RecordedEvent]:
        """As `read_all_streams_forward`, of the streams of one category only."""
        return await self._read_all(
            "read_category_forward", _start(start, 0), count, connection, check_category(category)
        )

    async def _read_all(
        self, query: str, start: int, count: int, connection: Connection | None, *category: str
    ) -> list[RecordedEvent]:
        count = _count(count)
        with span("read", stream=category[0] if category else streams.ALL):
            if connection is not None:
                safe = await self.safe_position(connection=connection)
                rows = await self._read(connection, query, start, safe, count, MAX_POSITION, *category, None)
                return read.from_all(rows, self.serializer)
            for last in (False, True):
                safe, history = await self.look(follow=False)
                try:
                    rows = await self._read(None, query, start, safe, count, MAX_POSITION, *category, history)
                except HistoryChanged:  # between the two statements
                    if last:
                        raise
                else:
                    return read.from_all(rows, self.serializer)
            raise AssertionError

    def stream_all_forward(
        self, *, start: int | None = None, page: int = read.PAGE_EVENTS
    ) -> AsyncIterator[RecordedEvent]:
        """All events of all streams in the order of `$all`, page by page: up to the safe position of the first page,
        then to where it has moved meanwhile, until there is nothing more."""
        return self._stream_all(_start(start, 0), _count(page), None)

    def stream_category_forward(
        self, category: str, *, start: int | None = None, page: int = read.PAGE_EVENTS
    ) -> AsyncIterator[RecordedEvent]:
        """As `stream_all_forward`, of the streams of one category only."""
        return self._stream_all(_start(start, 0), _count(page), check_category(category))

    def pages(self, look: Look, count: int, category: str | None) -> Pages:
        """Return the pages of all streams, or of a category, up to the safe position of `look`; `count` events each, at
        most."""
        if self._names[0] != look.history:
            self._names = look.history, Names()
        return Pages(self.fetch, self.sql, self._names[1], self.serializer, look, count, category)

    async def _stream_all(self, position: int, page: int, category: str | None) -> AsyncIterator[RecordedEvent]:
        look, found = None, True
        while found:
            look, found = await self._look_on(look), False
            async with aclosing(self.pages(look, page, category).forward(position)) as pages:
                try:
                    async for events in pages:
                        found, position = True, events[-1].position + 1
                        events.reverse()
                        while events:
                            yield events.pop()  # popped, so that its data can be freed as soon as it was used
                except HistoryChanged:
                    found = True

    async def stream_all_backward(
        self, *, start: int | None = None, page: int = read.PAGE_EVENTS
    ) -> AsyncIterator[RecordedEvent]:
        """All events of all streams from position `start` (the last safe one) down, page by page."""
        position, page, look = _start(start, MAX_POSITION), _count(page), await self.look(follow=False)
        while True:
            try:
                rows = await self._read(
                    None, "read_all_backward", position, look.safe, page, read.PAGE_BYTES, look.history
                )
            except HistoryChanged:
                look = await self._look_on(look)
                continue
            for event in read.from_all(rows, self.serializer):
                yield event
            if not rows:
                return
            position = rows[-1][0] - 1

    async def _look_on(self, before: Look | None) -> Look:
        """Look again, to continue a read. A crash takes no event that was read, but a restore may: then it raises
        `HistoryChanged`."""
        found = await self.look(follow=False)
        if before is not None and lasting(found.history) != lasting(before.history):
            raise HistoryChanged(f"the history is {found.history}, not {before.history}: read again from the start")
        return found

    async def safe_position(self, *, connection: Connection | None = None) -> int:
        """The position up to which no event can appear any more. Raises `UnsafeRead`, `Unavailable`."""
        return int((await self._read(connection, "safe_position"))[0][0])

    async def look(self, *, follow: bool = True) -> Look:
        """Return the safe position, and the history that all positions up to it belong to.

        follow: for callers that keep positions in memory or write checkpoints; it refuses a read-only session. Raises
        `UnsafeRead`, `Unavailable`, and `StoreUnavailable` also if a promotion that was seen before left the server
        behind.
        """
        found = Look(*(await self._read(None, "look", self.history, follow))[0])
        self.history = found.history
        return found

    async def until_safe(self, position: int, *, seconds: float = 15.0) -> None:
        """Waits until everything up to `position` can be read. Raises `OperationTimeout` after `seconds`: an open
        transaction that has appended holds readers back."""
        deadline, pause = time.monotonic() + seconds, 0.001
        while await self.safe_position() < position:
            if time.monotonic() + pause > deadline:
                raise OperationTimeout(f"position {position} is not safe yet: a transaction that has appended is open")
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 2)

    # --- what there is

    async def stream_info(self, stream: str) -> StreamInfo:
        """Of a stream, or of `$all`. Raises `StreamNotFound`, `StreamDeleted`, `InvalidArgument`, `Unavailable`."""
        if stream == streams.ALL:
            return streams.info((await self._read(None, "all_info"))[0])
        rows = await self._read(None, "stream_info", check_stream(stream))
        if not rows:
            raise StreamNotFound(stream)
        found = streams.info(rows[0])
        if found.status == "deleted":
            raise StreamDeleted(stream)
        return found

    async def paginate_streams(
        self,
        *,
        after: str | None = None,
        page_size: int = 50,
        search: str = "",
        sort_by: SortBy = "stream",
        sort_dir: SortDir = "asc",
        category: str | None = None,
        status: Literal["created", "deleted"] | None = None,
    ) -> list[StreamInfo]:
        """Return a page of streams, with `$all` and deleted ones.

        A page costs the same wherever it is; a search reads streams until it has found enough.

        Args:
            after: The name of the last page's last stream; without it, the first page.
            page_size: Streams on a page. A page with fewer is the last.
            search: A part of the name.
            sort_by: `stream`, the name, byte by byte; or `stream_id`, the age, which excludes `category`.
            sort_dir: `asc` or `desc`.
            category: Only streams of this category.
            status: Only streams that are deleted, or only those that are not (`created`).

        Raises:
            InvalidArgument: An argument is out of bounds.
            StreamNotFound: The stream `after` was deleted for good, so its age is unknown: sort by name.
            Unavailable: The store cannot be asked now.
        """
        page_size = _count(page_size, "page_size")
        if not isinstance(search, str):
            raise InvalidArgument(f"search: a str is needed, not {search!r}")
        if status not in (None, "created", "deleted"):
            raise InvalidArgument(f"status: {status!r} is neither created nor deleted")
        behind: str | int | None = after if after in (None, streams.ALL) else check_stream(after)
        if behind is not None and sort_by == "stream_id":
            behind = await self._age(str(behind))
        query, arguments = streams.page_query(
            self.sql["paginate_streams"],
            page_size,
            after=behind,
            search=search,
            sort_by=sort_by,
            sort_dir=sort_dir,
            category=None if category is None else check_category(category),
            deleted=None if status is None else status == "deleted",
        )
        return [streams.info(row) for row in await self.fetch(query, *arguments)]

    async def _age(self, stream: str) -> int:
        if stream == streams.ALL:
            return 0
        row = await self.fetchrow(self.sql["stream_info"], stream)
        if row is None:
            raise StreamNotFound(stream)
        return int(row["stream_id"])

    async def categories(self, *, after: str | None = None, count: int = 1000) -> list[CategoryInfo]:
        """At most `count` categories by name, behind `after`; without it from the first, which may be empty: that of
        streams such as `-1`. Raises `InvalidArgument`, `Unavailable`."""
        rows = await self._read(None, "categories", after, _count(count))
        return [CategoryInfo(*row) for row in rows]

    # --- snapshots

    async def record_snapshot(self, snapshot: Snapshot) -> None:
        """Keeps a snapshot, in place of the one that its source had. Raises `InvalidArgument`, `Unavailable`."""
        await self._read(
            None, "record_snapshot", *snapshots.arguments(snapshot, self.serializer, data_type=self.data_type)
        )

    async def read_snapshot(self, source: str) -> Snapshot:
        """The snapshot of a source. Raises `SnapshotNotFound`, `Unavailable`."""
        rows = await self._read(None, "read_snapshot", source)
        if not rows:
            raise SnapshotNotFound(source)
        return snapshots.snapshot(rows[0], self.serializer)

    async def delete_snapshot(self, source: str) -> None:
        """Removes the snapshot of a source, if there is one. Raises `Unavailable`."""
        await self._read(None, "delete_snapshot", source)


async def _end_session(connection: Connection) -> None:
    """Whatever an application set in the session ends here. A lost connection has none, and the pool has let it go;
    behind a pooler, the session is by now another client's."""
    with suppress(asyncpg.InterfaceError):
        try:
            await connection.reset()
        except asyncpg.InterfaceError:
            raise
        except STATEMENT_ERRORS:
            connection.terminate()
        except BaseException:
            connection.terminate()  # cancelled: nobody may find what was set in it
            raise


async def _nothing_to_reset(_: Connection) -> None:
    """Our statements leave nothing behind in a session; asyncpg itself rolls back a transaction that was left open."""


def _id_of(event: object) -> UUID:
    if isinstance(event, str):
        with suppress(ValueError):
            return UUID(event)
    if not isinstance(event, RecordedEvent):
        raise InvalidArgument(f"a RecordedEvent or a UUID is needed, not {event!r}")
    return event.event_id


def _start(start: int | None, default: int) -> int:
    if start is None:
        return default
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start <= MAX_POSITION:
        raise InvalidArgument(f"start: {start!r} is no version or position")
    return start


def _count(count: int, name: Literal["count", "page_size"] = "count") -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 2**31:
        raise InvalidArgument(f"{name}: {count!r} is not at least 1")
    return count
