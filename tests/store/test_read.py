"""Reading streams, categories and `$all`."""

import copy
import pickle
from functools import partial
from typing import Any

import asyncpg
import pytest

from trunkline_ops.servers.proxy import Proxy
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidArgument,
    JsonSerializer,
    MigrationPending,
    NotInitialised,
    OperationTimeout,
    PermissionRefused,
    SchemaTooNew,
    StoreNotReady,
    StoreUnavailable,
    StreamDeleted,
    StreamNotFound,
    UndecodableEvent,
)
from trunkline_store.migrate import drop, initialise, migrate


async def fill(store: EventStore, count: int = 10) -> None:
    """Events 0, 1, 2 …, over three streams."""
    for n in range(count):
        await store.append_to_stream(f"s-{n % 3}", ANY_VERSION, [EventData("E", n)])


async def test_a_stream_is_read_in_pages_from_an_inclusive_start(store: EventStore) -> None:
    """`start` is inclusive, None, 0 and 1 are the beginning, beyond the end there is nothing."""
    await store.append_to_stream("s-1", 0, [EventData("E", n) for n in range(1, 8)])
    for start in (None, 0, 1):
        assert [e.data for e in await store.read_stream_forward("s-1", start=start, count=3)] == [1, 2, 3]
    assert [e.data for e in await store.read_stream_forward("s-1", start=5)] == [5, 6, 7]
    assert await store.read_stream_forward("s-1", start=8) == []


async def test_a_stream_is_read_backward_from_an_inclusive_start(store: EventStore) -> None:
    """None and whatever is beyond the end is the end; 0 is before the beginning."""
    await store.append_to_stream("s-1", 0, [EventData("E", n) for n in range(1, 8)])
    for start in (None, 7, 8, 2**63 - 1):
        assert [e.data for e in await store.read_stream_backward("s-1", start=start, count=3)] == [7, 6, 5]
    assert [e.data for e in await store.read_stream_backward("s-1", start=2)] == [2, 1]
    assert await store.read_stream_backward("s-1", start=0) == []


async def test_reads_give_a_thousand_events_unless_told_otherwise(store: EventStore) -> None:
    """Each of them, both ways."""
    await store.append_to_stream("s-1", 0, [EventData("E", n) for n in range(1001)])
    forward = [
        await store.read_stream_forward("s-1"),
        await store.read_all_streams_forward(),
        await store.read_category_forward("s"),
    ]
    backward = [await store.read_stream_backward("s-1"), await store.read_all_streams_backward()]
    assert [[e.data for e in events] for events in forward] == [list(range(1000))] * 3
    assert [[e.data for e in events] for events in backward] == [list(range(1000, 0, -1))] * 2


async def test_event_numbers_are_versions_in_a_stream_and_positions_in_all(store: EventStore) -> None:
    """The number is the place in what is being read."""
    await fill(store, 4)
    assert [e.event_number for e in await store.read_stream_forward("s-0")] == [1, 2]
    everything = await store.read_all_streams_forward()
    assert [e.event_number for e in everything] == [e.position for e in everything] == [
        e.feed_position for e in everything
    ]  # fmt: skip


async def test_all_streams_are_read_in_the_order_of_the_appends(store: EventStore) -> None:
    """`$all` is one order; an empty store has nothing."""
    assert await store.read_all_streams_forward() == []
    await fill(store)
    events = await store.read_all_streams_forward()
    assert [e.data for e in events] == list(range(10))
    assert [e.data for e in await store.read_all_streams_forward(start=events[4].position, count=3)] == [4, 5, 6]


async def test_all_streams_are_read_backward_in_the_opposite_order(store: EventStore) -> None:
    """From an inclusive start down; from the end, if there is none or it is beyond; an empty store has nothing."""
    assert await store.read_all_streams_backward() == []
    await fill(store)
    events = await store.read_all_streams_backward()
    assert [e.data for e in events] == list(range(10))[::-1]
    assert [e.event_number for e in events] == [e.position for e in events]
    assert [e.data for e in await store.read_all_streams_backward(start=events[3].position, count=3)] == [6, 5, 4]
    assert [e.data for e in await store.read_all_streams_backward(start=events[3].position - 1, count=1)] == [5]
    assert [e.data for e in await store.read_all_streams_backward(start=2**63 - 1, count=1)] == [9]
    assert await store.read_all_streams_backward(start=0) == []


async def test_beyond_the_end_there_is_nothing(store: EventStore) -> None:
    """Of `$all` and of a category, read and streamed."""
    await fill(store)
    start = (await store.read_all_streams_forward())[-1].position + 1
    assert await store.read_all_streams_forward(start=start) == []
    assert await store.read_category_forward("s", start=start) == []
    assert [e async for e in store.stream_all_forward(start=start)] == []
    assert [e async for e in store.stream_category_forward("s", start=start)] == []


async def test_a_category_is_read_in_the_order_of_all(store: EventStore) -> None:
    """Streams whose names are the category, or begin with it and a `-`, and no others; positions are those of `$all`;
    one that nobody appended to is empty."""
    for n, stream in enumerate(["order-1", "orders-1", "order", "ordre-1", "order-2-x", "Order-1", "order-1"]):
        await store.append_to_stream(stream, ANY_VERSION, [EventData("E", n)])
    events = await store.read_category_forward("order")
    assert [(e.data, e.stream) for e in events] == [(0, "order-1"), (2, "order"), (4, "order-2-x"), (6, "order-1")]
    assert [e.event_number for e in events] == [e.position for e in events] == [e.feed_position for e in events]
    everything = {e.event_id: e for e in await store.read_all_streams_forward()}
    assert [everything[e.event_id] for e in events] == events
    assert [e.data for e in await store.read_category_forward("order", start=events[1].position, count=2)] == [2, 4]
    assert [e.data for e in await store.read_category_forward("order", start=events[1].position + 1)] == [4, 6]
    assert await store.read_category_forward("nothing") == []


@pytest.mark.parametrize("category", ["", " ", "a-b", "c" * 65, "a\nb", "\ud800", None, 7])
async def test_a_bad_category_is_refused(store: EventStore, category: Any) -> None:
    """P9: what cannot be one, or could only be a part of a stream's name."""
    with pytest.raises(InvalidArgument):
        await store.read_category_forward(category)
    with pytest.raises(InvalidArgument):
        store.stream_category_forward(category)


async def test_events_above_the_safe_position_are_not_given_yet(store: EventStore) -> None:
    """P2: what was committed after an append that is still open waits for it, in `$all` and in categories, both ways;
    a stream's own reader has it at once, and the transaction its own events."""
    await fill(store, 3)
    async with store.transaction() as connection:
        await store.append_to_stream("s-0", ANY_VERSION, [EventData("E", "open")], connection=connection)
        await store.append_to_stream("s-1", ANY_VERSION, [EventData("E", "later")])
        assert [e.data for e in await store.read_all_streams_forward()] == [0, 1, 2]
        assert [e.data for e in await store.read_all_streams_backward()] == [2, 1, 0]
        assert [e.data for e in await store.read_category_forward("s")] == [0, 1, 2]
        assert [e.data async for e in store.stream_all_forward()] == [0, 1, 2]
        assert [e.data async for e in store.stream_all_backward()] == [2, 1, 0]
        assert [e.data async for e in store.stream_category_forward("s")] == [0, 1, 2]
        assert [e.data for e in await store.read_stream_forward("s-1")] == [1, "later"]
        assert [e.data for e in await store.read_stream_forward("s-0")] == [0]
        assert [e.data for e in await store.read_stream_forward("s-0", connection=connection)] == [0, "open"]
        with pytest.raises(OperationTimeout, match="open"):
            await store.until_safe((await store.stream_info("$all")).version, seconds=0.01)
    await store.until_safe((await store.stream_info("$all")).version)
    assert [e.data for e in await store.read_all_streams_forward()] == [0, 1, 2, "open", "later"]


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
async def test_streaming_gives_the_same_whatever_the_page(store: EventStore, page: int) -> None:
    """Lazy reading is the same reading."""
    await fill(store)
    assert [e.data async for e in store.stream_all_forward(page=page)] == list(range(10))
    start = (await store.read_all_streams_forward())[3].position
    assert [e.data async for e in store.stream_all_forward(start=start, page=page)] == list(range(3, 10))
    assert [e.data async for e in store.stream_all_backward(page=page)] == list(range(10))[::-1]
    assert [e.data async for e in store.stream_all_backward(start=start, page=page)] == [3, 2, 1, 0]
    assert [e.data async for e in store.stream_all_backward(start=0, page=page)] == []
    assert [e.data async for e in store.stream_category_forward("s", page=page)] == list(range(10))
    assert [e.data async for e in store.stream_category_forward("s", start=start, page=page)] == list(range(3, 10))
    assert [e.data async for e in store.stream_forward("s-0", page=page)] == [0, 3, 6, 9]
    assert [e.data async for e in store.stream_forward("s-0", start=2, page=page)] == [3, 6, 9]
    assert [e.data async for e in store.stream_forward("s-0", start=5, page=page)] == []
    assert [e.data async for e in store.stream_backward("s-0", page=page)] == [9, 6, 3, 0]
    assert [e.data async for e in store.stream_backward("s-0", start=3, page=page)] == [6, 3, 0]
    assert [e.data async for e in store.stream_backward("s-0", start=0, page=page)] == []


async def test_pages_are_cut_by_bytes_as_well(store: EventStore) -> None:
    """Events of some megabytes each are streamed one after another, and all of them come."""
    large = "x" * 3_000_000
    for n in range(6):
        await store.append_to_stream("s-1", n, [EventData("E", [n, large])])
    assert [e.data[0] async for e in store.stream_all_forward()] == list(range(6))
    assert [e.data[0] async for e in store.stream_all_backward()] == list(range(6))[::-1]
    assert [e.data[0] async for e in store.stream_category_forward("s")] == list(range(6))


async def test_streaming_backward_ends_where_it_began(store: EventStore) -> None:
    """What is appended meanwhile is not given."""
    await fill(store, 3)
    seen = []
    async for event in store.stream_all_backward(page=1):
        seen.append(event.data)
        await store.append_to_stream("s-0", ANY_VERSION, [EventData("E", "new")])
    assert seen == [2, 1, 0]
    assert [e.data async for e in store.stream_backward("s-0", page=1)] == ["new"] * 3 + [0]


async def test_streaming_a_stream_gives_events_that_are_appended_meanwhile(store: EventStore) -> None:
    """As of `$all`."""
    await store.append_to_stream("s-1", 0, [EventData("E", 0)])
    seen = []
    async for event in store.stream_forward("s-1", page=1):
        seen.append(event.data)
        if event.data < 3:
            await store.append_to_stream("s-1", ANY_VERSION, [EventData("E", event.data + 1)])
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("all_streams", [True, False])
async def test_a_lost_connection_does_not_end_streaming(store: EventStore, database: str, all_streams: bool) -> None:
    """The next page is read on another one: nothing is missed, nothing comes twice."""
    await store.append_to_stream("s-1", 0, [EventData("E", n) for n in range(10)])
    async with Proxy(database) as proxy, EventStore(proxy.url, pool_size=1) as far:
        seen = []
        async for event in far.stream_all_forward(page=3) if all_streams else far.stream_forward("s-1", page=3):
            seen.append(event.data)
            if event.data % 3 == 1:
                await proxy.cut()
        assert seen == list(range(10))
        await proxy.refuse()
        with pytest.raises(StoreUnavailable):
            _ = [event async for event in far.stream_all_forward()]


async def test_streaming_gives_events_that_are_appended_meanwhile(store: EventStore) -> None:
    """It ends when there is nothing more, not where the end was at first."""
    await fill(store, 3)
    seen = []
    async for event in store.stream_all_forward(page=2):
        seen.append(event.data)
        if event.data < 10:
            await store.append_to_stream("s-9", ANY_VERSION, [EventData("E", 10 + event.data)])
    assert seen == [0, 1, 2, 10, 11, 12]


async def test_a_stream_that_is_not_there_is_an_error(store: EventStore) -> None:
    """Unknown and deleted are two errors, of all ways to read; a lazy one raises with its first event."""
    await fill(store, 1)
    await store.delete_stream("s-0", ANY_VERSION)
    for stream, error in (("s-1", StreamNotFound), ("s-0", StreamDeleted)):
        for read in (store.read_stream_forward, store.read_stream_backward):
            with pytest.raises(error, match=f"'{stream}'"):
                await read(stream)
        for streamed in (store.stream_forward, store.stream_backward):
            with pytest.raises(error):
                _ = [event async for event in streamed(stream)]


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (2**63, 1), ("1", 1), (True, 1), (1, 0), (1, -1), (1, "1")])
async def test_bad_ranges_are_refused(store: EventStore, start: int, count: int) -> None:
    """P9: typed, before anything is asked."""
    with pytest.raises(InvalidArgument):
        await store.read_stream_forward("s-1", start=start, count=count)
    with pytest.raises(InvalidArgument):
        await store.read_stream_backward("s-1", start=start, count=count)
    with pytest.raises(InvalidArgument):
        await store.read_all_streams_forward(start=start, count=count)
    with pytest.raises(InvalidArgument):
        await store.read_all_streams_backward(start=start, count=count)
    with pytest.raises(InvalidArgument):
        await store.read_category_forward("s", start=start, count=count)
    for streamed in (
        partial(store.stream_forward, "s-1"),
        partial(store.stream_backward, "s-1"),
        store.stream_all_forward,
        store.stream_all_backward,
        partial(store.stream_category_forward, "s"),
    ):
        with pytest.raises(InvalidArgument):
            await anext(streamed(start=start, page=count))


async def test_an_event_that_cannot_be_decoded_is_named_and_can_be_passed(store: EventStore) -> None:
    """P9: the error names stream, version and position; the events around it can be read."""

    class Picky:
        content_type = "application/json"

        def serialize(self, value: object) -> bytes:
            return store.serializer.serialize(value)

        def deserialize(self, data: bytes | str, event_type: str) -> object:
            if event_type == "Bad":
                raise KeyError("no such type")
            return store.serializer.deserialize(data, event_type)

    await store.append_to_stream("s-1", 0, [EventData("E", 1), EventData("Bad", 2), EventData("E", 3)])
    assert store._pool is not None
    async with EventStore(store._pool, serializer=Picky()) as picky:
        one, bad, three = await picky.read_stream_forward("s-1")
        assert (one.data, three.data) == (1, 3)
        with pytest.raises(UndecodableEvent, match="no such type") as caught:
            _ = bad.data
        error = caught.value
        assert (error.stream, error.stream_version, error.position, error.type) == ("s-1", 2, bad.position, "Bad")


@pytest.mark.parametrize("metadata", ['{"a": "\\ud800"}', '{"a": 1e400}', "[" * 3000 + "]" * 3000, "7"])
async def test_metadata_of_other_programs_never_keeps_a_reader(store: EventStore, metadata: str) -> None:
    """P9: what SQL accepts and this program cannot decode is an error of that event's metadata alone."""
    await store.append_to_stream("s-1", 0, [EventData("E", 1)])
    await store.fetch(
        "SELECT eventstore.append_v1('s-1', 1, ARRAY[gen_random_uuid()], ARRAY['E'], ARRAY['2'], ARRAY[$1])", metadata
    )
    one, two = await store.read_all_streams_forward()
    assert (one.metadata, one.data, two.data) == (None, 1, 2)
    if metadata != "7":
        with pytest.raises(UndecodableEvent):
            _ = two.metadata


@pytest.mark.parametrize("date", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
async def test_dates_that_no_program_can_hold_are_refused_by_the_database(store: EventStore, date: str) -> None:
    """P9: the SQL interface has the same bounds; such an event would stop the relay."""
    with pytest.raises(InvalidArgument, match="refuses"):
        await store.fetch(
            "SELECT eventstore.append_v1('s-1', 0, ARRAY[gen_random_uuid()], ARRAY['E'], ARRAY['2'], "
            "_created_at => ARRAY[$1::text::timestamptz])",
            date,
        )


async def test_a_schema_that_does_not_fit_is_refused_at_once(database: str) -> None:
    """Not initialised, older, newer, or with a sequence that would skip events: each says what to do."""
    connection = await asyncpg.connect(database)
    with pytest.raises(NotInitialised, match="trunkline create"):
        await EventStore(database, schema="other").open()
    with pytest.raises(NotInitialised):
        await migrate(connection, "other")
    await connection.execute("INSERT INTO eventstore.schema_migrations VALUES (9999, 'later')")
    with pytest.raises(SchemaTooNew, match="upgrade"):
        await EventStore(database).open()
    with pytest.raises(SchemaTooNew):
        await migrate(connection)
    await connection.execute("DELETE FROM eventstore.schema_migrations WHERE version > 1")
    await connection.execute("UPDATE eventstore.schema_migrations SET version = 0")
    with pytest.raises(MigrationPending, match="trunkline migrate"):
        await EventStore(database).open()
    await connection.execute("UPDATE eventstore.schema_migrations SET version = 1")
    assert await drop(connection)
    assert not await drop(connection)
    assert await initialise(connection)
    await connection.execute("ALTER SEQUENCE eventstore.blocks CACHE 10")
    with pytest.raises(StoreNotReady, match="CACHE"):
        await EventStore(database).open()
    await connection.close()


async def test_a_database_that_cannot_be_had_is_one_typed_error(database: str) -> None:
    """P9: nothing listens, no such host; no such database, wrong password; a DSN that is none. No password is shown."""
    base, _, _ = database.rpartition("/")
    host = base.rpartition("@")[2]
    for dsn, error in (
        ("postgresql://u:secret@127.0.0.1:1/x", StoreUnavailable),
        ("postgresql://u:secret@no-such-host.invalid/x", StoreUnavailable),
        (f"{base}/no_such_database", PermissionRefused),
        (f"postgresql://trunkline:secret@{host}/postgres", PermissionRefused),
        ("mysql://u:secret@h/x", InvalidArgument),
        ("postgresql://u:secret@h:abc/x", InvalidArgument),
        ("postgresql://u:secret@[::1/x", InvalidArgument),
        (f"{database}?sslmode=maybe", InvalidArgument),
        (f"{database}?no_such_parameter=1", InvalidArgument),
    ):
        with pytest.raises(error) as caught:
            await EventStore(dsn).open()
        assert "secret" not in str(caught.value)


async def test_a_schema_of_something_else_is_left_alone(database: str) -> None:
    """Neither is a store made among others' tables, nor is one dropped with them."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE public.schema_migrations (id int)")
    with pytest.raises(InvalidArgument, match="schema_migrations"):
        await initialise(connection, "public")
    with pytest.raises(NotInitialised):
        await EventStore(database, schema="public").open()
    await connection.execute("CREATE TABLE eventstore.mine (id int)")
    with pytest.raises(InvalidArgument, match="mine"):
        await drop(connection)
    assert await connection.fetchval("SELECT to_regclass('eventstore.events')") is not None
    await connection.close()


@pytest.mark.parametrize(
    "name", ["", "Upper", "1a", "a-b", "pg_x", "amq", "information_schema", "x" * 49, 'a"; DROP', None]
)
def test_a_bad_store_name_is_refused(name: str) -> None:
    """It becomes a schema and an exchange: letters, digits and underscores."""
    with pytest.raises(InvalidArgument):
        EventStore("postgresql://localhost", schema=name)


async def test_an_event_can_be_copied_and_sent_to_other_processes(store: EventStore) -> None:
    """With its data, whether that was asked for before or not."""
    await store.append_to_stream("s-1", 0, [EventData("E", {"a": [1]}, {"m": 1})])
    for asked in (False, True):
        (event,) = await store.read_stream_forward("s-1")
        if asked:
            assert event.data == {"a": [1]}
        for again in (pickle.loads(pickle.dumps(event)), copy.deepcopy(event), copy.copy(event)):
            assert again == event
            assert (again.data, again.metadata, hash(again)) == ({"a": [1]}, {"m": 1}, hash(event))
        assert event.data is event.data


async def test_events_that_cannot_be_decoded_can_be_compared(store: EventStore) -> None:
    """Equal to themselves, read again or not, and to nothing else."""
    await store.append_to_stream("s-1", 0, [EventData("E", 1), EventData("E", 2)])
    serializer = JsonSerializer()
    serializer.register("Another", int)
    store.serializer = serializer
    once, again = await store.read_stream_forward("s-1"), await store.read_stream_forward("s-1")
    assert once == again
    assert once[0] != again[1]
    with pytest.raises(UndecodableEvent):
        _ = once[0].data
