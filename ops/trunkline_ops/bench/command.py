"""The command: `ops/bench`."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final, NoReturn

import asyncpg
import typer
from rich.console import Console

from trunkline_ops.bench.lab import SETTINGS, Lab
from trunkline_ops.bench.report import as_table, noise, plot
from trunkline_ops.bench.rounds import Effort, Measure
from trunkline_ops.servers import ServerError, postgres_server
from trunkline_store import TrunklineError


class Family(StrEnum):
    """What can be measured: each is a module of this package."""

    APPEND = "append"
    READ = "read"
    GROWTH = "growth"
    PEERS = "peers"


Measures = Callable[[Lab, Effort], AsyncIterator[Measure]]

_QUICK: Final = Effort(rounds=1, seconds=0.05, quick=True)


def bench(
    names: Annotated[list[Family], typer.Argument(help="What to measure.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each measure.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side has its turn.")] = Effort().rounds,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long a turn takes, about.")] = Effort().seconds,
    plot_folder: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Draw throughput over callers there, as PNG.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only see that it works: short, small, and no targets.")
    ] = False,
) -> int:
    """Measures the store beside its floor, in turns, and prints medians and ratios.

    append: to new streams and to old ones, in one process and in four; bytes of WAL. read: a stream, and all. growth:
    a table of 5 million events beside one of 100 thousand. peers: the eventsourcing library on the same server.

    The PostgreSQL is that of TRUNKLINE_DSN (a superuser's), or else a private one with real settings. Exit code 1 if a
    target is missed.
    """
    import uvloop

    effort = _QUICK if quick else Effort(rounds, seconds, curves=plot_folder is not None)
    try:
        with postgres_server(settings=SETTINGS) as postgres:
            measured = uvloop.run(_measure(names, Lab(postgres.dsn), effort, as_json=as_json))
        if plot_folder is not None:
            for file in plot(measured, plot_folder):
                print(f"bench: {file}", file=sys.stderr)
    except (ServerError, TrunklineError, asyncpg.PostgresError, ModuleNotFoundError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if not as_json:
        Console().print(as_table(measured))
    return 1 if any(measure.ok is False for measure in measured) else 0


async def _measure(names: list[Family], lab: Lab, effort: Effort, *, as_json: bool) -> list[Measure]:
    measured = []
    for name in dict.fromkeys(names):
        measures: Measures = import_module(f"trunkline_ops.bench.{name}").measures
        async for measure in measures(lab, effort):
            measured.append(measure._replace(target=None) if effort.quick else measure)
            if as_json:
                print(measured[-1].line(), flush=True)
            print(f"bench: {measure.name}: {_said(measure)}", file=sys.stderr, flush=True)
    return measured


def _said(measure: Measure) -> str:
    if measure.ratio is None:
        return f"{measure.value:.4g} {measure.unit}"
    return f"{measure.value:.4g} {measure.unit}, ratio {measure.ratio:.2f} ({noise(measure)})"


def main() -> int:
    """Reads the command line, and returns the exit code: 2 for a mistake in it, 130 after Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(bench)
    try:
        return int(app(prog_name="ops/bench", standalone_mode=False) or 0)
    except typer.TyperException as error:
        print(f"bench: {error.format_message()}", file=sys.stderr)
        return getattr(error, "exit_code", 2)


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)  # as after Ctrl-C, whatever was begun is ended in good order
