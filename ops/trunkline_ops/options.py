"""The options that commands share."""

from typing import Annotated

import typer

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
