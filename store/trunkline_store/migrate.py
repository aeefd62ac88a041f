"""Makes the schema, and brings an older one up to this code. Each migration is one transaction, under one lock.

The files `sql/migrations/NNN_name.sql` are applied in their order and never changed once released.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple

import asyncpg

from trunkline_store.connections import OUR_PATH
from trunkline_store.errors import (
    InvalidArgument,
    NotInitialised,
    PermissionRefused,
    SchemaTooNew,
    StoreNotReady,
    Unavailable,
)
from trunkline_store.names import check_store
from trunkline_store.queries import for_store, quoted, statements
from trunkline_store.rights import ROLES, grant_sql, role_name
from trunkline_store.serialize import JSON, check_content_type
from trunkline_store.translate import translate, translated

DataType = Literal["json", "jsonb", "bytea"]

_SETTINGS: Final = {
    "standard_conforming_strings": "on",
    "check_function_bodies": "on",  # find a function that cannot run now, not later
    "default_table_access_method": "heap",  # fillfactor, BRIN and updates in place need it
    "search_path": OUR_PATH,
}
"""Session settings that change the result of a migration. Others do not: dates are in ISO form with their zone,
intervals in words, compression is chosen when a value is stored, and the tablespace is the operator's choice."""


class Migration(NamedTuple):
    version: int
    name: str
    sql: str


class Status(NamedTuple):
    """A migration and a schema: `unknown` is one that a newer version of this code has applied."""

    version: int
    name: str
    state: Literal["applied", "pending", "unknown"]
    migrated_at: datetime | None


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations that this code knows, in their order."""
    folder = files(__package__) / "sql" / "migrations"
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text()))
    return tuple(found)


def latest() -> int:
    """The schema version that this code needs."""
    return migrations()[-1].version


async def initialise(
    connection: asyncpg.Connection,
    schema: str = "eventstore",
    *,
    data_type: DataType | None = None,
    content_type: str | None = None,
) -> bool:
    """Makes a store in `schema`, or leaves the one that is there as it is.

    data_type: of the column that holds the events' data, for good: json (as if not given) keeps the exact bytes.
    content_type: what that data is, for good: application/json (as if not given), or with bytea any media type.
    Returns whether it was made. Raises `InvalidArgument` if the store is there with another one than is given, if the
    schema belongs to something else, or if the database is not in UTF-8.
    """
    check_store(schema)
    if data_type not in (None, "json", "jsonb", "bytea"):
        raise InvalidArgument(f"data_type {data_type!r}: use json, jsonb or bytea")
    with translated(schema):
        async with alone(connection, schema):
            kept = await _kept(connection, schema)
            if kept is None:
                new = data_type or "json"
                await _make(
                    connection, schema, new, check_content_type(JSON if content_type is None else content_type, new)
                )
            elif data_type not in (None, kept["data_type"]):
                raise InvalidArgument(
                    f"the store in {schema!r} keeps data as {kept['data_type']}, which cannot be changed"
                )
            elif content_type not in (None, kept["content_type"]):
                raise InvalidArgument(f"the store in {schema!r} keeps {kept['content_type']}, which cannot be changed")
    await migrate(connection, schema)
    return kept is None


async def _make(connection: asyncpg.Connection, schema: str, data_type: str, content_type: str) -> None:
    await _check_place(connection, schema)
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
    await _apply(connection, schema, data_type, migrations()[0])
    await connection.execute(statements(schema)["make_store"], data_type, content_type)


async def migrate(connection: asyncpg.Connection, schema: str = "eventstore") -> list[int]:
    """Applies what is pending, and returns the versions that were applied here.

    Each is applied whole or not at all; starters that race wait for each other. Raises `StoreNotReady`,
    `PermissionRefused`, `Unavailable`.
    """
    check_store(schema)
    applied: list[int] = []
    with translated(schema):
        while True:
            async with alone(connection, schema):
                data_type = await _data_type(connection, schema)
                if data_type is None:
                    raise NotInitialised(schema)
                current = await connection.fetchval(statements(schema)["schema_version"]) or 0
                if current > latest():
                    raise SchemaTooNew(schema, current, latest())
                pending = next((m for m in migrations() if m.version > current), None)
                if pending is None:
                    return applied
                await _apply(connection, schema, data_type, pending)
                if pending.version == latest():
                    await _grant_again(connection, schema)
                applied.append(pending.version)


async def status(connection: asyncpg.Connection, schema: str = "eventstore") -> list[Status]:
    """All migrations that this code knows, or that the schema has. Raises `NotInitialised`."""
    check_store(schema)
    with translated(schema):
        rows = await connection.fetch(statements(schema)["applied_migrations"])
    applied = {row["version"]: row for row in rows}
    known = {migration.version: migration.name for migration in migrations()}
    return [
        Status(
            version,
            known[version] if version in known else applied[version]["name"],
            "unknown" if version not in known else "applied" if version in applied else "pending",
            applied[version]["migrated_at"] if version in applied else None,
        )
        for version in sorted({*known, *applied})
    ]


async def reset(connection: asyncpg.Connection, schema: str = "eventstore") -> None:
    """Removes all events, links, snapshots, subscriptions and relays: afterwards the store is a new one, that keeps
    data as the old one did. The broker is not touched; whoever follows finds another history. Raises
    `NotInitialised`, `SchemaTooNew`, and `InvalidArgument` as `drop` does."""
    check_store(schema)
    with translated(schema):
        async with alone(connection, schema):
            kept = await connection.fetchrow(statements(schema)["kept_at_reset"])
            if kept is None:
                raise NotInitialised(schema)
            current = await connection.fetchval(statements(schema)["schema_version"]) or 0
            if current > latest():
                raise SchemaTooNew(schema, current, latest())
            await drop(connection, schema)
            await _make(connection, schema, kept["data_type"], kept["content_type"])
            await migrate(connection, schema)
            await connection.execute(statements(schema)["keep_at_reset"], kept["batch_count"], kept["batch_bytes"])


async def drop(connection: asyncpg.Connection, schema: str = "eventstore") -> bool:
    """Removes the store with all its events. Returns whether there was one. Raises `InvalidArgument` if tables of
    something else stand in its schema."""
    check_store(schema)
    with translated(schema):
        async with alone(connection, schema):
            there = await _data_type(connection, schema) is not None
            if there:
                others = await connection.fetchval(statements(schema)["others_there"])
                if others:
                    raise InvalidArgument(f"schema {schema!r} also holds {others}: move or drop that first")
                await connection.execute(f"DROP SCHEMA {quoted(schema)} CASCADE")
            return there


async def _check_place(connection: asyncpg.Connection, schema: str) -> None:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise InvalidArgument(f"the database is in {encoding}: a store needs UTF8 (CREATE DATABASE … ENCODING 'UTF8')")
    others = await connection.fetchval(statements(schema)["others_there"])
    if others:
        raise InvalidArgument(f"schema {schema!r} holds {others}: give the store a schema of its own")


@asynccontextmanager
async def alone(connection: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """Open a transaction, or a savepoint in the caller's, in which nobody else makes, changes or removes this schema.

    A transaction of ours is READ COMMITTED: it has to see what another one did while it waited. Within, the session has
    the settings that a migration's text depends on, and names mean PostgreSQL's own objects, whatever the caller's
    search path is. After an error, the end of the transaction or savepoint restores the settings.
    """
    async with connection.transaction(isolation=None if connection.is_in_transaction() else "read_committed"):
        own = {name: await connection.fetchval("SELECT pg_catalog.current_setting($1)", name) for name in _SETTINGS}
        for name, value in _SETTINGS.items():
            await connection.execute("SELECT pg_catalog.set_config($1, $2, true)", name, value)
        await connection.execute(statements(schema)["lock_schema"], schema)
        yield
        for name, value in own.items():
            await connection.execute("SELECT pg_catalog.set_config($1, $2, true)", name, value)


async def _kept(connection: asyncpg.Connection, schema: str) -> asyncpg.Record | None:
    """How the store that is there keeps data; None where there is none."""
    if await connection.fetchval(statements(schema)["schema_there"]) is None:
        return None
    return await connection.fetchrow(statements(schema)["data_kept"])


async def _data_type(connection: asyncpg.Connection, schema: str) -> str | None:
    kept = await _kept(connection, schema)
    return None if kept is None else str(kept["data_type"])


async def _apply(connection: asyncpg.Connection, schema: str, data_type: str, migration: Migration) -> None:
    try:
        await connection.execute(for_store(migration.sql, schema, data_type))
    except asyncpg.PostgresError as error:
        if isinstance(translate(error, schema), PermissionRefused | Unavailable):
            raise
        raise StoreNotReady(
            schema, f"migration {migration.version} ({migration.name}) failed, and nothing of it is applied: {error}"
        ) from error
    await connection.execute(statements(schema)["note_migration"], migration.version, migration.name)


async def _grant_again(connection: asyncpg.Connection, schema: str) -> None:
    """Where the store's roles were made, they get their rights to what is in the schema now."""
    database = await connection.fetchval("SELECT current_database()")
    names = [role_name(database, schema, role) for role in ROLES]
    if await connection.fetchval(statements(schema)["count_roles"], names) == len(ROLES):
        await connection.execute(grant_sql(database, schema))
