"""`relay`: runs the relays of one store or of several until it is told to stop."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, Schemas
from trunkline_ops.settings import Settings, masked
from trunkline_store import EventStore, Unavailable

if TYPE_CHECKING:  # what would only make the start of other commands longer is imported below
    from trunkline_relay.metrics import Registry
    from trunkline_relay.status import Status

_CONNECTIONS: Final = 5
_CLOSING_SECONDS: Final = 1.0
"""Whoever stops a relay waits, and may kill it after ten seconds."""
_RETRY_SECONDS: Final = (0.2, 5.0)
_REVIVE_SECONDS: Final = (1.0, 30.0)
"""Between two tries of a store that failed beside others: a person may have mended it."""


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
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Answer GET /healthz, /readyz and /metrics there, as on 127.0.0.1:9464; else TRUNKLINE_LISTEN.",
        ),
    ] = None,
    dsn: Dsn = None,
    schema: Schemas = None,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish the events of stores to RabbitMQ, until SIGTERM or Ctrl-C.

    One relay of a store leads, further ones stand by. A database or a broker that is away is waited for, and that is
    logged. With several stores, each has a relay of its own; one that needs a person does not stop the others, and is
    tried again. Where all of them do, or the only one, the program ends.
    """
    settings = Settings.of(dsn=dsn, stores=schema, amqp_url=amqp_url, listen=listen)
    settings.database()
    settings.broker()
    start_from = _position(start)
    import uvloop

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
    """Until it is told to stop, or each of the relays needs a person; then the last one's error is raised."""
    import structlog

    from trunkline_relay.metrics import Registry
    from trunkline_relay.status import Status

    log = structlog.get_logger("trunkline.relay")
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    registry = Registry()
    stores = [(each, Status(each.store)) for each in settings.each_store()]
    statuses = [status for _, status in stores]

    async def live(each: Settings, status: Status) -> None:
        pause, longest = _REVIVE_SECONDS
        while not stop.is_set():
            try:
                await _relay(each, status, registry, stop, start_from, lease)
                return
            except Exception as error:
                told, status.failure = status.failure, masked(str(error))
                if all(status.failure is not None for status in statuses):
                    raise
                if told is None:
                    pause = _REVIVE_SECONDS[0]
                if told != status.failure:
                    log.error("relay failed", store=each.store, error=str(error), kind=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()
            pause = min(longest, pause * 2)

    async with _listening(settings, registry, statuses):
        lives = [asyncio.create_task(live(*each), name=f"relay of {each[0].store}") for each in stores]
        try:
            await asyncio.gather(*lives)
        finally:
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)
    log.info("stopped")


@asynccontextmanager
async def _listening(settings: Settings, registry: Registry, stores: list[Status]) -> AsyncIterator[None]:
    """The endpoints, if they are wanted."""
    if settings.listen is None:
        yield
        return
    from trunkline_relay.serve import Server

    async with Server(*settings.listen, registry, stores):
        yield


async def _relay(
    settings: Settings, status: Status, registry: Registry, stop: asyncio.Event, start_from: int | None, lease: float
) -> None:
    """The relay of one store, from opening the store on. Raises what needs a person."""
    from structlog.contextvars import bind_contextvars

    from trunkline_relay import Relay
    from trunkline_relay.metrics import Metrics

    bind_contextvars(store=settings.store)  # in this task and those that it starts: their lines name the store
    metrics = Metrics(settings.store, registry)  # all of them are there from the beginning
    stopping = asyncio.create_task(stop.wait(), name="told to stop")
    try:
        async with AsyncExitStack() as stack:
            opening = asyncio.create_task(_open_in_the_end(settings, stack), name="open the store")
            try:
                await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not opening.done():
                    return
            finally:
                opening.cancel()
                await asyncio.wait({opening})
            running = Relay(
                opening.result(),
                settings.broker(),
                start_from=start_from,
                lease=lease,
                metrics=metrics,
                status=status,
            )
            stopping.add_done_callback(lambda _: running.stop())
            await running.run()
    finally:
        stopping.cancel()


async def _open_in_the_end(settings: Settings, stack: AsyncExitStack) -> EventStore:
    import structlog

    log: Any = structlog.get_logger("trunkline.relay")
    pause, longest = _RETRY_SECONDS
    while True:
        try:
            return await stack.enter_async_context(
                opened(settings, "relay", connections=_CONNECTIONS, closing=_CLOSING_SECONDS)
            )
        except Unavailable as error:
            log.warning("database unavailable", error=str(error), dsn=masked(settings.database()))
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)
