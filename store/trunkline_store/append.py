"""The append: one statement, one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from trunkline_store import context
from trunkline_store.errors import (
    Conflict,
    DuplicateEvent,
    EventNotFound,
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
from trunkline_store.serialize import Serializer, columns, metadata_column


def arguments(
    stream: str, expected: int, events: Sequence[EventData], serializer: Serializer, *, data_type: str
) -> list[Any]:
    """The arguments of `append_v1`. Raises `InvalidArgument` or `InvalidEvent`.

    data_type: of the data column.
    """
    check_stream(stream)
    check_expected_version(expected)
    check_events(events)
    passed_on, trace = context.current(), context.traceparent()
    data = columns(serializer, "data", [event.data for event in events], MAX_DATA_BYTES, data_type)
    metadata = metadata_column([event.metadata for event in events])
    return [
        stream,
        int(expected),
        [event.id for event in events],
        [event.type for event in events],
        data,
        metadata,
        _unless_all_none([event.correlation_id or passed_on.correlation_id for event in events]),
        _unless_all_none([event.causation_id or passed_on.causation_id for event in events]),
        None if trace is None else [trace] * len(events),
        _unless_all_none([event.created_at for event in events]),
    ]


def of_one(args: Sequence[Any]) -> list[Any]:
    """The arguments of `append_one_v1`, from those of `append_v1` for one event."""
    return [args[0], args[1], *[None if column is None else column[0] for column in args[2:]]]


class StreamAppend(NamedTuple):
    """One part of `append_to_streams`."""

    stream: str
    expected_version: int
    events: Sequence[EventData]


def many_arguments(together: bool, appends: Sequence[list[Any]]) -> list[Any]:
    """The arguments of `append_many_v1`, from those of each append."""
    counts = [len(args[2]) for args in appends]
    return [
        together,
        [args[0] for args in appends],
        [args[1] for args in appends],
        counts,
        *(
            _unless_all_none(
                [
                    value
                    for args, count in zip(appends, counts, strict=True)
                    for value in (args[column] if args[column] is not None else (None,) * count)
                ]
            )
            for column in range(2, 10)
        ),
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


def violation(stream: str, error: asyncpg.UniqueViolationError) -> DuplicateEvent | None:
    """The one conflict that is not a value: another transaction stored an equal id, in another stream, meanwhile."""
    return DuplicateEvent(stream, None) if error.as_dict().get("constraint_name") == "events_event_id" else None
