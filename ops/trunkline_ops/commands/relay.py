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
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, ManagementUrl, Schemas, finite
from trunkline_ops.settings import Settings
from trunkline_store import EventStore, Unavailable
from trunkline_store.masking import masked

if TYPE_CHECKING:  # what would only make the start of other commands longer is imported below
    from trunkline_relay.metrics import Registry
    from trunkline_relay.view import View

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
        typer.Option(
            min=0.5,
            max=3600,
            callback=finite,
            metavar="SECONDS",
            help="After so long a relay that has vanished is replaced.",
        ),
    ] = 5.0,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Serve the status page there, /healthz, /readyz and /metrics, as on 127.0.0.1:9464; else "
            "TRUNKLINE_LISTEN.",
        ),
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="What it holds opens the status page: a bearer token, or the password that a browser asks for; else "
            "TRUNKLINE_TOKEN_FILE, else TRUNKLINE_TOKEN. Without one, only a loopback address has the page.",
        ),
    ] = None,
    public_page: Annotated[
        bool, typer.Option("--public-page", help="Show the status page to everybody; else TRUNKLINE_PUBLIC_PAGE.")
    ] = False,
    dsn: Dsn = None,
    schema: Schemas = None,
    amqp_url: AmqpUrl = None,
    management_url: ManagementUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish the events of stores to RabbitMQ, until SIGTERM or Ctrl-C.

    One relay of a store leads, further ones stand by. A database or a broker that is away is waited for, and that is
    logged. With several stores, each has a relay of its own; one that needs a person does not stop the others, and is
    tried again. Where all of them do, or the only one, the program ends.
    """
    settings = Settings.of(
        dsn=dsn,
        stores=schema,
        amqp_url=amqp_url,
        management_url=management_url,
        listen=listen,
        token_file=token_file,
        public_page=public_page or None,
    )
    settings.database()
    settings.broker()
    settings.page_token()
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

    from trunkline_ops.queues import known_broker
    from trunkline_relay.metrics import Metrics, Registry
    from trunkline_relay.status import Status
    from trunkline_relay.view import View

    log = structlog.get_logger("trunkline.relay")
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    registry = Registry()

    async def live(each: Settings, view: View, all_of_them: list[View]) -> None:
        pause, longest = _REVIVE_SECONDS
        while not stop.is_set():
            try:
                await _relay(each, view, stop, start_from, lease)
                return
            except Exception as error:
                told, view.status.failure = view.status.failure, masked(str(error))
                if all(other.status.failure is not None for other in all_of_them):
                    raise
                if told is None:
                    pause = _REVIVE_SECONDS[0]
                if told != view.status.failure:
                    log.error("relay failed", store=each.store, error=str(error), kind=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()
            pause = min(longest, pause * 2)

    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(known_broker(settings))
        stores = settings.each_store()
        views = [View(Status(each.store), Metrics(each.store, registry), broker) for each in stores]
        await stack.enter_async_context(_listening(settings, registry, views))
        lives = [
            asyncio.create_task(live(each, view, views), name=f"relay of {each.store}")
            for each, view in zip(stores, views, strict=True)
        ]
        try:
            await asyncio.gather(*lives)
        finally:
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)
    log.info("stopped")


@asynccontextmanager
async def _listening(settings: Settings, registry: Registry, stores: list[View]) -> AsyncIterator[None]:
    """The endpoints, if they are wanted."""
    if settings.listen is None:
        yield
        return
    from trunkline_relay.guard import Guard
    from trunkline_relay.serve import Server

    host, port = settings.listen
    guard = Guard(host, settings.page_token(), public=settings.public_page)
    async with Server(host, port, registry, [each.status for each in stores], views=stores, guard=guard):
        yield


async def _relay(settings: Settings, view: View, stop: asyncio.Event, start_from: int | None, lease: float) -> None:
    """The relay of one store, from opening the store on. Raises what needs a person."""
    from structlog.contextvars import bind_contextvars

    from trunkline_relay import Relay

    bind_contextvars(store=settings.store)  # in this task and those that it starts: their lines name the store
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
            view.store = opening.result()
            running = Relay(
                view.store,
                settings.broker(),
                start_from=start_from,
                lease=lease,
                metrics=view.metrics,
                status=view.status,
            )
            stopping.add_done_callback(lambda _: running.stop())
            await running.run()
    finally:
        view.store = None
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
