"""The command: `ops/demo`."""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import asyncpg
import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trunkline_ops.demo.processes import Died, Processes
from trunkline_ops.demo.rooms import Rooms, fresh_rooms
from trunkline_ops.demo.story import Story, environment
from trunkline_ops.demo.watch import Scene, live_view, plain_lines
from trunkline_ops.program import run
from trunkline_ops.servers import PostgresServer, RabbitMQServer, ServerError, postgres_server, rabbitmq_server
from trunkline_ops.servers.paste import to_paste
from trunkline_store import TrunklineError


def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the writers write.")] = 20,
    rate: Annotated[float, typer.Option(min=1, help="Events per second that they append together.")] = 500,
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running at the end, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with the figures as one line of JSON.")] = False,
) -> int:
    """Shows the whole way of an event on real servers, and audits at the end that none was lost.

    Writers append to PostgreSQL, the relay publishes through RabbitMQ, two subscribers follow. Half-way, the first
    one's queue is deleted. The servers are those of TRUNKLINE_DSN, TRUNKLINE_AMQP_URL and TRUNKLINE_MANAGEMENT_URL,
    or else private ones. Exit code 1 if an event was lost or out of order.
    """
    errors = Console(stderr=True)
    try:
        errors.print("demo: starting PostgreSQL and RabbitMQ", highlight=False)
        with postgres_server() as postgres, rabbitmq_server() as rabbitmq:
            return asyncio.run(perform(postgres, rabbitmq, seconds, rate, keep=keep, as_json=as_json))
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        failure = f"PostgreSQL: {error}"
    except httpx.HTTPError as error:
        failure = f"RabbitMQ's management API: {error}"
    except (Died, ServerError, TrunklineError, OSError) as error:
        failure = str(error)
    print(f"demo: {failure}", file=sys.stderr)
    return 1


async def perform(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, seconds: float, rate: float, *, keep: bool, as_json: bool
) -> int:
    """Runs the story and prints the figures; returns the exit code."""
    scene, out, errors = Scene(seconds), Console(), Console(stderr=True)
    live = out.is_terminal and not as_json
    async with (
        fresh_rooms(postgres, rabbitmq, keep=keep) as rooms,
        Processes(environment(rooms)) as processes,
    ):
        title = (
            f"RabbitMQ's UI: {rabbitmq.management_url}\n"
            f"  user {rabbitmq.user}, password {rabbitmq.password}, vhost {rooms.name}"
        )
        async with live_view(scene, out, title) if live else plain_lines(scene, errors, title):
            figures = await processes.during(Story(rooms, processes, scene, rate=rate).tell())
        if as_json:
            print(json.dumps(figures._asdict()), flush=True)
        else:
            out.print(as_table(figures._asdict()))
        if figures.fault:
            print(f"demo: {figures.fault}", file=sys.stderr)
        elif not as_json:
            print("All that was committed is confirmed, and was handled by both subscribers, in order.")
        if keep:
            print(as_text(rooms, title, rabbitmq.management_url), file=sys.stderr)
            await processes.during(asyncio.Event().wait())
    return 1 if figures.fault else 0


def as_table(figures: Mapping[str, Any]) -> Table:
    """What is printed at the end."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    said = {"conflicts": "conflicts (wanted)"}  # two writers to the same streams are to have them
    for name, value in figures.items():
        table.add_row(said.get(name, name.replace("_", " ")), Text(_text(value)))
    return table


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def as_text(rooms: Rooms, title: str, management_url: str) -> str:
    """Where to look around."""
    return (
        f"The store stays, and its relay runs, until Ctrl-C. On servers that the environment names, the database and\n"
        f"the vhost {rooms.name} stay after that, too. In another terminal:\n"
        f"\n{to_paste(rooms.dsn, rooms.amqp_url, management_url)}\n\n{title}"
    )


def main() -> int:
    """Reads the command line, and returns the exit code: 2 for a mistake in it, 130 after Ctrl-C."""
    return run(demo, "ops/demo")
