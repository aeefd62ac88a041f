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
from trunkline_ops.progress import bar
from trunkline_ops.settings import Settings
from trunkline_store import EventStore, InvalidArgument, RecordedEvent
from trunkline_store.events import category_of, check_category, check_stream
from trunkline_store.serialize import is_json as is_json_type
from trunkline_store.store import MAX_POSITION

_SCREEN: Final = 100
"""Events for a person who did not say how many."""
_POLL_SECONDS: Final = (0.02, 0.1)
"""Between two looks for new events: while they come, and when none has come for a while."""


def read(
    stream: Annotated[str | None, typer.Argument(metavar="STREAM", help="All streams, if it is not given.")] = None,
    start: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=0,
            max=MAX_POSITION,
            metavar="N",
            help="Begin here: at a stream's version, or at a position of all.",
        ),
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
        is_json = is_json_type(store.content_type)
        async for event in _until_now(store, stream, start):
            if shown == limit:
                if count is None:
                    output.flush()
                    print(f"there is more: go on with --from {event.event_number}, or give --count", file=sys.stderr)
                break
            output.event(event, is_json=is_json)
            shown += 1
    output.flush()


async def _until_now(store: EventStore, stream: str | None, start: int | None) -> AsyncIterator[RecordedEvent]:
    """A stream's, or all streams', without what comes meanwhile: beside busy writers there would be no end."""
    if stream is None:
        end, events = await store.safe_position(), store.stream_all_forward(start=start)
    else:
        end, events = (await store.stream_info(stream)).version, store.stream_forward(stream, start=start)
    async for event in events:
        if event.event_number > end:
            return
        yield event


def tail(
    start: Annotated[
        int | None,
        typer.Option("--from", min=0, max=MAX_POSITION, metavar="N", help="Begin at this position, not now."),
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

    group = category or (None if stream is None else category_of(stream) or None)  # an empty one cannot be read alone
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
        is_json = is_json_type(store.content_type)
        position = await store.safe_position() + 1 if start is None else start
        if last is not None:
            position = await _before(store, position, last, wanted)
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
                    output.event(event, is_json=is_json)
                position = event.position + 1
            output.flush()
            pause = shortest if position > before else min(longest, pause * 1.5)
            await asyncio.sleep(pause)


async def _before(store: EventStore, position: int, count: int, wanted: Callable[[RecordedEvent], bool]) -> int:
    """Where the last `count` events before a position begin that are wanted. Of rare ones it may take all of the store,
    and that is shown; memory holds a page."""
    begin, found = position, 0
    with bar("looking back") as advance:
        async for event in store.stream_all_backward(start=max(0, position - 1)):
            if wanted(event):
                begin, found = event.position, found + 1
                if found == count:
                    break
            advance(position - event.position, position, f"{found} found, at position {event.position}")
    return begin


def _nobody_reads() -> bool:
    """Whether the other end of the pipe is closed: a write would tell, but there may be nothing to write for long."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return bool(poll.poll(0))
