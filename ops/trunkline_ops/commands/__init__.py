"""The commands of `trunkline`. Each module has those that touch the same thing."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from trunkline_ops.commands.append import append
from trunkline_ops.commands.asyncapi import asyncapi
from trunkline_ops.commands.consume import consume
from trunkline_ops.commands.definitions import definitions
from trunkline_ops.commands.doctor import doctor
from trunkline_ops.commands.read import read, tail
from trunkline_ops.commands.relay import relay
from trunkline_ops.commands.replay import replay
from trunkline_ops.commands.roles import roles
from trunkline_ops.commands.schema import create, drop, init, migrate, migrations, reset
from trunkline_ops.commands.status import status
from trunkline_ops.commands.streams import streams
from trunkline_ops.commands.subscriptions import subscriptions
from trunkline_ops.commands.transfer import export, import_
from trunkline_ops.commands.verify import verify
from trunkline_ops.failure import Program

app = typer.Typer(
    cls=Program,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _panel, _command, _example in (
    ("The store", create, "trunkline create --dsn postgresql://localhost/app"),
    ("The store", init, "trunkline init --schema invoices --data-type jsonb"),
    ("The store", migrate, "trunkline migrate"),
    ("The store", migrations, "trunkline migrations --json"),
    ("The store", roles, "trunkline roles --login billing --as writer"),
    ("The store", reset, "trunkline reset --schema invoices"),
    ("The store", drop, "trunkline drop --schema invoices"),
    ("Events", append, """trunkline append order-42 OrderPlaced '{"total": 12}' --expected none"""),
    ("Events", read, "trunkline read order-42 --from 3"),
    ("Events", tail, "trunkline tail --category order --json | jq .data"),
    ("Events", streams, "trunkline streams --category order --sort version --desc"),
    ("Events", export, "trunkline export orders.ndjson"),
    ("Events", import_, "trunkline import orders.ndjson --schema copy"),
    ("RabbitMQ", relay, "trunkline relay --amqp-url amqp://guest:guest@localhost"),
    ("RabbitMQ", replay, "trunkline replay --to billing --from 2048 --category order"),
    ("RabbitMQ", asyncapi, "trunkline asyncapi --schema invoices > invoices.asyncapi.json"),
    ("RabbitMQ", definitions, "trunkline definitions --passwords secrets > definitions.json"),
    ("RabbitMQ", consume, "trunkline consume app.projections:consumer"),
    ("On call", status, "trunkline status --watch --management-url http://localhost:15672"),
    ("On call", verify, "trunkline verify --to 204800 --json"),
    ("On call", doctor, "trunkline doctor --management-url http://localhost:15672"),
):
    app.command(_command.__name__.rstrip("_"), rich_help_panel=_panel, epilog=f"Example: {_example}")(_command)
app.add_typer(subscriptions, name="subscriptions", rich_help_panel="RabbitMQ")


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"trunkline {version('trunkline')}")
        except PackageNotFoundError:
            print("trunkline, not installed")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def trunkline(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """An event store in PostgreSQL with a trunk line to RabbitMQ.

    Say where they are once, in TRUNKLINE_DSN and TRUNKLINE_AMQP_URL, or behind each command, with --dsn and --amqp-url.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
