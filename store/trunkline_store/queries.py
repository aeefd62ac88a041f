"""Loads the named statements of `sql/queries.sql`, and fills the schema's name in."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_SPECIAL = r"(?:coalesce|greatest|least|nullif|extract|position)\(|unnest\([^()]*,"  # syntax that takes no schema
_FUNCTION = re.compile(rf"(?<![\w.@'\"])(?!{_SPECIAL})(?=[a-z]\w*\()")
_CATALOGUE = re.compile(r"(?:(?<=FROM )|(?<=JOIN )|(?<=, )(?=pg_\w+ AS ))(?=pg_(?!catalog\.)\w+\b(?!\())")
_KEYWORDS = r"bigint|integer|boolean|pg_catalog"  # nobody can redefine these
_TYPE = re.compile(rf"(?<=::)(?!{_KEYWORDS})(?=[a-z])")


def quoted(schema: str) -> str:
    """`schema` as an SQL identifier. Its characters are checked where a store is named (`names.check_store`)."""
    return f'"{schema}"'


@cache
def statements(schema: str, data_type: str = "json") -> dict[str, str]:
    """All statements of `queries.sql` by name, for the store in `schema` whose data column is a `data_type`."""
    return {name: for_store(text, schema, data_type) for name, text in named("queries.sql").items()}


def named(file: str) -> dict[str, str]:
    """The statements of a file in `sql`, by the names that stand over them."""
    return parts_of((files(__package__) / "sql" / file).read_text())


def parts_of(text: str) -> dict[str, str]:
    """Return the statements of a text by the names above them (`-- name: …`), independent of the search path (see
    `qualified`)."""
    parts = _NAME.split(text)
    return {name: qualified(text.strip()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def qualified(sql: str) -> str:
    """Write `pg_catalog.` before each function, catalogue and type of a statement that has no schema.

    Somebody else's `unnest(bigint[])` in a schema of the search path fits a call better than PostgreSQL's own
    `unnest(anyarray)`, and runs with the caller's rights; a temporary table hides a catalogue. An operator needs no
    schema where PostgreSQL has one for exactly these types
    (https://www.postgresql.org/docs/current/typeconv-oper.html). The others are cast, or written as
    `OPERATOR(pg_catalog.…)`. A test compares every statement with the objects that it refers to.
    """
    for pattern in (_FUNCTION, _CATALOGUE, _TYPE):
        sql = pattern.sub("pg_catalog.", sql)
    return sql


def for_store(sql: str, schema: str, data_type: str) -> str:
    """Fills in what differs between stores. Data goes in and comes out as bytes (bytea) or as text (json, jsonb).

    jsonb writes its text anew, and numbers in full: of `1e131071` are read 131,072 bytes.
    """
    in_bytes = data_type == "bytea"
    return (
        sql.replace("@schema@", quoted(schema))
        .replace("@data_type@", f"pg_catalog.{data_type}")
        .replace("@data_param@", "pg_catalog.bytea" if in_bytes else "pg_catalog.text")
        .replace("@data_read@", "::pg_catalog.jsonb::pg_catalog.text" if data_type == "jsonb" else "")
        .replace("@data_out@", "" if in_bytes else "::pg_catalog.text")
    )
