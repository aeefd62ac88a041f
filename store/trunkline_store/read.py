"""Rows into recorded events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import asyncpg

from trunkline_store.events import RecordedEvent, Undecoded
from trunkline_store.serialize import Serializer
from trunkline_store.wire import BadMessage, ReceivedEvent

PAGE_EVENTS: Final = 1000
PAGE_BYTES: Final = 8 * 1024 * 1024


def from_stream(rows: Sequence[asyncpg.Record], serializer: Serializer) -> list[RecordedEvent]:
    """A stream's own events; their number is the version."""
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    return _recorded(columns, columns[1], columns[2], columns[0], serializer)


def from_linked_stream(rows: Sequence[asyncpg.Record], serializer: Serializer) -> list[RecordedEvent]:
    """Events of one stream, its own and linked ones; their number is the version there."""
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    return _recorded(columns, columns[1], columns[11], columns[12], serializer)


def from_all(rows: Sequence[asyncpg.Record], serializer: Serializer) -> list[RecordedEvent]:
    """Events of `$all`; their number is the position."""
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    return _recorded(columns, columns[1], columns[0], columns[0], serializer)


def from_page(rows: Sequence[asyncpg.Record], names: Mapping[int, str], serializer: Serializer) -> list[RecordedEvent]:
    """Events of `$all` whose rows have their streams' ids; those of streams that have been removed since are gone."""
    known = [row for row in rows if row[1] in names]
    if not known:
        return []
    columns = list(zip(*known, strict=True))
    return _recorded(columns, [names[id] for id in columns[1]], columns[0], columns[0], serializer)


def _recorded(
    columns: Sequence[Sequence[Any]],
    streams: Sequence[str],
    numbers: Sequence[int],
    feed_positions: Sequence[int],
    serializer: Serializer,
) -> list[RecordedEvent]:
    """Column by column, which takes half as long as event by event; data is decoded when it is asked for."""
    positions, _, versions, ids, types, data, metadata, correlations, causations, created_at, sizes, *_ = columns
    return list(
        map(
            RecordedEvent,
            ids,
            numbers,
            streams,
            versions,
            positions,
            feed_positions,
            types,
            map(Undecoded, data, repeat(serializer)),
            metadata,
            correlations,
            causations,
            created_at,
            sizes,
        )
    )


def from_message(event: ReceivedEvent, number: int, serializer: Serializer) -> RecordedEvent:
    """An event of the broker, equal to the one that the store gives. number: its position for a feed of `$all` or a
    category, `feed_version` for one of a stream. Raises `BadMessage` where only a reference to its data was sent."""
    payload = event.payload
    if payload is None:
        raise BadMessage(f"the data of event {event.position} was too large for a message")
    return RecordedEvent(
        event.id,
        number,
        event.subject,
        int(event.streamversion),
        event.position,
        event.feed_position,
        event.type,
        Undecoded(payload, serializer),
        event.metadata,
        event.correlationid,
        event.causationid,
        event.time,
        len(payload) + (0 if event.metadata is None else len(event.metadata.encode())),
    )
