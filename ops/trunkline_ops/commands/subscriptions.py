"""`subscriptions`: what they are doing, and what an operator tells them. Their owners do it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AsJson, Dsn, Schema, Yes, confirm
from trunkline_ops.output import Output, subscription_facts, visible
from trunkline_ops.settings import Settings
from trunkline_store import CURRENT, ORIGIN, EventStore, InvalidArgument, Start, SubscriptionInfo
from trunkline_store.store import MAX_POSITION
from trunkline_store.subscriptions import halt_of
from trunkline_store.words import events

subscriptions = typer.Typer(no_args_is_help=True, help="Look after subscriptions.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
At = Annotated[
    int | None, typer.Option("--at", min=0, max=MAX_POSITION, metavar="N", help="Only the batch that begins here.")
]
_PAGE: Final = 100
"""Parked batches at once: each may have a traceback of 20 kB."""
T = TypeVar("T")


def _with_store(
    do: Callable[[EventStore, Output], Awaitable[T]], dsn: str | None, schema: str | None, as_json: bool
) -> T:
    settings, output = Settings.of(dsn=dsn, store=schema), Output(as_json=as_json)

    async def run() -> T:
        async with opened(settings, "subscriptions") as store:
            return await do(store, output)

    return asyncio.run(run())


def _line(info: SubscriptionInfo) -> str:
    return (
        f"{info.name}  {info.feed}  {info.state}  at {info.checkpoint}, {events(info.behind, or_more=info.or_more)} "
        f"({info.seconds_behind:.1f} s) behind, {info.parked} parked"
    )


@subscriptions.command("list")
def list_all(dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """All subscriptions, with how far they are behind."""

    async def do(store: EventStore, output: Output) -> None:
        for info in await store.subscriptions.list():
            output.result(_line(info), **subscription_facts(info))

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def show(name: Name, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """One subscription, who follows it, and why its handler gave up if it did; --json has the traceback too."""

    async def do(store: EventStore, output: Output) -> None:
        info = await store.subscriptions.get(name)
        more: list[tuple[str, str]] = []
        if info.process is not None:
            more.append((f"\n    its owner is {info.process}", "dim"))
        if (why := halt_of(info.halted)) is not None:
            more.append((f"\n    its handler gave up at position {why.position} ({visible(why.at)}): ", ""))
            more.append((visible(why.error), "red"))
        output.paragraph((_line(info), ""), *more, **subscription_facts(info))

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def reset(
    name: Name,
    to: Annotated[str, typer.Option("--to", metavar="origin|current|N|TIME", help="What comes after it comes again.")],
    yes: Yes = False,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Move a subscription, back or forward; a running owner goes on from there.

    Batches that are parked are forgotten, those that wait to be retried too: where there are any, it asks first.
    """
    place = _place(to)

    async def do(store: EventStore, output: Output) -> None:
        forgotten = await store.subscriptions.reset(name, place)
        info = await store.subscriptions.get(name)
        output.result(
            f"{name} is at {info.checkpoint}" + (f"; {_batches(forgotten)} forgotten" if forgotten else ""),
            name=name,
            checkpoint=info.checkpoint,
            forgotten=forgotten,
        )

    if not yes and (count := _parked_of(name, dsn, schema, as_json)):
        confirm(f"Forget the {_batches(count)} of {name!r}, and move it?", yes=yes)
    _with_store(do, dsn, schema, as_json)


def _parked_of(name: str, dsn: str | None, schema: str | None, as_json: bool) -> int:
    """How many batches of it are parked. Raises `SubscriptionNotFound`."""

    async def parked(store: EventStore, _: Output) -> int:
        return (await store.subscriptions.get(name)).parked

    return _with_store(parked, dsn, schema, as_json)


def _batches(count: int) -> str:
    return f"{count} parked {'batch' if count == 1 else 'batches'}"


def _place(text: str) -> int | Start | datetime:
    if text.lower() in ("origin", "current"):
        return ORIGIN if text.lower() == "origin" else CURRENT
    try:
        return int(text) if text.isdecimal() else datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Misuse(f"--to {text!r}: use origin, current, a position, or a time as in ISO 8601") from None


@subscriptions.command()
def delete(name: Name, yes: Yes = False, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Remove a subscription with its checkpoint. The queue at the broker is left to expire.

    Its handlers end, wherever they run. A consumer that is started again makes it anew, from where its code says.
    Batches that are parked are forgotten: where there are any, it asks first.
    """

    async def do(store: EventStore, output: Output) -> None:
        forgotten = (await store.subscriptions.get(name)).parked  # and a misspelt one is an error
        await store.subscriptions.delete(name)
        output.result(
            f"{name} is deleted" + (f"; {_batches(forgotten)} forgotten" if forgotten else ""),
            name=name,
            forgotten=forgotten,
        )

    if not yes and (count := _parked_of(name, dsn, schema, as_json)):
        confirm(f"Forget the {_batches(count)} of {name!r}, and delete it?", yes=yes)
    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def parked(
    name: Name,
    start: Annotated[
        int, typer.Option("--from", min=0, max=MAX_POSITION, metavar="N", help="Begin at this position.")
    ] = 0,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many; else all, or 100 on a terminal.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """The batches that could not be handled, and those that wait behind them."""

    async def do(store: EventStore, output: Output) -> None:
        limit = _PAGE if count is None and sys.stdout.isatty() else count
        shown, position = 0, start
        while page := await store.subscriptions.parked(name, start=position, count=_PAGE):
            for each in page:
                if shown == limit:
                    total = (await store.subscriptions.get(name)).parked
                    more = f"there is more, {total} in all: go on with --from {each.first_position}"
                    print(more, file=sys.stderr)
                    return
                facts: dict[str, Any] = each._asdict()
                why = f"{each.attempts} attempts: {each.error}" if each.attempts else "waits behind its key"
                output.result(f"{each.first_position}  {each.stream}  {why}", **facts)
                shown, position = shown + 1, each.first_position + 1

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def retry(name: Name, at: At = None, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Have parked batches handled again, in their order."""

    async def do(store: EventStore, output: Output) -> None:
        wanted = await store.subscriptions.retry(name, at)
        await _check_there(store, name, at, wanted)
        output.result(f"{wanted} to be handled again", name=name, wanted=wanted)

    _with_store(do, dsn, schema, as_json)


@subscriptions.command()
def discard(name: Name, at: At = None, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Have parked batches forgotten."""

    async def do(store: EventStore, output: Output) -> None:
        wanted = await store.subscriptions.discard(name, at)
        await _check_there(store, name, at, wanted)
        output.result(f"{wanted} to be forgotten", name=name, wanted=wanted)

    _with_store(do, dsn, schema, as_json)


async def _check_there(store: EventStore, name: str, at: int | None, wanted: int) -> None:
    """Raises `InvalidArgument` where one batch was meant, and it is not one that this can be asked of."""
    if at is None or wanted:
        return
    found = await store.subscriptions.parked(name, start=at, count=1)
    if found and found[0].first_position == at:
        raise InvalidArgument(f"--at {at}: this batch waits behind one of its key that failed: retry that one")
    raise InvalidArgument(f"--at {at}: no parked batch of {name!r} begins there; `subscriptions parked` lists them")
