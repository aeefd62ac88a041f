"""Serializers: values in and out, types and their versions, and what a column can hold."""

import dataclasses
import enum
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pydantic
import pytest

from trunkline_store import (
    EventData,
    EventStore,
    InvalidArgument,
    InvalidEvent,
    JsonSerializer,
    Snapshot,
    UndecodableEvent,
)
from trunkline_store.migrate import initialise


class Struct(msgspec.Struct):
    total: int


@dataclasses.dataclass
class Data:
    total: int


class Model(pydantic.BaseModel):
    total: int


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize("cls", [Struct, Data, Model])
async def test_registered_types_are_read_as_what_was_appended(database: str, cls: Any) -> None:
    """msgspec structs, dataclasses and pydantic models."""
    serializer = JsonSerializer()
    serializer.register("Placed", cls)
    async with EventStore(database, serializer=serializer) as store:
        await store.append_to_stream("o-1", 0, [EventData("Placed", cls(total=12))])
        assert (await store.read_stream_forward("o-1"))[0].data == cls(total=12)
        await store.record_snapshot(Snapshot("o-1", 1, "Placed", cls(total=12)))
        assert (await store.read_snapshot("o-1")).data == cls(total=12)


async def test_without_registered_types_data_is_read_as_plain_values(store: EventStore) -> None:
    """What JSON has not is written as text."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    given = {"id": UUID(int=7), "at": moment, "price": Decimal("1.20"), "colour": Colour.RED, "data": Data(1)}
    await store.append_to_stream("o-1", 0, [EventData("E", given)])
    assert (await store.read_stream_forward("o-1"))[0].data == {
        "id": str(UUID(int=7)), "at": "2026-01-02T00:00:00Z", "price": "1.20", "colour": "red", "data": {"total": 1},
    }  # fmt: skip


def upcasting() -> JsonSerializer:
    """Version 3 of a type, and the way there."""
    serializer = JsonSerializer()

    class Placed(msgspec.Struct):
        total: int
        currency: str
        net: bool

    serializer.register("Placed", Placed, version=3)
    serializer.upcast("Placed", from_version=1)(lambda data: {**data, "currency": "EUR"})
    serializer.upcast("Placed", from_version=2)(lambda data: {**data, "net": False})
    return serializer


@pytest.mark.parametrize(
    ("stored", "currency", "net"),
    [
        ('{"total": 1}', "EUR", False),
        ('{"schema_version": 2, "total": 1, "currency": "CHF"}', "CHF", False),
        ('{"schema_version": 3, "total": 1, "currency": "CHF", "net": true}', "CHF", True),
    ],
)
def test_old_data_is_lifted_to_the_version_that_the_program_knows(stored: str, currency: str, net: bool) -> None:
    """From any version, one step after the other; what is written carries its version."""
    serializer = upcasting()
    placed = serializer.deserialize(stored, "Placed")
    assert (placed.total, placed.currency, placed.net) == (1, currency, net)
    assert msgspec.json.decode(serializer.serialize(placed))["schema_version"] == 3


@pytest.mark.parametrize(
    ("type", "stored", "why"),
    [
        ("Unknown", "{}", "not registered"),
        ("Placed", '{"schema_version": 4}', "newer than 3"),
        ("Placed", '{"schema_version": 0}', "no upcaster from version 0"),
        ("Placed", "{", "truncated"),
        ("Placed", '{"total": "x"}', "Expected `int`"),
        ("Placed", "7", "int"),
    ],
)
async def test_what_cannot_be_decoded_says_which_event_and_why(database: str, type: str, stored: str, why: str) -> None:
    """P9: unknown types, versions and shapes are errors of that event alone."""
    async with EventStore(database) as store:
        await store.append_to_stream("o-1", 0, [EventData("Placed", {"total": 1}), EventData(type, 0)])
    connection = await asyncpg.connect(database)
    await connection.execute("ALTER TABLE eventstore.events DISABLE TRIGGER ALL, ALTER COLUMN data TYPE text")
    await connection.execute("UPDATE eventstore.events SET data = $1 WHERE stream_version = 2", stored)
    await connection.close()
    async with EventStore(database, serializer=upcasting()) as store:
        good, bad = await store.read_stream_forward("o-1")
        assert good.data.total == 1
        with pytest.raises(UndecodableEvent, match=why):
            _ = bad.data


def test_registering_twice_or_wrongly_is_refused() -> None:
    """P9: two classes for one type, a version below 1, an upcaster for nothing."""
    serializer = JsonSerializer()
    serializer.register("A", Struct)
    with pytest.raises(InvalidArgument):
        serializer.register("A", Data)
    with pytest.raises(InvalidArgument):
        serializer.register("B", Data, version=0)
    with pytest.raises(InvalidArgument):
        serializer.upcast("C", from_version=1)


class Bytes:
    """A serializer of another kind."""

    content_type = "application/octet-stream"

    def serialize(self, value: Any) -> bytes:
        return bytes(value)

    def deserialize(self, data: bytes | str, event_type: str) -> Any:
        return data


@pytest.mark.parametrize("data_type", ["json", "jsonb", "bytea"])
async def test_each_kind_of_column_gives_back_what_was_appended(database: str, data_type: Any) -> None:
    """Chosen once, recorded in the store; repeated appends are recognised in each, and the relay reads it."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "other", data_type=data_type)
    with pytest.raises(InvalidArgument, match="cannot be changed"):
        await initialise(connection, "other", data_type="json" if data_type != "json" else "bytea")
    await connection.close()
    async with EventStore(database, schema="other") as store:
        events = [EventData("E", {"b": 1, "a": [1.5, None, "ü"]}), EventData("E", "x")]
        appended = await store.append_to_stream("o-1", 0, events)
        assert await store.append_to_stream("o-1", 0, events) == appended
        for read in (store.read_stream_forward("o-1"), store.read_all_streams_forward()):
            assert [event.data for event in await read] == [{"b": 1, "a": [1.5, None, "ü"]}, "x"]
        rows = await store.fetch(store.sql["relay_page"], 0, 2**62, 10, 10**6, 10**6, None)
        assert [msgspec.json.decode(row["data"]) for row in rows] == [event.data for event in events]
        await store.record_snapshot(Snapshot("o-1", 2, "S", {"a": 1}))
        assert (await store.read_snapshot("o-1")).data == {"a": 1}


async def test_a_bytea_column_holds_any_bytes(database: str) -> None:
    """With a serializer of another content type, which is recorded, and must be the same next time."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "binary", data_type="bytea", content_type="application/octet-stream")
    await connection.close()
    async with EventStore(database, schema="binary", serializer=Bytes()) as store:
        await store.append_to_stream("o-1", 0, [EventData("E", b"\x00\xff")])
        assert (await store.read_stream_forward("o-1"))[0].data == b"\x00\xff"
    with pytest.raises(InvalidArgument, match="application/octet-stream"):
        await EventStore(database, schema="binary").open()


@pytest.mark.parametrize("value", ["\x00", {"a\x00": 1}, "\\\x00"])
async def test_jsonb_refuses_nul_and_json_keeps_it(database: str, value: Any) -> None:
    """What a column cannot hold is refused at the append, with a caller's transaction still usable; an escaped
    backslash before u0000 is none."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "b", data_type="jsonb")
    async with EventStore(database, schema="b") as store, connection.transaction():
        with pytest.raises(InvalidEvent, match="NUL"):
            await store.append_to_stream("o-1", 0, [EventData("E", value)], connection=connection)
        await store.append_to_stream("o-1", 0, [EventData("E", "\\u0000")], connection=connection)
    async with EventStore(database) as store:
        await store.append_to_stream("o-1", 0, [EventData("E", value)])
        assert (await store.read_stream_forward("o-1"))[0].data == value
    await connection.close()


async def test_a_serializer_that_makes_no_json_is_refused_by_a_json_column(database: str) -> None:
    """P9: a typed error, nothing written."""
    serializer = Bytes()
    serializer.content_type = "application/json"
    async with EventStore(database, serializer=serializer) as store:
        for value in (b"{", b"\xff"):
            with pytest.raises(InvalidEvent) as caught:
                await store.append_to_stream("o-1", 0, [EventData("E", value)])
            assert caught.value.field == "data"
        assert await store.fetchval("SELECT count(*) FROM eventstore.streams") == 0
