"""How commands get at the servers: named in `pg_stat_activity`, and where it was tried is told when it fails."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from trunkline_ops.as_stored import AsStored
from trunkline_ops.settings import ManagementApi, Settings
from trunkline_store import EventStore, PermissionRefused, StoreUnavailable
from trunkline_store.connections import make_ours
from trunkline_store.errors import BrokerUnavailable
from trunkline_store.masking import masked, shown
from trunkline_store.serialize import ANY_CONTENT
from trunkline_store.translate import connecting
from trunkline_store.urls import read_dsn

if TYPE_CHECKING:  # what would only make the start of other commands longer is imported below
    from trunkline_ops.management import Management

_SECONDS: Final = 15.0


@asynccontextmanager
async def opened(
    settings: Settings,
    command: str,
    *,
    connections: int = 1,
    content_type: str = ANY_CONTENT,
    closing: float = _SECONDS,
) -> AsyncIterator[EventStore]:
    """The store, with events' data as bytes. Raises `InvalidSettings`, `InvalidArgument`, `StoreNotReady`,
    `StoreUnavailable`.

    content_type: the only one that it may have. closing: seconds that a database which hangs may take to close its
    connections.
    """
    store = EventStore(
        settings.database(),
        schema=settings.store,
        serializer=AsStored(content_type),
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
    with _saying_where(settings), connecting(settings.store):
        url, timeout = read_dsn(dsn)
        connection = await asyncpg.connect(
            url,
            database=database,
            timeout=timeout or _SECONDS,
            server_settings={"application_name": f"trunkline {command}"},
            statement_cache_size=0,  # PgBouncer may stand between; and what is done here is done once
        )
    try:
        if settings.statement_cache_size:  # behind PgBouncer, other programs would get this path
            await make_ours(connection)
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
        if isinstance(error.__cause__, asyncpg.TooManyConnectionsError):
            error.add_note("some are reserved for superusers: as one, `trunkline doctor` lists who has the others")
        if isinstance(error.__cause__, asyncpg.InvalidCatalogNameError):
            error.add_note("`trunkline create` makes it")
        raise


class Vhost(NamedTuple):
    """The vhost of the settings, by the management API."""

    api: "Management"
    name: str


@asynccontextmanager
async def managed(settings: Settings) -> AsyncIterator[Vhost | None]:
    """The management API and the vhost; None where no API is named. Whatever goes wrong with it within the block is
    raised as `BrokerUnavailable`."""
    where = settings.management()
    if where is None:
        yield None
        return
    from trunkline_ops.management import Management

    with answering(where):
        async with Management(*where) as api:
            yield Vhost(api, settings.vhost())


@contextmanager
def answering(where: ManagementApi) -> Iterator[None]:
    """Around questions to the management API: whatever goes wrong is raised as `BrokerUnavailable`, in words."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        raise BrokerUnavailable(f"{_refusal(where, error.response.status_code)} ({where.url})") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # a TimeoutError is an OSError
        reason = _no_answer(error)
        raise BrokerUnavailable(f"RabbitMQ's management API cannot be reached: {reason} ({where.url})") from error
    except ValueError as error:
        raise BrokerUnavailable(f"what answers is not RabbitMQ's management API ({where.url})") from error


def _no_answer(error: Exception) -> str:
    """httpx has no words for some of them, and others are of its inside."""
    import httpx

    if isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
        return "what is there does not speak HTTP, or broke off (is it another port?)"
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return "it did not answer in time"
    return shown(error)


def _refusal(where: ManagementApi, status: int) -> str:
    if status in (401, 403):
        return f"RabbitMQ's management API refuses user {where.user!r}: it takes his password, and the tag monitoring"
    return f"RabbitMQ's management API answers {status}: is this its address, and is the vhost there?"
