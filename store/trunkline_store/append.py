"""The append: one statement, one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg

from trunkline_store.errors import (
    Conflict,
    DuplicateEvent,
    StreamDeleted,
    StreamExists,
    StreamNotFound,
    TrunklineError,
    WrongExpectedVersion,
)
from trunkline_store.events import (
    MAX_DATA_BYTES,
    MAX_METADATA_BYTES,
    Appended,
    EventData,
    ExpectedVersion,
    category_of,
    check_events,
    check_expected_version,
    check_stream,
)
from trunkline_store.serialize import JsonSerializer, Serializer, serialized

_METADATA: Final = JsonSerializer()


def arguments(
    stream: str, expected: int, events: Sequence[EventData], serializer: Serializer, *, as_text: bool
) -> list[Any]:
    """The arguments of `append_v1`. Raises `InvalidArgument` or `InvalidEvent`.

    as_text: whether the data column takes text (json, jsonb) or bytes.
    """
    check_stream(stream)
    check_expected_version(expected)
    check_events(events)
    data: list[str | bytes] = []
    metadata: list[str | None] = []
    for event in events:
        encoded = serialized(serializer, "data", event.data, MAX_DATA_BYTES)
        data.append(encoded.decode() if as_text else encoded)
        metadata.append(
            None
            if event.metadata is None
            else serialized(_METADATA, "metadata", event.metadata, MAX_METADATA_BYTES).decode()
        )
    return [
        stream,
        category_of(stream),
        int(expected),
        [event.id for event in events],
        [event.type for event in events],
        data,
        _unless_all_none(metadata),
        _unless_all_none([event.correlation_id for event in events]),
        _unless_all_none([event.causation_id for event in events]),
        None,
        _unless_all_none([event.created_at for event in events]),
    ]


def _unless_all_none(values: list[Any]) -> list[Any] | None:
    return None if values.count(None) == len(values) else values


def outcome(stream: str, expected: int, row: asyncpg.Record) -> Appended:
    """The answer of `append_v1` as a value, or as the error that it stands for."""
    status, actual, first_version, last_version, first_position, last_position, duplicate = row
    if status != "appended":
        raise _refusal(status, stream, expected, actual, duplicate)
    if first_version is None:  # an empty append
        return Appended(stream, actual + 1, actual, 0, 0)
    return Appended(stream, first_version, last_version, first_position, last_position)


def _refusal(status: str, stream: str, expected: int, actual: int, duplicate: UUID | None) -> TrunklineError:
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
    return Conflict(f"append to {stream!r} refused: {status}")


def violation(stream: str, error: asyncpg.UniqueViolationError) -> DuplicateEvent | None:
    """The one conflict that is not a value: another transaction stored an equal id, in another stream, meanwhile."""
    return DuplicateEvent(stream, None) if error.as_dict().get("constraint_name") == "events_event_id" else None
