"""`append`: one event from the arguments, or many from standard input."""

import asyncio
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from io import BufferedIOBase
from itertools import count
from typing import Annotated, Final, NamedTuple, cast
from uuid import UUID

import asyncpg
import msgspec
import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse, StoppedAt
from trunkline_ops.json_text import checked, decoded
from trunkline_ops.lines import bursts, parsed
from trunkline_ops.options import AsJson, Dsn, Schema
from trunkline_ops.output import Output
from trunkline_ops.settings import Settings
from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Appended,
    DuplicateEvent,
    EventData,
    EventStore,
    InvalidArgument,
    InvalidEvent,
    TrunklineError,
    new_event_id,
)
from trunkline_store.events import check_events, check_stream
from trunkline_store.serialize import JSON

_GROUP: Final = 500
"""Lines that are appended at once, at most."""
_STDIN: Final = "-"
_EXPECTED: Final = {"any": ANY_VERSION, "none": NO_STREAM, "exists": STREAM_EXISTS}


def append(
    stream: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="The stream; - takes lines from standard input.")
    ] = None,
    event_type: Annotated[str | None, typer.Argument(metavar="TYPE", help="What has happened.")] = None,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="JSON; {} if it is not given.")] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON", help="An object that goes along.")] = None,
    expected: Annotated[
        str,
        typer.Option(metavar="any|none|exists|N", help="What the stream must be at, else nothing is appended."),
    ] = "any",
    correlation_id: Annotated[str | None, typer.Option(metavar="TEXT", help="What the event belongs to.")] = None,
    causation_id: Annotated[str | None, typer.Option(metavar="TEXT", help="What it was caused by.")] = None,
    event_id: Annotated[
        UUID | None, typer.Option("--id", help="The same event, id and all, is not appended a second time.")
    ] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Take lines from standard input, as does STREAM -.")] = False,
    lines_stream: Annotated[
        str | None, typer.Option("--stream", metavar="STREAM", help="The stream of lines that name none.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Append an event to a stream; or, with - or --stdin, one for each line of standard input.

    A line is an object as read --json prints it: stream, type, data, metadata, id, correlation_id, causation_id,
    created_at. Consecutive lines of a stream are appended together. At a bad line it stops, and says where.
    """
    settings = Settings.of(dsn=dsn, store=schema)
    version = _version(expected)
    output = Output(as_json=as_json)
    if stdin or stream == _STDIN:
        if event_type or data or metadata or event_id or stream not in (None, _STDIN):
            raise Misuse("lines bring their own TYPE, DATA, --metadata and --id; --stream names their stream")
        if version != ANY_VERSION and not lines_stream:
            raise Misuse("--expected is about one stream: name it with --stream")
        _append_lines(settings, _Lines(lines_stream, correlation_id, causation_id), version, output)
        return
    if stream is None or event_type is None:
        raise Misuse("STREAM and TYPE are needed, or - to take lines from standard input")
    if lines_stream:
        raise Misuse("--stream is for lines from standard input")
    event = EventData(
        event_type,
        checked("data", b"{}" if data is None else _bytes(data)),
        None if metadata is None else _object(metadata),
        id=event_id or new_event_id(),
        correlation_id=correlation_id,
        causation_id=causation_id,
    )
    asyncio.run(_append_one(settings, stream, version, event, output))


def _version(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if text not in _EXPECTED:
        raise Misuse(f"--expected {text!r}: use any, none, exists or the stream's version")
    return _EXPECTED[text]


def _bytes(argument: str) -> bytes:
    """What was typed, also where it is no Unicode."""
    return argument.encode(errors="surrogateescape")


def _object(text: str) -> dict[str, object]:
    value = decoded("metadata", _bytes(text))
    if not isinstance(value, dict):
        raise InvalidEvent("metadata", 'a JSON object is needed, such as {"user": "ann"}')
    return value


async def _append_one(settings: Settings, stream: str, version: int, event: EventData, output: Output) -> None:
    async with opened(settings, "append", content_type=JSON) as store:
        _report(await store.append_to_stream(stream, version, [event]), output)


def _report(appended: Appended, output: Output) -> None:
    output.result(
        f"appended to {appended.stream!r}: version {appended.last_version}, position {appended.last_position}",
        **appended._asdict(),
    )


class _Event(NamedTuple):
    line: int
    stream: str
    event: EventData


class _Lines(NamedTuple):
    """What is true of lines that do not say otherwise."""

    stream: str | None
    correlation_id: str | None
    causation_id: str | None

    def event(self, number: int, line: bytes) -> _Event:
        """Raises `InvalidArgument`."""
        stream, event = parsed(line)
        if self.stream and stream not in (None, self.stream):
            raise InvalidArgument(f"stream {stream!r}: --stream is {self.stream!r}")
        stream = stream or self.stream
        if stream is None:
            raise InvalidArgument("it names no stream, and neither does --stream")
        event = msgspec.structs.replace(
            event,
            correlation_id=event.correlation_id or self.correlation_id,
            causation_id=event.causation_id or self.causation_id,
        )
        check_stream(stream)
        check_events([event])
        return _Event(number, stream, event)

    def groups(self, lines: Iterable[tuple[bytes, int]]) -> Iterator[list[_Event]]:
        """Consecutive events of one stream. Raises `StoppedAt` at a bad line, after what stands before it."""
        group: list[_Event] = []
        for line, number in lines:
            if not line.strip():
                continue
            try:
                event = self.event(number, line)
            except InvalidArgument as error:
                if group:
                    yield group
                raise StoppedAt(number, number) from error
            if group and (len(group) == _GROUP or event.stream != group[0].stream):
                yield group
                group = []
            group.append(event)
        if group:
            yield group


class _Appending:
    """Appends groups one after the other, and knows how far it is."""

    def __init__(self, runner: asyncio.Runner, store: EventStore, version: int, output: Output) -> None:
        self.events = 0
        self.line = 1
        self._runner = runner
        self._store = store
        self._version = version
        self._output = output

    def append(self, group: list[_Event]) -> None:
        """Raises `StoppedAt`. A group of which an earlier try has stored a part is appended one by one."""
        self.line = group[0].line
        events = [each.event for each in group]
        try:
            appended = self._runner.run(self._store.append_to_stream(group[0].stream, self._version, events))
        except (TrunklineError, asyncpg.PostgresError) as error:
            if len(group) == 1 or not isinstance(error, DuplicateEvent):
                raise StoppedAt(self.line, group[-1].line) from error
            for each in group:
                self.append([each])
            return
        if self._version != ANY_VERSION:
            self._version = appended.last_version
        self.events += len(group)
        self.line = group[-1].line + 1
        if self._output.as_json:
            _report(appended, self._output)


def _append_lines(settings: Settings, lines: _Lines, version: int, output: Output) -> None:
    """Standard input is read while no event loop runs, so that Ctrl-C ends a read that waits."""
    if sys.stdin.isatty():
        print("one JSON object a line; Ctrl-D ends", file=sys.stderr)
    numbers = count(1)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        store = runner.run(stack.enter_async_context(opened(settings, "append", content_type=JSON)))
        appending = _Appending(runner, store, version, output)
        try:
            for burst in bursts(cast("BufferedIOBase", sys.stdin.buffer)):
                for group in lines.groups(zip(burst, numbers, strict=False)):
                    appending.append(group)
        except StoppedAt as stop:
            stop.appended = appending.events
            raise
        except KeyboardInterrupt as interrupt:
            raise StoppedAt(appending.line, appending.line, appending.events) from interrupt
        finally:
            runner.run(stack.aclose())
    if not output.as_json:
        output.result(f"appended {appending.events} {'event' if appending.events == 1 else 'events'}")
