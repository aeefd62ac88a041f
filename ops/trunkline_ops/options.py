"""What commands share: options, what is asked of their values, and the question before what cannot be undone."""

import sys
from typing import Annotated

import typer

from trunkline_ops.failure import Misuse

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="URL",
        help="The database, as postgresql://user@host/database; else TRUNKLINE_DSN.",
        rich_help_panel="Connection",
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--schema",
        metavar="NAME",
        help="The store's schema, and its exchange; else TRUNKLINE_SCHEMA, else eventstore.",
        rich_help_panel="Connection",
    ),
]
Schemas = Annotated[
    list[str] | None,
    typer.Option(
        "--schema",
        metavar="NAME",
        help="The store's schema, and its exchange; once for each of several stores; else TRUNKLINE_SCHEMAS (with "
        "commas between the names), else TRUNKLINE_SCHEMA, else eventstore.",
        rich_help_panel="Connection",
    ),
]
AmqpUrl = Annotated[
    str | None,
    typer.Option(
        "--amqp-url",
        metavar="URL",
        help="RabbitMQ, as amqp://user:password@host/vhost; else TRUNKLINE_AMQP_URL.",
        rich_help_panel="Connection",
    ),
]
ManagementUrl = Annotated[
    str | None,
    typer.Option(
        "--management-url",
        metavar="URL",
        help="RabbitMQ's management API, as http://host:15672; else TRUNKLINE_MANAGEMENT_URL. It is asked as the user "
        "of this URL, else of the AMQP URL.",
        rich_help_panel="Connection",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs; errors too.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def finite(value: float) -> float:
    """Refuses what is within all bounds, and no number."""
    if value != value:
        raise typer.BadParameter("nan is no number.")
    return value


def confirm(question: str, *, yes: bool) -> None:
    """Asks, unless it is confirmed already. Raises `typer.Abort` after a no, and `Misuse` where nobody can be asked."""
    if not yes:
        if not sys.stdin.isatty():
            raise Misuse(f"{question} Nobody can be asked here: confirm with --yes")
        typer.confirm(question, abort=True, err=True)
