"""`subscriptions`: what they are doing, and what an operator tells them. Their owners do it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, Schema, Yes, confirm
from trunkline_ops.output import Output, subscription_facts, visible
from trunkline_ops.settings import Settings
from trunkline_store import (
    CURRENT,
    ORIGIN,
    BrokerUnavailable,
    EventStore,
    InvalidArgument,
    Move,
    Start,
    SubscriptionInfo,
    SubscriptionNotHalted,
    names,
)
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
    """Move a subscription, back or forward; a running owner continues from there.

    Ask first if events would be handed out again or never, or if parked batches would be forgotten.
    """
    place = _place(to)

    async def preview(store: EventStore, _: Output) -> Move:
        return await store.subscriptions.preview_reset(name, place)

    async def do(store: EventStore, output: Output) -> None:
        forgotten = await store.subscriptions.reset(name, planned.position)
        move = planned._replace(forgotten=forgotten)
        told = _consequences(move)
        output.result(
            f"{name} is at {move.position}" + (f"; {told}" if told else ""),
            name=name,
            checkpoint=move.position,
            again=move.again,
            passed_over=move.passed_over,
            forgotten=forgotten,
        )

    planned = _with_store(preview, dsn, schema, as_json)
    if consequences := _consequences(planned):
        confirm(f"Move {name!r} to {planned.position}: {consequences}?", yes=yes)
    _with_store(do, dsn, schema, as_json)


def _consequences(move: Move) -> str:
    """Return what a reset does besides moving, as text."""
    parts = [
        f"{events(move.again)} come again" if move.again else "",
        f"{events(move.passed_over)} not handled yet are passed over" if move.passed_over else "",
        f"{_batches(move.forgotten)} forgotten" if move.forgotten else "",
    ]
    return ", ".join(part for part in parts if part)


def _get(name: str, dsn: str | None, schema: str | None, as_json: bool) -> SubscriptionInfo:
    """Return the subscription's present state. Raises `SubscriptionNotFound`."""

    async def get(store: EventStore, _: Output) -> SubscriptionInfo:
        return await store.subscriptions.get(name)

    return _with_store(get, dsn, schema, as_json)


def _batches(count: int) -> str:
    return f"{count} parked {'batch' if count == 1 else 'batches'}"


@subscriptions.command()
def skip(
    name: Name,
    at: Annotated[
        int | None, typer.Option("--at", min=0, max=MAX_POSITION, metavar="N", help="Only if it has halted here.")
    ] = None,
    yes: Yes = False,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Finish the batch at which a subscription halted, without handling it; ask first.

    Unlike with reset, all other finished batches stay finished. Start its program again afterwards.
    """

    async def do(store: EventStore, output: Output) -> None:
        skipped = await store.subscriptions.skip(name, at=at)
        output.result(
            f"{name} skips {skipped.first} to {skipped.last} of {skipped.stream} and is at {skipped.checkpoint}: "
            "start its program again",
            name=name,
            **skipped._asdict(),
        )

    if not yes:
        halt = halt_of(_get(name, dsn, schema, as_json).halted)
        if halt is None:
            raise SubscriptionNotHalted(name)
        at = halt.position if at is None else at
        confirm(f"Skip the batch at {halt.position} in {name!r}, which failed with {visible(halt.error)}?", yes=yes)
    _with_store(do, dsn, schema, as_json)


def _place(text: str) -> int | Start | datetime:
    if text.lower() in ("origin", "current"):
        return ORIGIN if text.lower() == "origin" else CURRENT
    try:
        return int(text) if text.isdecimal() else datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Misuse(f"--to {text!r}: use origin, current, a position, or a time as in ISO 8601") from None


@subscriptions.command()
def delete(
    name: Name,
    yes: Yes = False,
    dsn: Dsn = None,
    schema: Schema = None,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove a subscription with its checkpoint, its parked batches and its queue; ask first.

    Its handlers end, wherever they run. A consumer that is started again makes it anew, with the `start_from` of its
    code. Without an AMQP URL, or while RabbitMQ is away, its queue is left to expire.
    """
    settings = Settings.of(dsn=dsn, store=schema, amqp_url=amqp_url)
    broker = None if settings.amqp_url is None else settings.broker()

    async def do(store: EventStore, output: Output) -> None:
        await store.subscriptions.delete(name)
        queue = await _delete_queue(broker, names.queue(store.schema, name))
        told = [f"{_batches(info.parked)} forgotten"] * bool(info.parked) + [queue] * (queue != "deleted")
        output.result(
            f"{name} is deleted" + "".join(f"; {each}" for each in told),
            name=name,
            forgotten=info.parked,
            queue=queue,
        )

    info = _get(name, dsn, schema, as_json)
    forgets = f" and {_batches(info.parked)}" if info.parked else ""
    confirm(f"Delete {name!r} with its checkpoint {info.checkpoint}{forgets}?", yes=yes)
    _with_store(do, dsn, schema, as_json)


async def _delete_queue(url: str | None, queue: str) -> str:
    """Remove a subscription's queue, and return the outcome as text."""
    if url is None:
        return "its queue is left to expire: no AMQP URL is given"
    from trunkline_consumer.receive import delete_queue

    try:
        await delete_queue(url, queue)
    except BrokerUnavailable as error:
        return f"its queue is left to expire: {error}"
    return "deleted"


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
def discard(
    name: Name, at: At = None, yes: Yes = False, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False
) -> None:
    """Have parked batches forgotten; ask first if that is all of them."""

    async def do(store: EventStore, output: Output) -> None:
        wanted = await store.subscriptions.discard(name, at)
        await _check_there(store, name, at, wanted)
        output.result(f"{wanted} to be forgotten", name=name, wanted=wanted)

    if at is None and not yes and (count := _get(name, dsn, schema, as_json).parked):
        confirm(f"Forget {_batches(count)} of {name!r}, which will never be handled?", yes=yes)
    _with_store(do, dsn, schema, as_json)


async def _check_there(store: EventStore, name: str, at: int | None, wanted: int) -> None:
    """Raises `InvalidArgument` where one batch was meant, and it is not one that this can be asked of."""
    if at is None or wanted:
        return
    found = await store.subscriptions.parked(name, start=at, count=1)
    if found and found[0].first_position == at:
        raise InvalidArgument(f"--at {at}: this batch waits behind one of its key that failed: retry that one")
    raise InvalidArgument(f"--at {at}: no parked batch of {name!r} begins there; `subscriptions parked` lists them")
