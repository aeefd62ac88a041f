"""`verify`: the proof that nothing is lost."""

import asyncio
from typing import Annotated

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import FAILED
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, ManagementUrl, Schema, finite
from trunkline_ops.output import Output
from trunkline_ops.progress import bar
from trunkline_ops.settings import Settings
from trunkline_ops.verify import Part
from trunkline_ops.verify import verify as prove
from trunkline_store.store import MAX_POSITION


def verify(
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            min=0,
            max=MAX_POSITION,
            metavar="N",
            help="Up to this position; else up to the last one that can be read.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            max=86400,
            callback=finite,
            metavar="SECONDS",
            help="Time for those who run, and are behind, to catch up.",
        ),
    ] = 10.0,
    erased: Annotated[
        bool,
        typer.Option("--erased", help="Streams may lack versions: links to events that were removed for good."),
    ] = False,
    given_up: Annotated[
        int,
        typer.Option(min=0, max=MAX_POSITION, metavar="N", help="What RabbitMQ refused up to here was seen to."),
    ] = 0,
    dsn: Dsn = None,
    schema: Schema = None,
    amqp_url: AmqpUrl = None,
    management_url: ManagementUrl = None,
    as_json: AsJson = False,
) -> None:
    """Prove that what is committed is confirmed by RabbitMQ and handled by each subscription, in order, without holes.

    Positions that are missing are named, the first 20 of each kind. The exit code is 1 if something is missing, parked,
    out of order, or was given up by the relay: a queue refused it. It reads all of the store, page by page, and changes
    nothing.
    """
    settings = Settings.of(dsn=dsn, store=schema, amqp_url=amqp_url, management_url=management_url)
    output = Output(as_json=as_json)
    parts = asyncio.run(_verify(settings, to, wait, erased, given_up))
    for part in parts:
        output.result(
            part.sentence if part.ok else f"{part.sentence}  <-- NOT PROVED", check=part.check, ok=part.ok, **part.facts
        )
    problems = [part.problem for part in parts if not part.ok]
    if not as_json:
        output.result(f"NOT PROVED: {problems[0]}" if problems else "committed = confirmed = handled")
    if problems:
        raise typer.Exit(FAILED)


async def _verify(settings: Settings, to: int | None, wait: float, erased: bool, given_up: int) -> list[Part]:
    with bar("verifying") as advance:
        async with opened(settings, "verify") as store:
            return await prove(store, settings, advance, to=to, wait=wait, erased=erased, given_up_to=given_up)
