"""`doctor`: what is, against what should be."""

import asyncio
from typing import Annotated

import typer

from trunkline_ops.failure import FAILED
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, ManagementUrl, Schema, finite
from trunkline_ops.output import Output
from trunkline_ops.settings import Settings


def doctor(
    patience: Annotated[
        float,
        typer.Option(
            min=0,
            max=86400,
            callback=finite,
            metavar="SECONDS",
            help="How long a transaction may be open, or a relay or subscription stand still.",
        ),
    ] = 15.0,
    dsn: Dsn = None,
    schema: Schema = None,
    amqp_url: AmqpUrl = None,
    management_url: ManagementUrl = None,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with a store and its broker: what each finding means, and the command that mends it.

    The exit code is 1 if there is a finding. Notes are none: traps to know, and what could not be looked at. It changes
    nothing. Ask as the store's owner, with the relay's AMQP URL; RabbitMQ is asked where a management URL is given.
    """
    settings = Settings.of(dsn=dsn, store=schema, amqp_url=amqp_url, management_url=management_url)
    output = Output(as_json=as_json)
    from trunkline_ops.doctor import examine  # here: it would only make the start of other commands longer

    found = asyncio.run(examine(settings, patience=patience))
    findings = [each for each in found if each.level == "finding"]
    for each in found:
        output.paragraph(
            (f"{each.level}: " if each.level == "note" else "", "cyan"),
            (f"{each.subject}: {each.problem}", "bold"),
            (f"  [{each.code}]\n", "dim"),
            (f"    means  {each.means}\n", ""),
            (f"    mend   {each.mend}" if each.mend else "", "green"),
            **each._asdict(),
        )
    if not as_json:
        count = f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}" if findings else "nothing is wrong"
        output.result(count)
    if findings:
        raise typer.Exit(FAILED)
