"""`subscriptions`: what they are doing, and what an operator tells them. Their owners do it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AsJson, Dsn, Schema
from trunkline_ops.output import Output, visible
from trunkline_ops.settings import Settings
from trunkline_store import CURRENT, ORIGIN, EventStore, Start, SubscriptionInfo
from trunkline_store.words import events

subscriptions = typer.Typer(no_args_is_help=True, help="Look after subscriptions.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
At = Annotated[int | None, typer.Option("--at", min=0, metavar="N", help="Only the batch that begins here.")]


def _with_store(
    do: Callable[[EventStore, Output], Awaitable[None]], dsn: str | None, schema: str | None, as_json: bool
) -> None:
    settings, output = Settings.of(dsn=dsn, store=schema), Output(as_json=as_json)

    async def run() -> None:
        async with opened(settings, "subscriptions") as store:
            await do(store, output)

    asyncio.run(run())


def _line(info: SubscriptionInfo) -> str:
    return (
        f"{info.name}  {info.feed}  {info.state}  at {info.checkpoint}, {events(info.behind, or_more=info.or_more)} "
        f"({info.seconds_behind:.1f} s) behind, {info.parked} parked"
    )


def _facts(info: SubscriptionInfo) -> dict[str, Any]:
    return info._asdict() | {"state": info.state}


@subscriptions.command("list")
def list_all(dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """All subscriptions, with how far they are behind."""

    async def do(store: EventStore, output: Output) -> None:
        for info in await store.subscriptions.list():
            output.result(_line(info), **_facts(info))

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def show(name: Name, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """One subscription, who follows it, and why its handler gave up if it did; --json has the traceback too."""

    async def do(store: EventStore, output: Output) -> None:
        info = await store.subscriptions.get(name)
        more: list[tuple[str, str]] = []
        if info.process is not None:
            more.append((f"\n    its owner is {info.process}", "dim"))
        if info.halted is not None:
            why = json.loads(info.halted)
            more.append((f"\n    its handler gave up at position {why['position']} ({why['at']}): ", ""))
            more.append((visible(why["error"]), "red"))
        output.paragraph((_line(info), ""), *more, **_facts(info))

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def reset(
    name: Name,
    to: Annotated[str, typer.Option("--to", metavar="origin|current|N|TIME", help="What comes after it comes again.")],
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Move a subscription, back or forward; a running owner goes on from there."""
    place = _place(to)

    async def do(store: EventStore, output: Output) -> None:
        await store.subscriptions.reset(name, place)
        info = await store.subscriptions.get(name)
        output.result(f"{name} is at {info.checkpoint}", name=name, checkpoint=info.checkpoint)

    _with_store(do, dsn, schema, as_json)


def _place(text: str) -> int | Start | datetime:
    if text in ("origin", "current"):
        return ORIGIN if text == "origin" else CURRENT
    try:
        return int(text) if text.isdecimal() else datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise Misuse(f"--to {text!r}: use origin, current, a position, or a time as in ISO 8601") from None


@subscriptions.command()
def delete(name: Name, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Remove a subscription with its checkpoint. The queue at the broker is left to expire.

    Its handlers end, wherever they run. A consumer that is started again makes it anew, from where its code says.
    """

    async def do(store: EventStore, output: Output) -> None:
        await store.subscriptions.get(name)  # a misspelt one is an error
        await store.subscriptions.delete(name)
        output.result(f"{name} is deleted", name=name)

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def parked(name: Name, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """The batches that could not be handled, and those that wait behind them."""

    async def do(store: EventStore, output: Output) -> None:
        for each in await store.subscriptions.parked(name):
            facts: dict[str, Any] = each._asdict()
            why = f"{each.attempts} attempts: {each.error}" if each.attempts else "waits behind its key"
            output.result(f"{each.first_position}  {each.stream}  {why}", **facts)

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def retry(name: Name, at: At = None, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Have parked batches handled again, in their order."""

    async def do(store: EventStore, output: Output) -> None:
        count = await store.subscriptions.retry(name, at)
        output.result(f"{count} to be handled again", name=name, wanted=count)

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def discard(name: Name, at: At = None, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Have parked batches forgotten."""

    async def do(store: EventStore, output: Output) -> None:
        count = await store.subscriptions.discard(name, at)
        output.result(f"{count} to be forgotten", name=name, wanted=count)

    _with_store(do, dsn, schema, as_json)
