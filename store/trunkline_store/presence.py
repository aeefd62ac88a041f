"""How this process is called where people look for it: in leases, and in RabbitMQ's list of connections."""

from __future__ import annotations

import os
import socket
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any


def process_name() -> str:
    """`host:pid`."""
    return f"{socket.gethostname()}:{os.getpid()}"


@cache
def version() -> str:
    """Of the Trunkline that is installed."""
    try:
        return version_of("trunkline")
    except PackageNotFoundError:
        return "not installed"


def client_properties(what: str) -> dict[str, Any]:
    """What an AMQP connection says of itself; what: whose it is and what for, such as `eventstore relay`.

    RabbitMQ's UI shows the name beside the address, and product and version as the client.
    """
    return {"connection_name": f"{what} ({process_name()})", "product": "Trunkline", "version": version()}
