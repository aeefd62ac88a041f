"""Rows into recorded events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import asyncpg

from trunkline_store.errors import UndecodableEvent
from trunkline_store.events import RecordedEvent
from trunkline_store.serialize import Serializer
from trunkline_store.wire import BadMessage, ReceivedEvent

PAGE_EVENTS: Final = 1000
PAGE_BYTES: Final = 8 * 1024 * 1024


def from_stream(rows: Iterable[asyncpg.Record], serializer: Serializer) -> list[RecordedEvent]:
    """A stream's own events; their number is the version."""
    return [_recorded(row, row[1], row[2], row[0], serializer) for row in rows]


def from_linked_stream(rows: Iterable[asyncpg.Record], serializer: Serializer) -> list[RecordedEvent]:
    """Events of one stream, its own and linked ones; their number is the version there."""
    return [_recorded(row, row[1], row[11], row[12], serializer) for row in rows]


def from_all(rows: Iterable[asyncpg.Record], serializer: Serializer) -> list[RecordedEvent]:
    """Events of `$all`; their number is the position."""
    return [_recorded(row, row[1], row[0], row[0], serializer) for row in rows]


def from_page(rows: Iterable[asyncpg.Record], names: Mapping[int, str], serializer: Serializer) -> list[RecordedEvent]:
    """Events of `$all` whose rows have their streams' ids; those of streams that have been removed since are gone."""
    return [_recorded(row, names[row[1]], row[0], row[0], serializer) for row in rows if row[1] in names]


def _recorded(
    row: asyncpg.Record, stream: str, number: int, feed_position: int, serializer: Serializer
) -> RecordedEvent:
    position, _, version, event_id, type, data, metadata, correlation, causation, created_at, size, *_ = row
    return RecordedEvent(
        event_id,
        number,
        stream,
        version,
        position,
        feed_position,
        type,
        decoded(serializer, data, type, stream, version, position),
        metadata,
        correlation,
        causation,
        created_at,
        size,
    )


def from_message(event: ReceivedEvent, number: int, serializer: Serializer) -> RecordedEvent:
    """An event of the broker, equal to the one that the store gives. number: its position for a feed of `$all` or a
    category, `feed_version` for one of a stream. Raises `BadMessage` where only a reference to its data was sent."""
    position, version = event.position, int(event.streamversion)
    payload = event.payload
    if payload is None:
        raise BadMessage(f"the data of event {position} was too large for a message")
    return RecordedEvent(
        event.id,
        number,
        event.subject,
        version,
        position,
        event.feed_position,
        event.type,
        decoded(serializer, payload, event.type, event.subject, version, position),
        event.metadata,
        event.correlationid,
        event.causationid,
        event.time,
        len(payload) + (0 if event.metadata is None else len(event.metadata.encode())),
    )


def decoded(serializer: Serializer, data: bytes | str, type: str, stream: str, version: int, position: int) -> Any:
    """The value of an event's data; an `UndecodableEvent` where it has none, whatever the serializer raises. The event
    raises it when its data is asked for: the others of a page can be read."""
    try:
        return serializer.deserialize(data, type)
    except Exception as error:  # noqa: BLE001 - the serializer is the application's
        undecodable = UndecodableEvent(stream, version, position, type, str(error) or repr(error))
        undecodable.__cause__ = error
        return undecodable
