"""Makes the roles of a store, and logins for its programs. `rights.py` says what each may do."""

from __future__ import annotations

import asyncpg

from trunkline_store.errors import MigrationPending, SchemaTooNew
from trunkline_store.migrate import alone, latest
from trunkline_store.names import check_store
from trunkline_store.queries import statements
from trunkline_store.rights import ROLES, Role, create_sql, grant_sql, login_sql, role_name
from trunkline_store.translate import translated


async def make_roles(connection: asyncpg.Connection, schema: str = "eventstore") -> dict[Role, str]:
    """Makes the store's groups where they are missing, gives each its rights and no others, and returns their names.

    It takes the store's owner, and CREATEROLE where a group is missing. Raises `PermissionRefused`, `StoreNotReady`.
    """
    check_store(schema)
    sql = statements(schema)
    with translated(schema):
        async with alone(connection, schema):
            found, needed = await connection.fetchval(sql["schema_version"]), latest()
            if found < needed:
                raise MigrationPending(schema, found, needed)
            if found > needed:
                raise SchemaTooNew(schema, found, needed)
            database = await _database(connection)
            await connection.execute(create_sql(database, schema))
            await connection.execute(grant_sql(database, schema))
    return {role: role_name(database, schema, role) for role in ROLES}


async def make_login(
    connection: asyncpg.Connection,
    login: str,
    role: Role,
    schema: str = "eventstore",
    *,
    subscriptions: str | None = None,
) -> None:
    """Makes a role that logs in, if it is missing, and a member of one of the store's groups of it. A transaction that
    it leaves open in this database is ended after a minute, also when its host has vanished.

    subscriptions: the only ones that a consumer may own: one name, or a prefix followed by `*`. A further call with
    another pattern adds to them. None: all.

    No password is set. It needs CREATEROLE, and to be the store's owner if `subscriptions` is given. Raises
    `PermissionRefused`, `InvalidArgument`.
    """
    check_store(schema)
    with translated(schema):
        async with alone(connection, schema):
            database = await _database(connection)
            await connection.execute(login_sql(database, schema, login, role, subscriptions))
            if subscriptions is not None:
                await connection.execute(grant_sql(database, schema))


async def _database(connection: asyncpg.Connection) -> str:
    return str(await connection.fetchval("SELECT current_database()"))
