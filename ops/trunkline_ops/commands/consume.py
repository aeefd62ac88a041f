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
from trunkline_store import Unavailable

if TYPE_CHECKING:
    from trunkline_consumer import Consumer

log = logging.getLogger("trunkline.consumer")
_RETRY_SECONDS: Final = 1.0


def consume(
    where: Annotated[
        str, typer.Argument(metavar="MODULE:CONSUMER", help="A Consumer of a module that can be imported from here.")
    ],
    as_json: AsJson = False,
) -> None:
    """Run a consumer's handlers, until SIGTERM or Ctrl-C; those that are under way then have their grace.

    Its store is opened and closed here. Servers that are away are waited for, and that is logged.
    """
    consumer = _consumer(where)
    from trunkline_ops.logs import log_to_stderr  # here: it would only make the start of other commands longer

    log_to_stderr(as_json=as_json)
    asyncio.run(_run(consumer))


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


async def _run(consumer: "Consumer") -> None:
    running = asyncio.create_task(_opened(consumer), name="handlers")
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
