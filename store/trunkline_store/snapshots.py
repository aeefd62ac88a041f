"""Snapshots: the state of something at a version, so that not all of its events must be read again."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from trunkline_store.errors import InvalidArgument
from trunkline_store.events import MAX_DATA_BYTES, MAX_STREAM_BYTES, MAX_TYPE_BYTES, check_text
from trunkline_store.serialize import METADATA, Serializer, columns, metadata_column


class Snapshot(NamedTuple):
    """`source` names what it is of, usually a stream; `version` is the last one that it holds. `created_at` is when
    the first snapshot of the source was recorded; the store sets it."""

    source: str
    version: int
    type: str
    data: Any
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None


def arguments(snapshot: Snapshot, serializer: Serializer, *, data_type: str) -> list[Any]:
    """The arguments of `record_snapshot`. Raises `InvalidArgument` and `InvalidEvent`."""
    check_text("source", snapshot.source, MAX_STREAM_BYTES)
    check_text("type", snapshot.type, MAX_TYPE_BYTES)
    if not isinstance(snapshot.version, int) or isinstance(snapshot.version, bool) or not 0 <= snapshot.version < 2**63:
        raise InvalidArgument(f"version: {snapshot.version!r} is no version")
    metadata = metadata_column([snapshot.metadata])
    return [
        snapshot.source,
        snapshot.version,
        snapshot.type,
        columns(serializer, "data", [snapshot.data], MAX_DATA_BYTES, data_type)[0],
        None if metadata is None else metadata[0],
    ]


def snapshot(row: asyncpg.Record, serializer: Serializer) -> Snapshot:
    """A row of `read_snapshot`. Whatever the serializer raises passes as it is: another snapshot can be recorded."""
    metadata = row["metadata"]
    return Snapshot(
        row["source"],
        row["version"],
        row["type"],
        serializer.deserialize(row["data"], row["type"]),
        None if metadata is None else METADATA.deserialize(metadata, ""),
        row["created_at"],
    )
