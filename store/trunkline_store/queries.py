"""Loads the named statements of `sql/queries.sql`, and fills the schema's name in."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


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
    """The statements of a text, by the names that stand over them: `-- name: …`."""
    parts = _NAME.split(text)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def for_store(sql: str, schema: str, data_type: str) -> str:
    """Fills in what differs between stores. Data goes in and comes out as bytes (bytea) or as text (json, jsonb)."""
    in_bytes = data_type == "bytea"
    return (
        sql.replace("@schema@", quoted(schema))
        .replace("@data_type@", data_type)
        .replace("@data_param@", "bytea" if in_bytes else "text")
        .replace("@data_out@", "" if in_bytes else "::text")
    )
