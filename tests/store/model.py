"""The store as a plain program of dictionaries and tuples, to compare the real one with.

An operation's *outcome* is what both can be asked for: versions, or the error's name with what it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    EventData,
    EventNotFound,
    EventStore,
    StreamAppend,
    TrunklineError,
)


class Given(NamedTuple):
    """An event to append: its id, by number, and its data."""

    key: int
    data: int = 0

    def event(self) -> EventData:
        return EventData("E", self.data, id=UUID(int=self.key))


class Part(NamedTuple):
    """What is appended to one stream."""

    stream: str
    expected: int
    events: tuple[Given, ...]


class Append(NamedTuple):
    """Of one part: `append_to_stream`; of more: `append_to_streams`."""

    parts: tuple[Part, ...]


class Link(NamedTuple):
    stream: str
    expected: int
    keys: tuple[int, ...]


class Delete(NamedTuple):
    stream: str
    expected: int
    hard: bool


Operation = Append | Link | Delete
Outcome = tuple[Any, ...]


class Event(NamedTuple):
    """An event, and the draw that gave it its position."""

    key: int
    data: int
    stream: str
    version: int
    draw: int


class Entry(NamedTuple):
    """An event as it stands in a stream, its own or another."""

    number: int
    event: Event
    draw: int


@dataclass(frozen=True)
class Stream:
    version: int = 0
    deleted: bool = False
    entries: tuple[Entry, ...] = ()


class _RefusedError(Exception):
    """`args` is the outcome."""


@dataclass
class Model:
    streams: dict[str, Stream] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)
    draws: int = 0
    """Positions that were given: to events, and to links."""

    def copy(self) -> Model:
        return Model(dict(self.streams), dict(self.events), self.draws)

    def perform(self, operation: Operation) -> Outcome:
        """Changes the model, if the operation is not refused."""
        try:
            match operation:
                case Append(parts):
                    return self._append(parts)
                case Link(stream, expected, keys):
                    return self._link(stream, expected, keys)
                case Delete(stream, expected, hard):
                    return self._delete(stream, expected, hard)
        except _RefusedError as refused:
            return refused.args

    def _check(self, name: str, expected: int) -> None:
        stream = self.streams.get(name)
        version = stream.version if stream else 0
        if expected in (ANY_VERSION, version):
            return
        if expected == NO_STREAM:
            if version:
                raise _RefusedError("StreamExists", name, version)
        elif expected == STREAM_EXISTS:
            if stream is None:
                raise _RefusedError("StreamNotFound", name, None)
        else:
            raise _RefusedError("WrongExpectedVersion", name, version)

    def _append(self, parts: Iterable[Part]) -> Outcome:
        """Each part is refused, stored already, or to be written; then all are looked at together."""
        refused: dict[str, Outcome] = {}
        answers: dict[str, Outcome] = {}
        to_write: list[Part] = []
        for part in parts:
            try:
                answer = self._look(part)
            except _RefusedError as error:
                refused[part.stream] = error.args
                continue
            if answer is None:
                to_write.append(part)
            else:
                answers[part.stream] = answer
        given = [part.stream for part in parts if part.events]
        if given and all(stream in answers for stream in given):  # sent again: the checks were made the first time
            for stream, expected, events in parts:
                if not events:
                    version = self.streams.get(stream, Stream()).version
                    before = expected if expected >= 0 else 0 if expected == NO_STREAM else version
                    answers[stream] = stream, before + 1, before
                    refused.pop(stream, None)
        for part in parts:
            if part.stream in refused:
                return refused[part.stream]
            if to_write and part.events and part.stream in answers:
                return "DuplicateEvent", part.stream, None
        for part in to_write:
            answers[part.stream] = self._write(part)
        return tuple(answers[part.stream] for part in parts)

    def _look(self, part: Part) -> Outcome | None:
        stream = self.streams.get(part.stream)
        if stream and stream.deleted:
            raise _RefusedError("StreamDeleted", part.stream, None)
        stored = [self.events[given.key] for given in part.events if given.key in self.events]
        if stored:
            first = stored[0].version
            again = [Event(g.key, g.data, part.stream, first + n, 0) for n, g in enumerate(part.events)]
            if [event._replace(draw=0) for event in stored] != again:
                raise _RefusedError("DuplicateEvent", part.stream, None)
            return part.stream, first, stored[-1].version
        self._check(part.stream, part.expected)
        version = stream.version if stream else 0
        return None if part.events else (part.stream, version + 1, version)

    def _write(self, part: Part) -> Outcome:
        version = self.streams.get(part.stream, Stream()).version
        for number, given in enumerate(part.events, version + 1):
            event = Event(given.key, given.data, part.stream, number, self.draws)
            self.events[given.key] = event
            self._enter(part.stream, event)
        return part.stream, version + 1, version + len(part.events)

    def _enter(self, name: str, event: Event) -> None:
        stream = self.streams.get(name, Stream())
        entry = Entry(stream.version + 1, event, self.draws)
        self.streams[name] = replace(stream, version=entry.number, entries=(*stream.entries, entry))
        self.draws += 1

    def _link(self, name: str, expected: int, keys: Iterable[int]) -> Outcome:
        stream = self.streams.get(name, Stream())
        if stream.deleted:
            raise _RefusedError("StreamDeleted", name, None)
        self._check(name, expected)
        for key in keys:
            if key not in self.events:
                raise _RefusedError("EventNotFound", name, key)
        there = {entry.event.key for entry in stream.entries}
        if there.intersection(keys):
            raise _RefusedError("DuplicateEvent", name, None)
        for key in keys:
            self._enter(name, self.events[key])
        return ((name, stream.version + 1, self.streams.get(name, Stream()).version),)

    def _delete(self, name: str, expected: int, hard: bool) -> Outcome:
        stream = self.streams.get(name)
        if stream is None:
            raise _RefusedError("StreamNotFound", name, None)
        if stream.deleted:
            raise _RefusedError("StreamDeleted", name, None)
        self._check(name, expected)
        if not hard:
            self.streams[name] = replace(stream, deleted=True)
            return ("deleted",)
        del self.streams[name]
        self.events = {key: event for key, event in self.events.items() if event.stream != name}
        for other, each in self.streams.items():
            self.streams[other] = replace(each, entries=tuple(e for e in each.entries if e.event.stream != name))
        return ("deleted",)

    def read(self, name: str) -> list[Entry] | Outcome:
        """All of a stream, or why it cannot be read."""
        stream = self.streams.get(name)
        if stream is None:
            return "StreamNotFound", name, None
        return ("StreamDeleted", name, None) if stream.deleted else list(stream.entries)

    def read_all(self, category: str | None = None) -> list[Entry]:
        """All of `$all`, or of a category."""
        events = [e for e in self.events.values() if category is None or e.stream.partition("-")[0] == category]
        return [Entry(0, event, event.draw) for event in sorted(events, key=lambda event: event.draw)]

    def state(self) -> Outcome:
        """What the tables hold: streams, and what stands in each."""
        return (
            sorted((name, stream.version, stream.deleted) for name, stream in self.streams.items()),
            sorted((name, e.number, e.event.key) for name, stream in self.streams.items() for e in stream.entries),
        )


async def perform(store: EventStore, operation: Operation, connection: Any = None) -> tuple[Outcome, list[Any]]:
    """The same on the real store; and its answers, for their positions. On a connection, in a transaction."""
    if connection is not None and not connection.is_in_transaction():
        async with connection.transaction():
            return await perform(store, operation, connection)
    answers: list[Any] = []
    try:
        match operation:
            case Append(((stream, expected, events),)):
                given = [each.event() for each in events]
                answers.append(await store.append_to_stream(stream, expected, given, connection=connection))
            case Append(parts):
                several = [StreamAppend(part.stream, part.expected, [e.event() for e in part.events]) for part in parts]
                answers += await store.append_to_streams(several, connection=connection)
            case Link(stream, expected, keys):
                ids = [UUID(int=key) for key in keys]
                answers.append(await store.link_to_stream(stream, expected, ids, connection=connection))
            case Delete(stream, expected, hard):
                await store.delete_stream(stream, expected, hard=hard, connection=connection)
                return ("deleted",), []
    except TrunklineError as error:
        return refusal(error), []
    return tuple((answer.stream, answer.first_version, answer.last_version) for answer in answers), answers


def refusal(error: TrunklineError) -> Outcome:
    """An error as an outcome."""
    says = error.event_id.int if isinstance(error, EventNotFound) and error.event_id else getattr(error, "actual", None)
    return type(error).__name__, getattr(error, "stream", None), says


async def state(store: EventStore) -> Outcome:
    """`Model.state` of the real store, from its tables: also what no read would show."""
    streams = await store.fetch(
        f'SELECT stream, version, deleted_at IS NOT NULL FROM "{store.schema}".streams ORDER BY stream COLLATE "C"'
    )
    entries = await store.fetch(f"""
        SELECT s.stream, e.stream_version, e.event_id
        FROM "{store.schema}".events AS e LEFT JOIN "{store.schema}".streams AS s USING (stream_id)
        UNION ALL
        SELECT s.stream, l.stream_version, e.event_id
        FROM "{store.schema}".links AS l LEFT JOIN "{store.schema}".streams AS s USING (stream_id)
        LEFT JOIN "{store.schema}".events AS e USING (position)""")
    found = [(row[0], row[1], None if row[2] is None else row[2].int) for row in entries]
    return [tuple(row) for row in streams], sorted(found, key=lambda entry: (entry[0] or "", *entry[1:2]))
