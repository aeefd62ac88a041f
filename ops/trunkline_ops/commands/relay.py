"""`relay`: runs a relay until it is told to stop."""

import asyncio
import re
import signal
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, Schema
from trunkline_ops.settings import Settings, masked
from trunkline_store import EventStore, Unavailable

_CONNECTIONS: Final = 5
_RETRY_SECONDS: Final = (0.2, 5.0)


def relay(
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="origin|current|N",
            help="Where the first relay of a store begins; position N itself is left out. Later ones go on.",
        ),
    ] = "origin",
    lease: Annotated[
        float,
        typer.Option(min=0.5, max=3600, metavar="SECONDS", help="After so long a relay that has vanished is replaced."),
    ] = 5.0,
    dsn: Dsn = None,
    schema: Schema = None,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish a store's events to RabbitMQ, until SIGTERM or Ctrl-C.

    One relay leads, further ones stand by. A database or a broker that is away is waited for, and that is logged.
    """
    settings = Settings.of(dsn=dsn, store=schema, amqp_url=amqp_url)
    settings.database()
    settings.broker()
    start_from = _position(start)
    import uvloop  # here, as below, what would only make the start of other commands longer

    from trunkline_ops.logs import log_to_stderr

    log_to_stderr(as_json=as_json)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, start_from, lease))


def _position(start: str) -> int | None:
    """As `Relay` takes it: None is the current end."""
    if start == "current":
        return None
    if start != "origin" and not re.fullmatch(r"[0-9]{1,18}", start):
        raise Misuse(f"--from {start!r}: use origin, current or a position")
    return 0 if start == "origin" else int(start)


async def _run(settings: Settings, start_from: int | None, lease: float) -> None:
    import structlog

    from trunkline_relay import Relay

    log = structlog.get_logger("trunkline.relay")
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    stopping = asyncio.create_task(stop.wait(), name="told to stop")
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(_open_in_the_end(settings, stack, log), name="open the store")
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening})
            return
        running = Relay(opening.result(), settings.broker(), start_from=start_from, lease=lease)
        stopping.add_done_callback(lambda _: running.stop())
        await running.run()
    log.info("stopped")


async def _open_in_the_end(settings: Settings, stack: AsyncExitStack, log: Any) -> EventStore:
    pause, longest = _RETRY_SECONDS
    while True:
        try:
            return await stack.enter_async_context(opened(settings, "relay", connections=_CONNECTIONS))
        except Unavailable as error:
            log.warning("database unavailable", error=str(error), dsn=masked(settings.database()))
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)
