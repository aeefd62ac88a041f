"""What mends a finding, as a line that can be pasted into a shell or into psql, whatever is in its names. Pure."""

from __future__ import annotations

import shlex

from trunkline_store.queries import quoted
from trunkline_store.rights import identifier


def trunkline(command: str, schema: str, *names: str, **options: str) -> str:
    """A command of ours, for this store and no other one."""
    given = [word for option, value in options.items() for word in (f"--{option.rstrip('_')}", value)]
    return shlex.join(["trunkline", *command.split(), "--schema", schema, *given, *_behind_dashes(names)])


def rabbitmqctl(command: str, *names: str, vhost: str = "", apply_to: str = "") -> str:
    """For what is in a vhost, if one is given."""
    where = ["-p", vhost] if vhost else []
    given = ["--apply-to", apply_to] if apply_to else []
    return shlex.join(["rabbitmqctl", *where, command, *given, *_behind_dashes(names)])


def relation(schema: str, name: str) -> str:
    """What is in the schema, in SQL: a schema may be called `order`, an index anything."""
    return f"{quoted(schema)}.{identifier(name)}"


def _behind_dashes(names: tuple[str, ...]) -> tuple[str, ...]:
    """A name that begins with a dash is no option."""
    return ("--", *names) if any(name.startswith("-") for name in names) else names
