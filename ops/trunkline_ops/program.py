"""How the programs of `ops` begin and end: one function that typer makes a command of."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

import typer


def run(command: Callable[..., int], name: str) -> int:
    """Reads the command line, and returns the exit code: 2 for a mistake in it. name: as people call it, `ops/demo`.

    SIGTERM and SIGHUP end it as Ctrl-C does: whatever was begun is ended in good order; the code
    is 128 and their number.
    """
    told: list[int] = []

    def as_ctrl_c(number: int, frame: FrameType | None) -> None:
        told.append(number)
        handler = signal.getsignal(signal.SIGINT)  # asyncio's, while it runs: it cancels the main task, and no other
        assert callable(handler)
        handler(signal.SIGINT, frame)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` would have it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, as_ctrl_c)
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command()(command)
    try:
        code = int(app(prog_name=name, standalone_mode=False) or 0)
    except typer.TyperException as error:
        print(f"{name.rpartition('/')[2]}: {error.format_message()}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 128 + told[0] if told else code
