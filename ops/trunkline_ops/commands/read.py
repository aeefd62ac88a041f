"""`read` and `tail`: events that are there, and events as they come."""

import asyncio
import select
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Final

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AsJson, Dsn, Schema
from trunkline_ops.output import Output
from trunkline_ops.settings import Settings
from trunkline_store import EventStore, InvalidArgument, RecordedEvent
from trunkline_store.events import category_of, check_category, check_stream

_SCREEN: Final = 100
"""Events for a person who did not say how many."""
_POLL_SECONDS: Final = (0.02, 0.1)
"""Between two looks for new events: while they come, and when none has come for a while."""


def read(
    stream: Annotated[str | None, typer.Argument(metavar="STREAM", help="All streams, if it is not given.")] = None,
    start: Annotated[
        int | None,
        typer.Option("--from", min=0, metavar="N", help="Begin here: at a stream's version, or at a position of all."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many; else all, or 100 on a terminal.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Print the events of a stream, or of all streams, in their order."""
    settings = Settings.of(dsn=dsn, store=schema)
    asyncio.run(_read(settings, stream, start, count, Output(as_json=as_json)))


async def _read(settings: Settings, stream: str | None, start: int | None, count: int | None, output: Output) -> None:
    limit = _SCREEN if count is None and sys.stdout.isatty() else count
    shown = 0
    async with opened(settings, "read") as store:
        async for event in _until_now(store, start) if stream is None else store.stream_forward(stream, start=start):
            if shown == limit:
                if count is None:
                    output.flush()
                    print(f"there is more: go on with --from {event.event_number}, or give --count", file=sys.stderr)
                break
            output.event(event)
            shown += 1
    output.flush()


async def _until_now(store: EventStore, start: int | None) -> AsyncIterator[RecordedEvent]:
    """All streams', without what comes meanwhile: beside busy writers there would be no end."""
    end = await store.safe_position()
    async for event in store.stream_all_forward(start=start):
        if event.position > end:
            return
        yield event


def tail(
    start: Annotated[
        int | None, typer.Option("--from", min=0, metavar="N", help="Begin at this position, not now.")
    ] = None,
    stream: Annotated[str | None, typer.Option(metavar="STREAM", help="Only this stream.")] = None,
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only streams whose name up to the first - is this.")
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this type; can be given again.")
    ] = None,
    last: Annotated[
        int | None, typer.Option(min=1, max=10_000, metavar="N", help="Begin with the last N that there are.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Print the events of all streams as they are committed, until Ctrl-C."""
    settings = Settings.of(dsn=dsn, store=schema)
    if start is not None and last is not None:
        raise Misuse("--from and --last do not go together")
    if stream is not None:
        check_stream(stream)
    if category is not None:
        try:
            check_category(category)
        except InvalidArgument as error:
            raise Misuse(f"--category: {error}") from None

    def wanted(event: RecordedEvent) -> bool:
        return (
            stream in (None, event.stream)
            and category in (None, category_of(event.stream))
            and (not types or event.type in types)
        )

    group = category or (None if stream is None else category_of(stream))
    with suppress(KeyboardInterrupt):  # the way in which it ends
        asyncio.run(_tail(settings, start, last, group, wanted, Output(as_json=as_json)))


async def _tail(
    settings: Settings,
    start: int | None,
    last: int | None,
    category: str | None,
    wanted: Callable[[RecordedEvent], bool],
    output: Output,
) -> None:
    """category: the only one that has to be read, if there is one."""
    shortest, longest = _POLL_SECONDS
    pause = shortest
    async with opened(settings, "tail") as store:
        position = await store.safe_position() + 1 if start is None else start
        for event in await _last(store, position, last, wanted):
            output.event(event)
        output.flush()
        if sys.stderr.isatty():
            print(f"following from position {position}; Ctrl-C ends", file=sys.stderr)
        while not _nobody_reads():
            before = position
            async for event in (
                store.stream_all_forward(start=position)
                if category is None
                else store.stream_category_forward(category, start=position)
            ):
                if wanted(event):
                    output.event(event)
                position = event.position + 1
            output.flush()
            pause = shortest if position > before else min(longest, pause * 1.5)
            await asyncio.sleep(pause)


async def _last(
    store: EventStore, position: int, count: int | None, wanted: Callable[[RecordedEvent], bool]
) -> list[RecordedEvent]:
    """The last `count` events before a position that are wanted, in their order."""
    found: list[RecordedEvent] = []
    if count is not None:
        async for event in store.stream_all_backward(start=position - 1):
            if wanted(event):
                found.append(event)
            if len(found) == count:
                break
    return found[::-1]


def _nobody_reads() -> bool:
    """Whether the other end of the pipe is closed: a write would tell, but there may be nothing to write for long."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return bool(poll.poll(0))
