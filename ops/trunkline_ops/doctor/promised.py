"""What a store of this version is made of, read from the SQL that makes it: so nothing is said twice. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from trunkline_store.migrate import migrations
from trunkline_store.queries import named
from trunkline_store.rights import ROLES, Role

_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE @schema@\.(\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^CREATE (?:OR REPLACE )?FUNCTION @schema@\.(\w+)", re.MULTILINE)
_INDEX = re.compile(r"^CREATE (?:UNIQUE )?INDEX (\w+)[^;]*;", re.MULTILINE)
_OF_COLUMNS = re.compile(r"^ +(?:CONSTRAINT (\w+) )?(PRIMARY KEY|UNIQUE) \(([^)]*)\)", re.MULTILINE)
_OF_COLUMN = re.compile(r"^ +([a-z]\w*) .*?\b(PRIMARY KEY|UNIQUE)\b(?! \()", re.MULTILINE)
_TRIGGER = re.compile(r"^CREATE TRIGGER (\w+)[^;]* ON @schema@\.(\w+)[^;]*;", re.MULTILINE)
_ROW_SECURITY = re.compile(r"^ALTER TABLE @schema@\.(\w+) ENABLE ROW LEVEL SECURITY;", re.MULTILINE)
_DROPPED = re.compile(r"^DROP \w+ (?:IF EXISTS )?(?:@schema@\.)?(\w+)", re.MULTILINE)
_GRANT = re.compile(
    r"GRANT ([A-Z, ]+(?:[^;]*?\))?[A-Z, ]*?)\s+ON (FUNCTION |ALL TABLES IN SCHEMA )?([^;]+?) TO ([^;]+);"
)
_PRIVILEGE = re.compile(r"([A-Z]+)(?: \(([^)]*)\))?")


class Key(NamedTuple):
    """A primary key of a table, or what is unique in it."""

    table: str
    kind: Literal["PRIMARY KEY", "UNIQUE"]
    columns: tuple[str, ...]


class Promise(NamedTuple):
    """Names in the schema; keys come with their names. Indexes and triggers come with the statement that makes one,
    triggers with their table. row_security: tables in which a login may write only its own rows."""

    tables: frozenset[str]
    functions: frozenset[str]
    indexes: Mapping[str, str]
    keys: Mapping[Key, str]
    triggers: Mapping[str, tuple[str, str]]
    row_security: frozenset[str]


class Right(NamedTuple):
    """What a role may do with an object of the schema."""

    role: Role
    privilege: str
    kind: Literal["table", "function"]
    name: str
    columns: str = ""
    """In alphabetical order; empty for all of a table."""


@cache
def promise() -> Promise:
    """What all migrations together make."""
    tables: set[str] = set()
    functions: set[str] = set()
    indexes: dict[str, str] = {}
    keys: dict[Key, str] = {}
    triggers: dict[str, tuple[str, str]] = {}
    row_security: set[str] = set()
    for migration in migrations():
        for name in _DROPPED.findall(migration.sql):
            for each in (tables, functions):
                each.discard(name)
            indexes.pop(name, None)
            triggers.pop(name, None)
        tables.update(_TABLE.findall(migration.sql))
        functions.update(_FUNCTION.findall(migration.sql))
        indexes |= {found[1]: " ".join(found[0].split()) for found in _INDEX.finditer(migration.sql)}
        for table in re.split(r"^(?=CREATE (?:UNLOGGED )?TABLE )", migration.sql, flags=re.MULTILINE)[1:]:
            keys.update(_keys(table.partition("\n)")[0]))
        triggers |= {found[1]: (found[2], " ".join(found[0].split())) for found in _TRIGGER.finditer(migration.sql)}
        row_security.update(_ROW_SECURITY.findall(migration.sql))
    keys = {key: name for key, name in keys.items() if key.table in tables}
    return Promise(frozenset(tables), frozenset(functions), indexes, keys, triggers, frozenset(row_security))


def _keys(table: str) -> Iterator[tuple[Key, str]]:
    """Of the statement that makes it; without a name of its own it has PostgreSQL's."""
    of = _TABLE.match(table)
    assert of is not None
    found = [(name, kind, tuple(columns.split(", "))) for name, kind, columns in _OF_COLUMNS.findall(table)]
    found += [("", kind, (column,)) for column, kind in _OF_COLUMN.findall(table)]
    for name, kind, columns in found:
        usual = f"{of[1]}_pkey" if kind == "PRIMARY KEY" else f"{of[1]}_{'_'.join(columns)}_key"
        yield Key(of[1], kind, columns), name or usual


@cache
def rights() -> frozenset[Right]:
    """What `trunkline roles` grants. The groups but the reader are members of the reader, and may what he may."""
    found = set()
    for privileges, kind, objects, to in _GRANT.findall(named("roles.sql")["grant"]):
        if privileges.strip() == "USAGE":
            continue
        names = promise().tables if kind.startswith("ALL") else re.findall(r"@schema@\.(\w+)", objects)
        for name in names:
            for (privilege, columns), role in product(_PRIVILEGE.findall(privileges), re.findall(r"@(\w+)@", to)):
                assert role in ROLES
                some = ", ".join(sorted(columns.split(", "))) if columns else ""
                found.add(Right(role, privilege, "function" if kind == "FUNCTION " else "table", name, some))
    return frozenset(found)
