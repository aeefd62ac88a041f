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
def statements(schema: str) -> dict[str, str]:
    """All statements of `queries.sql` by name, for the store in `schema`."""
    parts = _NAME.split((files(__package__) / "sql" / "queries.sql").read_text())
    return {
        name: text.strip().replace("@schema@", quoted(schema))
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
