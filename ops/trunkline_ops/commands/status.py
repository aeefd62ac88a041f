"""`status`: everything on one screen, and who holds the line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline_ops.connect import opened
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, ManagementUrl, Schema, finite
from trunkline_ops.settings import Settings
from trunkline_store import Unavailable

if TYPE_CHECKING:
    from trunkline_ops.status import Standing


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option(min=0.1, max=3600, callback=finite, metavar="SECONDS", help="Between two looks of --watch.")
    ] = 2.0,
    dsn: Dsn = None,
    schema: Schema = None,
    amqp_url: AmqpUrl = None,
    management_url: ManagementUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show the store, its relay, RabbitMQ and all subscriptions on one screen, and who holds the line.

    What waits is told with whom it waits for: an open transaction, the relay, the broker, a handler, or nobody.
    RabbitMQ is asked where a management URL is given. With --watch, servers that are away are waited for.
    """
    settings = Settings.of(dsn=dsn, store=schema, amqp_url=amqp_url, management_url=management_url)
    if not watch:
        asyncio.run(_once(settings, as_json))
        return
    settings.database()
    with suppress(KeyboardInterrupt):  # the way in which it ends
        asyncio.run(_watch(settings, every, as_json))


async def _once(settings: Settings, as_json: bool) -> None:
    from trunkline_ops.status import standing

    async with opened(settings, "status") as store:
        _print(await standing(store, settings), as_json)


def _print(now: Standing, as_json: bool) -> None:
    from rich.console import Console

    from trunkline_ops.status import facts, lines, screen

    if as_json:
        print(json.dumps(facts(now), default=str), flush=True)
    elif sys.stdout.isatty():
        Console(highlight=False).print(screen(now))
    else:
        print("\n".join(lines(now)), flush=True)


async def _watch(settings: Settings, every: float, as_json: bool) -> None:
    if as_json or not sys.stdout.isatty():
        async for now in _looks(settings, every):
            if isinstance(now, Unavailable):
                print(json.dumps({"problem": str(now)}) if as_json else f"problem       {now}", flush=True)
            else:
                _print(now, as_json)
        return
    from rich.live import Live
    from rich.text import Text

    from trunkline_ops.status import screen

    with Live(screen=True, auto_refresh=False) as live:
        async for now in _looks(settings, every):
            live.update(Text(str(now), style="red") if isinstance(now, Unavailable) else screen(now), refresh=True)


async def _looks(settings: Settings, every: float) -> AsyncIterator[Standing | Unavailable]:
    """One look after the other; the database may go away and come back."""
    from trunkline_ops.status import standing

    before: Standing | None = None
    while True:
        try:
            async with opened(settings, "status") as store:
                while True:
                    before = await standing(store, settings, before)
                    yield before
                    await asyncio.sleep(every)
        except Unavailable as error:
            yield error
            await asyncio.sleep(every)
