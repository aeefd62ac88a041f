"""The command: `ops/bench`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import asyncpg
import typer
from rich.console import Console

from trunkline_ops.bench.broker import SETTINGS as BROKER_SETTINGS
from trunkline_ops.bench.broker import Broker
from trunkline_ops.bench.lab import SETTINGS, Lab
from trunkline_ops.bench.report import as_markdown, as_table, noise, plot
from trunkline_ops.bench.rounds import Effort, Measure
from trunkline_ops.demo.processes import Died
from trunkline_ops.program import run
from trunkline_ops.servers import ServerError, postgres_server, rabbitmq_server
from trunkline_store import TrunklineError


class Family(StrEnum):
    """What can be measured: each is a module of this package."""

    APPEND = "append"
    READ = "read"
    GROWTH = "growth"
    PEERS = "peers"
    RELAY = "relay"
    CONSUME = "consume"


WITH_BROKER: Final = frozenset({Family.RELAY, Family.CONSUME})
"""Those that also need a RabbitMQ."""

Measures = Callable[[Lab, Effort], AsyncIterator[Measure]]

_QUICK: Final = Effort(rounds=1, seconds=0.05, quick=True)


def bench(
    names: Annotated[list[Family], typer.Argument(help="What to measure.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each measure.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as the guides show it.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side has its turn.")] = Effort().rounds,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long a turn takes, about.")] = Effort().seconds,
    plot_folder: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Draw throughput over callers there, as PNG.")
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="NAME", help="Only these parts of the families that have parts; repeatable."),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="What fills a table or takes a minute is done at a tenth of that.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only see that it works: short, small, and no targets.")
    ] = False,
) -> int:
    """Measures the store, its relay and the SDK beside their floors, in turns, and prints medians and ratios.

    append: to new streams and to old ones, in one process and in four; bytes of WAL. read: a stream, and all. growth:
    a table of 5 million events beside one of 100 thousand. peers: the eventsourcing library on the same server. relay:
    its parts are publish, tail, latency, steady, highest, backlog, idle and takeover. consume: its parts are live,
    catch-up, transaction, many, joining and memory.

    The PostgreSQL is that of TRUNKLINE_DSN (a superuser's), or else a private one with real settings; the RabbitMQ that
    of TRUNKLINE_AMQP_URL and TRUNKLINE_MANAGEMENT_URL, or a private one. Exit code 1 if a target is missed.
    """
    import uvloop

    effort = _QUICK if quick else Effort(rounds, seconds, short=short, curves=plot_folder is not None)
    effort = effort._replace(parts=frozenset(parts or ()))
    try:
        with ExitStack() as stack:
            postgres = stack.enter_context(postgres_server(settings=SETTINGS))
            broker = None
            if WITH_BROKER.intersection(names):
                broker = Broker(stack.enter_context(rabbitmq_server(settings=BROKER_SETTINGS)))
            measured = uvloop.run(_measure(names, Lab(postgres.dsn, broker), effort, as_json=as_json))
        if plot_folder is not None:
            for file in plot(measured, plot_folder):
                print(f"bench: {file}", file=sys.stderr)
    except (ServerError, Died, TrunklineError, asyncpg.PostgresError, ModuleNotFoundError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if markdown:
        print(as_markdown(measured))
    elif not as_json:
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
    return run(bench, "ops/bench")
