"""What went wrong, in one line on standard error, and the exit code: 2 for how the command was used, 1 for the rest."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

import asyncpg
import typer
from rich.console import Console
from typer.core import TyperGroup

from trunkline_ops.settings import InvalidSettings
from trunkline_store import InvalidArgument, PermissionRefused, TrunklineError, Unavailable
from trunkline_store.masking import masked

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130  # what shells expect after Ctrl-C


class Misuse(typer.TyperException):
    """Arguments that each are good, and do not go together."""

    exit_code = USAGE


class StoppedAt(Exception):
    """Events were appended up to these lines of the input, and not from there on; the cause says why."""

    def __init__(self, first: int, last: int, appended: int = 0) -> None:
        super().__init__()
        self.lines = first, last
        self.appended = appended


class ImportStopped(Exception):
    """An import stopped at this line of the input; so many of its items were in the store before, and so many are there
    since. The cause says why."""

    def __init__(self, line: int, passed: int, appended: int) -> None:
        super().__init__()
        self.line = line
        self.passed = passed
        self.appended = appended


class Incomplete(InvalidArgument):
    """An export ends before its last line. Its beginning is good, and the whole one has the same."""


class ReplayStopped(Exception):
    """So many events were replayed, and confirmed, and a new replay goes on at the position `next`; the cause says why
    it stopped."""

    def __init__(self, next: int, events: int) -> None:
        super().__init__()
        self.next = next
        self.events = events


_KNOWN: Final = (
    typer.TyperException,
    typer.Abort,
    InvalidSettings,
    StoppedAt,
    ImportStopped,
    ReplayStopped,
    TrunklineError,
    asyncpg.PostgresError,  # what the store has no name for, such as a full disk
    OSError,
    KeyboardInterrupt,
)


_GOES_ON: Final = (Unavailable, PermissionRefused, Incomplete, OSError, asyncpg.PostgresError, KeyboardInterrupt)
"""What stops an import of a good file: once that is mended, it comes to its end."""


class Failure(NamedTuple):
    """What a user is told."""

    error: str
    message: str
    code: int = FAILED
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Program(TyperGroup):
    """The commands, under one treatment of what they raise. Bugs keep their traceback; nothing else has one."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **__: Any) -> NoReturn:
        """Runs the command that the arguments say, and exits; or answers a shell that wants to complete them."""
        self._main_shell_completion({}, prog_name or "trunkline")
        given = list(sys.argv[1:] if args is None else args)
        code = 0
        try:
            with self.make_context(prog_name or "trunkline", list(given)) as context:
                self.invoke(context)
            sys.stdout.flush()
        except typer.Exit as stop:
            code = stop.exit_code
        except BrokenPipeError:
            _forget_output()  # the reader has all that it wanted, as in `| head -1`
        except _KNOWN as error:
            failure = described(error)
            code = failure.code
            show(failure, as_json="--json" in given)
        sys.exit(code)


def described(error: BaseException) -> Failure:
    """The failure that an error of a known kind is."""
    match error:
        case StoppedAt() if error.__cause__ is not None:
            why = described(error.__cause__)
            first, last = error.lines
            events = "event was" if error.appended == 1 else "events were"
            lines = f"line {first}" if first == last else f"lines {first} to {last}"
            return why._replace(
                message=f"{lines}: {why.message} ({error.appended or 'no'} {events} appended before)",
                attributes={**why.attributes, "line": first, "appended": error.appended},
            )
        case ImportStopped() if error.__cause__ is not None:
            why, there = described(error.__cause__), error.passed + error.appended
            if isinstance(error.__cause__, _GOES_ON):
                then = f" ({there} items are in the store; the same import again goes on from there)"
            elif error.appended:
                then = (
                    f" ({there} items are in the store, and no import of this file can end: `trunkline reset` removes "
                    "them, then import a good one)"
                )
            else:
                then = ""
            return why._replace(
                message=f"line {error.line}: {why.message}{then}",
                attributes={**why.attributes, "line": error.line, "imported": there},
            )
        case ReplayStopped() if error.__cause__ is not None:
            why = described(error.__cause__)
            events = "event was" if error.events == 1 else "events were"
            return why._replace(
                message=f"{why.message} ({error.events or 'no'} {events} replayed; go on with --from {error.next})",
                attributes={**why.attributes, "next": error.next, "events": error.events},
            )
        case typer.TyperException():
            message = error.format_message()
            context = getattr(error, "ctx", None)
            if context is not None and context.parent is None and hasattr(error, "option_name"):
                message = f"{message}: options come after the command, as in `trunkline read --json`"
            elif context is not None:
                message = f"{message.rstrip('.')}: see `{context.command_path} --help`"
            return Failure("UsageError", message, error.exit_code)
        case InvalidSettings():
            return Failure("InvalidSettings", str(error), USAGE)
        case typer.Abort():
            return Failure("Aborted", "nothing was done")
        case KeyboardInterrupt():
            return Failure("Interrupted", "interrupted", INTERRUPTED)
    notes = getattr(error, "__notes__", [])
    message = f"{error} ({', '.join(notes)})" if notes else str(error) or type(error).__name__
    attributes = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    return Failure(type(error).__name__, message, FAILED, attributes if isinstance(error, TrunklineError) else {})


def show(failure: Failure, *, as_json: bool) -> None:
    """Prints the one line."""
    message = masked("; ".join(line.strip() for line in failure.message.splitlines() if line.strip()))
    if as_json:
        line = {"error": failure.error, "message": message, **failure.attributes}
        sys.stderr.write(masked(json.dumps(line, default=str)) + "\n")
    else:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("[bold red]error:[/]", end=" ")
        console.print(message, markup=False)


def _forget_output() -> None:
    """What is still in the buffer has no reader, and Python would complain about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
