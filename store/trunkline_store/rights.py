"""The names of a store's roles, and the SQL that grants their rights: pure.

    reader     reads
    writer     reads, appends, links, deletes streams, keeps snapshots
    relay      reads, leads, records what the broker has confirmed
    consumer   reads, owns subscriptions (all, or some by name), moves their checkpoints
    eraser     reads, removes streams for good

They are groups of the cluster, named `<database>.<schema>.<role>`: stores of several databases have nothing in common.
A program logs in as its own role, which is a member of one or several of them.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final, Literal, get_args

from trunkline_store.errors import InvalidArgument
from trunkline_store.queries import named, quoted

Role = Literal["reader", "writer", "relay", "consumer", "eraser"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

_MAX_BYTES: Final = 63
"""PostgreSQL silently cuts longer names."""


def role_name(database: str, schema: str, role: Role) -> str:
    """Return the group's name. A schema's name has no dot, so no two stores share one. A name that is too long is cut,
    and ends with a hash of the whole. PostgreSQL reserves `pg_` for roles, but not for databases."""
    store = f"{database}.{schema}"
    if _reserved(store):
        store = f"~{store}"
    if len(f"{store}.{role}".encode()) > _MAX_BYTES:
        tail = "~" + sha256(store.encode()).hexdigest()[:16]
        room = _MAX_BYTES - len(f"{tail}.{role}")
        store = store.encode()[:room].decode(errors="ignore") + tail
    return f"{store}.{role}"


def _reserved(role: str) -> bool:
    """Return True for a name that PostgreSQL reserves (https://www.postgresql.org/docs/current/sql-createrole.html);
    `public` and `none` have a meaning in GRANT and SET ROLE."""
    return role.startswith("pg_") or role in ("public", "none")


def create_sql(database: str, schema: str) -> str:
    """Makes the groups that are missing."""
    return _filled("create", database, schema)


def grant_sql(database: str, schema: str) -> str:
    """Gives each group its rights, and takes others away."""
    return _filled("grant", database, schema)


def consumers_of(database: str, schema: str, pattern: str) -> str:
    """Return the name of the group that may own only the subscriptions of a pattern: one name, or a prefix followed by
    `*`. Raises `InvalidArgument`."""
    name = f"{role_name(database, schema, 'consumer')}.{pattern}"
    if not pattern or "\0" in pattern or "*" in pattern[:-1]:
        raise InvalidArgument(f"subscriptions {pattern!r}: give one name, or a prefix followed by *")
    if len(name.encode()) > _MAX_BYTES:
        raise InvalidArgument(
            f"subscriptions {pattern!r}: role name {name!r} is over {_MAX_BYTES} bytes: use a shorter prefix"
        )
    return name


def login_sql(database: str, schema: str, login: str, role: Role, subscriptions: str | None = None) -> str:
    """Return SQL that makes a login role, if it is missing, and adds it to a group.

    subscriptions: the only ones that a consumer may own (see `consumers_of`); `grant_sql`, run afterwards by the
    store's owner, grants them. None: all. Raises `InvalidArgument`.
    """
    if role not in ROLES:
        raise InvalidArgument(f"role {role!r}: use {', '.join(ROLES)}")
    if not login or "\0" in login or len(login.encode()) > _MAX_BYTES:
        raise InvalidArgument(f"login {login!r}: use 1 to {_MAX_BYTES} bytes of text")
    if _reserved(login):
        raise InvalidArgument(f"login {login!r} is reserved by PostgreSQL: use another name")
    group = role_name(database, schema, role)
    parts = ["login", "login_relay"] if role == "relay" else ["login"]
    if subscriptions is not None:
        if role != "consumer":
            raise InvalidArgument(f"role {role!r} owns no subscriptions: leave them out, or use role 'consumer'")
        group = consumers_of(database, schema, subscriptions)
        parts = ["narrow", "login", "narrowed"]
    given = {
        "login": identifier(login),
        "login_name": literal(login),
        "group": identifier(group),
        "group_name": literal(group),
    }
    return "\n\n".join(_filled(part, database, schema, **given) for part in parts)


def _filled(part: str, database: str, schema: str, **given: str) -> str:
    names = {role: role_name(database, schema, role) for role in ROLES}
    values = {
        "schema": quoted(schema),
        "database": identifier(database),
        "all": ", ".join(map(identifier, names.values())),
        "all_names": ", ".join(map(literal, names.values())),
        "reader_name": literal(names["reader"]),
        "relay_name": literal(names["relay"]),
        "consumer_name": literal(names["consumer"]),
        **{role: identifier(name) for role, name in names.items()},
        **given,
    }
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], named("roles.sql")[part])


def identifier(name: str) -> str:
    """A name in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return `text` as an SQL literal, whatever `standard_conforming_strings` is. With a backslash it is written as
    `E'…'`, which means the same under both (PostgreSQL, "String Constants with C-Style Escapes")."""
    quoted_text = "'" + text.replace("'", "''") + "'"
    return "E" + quoted_text.replace("\\", "\\\\") if "\\" in text else quoted_text
