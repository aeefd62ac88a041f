"""`create`, `init`, `migrate`, `migrations`, `reset`, `drop`: how a store comes into being, is kept up to date, and
goes."""

import asyncio
from contextlib import suppress
from datetime import UTC
from typing import Annotated, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import typer

from trunkline_ops.connect import connected
from trunkline_ops.failure import FAILED
from trunkline_ops.options import AsJson, Dsn, Schema, Yes, confirm
from trunkline_ops.output import Output
from trunkline_ops.settings import InvalidSettings, Settings
from trunkline_store import PermissionRefused
from trunkline_store.masking import masked
from trunkline_store.migrate import DataType, initialise, status
from trunkline_store.migrate import drop as drop_store
from trunkline_store.migrate import migrate as apply_pending
from trunkline_store.migrate import reset as reset_store
from trunkline_store.translate import translated

_MAINTENANCE_DATABASE = "postgres"

DataColumn = Annotated[
    DataType | None,
    typer.Option(
        "--data-type",
        help="How a new store keeps data, for good: json (as if not given) keeps every byte, jsonb can be indexed, "
        "bytea takes what is not JSON.",
    ),
]
ContentType = Annotated[
    str | None,
    typer.Option(
        "--content-type",
        metavar="TYPE",
        help="What a new store's data is, for good: application/json, as if not given, or with --data-type bytea "
        "another media type, such as application/msgpack.",
    ),
]


def create(
    dsn: Dsn = None,
    schema: Schema = None,
    data_type: DataColumn = None,
    content_type: ContentType = None,
    as_json: AsJson = False,
) -> None:
    """Make the database if it is missing, and a store in it."""
    settings = Settings.of(dsn=dsn, store=schema)
    asyncio.run(_create(settings, _Data(data_type, content_type), Output(as_json=as_json)))


class _Data(NamedTuple):
    """How a new store is to keep data; None: as it is by default, or is already."""

    data_type: DataType | None
    content_type: str | None


async def _create(settings: Settings, data: _Data, output: Output) -> None:
    try:
        async with connected(settings, "create") as connection:
            await _init(connection, settings, data, output)
    except PermissionRefused as error:
        if not isinstance(error.__cause__, asyncpg.InvalidCatalogNameError):
            raise
        name = database_name(settings.database())
        async with connected(settings, "create", database=_MAINTENANCE_DATABASE) as connection:
            await _create_database(connection, name, settings)
        async with connected(settings, "create") as connection:
            await _init(connection, settings, data, output, database=name)


async def _create_database(connection: asyncpg.Connection, name: str, settings: Settings) -> None:
    """In UTF-8, whatever the cluster's default is, since stream names and data are Unicode."""
    quoted = name.replace('"', '""')
    with translated(settings.store), suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        # Another process may create it meanwhile.
        await connection.execute(f"""CREATE DATABASE "{quoted}" TEMPLATE template0 ENCODING 'UTF8'""")


def database_name(dsn: str) -> str:
    """The database that a DSN names. Raises `InvalidSettings` if it names none."""
    url = urlsplit(dsn)
    query = parse_qs(url.query)
    name = unquote(url.path.removeprefix("/")) or (query.get("dbname") or query.get("database") or [""])[0]
    if not name:
        raise InvalidSettings("--dsn or TRUNKLINE_DSN: it names no database")
    return name


def init(
    dsn: Dsn = None,
    schema: Schema = None,
    data_type: DataColumn = None,
    content_type: ContentType = None,
    as_json: AsJson = False,
) -> None:
    """Make a store in a database that is there."""
    settings = Settings.of(dsn=dsn, store=schema)

    async def run() -> None:
        async with connected(settings, "init") as connection:
            await _init(connection, settings, _Data(data_type, content_type), Output(as_json=as_json))

    asyncio.run(run())


async def _init(
    connection: asyncpg.Connection,
    settings: Settings,
    data: _Data,
    output: Output,
    *,
    database: str | None = None,
) -> None:
    """database: its name, if it was made for this."""
    made = await initialise(connection, settings.store, **data._asdict())
    sentence = f"made the store {settings.store!r}" if made else f"the store {settings.store!r} is there already"
    if database:
        sentence = f"made the database {database!r}, and {sentence}"
    output.result(sentence, schema=settings.store, created=made, created_database=database is not None)


def migrate(dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Bring a store up to this version of trunkline. Those that use it meanwhile wait."""
    settings = Settings.of(dsn=dsn, store=schema)
    asyncio.run(_migrate(settings, Output(as_json=as_json)))


async def _migrate(settings: Settings, output: Output) -> None:
    async with connected(settings, "migrate") as connection:
        applied = await apply_pending(connection, settings.store)
    done = f"applied migration {', '.join(map(str, applied))}" if applied else "there is nothing to apply"
    output.result(f"{done} to the store {settings.store!r}", schema=settings.store, applied=applied)


def migrations(dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """List the migrations of a store. The exit code is 1 unless all of them, and no others, are applied."""
    settings = Settings.of(dsn=dsn, store=schema)
    if not asyncio.run(_migrations(settings, Output(as_json=as_json))):
        raise typer.Exit(FAILED)


async def _migrations(settings: Settings, output: Output) -> bool:
    async with connected(settings, "migrations") as connection:
        found = await status(connection, settings.store)
    for each in found:
        when = each.migrated_at.astimezone(UTC).isoformat(" ", "seconds") if each.migrated_at else ""
        output.result(f"{each.version:>3}  {each.name:<20}  {each.state:<7}  {when}".rstrip(), **each._asdict())
    return all(each.state == "applied" for each in found)


def reset(dsn: Dsn = None, schema: Schema = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove all events and subscriptions, and make the store anew. It keeps data as it did, and its roles."""
    settings = Settings.of(dsn=dsn, store=schema)
    confirm(f"Remove all events of the store {settings.store!r} of {masked(settings.database())}?", yes=yes)
    asyncio.run(_reset(settings, Output(as_json=as_json)))


async def _reset(settings: Settings, output: Output) -> None:
    async with connected(settings, "reset") as connection:
        await reset_store(connection, settings.store)
    output.result(f"made the store {settings.store!r} anew, without events", schema=settings.store, reset=True)


def drop(dsn: Dsn = None, schema: Schema = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a store with all its events. The database stays."""
    settings = Settings.of(dsn=dsn, store=schema)
    where = masked(settings.database())
    confirm(f"Remove the store {settings.store!r} of {where} with all its events?", yes=yes)
    asyncio.run(_drop(settings, Output(as_json=as_json)))


async def _drop(settings: Settings, output: Output) -> None:
    async with connected(settings, "drop") as connection:
        dropped = await drop_store(connection, settings.store)
    sentence = f"removed the store {settings.store!r}" if dropped else f"there is no store {settings.store!r}"
    output.result(sentence, schema=settings.store, dropped=dropped)
