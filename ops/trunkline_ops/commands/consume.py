"""`consume`: runs the handlers of an application until it is told to stop."""

import asyncio
import importlib
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trunkline_ops.failure import Misuse
from trunkline_ops.options import AsJson
from trunkline_ops.settings import Address, Settings
from trunkline_store import Unavailable

if TYPE_CHECKING:
    from trunkline_consumer import Consumer

log = logging.getLogger("trunkline.consumer")
_RETRY_SECONDS: Final = 1.0


def consume(
    where: Annotated[
        str, typer.Argument(metavar="MODULE:CONSUMER", help="A Consumer of a module that can be imported from here.")
    ],
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Answer GET /healthz, /readyz and /metrics there, as on 127.0.0.1:9465; else TRUNKLINE_LISTEN.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a consumer's handlers, until SIGTERM or Ctrl-C; those that are under way then have their grace.

    Its store is opened and closed here. Servers that are away are waited for, and that is logged.
    """
    consumer = _consumer(where)
    from trunkline_ops.logs import log_to_stderr  # here: it would only make the start of other commands longer

    log_to_stderr(as_json=as_json)
    asyncio.run(_run(consumer, Settings.of(listen=listen).listen))


def _consumer(where: str) -> "Consumer":
    from trunkline_consumer import Consumer

    module, _, name = where.partition(":")
    if not module or not name:
        raise Misuse(f"{where!r}: use module:consumer")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # one that the module itself imports
        raise Misuse(f"there is no module {error.name!r} that can be imported from here") from None
    if not isinstance(found, Consumer):
        raise Misuse(f"{where!r} is {'not there' if found is None else 'no Consumer'}")
    return found


async def _run(consumer: "Consumer", listen: Address | None) -> None:
    work = _opened(consumer) if listen is None else _observed(consumer, listen)
    running = asyncio.create_task(work, name="handlers")
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, running.cancel)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()


async def _opened(consumer: "Consumer") -> None:
    while True:
        try:
            await consumer.store.open()
            break
        except Unavailable as error:
            log.warning("%s", error)
            await asyncio.sleep(_RETRY_SECONDS)
    async with consumer.store, consumer:
        await consumer.run()


async def _observed(consumer: "Consumer", listen: Address) -> None:
    """The same, and answers."""
    from trunkline_consumer.metrics import Metrics
    from trunkline_relay.serve import Server

    metrics = Metrics(consumer)
    async with Server(*listen, metrics, [metrics], named="consumers"):
        observing = asyncio.create_task(metrics.observe(), name="metrics")
        try:
            await _opened(consumer)
        finally:
            observing.cancel()
            await asyncio.wait([observing])
