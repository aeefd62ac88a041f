"""How commands get at the database: named in `pg_stat_activity`, and where it was tried is told when it fails."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import asyncpg

from trunkline_ops.json_text import JsonText
from trunkline_ops.settings import Settings, masked
from trunkline_store import EventStore, PermissionRefused, StoreUnavailable
from trunkline_store.translate import translated

_SECONDS: Final = 15.0


@asynccontextmanager
async def opened(
    settings: Settings, command: str, *, connections: int = 1, closing: float = _SECONDS
) -> AsyncIterator[EventStore]:
    """The store, with events' data as text. Raises `InvalidSettings`, `StoreNotReady`, `StoreUnavailable`.

    closing: seconds that a database which hangs may take to close its connections.
    """
    store = EventStore(
        settings.database(),
        schema=settings.store,
        serializer=JsonText(),
        pool_size=connections,
        timeout=_SECONDS,
        application_name=f"trunkline {command}",
        statement_cache_size=settings.statement_cache_size,
    )
    with _saying_where(settings):
        await store.open()
    try:
        yield store
    finally:
        await store.close(seconds=closing)


@asynccontextmanager
async def connected(
    settings: Settings, command: str, *, database: str | None = None
) -> AsyncIterator[asyncpg.Connection]:
    """A connection, for what is done to a schema or a database. Raises `InvalidSettings`, `StoreUnavailable`.

    database: another one than the settings' own, of the same server.
    """
    dsn = settings.database()
    with _saying_where(settings), translated(settings.store):
        connection = await asyncpg.connect(
            dsn,
            database=database,
            timeout=_SECONDS,
            server_settings={"application_name": f"trunkline {command}"},
            statement_cache_size=0,  # PgBouncer may stand between; and what is done here is done once
        )
    try:
        yield connection
    finally:
        await _close(connection)


async def _close(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=_SECONDS)
    except (TimeoutError, asyncio.CancelledError, OSError, asyncpg.PostgresError):
        connection.terminate()


@contextmanager
def _saying_where(settings: Settings) -> Iterator[None]:
    try:
        yield
    except (StoreUnavailable, PermissionRefused) as error:
        error.add_note(masked(settings.database()))
        if isinstance(error.__cause__, asyncpg.InvalidCatalogNameError):
            error.add_note("`trunkline create` makes it")
        raise
