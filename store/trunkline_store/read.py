"""Rows into recorded events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any, Final
from uuid import UUID

import asyncpg

from trunkline_store.events import RecordedEvent, Undecoded
from trunkline_store.serialize import Serializer

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
    positions, _, versions, ids, types, data, metadata, correlations, causations, created_at, sizes, *_ = columns
    return recorded(
        ids, numbers, streams, versions, positions, feed_positions, types, data, metadata, correlations, causations,
        created_at, sizes, serializer,
    )  # fmt: skip


def recorded(
    ids: Iterable[UUID],
    numbers: Iterable[int],
    streams: Iterable[str],
    versions: Iterable[int],
    positions: Iterable[int],
    feed_positions: Iterable[int],
    types: Iterable[str],
    data: Iterable[bytes | str | None],
    metadata: Iterable[str | None],
    correlations: Iterable[str | None],
    causations: Iterable[str | None],
    created_at: Iterable[datetime],
    sizes: Iterable[int],
    serializer: Serializer,
) -> list[RecordedEvent]:
    """Events, wherever they come from, column by column: that takes half as long as event by event. Their data is
    decoded when it is asked for."""
    undecoded = map(Undecoded, data, repeat(serializer))
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
            undecoded,
            metadata,
            correlations,
            causations,
            created_at,
            sizes,
        )
    )
