"""The command `ops/servers`: python -m trunkline_ops.servers.stay"""

import asyncio
import signal
import sys
import threading
from urllib.parse import urlsplit

import asyncpg
from rich.console import Console

from trunkline_ops.program import run
from trunkline_ops.servers import ServerError, postgres_server, rabbitmq_server
from trunkline_ops.servers.paste import to_paste

_NAME = "app"


def servers() -> int:
    """Starts a PostgreSQL and a RabbitMQ to try things with, and keeps them running until Ctrl-C.

    They are new ones, whatever the environment names, on free ports of the loopback interface, with an empty database
    and an empty vhost, both named `app`. On standard output are lines to paste into another terminal. Servers and
    data are gone at the end.
    """
    errors = Console(stderr=True)
    try:
        errors.print("servers: starting PostgreSQL and RabbitMQ", highlight=False)
        with (
            postgres_server(private=True) as postgres,
            rabbitmq_server(private=True, settings={"default_vhost": _NAME}) as rabbitmq,
        ):
            asyncio.run(_create_database(postgres.dsn))
            print(to_paste(_app(postgres.dsn), _app(rabbitmq.amqp_url), rabbitmq.management_url), flush=True)
            errors.print(
                f"RabbitMQ's UI: {rabbitmq.management_url}, user {rabbitmq.user}, password {rabbitmq.password}\n"
                "Paste the two lines above into another terminal. Servers and data stay until Ctrl-C.",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            _wait_until_told()
    except (ServerError, asyncpg.PostgresError, OSError) as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1
    return 0


def _app(url: str) -> str:
    return urlsplit(url)._replace(path=f"/{_NAME}").geturl()


async def _create_database(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {_NAME}")
    finally:
        await connection.close()


def _wait_until_told() -> None:
    """By SIGTERM or SIGHUP: that is how this ends, where Ctrl-C cannot be pressed."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: told.set())
    told.wait()


if __name__ == "__main__":
    try:
        sys.exit(run(servers, "ops/servers"))
    except KeyboardInterrupt:  # also while it ends
        sys.exit(130)
