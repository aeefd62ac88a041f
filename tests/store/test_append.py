"""The append: P1, P9, and the transaction of the caller."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest

from trunkline_ops.servers.proxy import Proxy
from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    DuplicateEvent,
    EventData,
    EventStore,
    InvalidArgument,
    InvalidEvent,
    OperationTimeout,
    StreamExists,
    StreamNotFound,
    WrongExpectedVersion,
    context,
)
from trunkline_store.migrate import drop, initialise


def event(data: Any = 1, type: str = "E", **given: Any) -> EventData:
    """An event."""
    return EventData(type, data, **given)


async def count(store: EventStore) -> int:
    """How many events there are."""
    return int(await store.fetchval("SELECT count(*) FROM eventstore.events"))


async def test_ids_are_taken_as_other_libraries_have_them(store: EventStore) -> None:
    """An event's id may be text, and correlation and causation ids may be UUIDs. A retry with the other form is the
    same event. A context takes UUIDs, too."""
    given, correlation, causation = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    other: Any = str(given)
    wide: Any = correlation
    appended = await store.append_to_stream("a-1", 0, [event(id=other, correlation_id=wide, causation_id=causation)])
    same = event(id=given, correlation_id=str(correlation), causation_id=str(causation))
    assert await store.append_to_stream("a-1", 0, [same]) == appended
    (read,) = await store.read_stream_forward("a-1")
    assert (read.event_id, read.correlation_id, read.causation_id) == (given, str(correlation), str(causation))
    with context(correlation_id=correlation):
        await store.append_to_stream("b-1", 0, [event()])
    assert (await store.read_stream_forward("b-1"))[0].correlation_id == str(correlation)
    await store.link_to_stream("c-1", 0, [other])
    assert [each.event_id for each in await store.read_stream_forward("c-1")] == [given]


@pytest.mark.parametrize("expected", [0, ANY_VERSION, NO_STREAM])
async def test_a_new_stream_is_appended_to(store: EventStore, expected: int) -> None:
    """0, ANY_VERSION and NO_STREAM fit a stream that is not there; versions begin at 1."""
    appended = await store.append_to_stream("order-1", expected, [event(), event()])
    assert (appended.first_version, appended.last_version) == (1, 2)
    assert appended.last_position == appended.first_position + 1


@pytest.mark.parametrize("expected", [3, ANY_VERSION, STREAM_EXISTS])
async def test_an_existing_stream_is_appended_to(store: EventStore, expected: int) -> None:
    """Its version, ANY_VERSION and STREAM_EXISTS fit a stream that is there."""
    await store.append_to_stream("order-1", 0, [event() for _ in range(3)])
    assert (await store.append_to_stream("order-1", expected, [event()])).last_version == 4


@pytest.mark.parametrize("expected", [0, 1, 2, 4, NO_STREAM])
async def test_a_wrong_expected_version_is_refused_and_nothing_changes(store: EventStore, expected: int) -> None:
    """Lower and higher versions than the stream's fail alike, and say which it has."""
    await store.append_to_stream("order-1", 0, [event() for _ in range(3)])
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append_to_stream("order-1", expected, [event()])
    assert (caught.value.stream, caught.value.actual) == ("order-1", 3)
    assert isinstance(caught.value, StreamExists) is (expected == NO_STREAM)
    assert await count(store) == 3


@pytest.mark.parametrize(("expected", "error"), [(1, WrongExpectedVersion), (STREAM_EXISTS, StreamNotFound)])
async def test_a_stream_that_is_not_there_cannot_be_at_a_version(
    store: EventStore, expected: int, error: type[Exception]
) -> None:
    """An append that expects events where there are none leaves no stream behind."""
    with pytest.raises(error):
        await store.append_to_stream("order-1", expected, [event()])
    assert await store.fetchval("SELECT count(*) FROM eventstore.streams") == 0


@pytest.mark.parametrize("first", [0, 3])
async def test_of_writers_that_expect_the_same_version_one_wins(store: EventStore, first: int) -> None:
    """P1: eight at once, on a new and on an existing stream: one success, seven typed errors, one event more."""
    if first:
        await store.append_to_stream("order-1", 0, [event() for _ in range(first)])
    outcomes = await asyncio.gather(
        *(store.append_to_stream("order-1", first, [event()]) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, WrongExpectedVersion) for outcome in outcomes) == 7
    assert await count(store) == first + 1


async def test_writers_that_accept_any_version_all_win(store: EventStore) -> None:
    """Twenty at once on a new stream: all succeed, and versions are 1 to 20 without holes."""
    await asyncio.gather(*(store.append_to_stream("order-1", ANY_VERSION, [event()]) for _ in range(20)))
    events = await store.read_stream_forward("order-1")
    assert [e.stream_version for e in events] == list(range(1, 21))


async def test_writers_that_expect_the_stream_to_exist_all_win(store: EventStore) -> None:
    """Twenty at once: STREAM_EXISTS is no version that another writer could take."""
    await store.append_to_stream("order-1", 0, [event()])
    await asyncio.gather(*(store.append_to_stream("order-1", STREAM_EXISTS, [event()]) for _ in range(20)))
    assert [e.stream_version for e in await store.read_stream_forward("order-1")] == list(range(1, 22))


async def test_of_writers_that_expect_no_stream_one_wins(store: EventStore) -> None:
    """Eight at once: the others are told that it exists."""
    outcomes = await asyncio.gather(
        *(store.append_to_stream("order-1", NO_STREAM, [event()]) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, StreamExists) for outcome in outcomes) == 7
    assert await count(store) == 1


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 1023, 1024, 1025, 8001])
async def test_an_append_of_any_size_is_whole_and_in_order(store: EventStore, size: int) -> None:
    """Versions are consecutive, and up to 1,024 events are one block."""
    appended = await store.append_to_stream("order-1", 0, [event(n) for n in range(size)])
    events = await store.read_stream_forward("order-1", count=size + 1)
    assert [e.data for e in events] == list(range(size))
    assert [e.stream_version for e in events] == list(range(1, size + 1))
    assert [e.position for e in await store.read_all_streams_forward(count=size + 1)] == [e.position for e in events]
    assert len({e.position // 1024 for e in events}) == -(-size // 1024)
    assert (events[0].position, events[-1].position) == (appended.first_position, appended.last_position)


async def test_everything_given_is_read_back(store: EventStore) -> None:
    """Ids, type, data, metadata, correlation, causation and an import's date round-trip; absent ones are None."""
    given = event(
        {"ü": [1, None, "😀"]},
        "Ünï.*#",
        metadata={"user": "x"},
        correlation_id="c",
        causation_id="d",
        created_at=datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=UTC),
    )
    await store.append_to_stream("ördër-1, %_", 0, [given, event(None)])
    one, two = await store.read_stream_forward("ördër-1, %_")
    for field in ("type", "data", "metadata", "correlation_id", "causation_id", "created_at"):
        assert getattr(one, field) == getattr(given, field)
    assert one.event_id == given.id
    assert (two.data, two.metadata, two.correlation_id, two.causation_id) == (None, None, None, None)
    assert abs((two.created_at - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("expected", [0, ANY_VERSION])
async def test_an_import_brings_its_times(store: EventStore, expected: int) -> None:
    """Each event has its own, in whatever order, and in whatever zone it was given; the others have the database's."""
    times = [
        datetime(2010, 5, 6, 7, 8, 9, 10, UTC),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-9))),
        None,
        datetime(2090, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ]
    await store.append_to_stream("order-1", expected, [event(created_at=time) for time in times])
    read = [e.created_at for e in await store.read_stream_forward("order-1")]
    assert [time == given for time, given in zip(read, times, strict=True)] == [True, True, False, True]
    assert {time.utcoffset() for time in read} == {timedelta(0)}


async def test_otherwise_the_time_is_the_databases(store: EventStore) -> None:
    """One reading for an append, between what the clock said before it and after it."""
    before = await store.fetchval("SELECT clock_timestamp()")
    await store.append_to_stream("order-1", 0, [event(), event(), event()])
    after = await store.fetchval("SELECT clock_timestamp()")
    times = {e.created_at for e in await store.read_stream_forward("order-1")}
    assert len(times) == 1
    assert before <= times.pop() <= after


async def test_an_empty_append_checks_the_version_and_writes_nothing(store: EventStore) -> None:
    """It answers like any other, and makes no stream."""
    assert (await store.append_to_stream("order-1", 0, [])).last_version == 0
    with pytest.raises(WrongExpectedVersion):
        await store.append_to_stream("order-1", 1, [])
    assert await store.fetchval("SELECT count(*) FROM eventstore.streams") == 0


@pytest.mark.parametrize("expected", [0, 2, 17, ANY_VERSION, NO_STREAM, STREAM_EXISTS])
async def test_the_same_append_again_succeeds_with_the_original_positions(store: EventStore, expected: int) -> None:
    """Idempotent, whatever version is expected now, and also after others have appended."""
    events = [event({"n": 1}, metadata={"a": 1}), event({"n": 2}, correlation_id="c")]
    original = await store.append_to_stream("order-1", 0, events)
    await store.append_to_stream("order-1", 2, [event()])
    assert await store.append_to_stream("order-1", expected, events) == original
    assert await count(store) == 3


async def test_an_event_id_that_is_taken_otherwise_is_refused(store: EventStore) -> None:
    """Another stream, other content, another order, or only a part of the append: `DuplicateEvent`, nothing changed."""
    one, two = event(1), event(2)
    await store.append_to_stream("order-1", 0, [one, two])
    changed = EventData("E", 99, id=one.id)
    for stream, events in (
        ("order-2", [one]),
        ("order-1", [two, one]),
        ("order-1", [one, event(3)]),
        ("order-1", [changed, two]),
    ):
        with pytest.raises(DuplicateEvent) as caught:
            await store.append_to_stream(stream, ANY_VERSION, events)
        assert caught.value.event_id in {one.id, two.id}
    assert await count(store) == 2
    assert await store.fetchval("SELECT count(*) FROM eventstore.streams") == 1


async def test_two_retries_that_race_both_succeed(store: EventStore) -> None:
    """The second waits for the first under the stream's lock, and finds its events."""
    events = [event(), event()]
    answers = await asyncio.gather(*(store.append_to_stream("order-1", 0, events) for _ in range(6)))
    assert len(set(answers)) == 1
    assert await count(store) == 2


@pytest.mark.parametrize("fault", ["cut", "silent"])
async def test_an_append_whose_answer_was_lost_is_found_again(store: EventStore, database: str, fault: str) -> None:
    """It is committed, and nobody says so. When the connection is cut the store asks again by itself; when there is
    silence the caller gets a typed error, and appends the same events again: one success, the original positions."""
    events = [event(1), event(2)]
    await store.append_to_stream("order-1", 0, [event(0)])
    holder = await asyncpg.connect(database)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM eventstore.streams FOR UPDATE")
    async with Proxy(database) as proxy, EventStore(proxy.url, timeout=30 if fault == "cut" else 1) as far:
        appending = asyncio.create_task(far.append_to_stream("order-1", 1, events))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(20):
            while not await store.fetchval(waiting):
                await asyncio.sleep(0.005)  # PostgreSQL tells nobody who waits
            proxy.stall()
            await transaction.rollback()
            while await count(store) < 3:
                await asyncio.sleep(0.005)  # the append that nobody hears of
        if fault == "cut":
            await proxy.cut()
            proxy.resume()
            answer = await appending
        else:
            with pytest.raises(OperationTimeout, match="in time"):
                await appending
            proxy.resume()
            answer = await far.append_to_stream("order-1", 1, events)
    await holder.close()
    assert [answer.first_version, answer.last_version] == [2, 3]
    read = await store.read_stream_forward("order-1", start=2)
    assert [e.event_id for e in read] == [e.id for e in events]
    assert [answer.first_position, answer.last_position] == [e.position for e in read]


async def test_a_retry_meets_the_append_of_a_lost_connection_that_is_still_running(
    store: EventStore, database: str
) -> None:
    """The server has not noticed that the client is gone: its append and the store's own retry wait for the same
    stream, and end as one append."""
    events = [event(1), event(2)]
    await store.append_to_stream("order-1", 0, [event(0)])
    holder = await asyncpg.connect(database)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM eventstore.streams FOR UPDATE")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with Proxy(database) as proxy, EventStore(proxy.url, timeout=30) as far:
        appending = asyncio.create_task(far.append_to_stream("order-1", 1, events))
        async with asyncio.timeout(20):
            while await store.fetchval(waiting) < 1:
                await asyncio.sleep(0.005)  # PostgreSQL tells nobody who waits
            await proxy.cut()
            while await store.fetchval(waiting) < 2:
                await asyncio.sleep(0.005)  # the same
        await transaction.rollback()
        answer = await appending
    await holder.close()
    read = await store.read_stream_forward("order-1")
    assert [e.event_id for e in read[1:]] == [e.id for e in events]
    assert (answer.first_position, answer.last_position) == (read[1].position, read[2].position)


async def test_an_append_that_waits_too_long_is_a_typed_error(store: EventStore, database: str) -> None:
    """Of a stream that somebody holds, after the store's timeout; the same append succeeds afterwards, once."""
    events = [event()]
    async with EventStore(database, timeout=0.3) as hurried, store.transaction() as connection:
        await store.append_to_stream("order-1", 0, [event()], connection=connection)
        with pytest.raises(OperationTimeout):
            await hurried.append_to_stream("order-1", ANY_VERSION, events)
    assert (await store.append_to_stream("order-1", 1, events)).last_version == 2
    assert await count(store) == 2


@pytest.mark.parametrize("expected", [0, ANY_VERSION, NO_STREAM])
async def test_retries_of_several_processes_that_race_all_succeed(database: str, expected: int) -> None:
    """On three hundred new streams, alone and in company: whoever comes second, at whatever moment, gets the answer of
    the first."""
    async with EventStore(database) as one, EventStore(database) as two, EventStore(database) as three:
        for n in range(0, 300, 4):
            new = [(f"order-{n}-{m}", expected, [event(n), event(m)]) for m in range(4)]
            answers = await asyncio.gather(
                *(process.append_to_stream(*args) for args in new for process in (one, two)),
                *(three.append_to_stream(*args) for args in new[:1]),
            )
            assert len(set(answers)) == 4
        assert await count(one) == 600


async def test_an_append_in_the_callers_transaction_goes_with_it(store: EventStore, database: str) -> None:
    """P1: rolled back, nothing is there; committed, both are."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE orders (id int)")
    for commit in (False, True):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO orders VALUES (1)")
        await store.append_to_stream("order-1", 0, [event()], connection=connection)
        await (transaction.commit() if commit else transaction.rollback())
        assert await count(store) == await connection.fetchval("SELECT count(*) FROM orders") == int(commit)
    await connection.close()


async def test_a_conflict_leaves_the_callers_transaction_usable(store: EventStore, database: str) -> None:
    """Conflicts come back as values from SQL: what was done before and after is committed."""
    connection = await asyncpg.connect(database)
    taken = event()
    await store.append_to_stream("order-1", 0, [taken])
    async with connection.transaction():
        await store.append_to_stream("order-2", 0, [event()], connection=connection)
        with pytest.raises(WrongExpectedVersion):
            await store.append_to_stream("order-1", 0, [event()], connection=connection)
        with pytest.raises(DuplicateEvent):
            await store.append_to_stream("order-3", 0, [taken], connection=connection)
        await store.append_to_stream("order-2", 1, [event()], connection=connection)
    assert await count(store) == 3
    await connection.close()


async def test_recorded_events_cannot_be_changed_or_removed(store: EventStore) -> None:
    """Append-only is proved in the database, also for its owner."""
    await store.append_to_stream("order-1", 0, [event()])
    async with store.acquire() as connection:
        for statement in ("UPDATE eventstore.events SET type = 'x'", "DELETE FROM eventstore.events"):
            with pytest.raises(asyncpg.FeatureNotSupportedError, match="never changed"):
                await connection.execute(statement)
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await connection.execute("TRUNCATE eventstore.events")


async def test_a_stream_keeps_its_name_and_its_events(store: EventStore) -> None:
    """Even the store's owner can change no stream's number or name, and remove no row: that would hide events or give
    them to another stream. The same holds for links and the store's types; bounds of batches, and streams without
    events, may change."""
    first = await store.append_to_stream("order-1", 0, [event()])
    await store.link_to_stream("links-1", 0, [e.event_id for e in await store.read_stream_forward("order-1")])
    for refused in (
        "UPDATE eventstore.streams SET stream = 'order-2' WHERE stream = 'order-1'",
        "UPDATE eventstore.streams SET category = 'x'",
        "UPDATE eventstore.streams SET stream_id = DEFAULT",
        "UPDATE eventstore.streams SET created_at = now(), version = version",
        "DELETE FROM eventstore.streams WHERE stream = 'order-1'",
        "DELETE FROM eventstore.streams WHERE stream = 'links-1'",
        "TRUNCATE eventstore.streams",
        "UPDATE eventstore.links SET position = 0",
        "DELETE FROM eventstore.links",
        "TRUNCATE eventstore.links",
        "UPDATE eventstore.store SET data_type = 'bytea'",
        "DELETE FROM eventstore.store",
        "TRUNCATE eventstore.store",
    ):
        async with store.acquire() as connection:
            with pytest.raises(asyncpg.FeatureNotSupportedError, match="never changed"):
                await connection.execute(refused)
    await store.fetch("UPDATE eventstore.store SET batch_count = 7")
    await store.fetch("UPDATE eventstore.streams SET version = version, deleted_at = NULL")
    await store.fetch(
        "INSERT INTO eventstore.streams (stream, category, version, created_at) VALUES ('x', 'x', 0, now())"
    )
    assert len(await store.fetch("DELETE FROM eventstore.streams WHERE stream = 'x' RETURNING 1")) == 1
    assert (await store.read_all_streams_forward())[0].position == first.first_position


BAD_STREAMS = [
    "", " ", "\t", "$all", "$x", "a\nb", "a\x00b", "x-" + "x" * 254, "x-" + "ü" * 127, "c" * 65 + "-1",
    "\ud800", None, 7,
]  # fmt: skip


@pytest.mark.parametrize("stream", BAD_STREAMS)
async def test_a_bad_stream_name_is_refused(store: EventStore, stream: Any) -> None:
    """P9: blank, reserved, over-long, control characters, lone surrogates, not text: typed, and nothing is written."""
    with pytest.raises(InvalidArgument):
        await store.append_to_stream(stream, ANY_VERSION, [event()])
    assert await count(store) == 0


@pytest.mark.parametrize(
    "stream", ["x-" + "x" * 253, "x-" + "ü" * 126, "c" * 64 + "-1", "a", "-", "a-b-c", "a,b%_*#.c", " a "]
)
async def test_an_unusual_stream_name_is_accepted(store: EventStore, stream: str) -> None:
    """Names up to the limits, and all printable characters."""
    await store.append_to_stream(stream, 0, [event()])
    assert (await store.read_stream_forward(stream))[0].stream == stream


def deep(levels: int) -> Any:
    """A value that is nested so deep."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BAD_EVENTS = [
    ("type", EventData(None, 1)),  # type: ignore[arg-type] # the mistake
    ("type", event(type="")),  ("type", event(type="x" * 129)), ("type", event(type="a\nb")),
    ("type", event(type="\udfff")), ("correlation_id", event(correlation_id="")),
    ("causation_id", event(causation_id="x" * 129)), ("data", event("\ud800")), ("data", event({"a": float("nan")})),
    ("data", event([float("inf")])), ("data", event(object())), ("data", event(deep(513))),
    ("metadata", event(metadata={"x": "y" * 65_536})), ("metadata", event(metadata={"x": float("-inf")})),
    ("created_at", event(created_at=datetime(2020, 1, 1))),  # noqa: DTZ001 - no time zone is the mistake
    ("id", event(id="no uuid")), ("metadata", event(metadata="x")), ("metadata", event(metadata=[])),
    ("created_at", event(created_at="2020")),
    ("created_at", event(created_at=datetime.max.replace(tzinfo=UTC))),
    ("created_at", event(created_at=datetime(1, 1, 1, tzinfo=UTC))), ("event", "no event"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "bad"), BAD_EVENTS)
async def test_a_bad_event_is_refused_with_its_field(store: EventStore, field: str, bad: EventData) -> None:
    """P9: a typed error names the field, be it alone or not; a good event beside it is not written either."""
    for events in ([event(), bad], [bad], [bad, event()]):
        with pytest.raises(InvalidEvent) as caught:
            await store.append_to_stream("order-1", 0, events)
        assert caught.value.field == field
    assert await count(store) == 0


async def test_the_same_event_twice_in_one_append_is_refused(store: EventStore) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidEvent, match="twice"):
        await store.append_to_stream("order-1", 0, [(e := event()), e])


@pytest.mark.parametrize("expected", [-4, 2**63, "0", None, True, 1.0])
async def test_a_bad_expected_version_is_refused(store: EventStore, expected: Any) -> None:
    """P9: negative, too large, or no int."""
    with pytest.raises(InvalidArgument):
        await store.append_to_stream("order-1", expected, [event()])


async def test_data_nested_to_the_limit_is_accepted(store: EventStore) -> None:
    """512 levels are stored and read back."""
    await store.append_to_stream("order-1", 0, [event(deep(512))])
    assert (await store.read_stream_forward("order-1"))[0].data == deep(512)


def test_event_ids_grow_with_time_and_are_fixed_at_once() -> None:
    """UUIDv7 (RFC 9562): version and variant, and an id that belongs to the EventData."""
    one = event()
    assert one.id == one.id
    assert (one.id.version, one.id.variant) == (7, uuid.RFC_4122)
    assert len({event().id for _ in range(1000)}) == 1000


@pytest.mark.parametrize("events", [None, 5, (event() for _ in range(2))])
async def test_events_are_a_list(store: EventStore, events: Any) -> None:
    """P9: what is none gets a typed error, and nothing is written."""
    with pytest.raises(InvalidArgument, match="a list is needed"):
        await store.append_to_stream("order-1", 0, events)
    assert await count(store) == 0


SMALL = "SELECT eventstore.append_one_v1('a-1', -1, gen_random_uuid(), 'E', $1)"
EACH_WAY = [
    SMALL,
    "SELECT eventstore.append_v1('a-1', -1, ARRAY[gen_random_uuid()], '{E}', ARRAY[$1])",
    "SELECT eventstore.append_many_v1(false, '{a-1}', '{-1}', '{1}', ARRAY[gen_random_uuid()], '{E}', ARRAY[$1])",
]


@pytest.mark.parametrize("append", EACH_WAY)
async def test_an_events_size_is_what_is_read_of_it(database: str, append: str) -> None:
    """jsonb writes numbers in full: of a few bytes it makes more than a reader can take. Counted as given, one such
    event ended every page that it was on, for all readers and the relay."""
    connection = await asyncpg.connect(database)
    await drop(connection)
    await initialise(connection, "eventstore", data_type="jsonb")
    await connection.execute(SMALL, "1")
    await connection.execute(append, "[1e1000, 1e1000]")
    assert [tuple(row) for row in await connection.fetch(
        "SELECT size, octet_length(data::text) FROM eventstore.events ORDER BY position"
    )] == [(1, 1), (2006, 2006)]  # fmt: skip
    with pytest.raises(asyncpg.CheckViolationError, match="event_size"):
        await connection.execute(append, f"[{','.join(['1e131071'] * 600)}]")
    assert await connection.fetchval("SELECT version FROM eventstore.streams") == 2
    await connection.close()


@pytest.mark.parametrize("append", EACH_WAY)
async def test_more_than_a_reader_takes_is_refused_in_sql_too(store: EventStore, append: str) -> None:
    """64 MiB of data and 64 KiB of metadata are the bound, whoever appends."""
    async with store.acquire() as connection:
        await connection.execute(SMALL, "1")
        with pytest.raises(asyncpg.CheckViolationError, match="event_size"):
            await connection.execute(append, f'"{"x" * (64 * 1024 * 1024 + 64 * 1024)}"')
