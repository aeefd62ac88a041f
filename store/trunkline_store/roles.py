"""Roles: what each kind of program may do with a store.

    reader     reads
    writer     reads, appends, links, deletes streams, keeps snapshots
    relay      reads, leads, records what the broker has confirmed
    consumer   reads, owns subscriptions, moves their checkpoints
    eraser     reads, removes streams for good

They are groups of the cluster, named `<database>.<schema>.<role>`: stores of several databases have nothing in common.
A program logs in as a role of its own, which is a member of one of them, or of several.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final, Literal, get_args

import asyncpg

from trunkline_store.errors import InvalidArgument
from trunkline_store.names import check_store
from trunkline_store.queries import named, quoted, statements
from trunkline_store.translate import translated

Role = Literal["reader", "writer", "relay", "consumer", "eraser"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

_MAX_BYTES: Final = 63
"""PostgreSQL silently cuts longer names."""


def role_name(database: str, schema: str, role: Role) -> str:
    """The group's name. A store's name holds no dot, so no two stores have the same one; what is too long is cut and
    ends with a hash of the whole."""
    store = f"{database}.{schema}"
    if len(f"{store}.{role}".encode()) > _MAX_BYTES:
        tail = "~" + sha256(store.encode()).hexdigest()[:16]
        room = _MAX_BYTES - len(f"{tail}.{role}")
        store = store.encode()[:room].decode(errors="ignore") + tail
    return f"{store}.{role}"


def roles_sql(database: str, schema: str) -> str:
    """What `make_roles` runs."""
    return f"{_filled('create', database, schema)}\n\n{_filled('grant', database, schema)}"


def login_sql(database: str, schema: str, login: str, role: Role) -> str:
    """What `make_login` runs. Raises `InvalidArgument`."""
    if role not in ROLES:
        raise InvalidArgument(f"role {role!r}: use {', '.join(ROLES)}")
    if not login or "\0" in login or len(login.encode()) > _MAX_BYTES:
        raise InvalidArgument(f"login {login!r}: use 1 to {_MAX_BYTES} bytes of text")
    parts = ["login", "login_relay"] if role == "relay" else ["login"]
    given = {
        "login": _identifier(login),
        "login_name": _literal(login),
        "role": _identifier(role_name(database, schema, role)),
    }
    return "\n\n".join(_filled(part, database, schema, **given) for part in parts)


async def make_roles(connection: asyncpg.Connection, schema: str = "eventstore") -> dict[Role, str]:
    """Makes the store's groups where they are missing, gives each its rights and no others, and returns their names.

    Raises `PermissionRefused`: it takes the store's owner, and CREATEROLE where a group is missing; and
    `NotInitialised`.
    """
    check_store(schema)
    with translated(schema):
        async with connection.transaction():
            await connection.execute(statements(schema)["lock_schema"], schema)
            database = await _database(connection)
            await connection.execute(roles_sql(database, schema))
    return {role: role_name(database, schema, role) for role in ROLES}


async def make_login(connection: asyncpg.Connection, login: str, role: Role, schema: str = "eventstore") -> None:
    """Makes a role that can log in, if it is missing, and a member of one of the store's groups of it; a transaction
    that it leaves open in this database is ended after a minute, also when its host has vanished.

    A password is not set. Raises `PermissionRefused`, `InvalidArgument`.
    """
    check_store(schema)
    with translated(schema):
        async with connection.transaction():
            await connection.execute(statements(schema)["lock_schema"], schema)
            await connection.execute(login_sql(await _database(connection), schema, login, role))


async def grant_again(connection: asyncpg.Connection, schema: str) -> None:
    """Gives the groups, where they were made, their rights to what is in the schema now."""
    database = await _database(connection)
    names = [role_name(database, schema, role) for role in ROLES]
    if await connection.fetchval(statements(schema)["count_roles"], names) == len(ROLES):
        await connection.execute(_filled("grant", database, schema))


async def _database(connection: asyncpg.Connection) -> str:
    return str(await connection.fetchval("SELECT current_database()"))


def _filled(part: str, database: str, schema: str, **given: str) -> str:
    names = {role: role_name(database, schema, role) for role in ROLES}
    values = {
        "schema": quoted(schema),
        "database": _identifier(database),
        "roles": ", ".join(map(_identifier, names.values())),
        "role_names": ", ".join(map(_literal, names.values())),
        "reader_name": _literal(names["reader"]),
        "relay_name": _literal(names["relay"]),
        **{role: _identifier(name) for role, name in names.items()},
        **given,
    }
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], named("roles.sql")[part])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    quoted_text = text.replace("'", "''")
    return f"'{quoted_text}'"
