"""`relay`: runs a relay until it is told to stop."""

import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final

import asyncpg
import structlog
import typer

from trunkline_ops.connect import opened
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, Schema
from trunkline_ops.settings import Settings, masked
from trunkline_store import EventStore, StoreUnavailable, Unavailable

_CONNECTIONS: Final = 5
_RETRY_SECONDS: Final = (0.2, 5.0)
_NEEDS_A_PERSON: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ClientConfigurationError,
)

log = structlog.get_logger("trunkline.relay")


def relay(
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="origin|current|N", help="Where a store's first relay begins; N itself is not published."
        ),
    ] = "origin",
    lease: Annotated[
        float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="After so long a leader that is gone is replaced.")
    ] = 5.0,
    dsn: Dsn = None,
    schema: Schema = None,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish a store's events to RabbitMQ, until SIGTERM or Ctrl-C.

    Further ones stand by. It waits for a database or a broker that is away, and logs that to standard error.
    """
    settings = Settings.of(dsn=dsn, store=schema, amqp_url=amqp_url)
    settings.database(), settings.broker()
    ...
