"""The append: one statement, one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from trunkline_store import context
from trunkline_store.errors import (
    Conflict,
    DuplicateEvent,
    EventNotFound,
    InvalidEvent,
    StreamDeleted,
    StreamExists,
    StreamNotFound,
    TrunklineError,
    WrongExpectedVersion,
)
from trunkline_store.events import (
    MAX_DATA_BYTES,
    Appended,
    EventData,
    ExpectedVersion,
    check_events,
    check_expected_version,
    check_stream,
)
from trunkline_store.serialize import Serializer, columns, metadata_column, metadata_text

MAX_ELEMENTS: Final = 2**24
"""The approximate limit of elements in one jsonb array or object. Parsing more takes over 1 GB, which PostgreSQL
refuses as an internal error (`MaxAllocSize`, src/include/utils/memutils.h)."""

Arguments = list[Any]
"""Of `append_v1`, or of `append_one_v1`: the same ones, a value of each where that one takes an array of them."""


def arguments(
    stream: str, expected: int, events: Sequence[EventData], serializer: Serializer, *, data_type: str
) -> Arguments:
    """What is sent to the database. Raises `InvalidArgument` or `InvalidEvent`.

    data_type: of the data column.
    """
    check_stream(stream)
    check_expected_version(expected)
    check_events(events)
    passed_on, trace = context.current(), context.traceparent()
    if len(events) == 1:
        event = events[0]
        metadata = event.metadata
        return [
            stream,
            int(expected),
            event.id,
            event.type,
            columns(serializer, "data", [event.data], MAX_DATA_BYTES, data_type)[0],
            None if metadata is None else metadata_text(metadata),
            event.correlation_id or passed_on.correlation_id,
            event.causation_id or passed_on.causation_id,
            trace,
            event.created_at,
        ]
    return [
        stream,
        int(expected),
        [event.id for event in events],
        [event.type for event in events],
        columns(serializer, "data", [event.data for event in events], MAX_DATA_BYTES, data_type),
        metadata_column([event.metadata for event in events]),
        _unless_all_none([event.correlation_id or passed_on.correlation_id for event in events]),
        _unless_all_none([event.causation_id or passed_on.causation_id for event in events]),
        None if trace is None else [trace] * len(events),
        _unless_all_none([event.created_at for event in events]),
    ]


def is_one(args: Arguments) -> bool:
    """Whether these are those of `append_one_v1`."""
    return type(args[2]) is not list


def query(args: Arguments) -> str:
    """The name of the statement that takes them."""
    return "append_one" if is_one(args) else "append"


class StreamAppend(NamedTuple):
    """One part of `append_to_streams`."""

    stream: str
    expected_version: int
    events: Sequence[EventData]


def many_arguments(together: bool, appends: Sequence[Arguments]) -> list[Any]:
    """The arguments of `append_many_v1`, from those of each append."""
    counts = [1 if is_one(args) else len(args[2]) for args in appends]
    return [
        together,
        [args[0] for args in appends],
        [args[1] for args in appends],
        counts,
        *(_unless_all_none(_flat([args[column] for args in appends], counts)) for column in range(2, 10)),
    ]


def _flat(values: list[Any], counts: list[int]) -> list[Any]:
    """One value for each event, from a value or an array (None: of Nones) for each append."""
    if counts.count(1) == len(counts):
        return values
    return [
        each
        for value, count in zip(values, counts, strict=True)
        for each in (value if type(value) is list else (value,) * count)
    ]


def _unless_all_none(values: list[Any]) -> list[Any] | None:
    return None if values and values.count(None) == len(values) else values


def outcome(stream: str, expected: int, row: asyncpg.Record) -> Appended:
    """The answer of `append_v1` as a value, or as the error that it stands for."""
    status, actual, first_version, last_version, first_position, last_position, duplicate = row
    if status != "appended":
        raise refusal(status, stream, expected, actual, duplicate)
    if first_version is None:  # an empty append
        return Appended(stream, actual + 1, actual, 0, 0)
    return Appended(stream, first_version, last_version, first_position, last_position)


def refusal(status: str, stream: str, expected: int, actual: int, duplicate: UUID | None) -> TrunklineError:
    """The error that a status of the SQL interface stands for."""
    shown = expected.name if isinstance(expected, ExpectedVersion) else expected
    match status:
        case "wrong_expected_version":
            return WrongExpectedVersion(stream, shown, actual)
        case "stream_exists":
            return StreamExists(stream, shown, actual)
        case "stream_not_found":
            return StreamNotFound(stream)
        case "stream_deleted":
            return StreamDeleted(stream)
        case "duplicate_event":
            return DuplicateEvent(stream, duplicate)
        case "event_not_found":
            return EventNotFound(stream, duplicate)
    return Conflict(f"append to {stream!r} refused: {status}")


def violation(
    stream: str, error: asyncpg.UniqueViolationError | asyncpg.InternalServerError, args: Sequence[Any]
) -> DuplicateEvent | InvalidEvent | None:
    """Return the refusal that PostgreSQL raised as an error, or None for any other error.

    Either another transaction stored an equal id in another stream meanwhile, or PostgreSQL cannot parse the data.
    """
    if isinstance(error, asyncpg.UniqueViolationError):
        return DuplicateEvent(stream, None) if error.as_dict().get("constraint_name") == "events_event_id" else None
    values = [each for value in args for each in (value if isinstance(value, list) else [value])]
    if any(isinstance(each, str) and each.count(",") >= MAX_ELEMENTS for each in values):
        return InvalidEvent(
            "data", f"an array or object has over {MAX_ELEMENTS} elements, the most that PostgreSQL can parse: split it"
        )
    return None
