"""How the programs of `ops` begin and end: one function that typer makes a command of."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import typer


def run(command: Callable[..., int], name: str) -> int:
    """Reads the command line, and returns the exit code: 2 for a mistake in it. name: as people call it, `ops/demo`.

    SIGTERM and SIGHUP end it as Ctrl-C does: whatever was begun is ended in good order.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command()(command)
    try:
        return int(app(prog_name=name, standalone_mode=False) or 0)
    except typer.TyperException as error:
        print(f"{name.rpartition('/')[2]}: {error.format_message()}", file=sys.stderr)
        return getattr(error, "exit_code", 2)


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)
