"""What a store of this version is made of, read from the SQL that makes it: so nothing is said twice. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple

from trunkline_store.migrate import migrations
from trunkline_store.queries import named
from trunkline_store.rights import ROLES, Role

_TABLE = re.compile(r"^CREATE TABLE @schema@\.(\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^CREATE (?:OR REPLACE )?FUNCTION @schema@\.(\w+)", re.MULTILINE)
_INDEX = re.compile(r"^CREATE (?:UNIQUE )?INDEX (\w+)[^;]*;", re.MULTILINE)
_CONSTRAINT = re.compile(r"^ +CONSTRAINT (\w+) (UNIQUE \([^)]*\))", re.MULTILINE)
_TRIGGER = re.compile(r"^CREATE TRIGGER (\w+)[^;]* ON @schema@\.(\w+)[^;]*;", re.MULTILINE)
_DROPPED = re.compile(r"^DROP \w+ (?:IF EXISTS )?(?:@schema@\.)?(\w+)", re.MULTILINE)
_GRANT = re.compile(r"GRANT ([A-Z, ]+) ON (FUNCTION |ALL TABLES IN SCHEMA )?([^;]+?) TO @(\w+)@;")


class Promise(NamedTuple):
    """Names in the schema. Indexes and triggers come with the statement that makes one, triggers with their table."""

    tables: frozenset[str]
    functions: frozenset[str]
    indexes: Mapping[str, str]
    triggers: Mapping[str, tuple[str, str]]


class Right(NamedTuple):
    """What a role may do with an object of the schema."""

    role: Role
    privilege: str
    kind: Literal["table", "function"]
    name: str


@cache
def promise() -> Promise:
    """What all migrations together make."""
    tables: set[str] = set()
    functions: set[str] = set()
    indexes: dict[str, str] = {}
    triggers: dict[str, tuple[str, str]] = {}
    for migration in migrations():
        for name in _DROPPED.findall(migration.sql):
            for each in (tables, functions):
                each.discard(name)
            indexes.pop(name, None)
            triggers.pop(name, None)
        tables.update(_TABLE.findall(migration.sql))
        functions.update(_FUNCTION.findall(migration.sql))
        indexes |= {found[1]: " ".join(found[0].split()) for found in _INDEX.finditer(migration.sql)}
        for table in re.split(r"^(?=CREATE TABLE )", migration.sql, flags=re.MULTILINE)[1:]:
            of = _TABLE.match(table)
            assert of is not None
            for name, definition in _CONSTRAINT.findall(table.partition("\n)")[0]):
                indexes[name] = f"ALTER TABLE @schema@.{of[1]} ADD CONSTRAINT {name} {definition};"
        triggers |= {found[1]: (found[2], " ".join(found[0].split())) for found in _TRIGGER.finditer(migration.sql)}
    return Promise(frozenset(tables), frozenset(functions), indexes, triggers)


@cache
def rights() -> frozenset[Right]:
    """What `trunkline roles` grants. The groups but the reader are members of the reader, and may what he may."""
    found = set()
    for privileges, kind, objects, role in _GRANT.findall(named("roles.sql")["grant"]):
        if privileges.strip() == "USAGE":
            continue
        names = promise().tables if kind.startswith("ALL") else re.findall(r"@schema@\.(\w+)", objects)
        for name in names:
            for privilege in privileges.split(","):
                assert role in ROLES
                found.add(Right(role, privilege.strip(), "function" if kind == "FUNCTION " else "table", name))
    return frozenset(found)
