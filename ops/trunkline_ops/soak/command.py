"""The command: `ops/soak`."""

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Final

import asyncpg
import httpx
import typer
from rich.console import Console

from trunkline_ops.demo.command import as_table
from trunkline_ops.demo.processes import Died
from trunkline_ops.program import run
from trunkline_ops.servers import PostgresServer, RabbitMQServer, ServerError, postgres_server, rabbitmq_server
from trunkline_ops.soak.cast import Cast
from trunkline_ops.soak.controls import CONTROLS
from trunkline_ops.soak.faults import Faults
from trunkline_ops.soak.plain import SUBSCRIBER
from trunkline_ops.soak.schedule import KINDS, PROMOTION, TAKE_AWAY, schedule
from trunkline_ops.soak.stage import set_up
from trunkline_ops.soak.story import EVERYBODY, OWNERS, Soak
from trunkline_ops.soak.subscriber import LOOPS, MIX
from trunkline_store import TrunklineError

LEASE_SECONDS: Final = 2.0
KILLING_LEASE_SECONDS: Final = 0.5
_FAILURES: Final = (
    asyncpg.PostgresError, asyncpg.InterfaceError, httpx.HTTPError, TrunklineError, ServerError, OSError, Died,
)  # fmt: skip
RABBITMQ_SETTINGS: Final = {
    "collect_statistics_interval": "1000"
}  # milliseconds; connections are closed by what it says


def soak(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long faults happen.")] = 20,
    kills: Annotated[
        int | None, typer.Option(min=1, help="Instead: kill owners of subscriptions with tx=True, so many of them.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1, help="Events per second that the writers append together.")] = 150,
    seed: Annotated[int | None, typer.Option(help="The faults of an earlier soak once more.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help=f"Only these faults, repeated: {', '.join(KINDS)}; or, once, {PROMOTION}."),
    ] = None,
    loop: Annotated[str, typer.Option(help=f"The subscribers' event loop: {', '.join(LOOPS)}, or {MIX}.")] = MIX,
    language: Annotated[str, typer.Option(help="A private PostgreSQL's messages, if it has this language.")] = "de",
    without: Annotated[
        str | None, typer.Option(help=f"A control, which must fail: {' or '.join(CONTROLS)} is taken out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with the audit as one line of JSON.")] = False,
) -> int:
    """Everything at once, while programs, networks, queues and servers fail at random; and an audit at the end.

    PostgreSQL and RabbitMQ crash as well: so they are private ones, unless the faults that are wanted leave them
    alone. What happens is told on standard error. Exit code 1 if an event was lost or out of order, or an effect in a
    handler's transaction came twice.
    """
    if unknown := {*(only or [])} - {*KINDS, PROMOTION}:
        raise typer.BadParameter(f"--only {min(unknown)!r}: use {', '.join(KINDS)} or {PROMOTION}")
    if loop not in (*LOOPS, MIX):
        raise typer.BadParameter(f"--loop {loop!r}: use {', '.join(LOOPS)} or {MIX}")
    if without is not None and without not in CONTROLS:
        raise typer.BadParameter(f"--without {without!r}: use {' or '.join(CONTROLS)}")
    seed = random.randrange(10**6) if seed is None else seed
    private = kills is None and bool({*(only or KINDS)} & TAKE_AWAY)
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # that servers are away is what is wanted
    tell = Teller()
    try:
        tell(f"seed {seed}; starting PostgreSQL and RabbitMQ")
        with (
            postgres_server(
                private=private, settings={"lc_messages": "C.UTF-8"}, environment={"LANGUAGE": language}
            ) as postgres,
            rabbitmq_server(private=private, settings=RABBITMQ_SETTINGS) as rabbitmq,
        ):
            return asyncio.run(
                perform(
                    postgres,
                    rabbitmq,
                    tell,
                    minutes=minutes,
                    kills=kills,
                    rate=rate,
                    seed=seed,
                    only=only or [],
                    without=without,
                    private=private,
                    loop=loop,
                    language=language,
                    as_json=as_json,
                )
            )
    except* _FAILURES as group:
        for error in group.exceptions:
            print(f"soak: {error}", file=sys.stderr)
    return 1


async def perform(
    postgres: PostgresServer,
    rabbitmq: RabbitMQServer,
    tell: "Teller",
    *,
    minutes: float,
    kills: int | None,
    rate: float,
    seed: int,
    only: Sequence[str],
    without: str | None,
    private: bool,
    loop: str,
    language: str,
    as_json: bool,
) -> int:
    """Runs the soak and prints the figures; returns the exit code."""
    lease = LEASE_SECONDS if kills is None else KILLING_LEASE_SECONDS
    promotion = private and (not only or PROMOTION in only)
    async with set_up(postgres, rabbitmq, keep=private, language=language) as stage:
        soak = Soak(
            stage,
            lease=lease,
            rate=rate,
            seed=seed,
            without=without,
            loop=loop,
            promotion=promotion,
            tell=tell,
        )

        async def faults_happen(faults: Faults, cast: Cast) -> None:
            subscriptions = list(EVERYBODY.subscribers)
            await faults.happen(
                schedule(
                    seed,
                    minutes * 60,
                    lease=lease,
                    actors=list(cast.actors),
                    subscriptions=subscriptions,
                    consumers=[*subscriptions, SUBSCRIBER],
                    only=only,
                )
            )

        async def owners_are_killed(faults: Faults, cast: Cast) -> None:
            await soak.kill_owners(OWNERS.subscribers, kills or 0, faults, cast)

        if kills is None:
            figures, wrong = await soak.play(EVERYBODY, faults_happen)
        else:
            figures, wrong = await soak.play(OWNERS, owners_are_killed)
    if as_json:
        print(json.dumps(figures._asdict()), flush=True)
    else:
        Console().print(as_table(figures._asdict()))
    for each in wrong:
        print(f"soak: {each}", file=sys.stderr)
    return 0 if figures.ok else 1


class Teller:
    """Says on standard error what happens, and when."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Reads the command line, and returns the exit code: 2 for a mistake in it, 130 after Ctrl-C."""
    return run(soak, "ops/soak")
