"""Makes the schema, and brings an older one up to this code. Each migration is one transaction, under one lock.

The files `sql/migrations/NNN_name.sql` are applied in their order and never changed once released.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple

import asyncpg

from trunkline_store.errors import InvalidArgument, NotInitialised, SchemaTooNew
from trunkline_store.names import check_store
from trunkline_store.queries import for_store, quoted, statements
from trunkline_store.translate import translated

DataType = Literal["json", "jsonb", "bytea"]

_LOCK_CLASS: Final = 0x74726B6C  # "trkl"


class Migration(NamedTuple):
    version: int
    name: str
    sql: str


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
    data_type: DataType = "json",
    content_type: str = "application/json",
) -> bool:
    """Makes a store in `schema`, or leaves the one that is there as it is.

    data_type: of the column that holds the events' data, for good; json keeps the exact bytes.
    Returns whether it was made. Raises `InvalidArgument` if the store is there with another data type.
    """
    check_store(schema)
    if data_type not in ("json", "jsonb", "bytea"):
        raise InvalidArgument(f"data_type {data_type!r}: use json, jsonb or bytea")
    with translated(schema):
        async with connection.transaction():
            await _lock(connection, schema)
            found = await _data_type(connection, schema)
            if found is None:
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
                await _apply(connection, schema, data_type, migrations()[0])
                await connection.execute(statements(schema)["make_store"], data_type, content_type)
            elif found != data_type:
                raise InvalidArgument(f"the store in {schema!r} keeps data as {found}, which cannot be changed")
    await migrate(connection, schema)
    return found is None


async def migrate(connection: asyncpg.Connection, schema: str = "eventstore") -> list[int]:
    """Applies what is pending, and returns the versions that were applied here.

    Starters that race wait for each other. Raises `NotInitialised` or `SchemaTooNew`.
    """
    check_store(schema)
    applied: list[int] = []
    with translated(schema):
        while True:
            async with connection.transaction():
                await _lock(connection, schema)
                data_type = await _data_type(connection, schema)
                if data_type is None:
                    raise NotInitialised(schema)
                current = await connection.fetchval(statements(schema)["schema_version"])
                if current > latest():
                    raise SchemaTooNew(schema, current, latest())
                pending = next((m for m in migrations() if m.version > current), None)
                if pending is None:
                    return applied
                await _apply(connection, schema, data_type, pending)
                applied.append(pending.version)


async def drop(connection: asyncpg.Connection, schema: str = "eventstore") -> bool:
    """Removes the store with all its events. Returns whether there was one."""
    check_store(schema)
    with translated(schema):
        async with connection.transaction():
            await _lock(connection, schema)
            there = await _data_type(connection, schema) is not None
            if there:
                await connection.execute(f"DROP SCHEMA {quoted(schema)} CASCADE")
            return there


async def _lock(connection: asyncpg.Connection, schema: str) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK_CLASS, schema)


async def _data_type(connection: asyncpg.Connection, schema: str) -> str | None:
    if await connection.fetchval(statements(schema)["schema_there"]) is None:
        return None
    data_type: str = await connection.fetchval(statements(schema)["data_type"])
    return data_type


async def _apply(connection: asyncpg.Connection, schema: str, data_type: str, migration: Migration) -> None:
    await connection.execute(for_store(migration.sql, schema, data_type))
    await connection.execute(statements(schema)["note_migration"], migration.version, migration.name)
