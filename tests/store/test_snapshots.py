"""Snapshots of what events add up to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidArgument,
    InvalidEvent,
    JsonSerializer,
    Snapshot,
    SnapshotNotFound,
    StreamNotFound,
)
from trunkline_store.migrate import initialise


class Total(msgspec.Struct):
    """What an application keeps."""

    amount: int
    lines: list[str]


async def test_a_snapshot_is_read_as_it_was_recorded(store: EventStore) -> None:
    """Source, version, type, data and metadata; the time is the store's."""
    given = Snapshot("order-1", 7, "Total", {"ü": [1, None]}, {"m": 1}, datetime(2001, 1, 1, tzinfo=UTC))
    await store.record_snapshot(given)
    read = await store.read_snapshot("order-1")
    assert read._replace(created_at=None) == given._replace(created_at=None)
    assert read.created_at is not None
    assert abs(read.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    await store.record_snapshot(Snapshot("order-2", 0, "Total", None))
    assert (await store.read_snapshot("order-2"))[:5] == ("order-2", 0, "Total", None, None)


async def test_a_snapshot_takes_the_place_of_the_one_before(store: EventStore) -> None:
    """Also an older one, and one of another type; the time stays that of the first."""
    await store.record_snapshot(Snapshot("order-1", 7, "Total", 7, {"m": 1}))
    first = await store.read_snapshot("order-1")
    for version, type, metadata in ((9, "Total", None), (2, "Sum", {"n": 1})):
        await store.record_snapshot(Snapshot("order-1", version, type, version, metadata))
        read = await store.read_snapshot("order-1")
        assert read == Snapshot("order-1", version, type, version, metadata, first.created_at)
    assert await store.fetchval("SELECT count(*) FROM eventstore.snapshots") == 1


async def test_the_serializer_makes_and_reads_the_data(database: str) -> None:
    """By the snapshot's type, as with events."""
    serializer = JsonSerializer()
    serializer.register("Total", Total)
    async with EventStore(database, serializer=serializer) as store:
        await store.record_snapshot(Snapshot("order-1", 3, "Total", Total(12, ["a"])))
        assert (await store.read_snapshot("order-1")).data == Total(12, ["a"])
        await store.record_snapshot(Snapshot("order-1", 3, "Other", {}))
        with pytest.raises(LookupError, match="Other"):
            await store.read_snapshot("order-1")


@pytest.mark.parametrize("data_type", ["json", "jsonb", "bytea"])
async def test_snapshots_are_kept_in_each_kind_of_column(database: str, data_type: Any) -> None:
    """What was recorded is read, also after it was replaced."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "other", data_type=data_type)
    await connection.close()
    async with EventStore(database, schema="other") as store:
        for data in ({"b": 1, "a": [2]}, "text"):
            await store.record_snapshot(Snapshot("order-1", 1, "T", data, {"m": None}))
            assert (await store.read_snapshot("order-1"))[3:5] == (data, {"m": None})


async def test_a_source_without_a_snapshot_is_an_error(store: EventStore) -> None:
    """That says which."""
    with pytest.raises(SnapshotNotFound, match="'order-1'") as caught:
        await store.read_snapshot("order-1")
    assert caught.value.source == "order-1"


async def test_a_deleted_snapshot_is_gone(store: EventStore) -> None:
    """Only that one; deleting it again is no error, and it can be recorded anew."""
    for source in ("order-1", "order-2"):
        await store.record_snapshot(Snapshot(source, 1, "T", 1))
    for _ in range(2):
        await store.delete_snapshot("order-1")
    with pytest.raises(SnapshotNotFound):
        await store.read_snapshot("order-1")
    assert (await store.read_snapshot("order-2")).data == 1
    await store.record_snapshot(Snapshot("order-1", 2, "T", 2))
    assert (await store.read_snapshot("order-1")).data == 2


@pytest.mark.parametrize("hard", [False, True])
async def test_snapshots_and_streams_know_nothing_of_each_other(store: EventStore, hard: bool) -> None:
    """A snapshot makes no stream, and stays when the stream of its name is deleted."""
    await store.record_snapshot(Snapshot("order-1", 1, "T", 1))
    with pytest.raises(StreamNotFound):
        await store.read_stream_forward("order-1")
    await store.append_to_stream("order-1", 0, [EventData("E", 1)])
    await store.delete_stream("order-1", ANY_VERSION, hard=hard)
    assert (await store.read_snapshot("order-1")).data == 1


BAD = [
    Snapshot("", 1, "T", 1),
    Snapshot("x" * 256, 1, "T", 1),
    Snapshot("a\x00b", 1, "T", 1),
    Snapshot("a", -1, "T", 1),
    Snapshot("a", 2**63, "T", 1),
    Snapshot("a", True, "T", 1),
    Snapshot("a", "1", "T", 1),  # type: ignore[arg-type] # the mistake
    Snapshot("a", 1, "", 1),
    Snapshot("a", 1, "T", object()),
    Snapshot("a", 1, "T", float("nan")),
    Snapshot("a", 1, "T", "\ud800"),
    Snapshot("a", 1, "T", 1, {"x": "y" * 65_536}),
    Snapshot("a", 1, "T", 1, "text"),  # type: ignore[arg-type] # the mistake
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
async def test_a_bad_snapshot_is_refused(store: EventStore, bad: Snapshot) -> None:
    """P9: typed, and nothing is recorded."""
    with pytest.raises(InvalidArgument) as caught:
        await store.record_snapshot(bad)
    assert isinstance(caught.value, InvalidEvent) or "version" in str(caught.value)
    assert await store.fetchval("SELECT count(*) FROM eventstore.snapshots") == 0


@pytest.mark.parametrize("source", ["a\x00b", "\ud800", 7])
async def test_a_bad_source_is_refused(store: EventStore, source: Any) -> None:
    """P9: whether it is asked for or deleted."""
    with pytest.raises(InvalidArgument):
        await store.read_snapshot(source)
    with pytest.raises(InvalidArgument):
        await store.delete_snapshot(source)
