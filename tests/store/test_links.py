"""Links: events that are read in other streams as well."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    DuplicateEvent,
    EventData,
    EventNotFound,
    EventStore,
    InvalidArgument,
    RecordedEvent,
    StreamDeleted,
    StreamExists,
    StreamNotFound,
    TrunklineError,
    WrongExpectedVersion,
)


async def written(store: EventStore, stream: str, *data: Any) -> list[RecordedEvent]:
    """New events of a stream, as recorded."""
    appended = await store.append_to_stream(stream, ANY_VERSION, [EventData("E", d) for d in data])
    return await store.read_stream_forward(stream, start=appended.first_version)


async def data(store: EventStore, stream: str) -> list[Any]:
    return [event.data for event in await store.read_stream_forward(stream)]


async def rows(store: EventStore) -> tuple[int, int]:
    """How many streams and links there are."""
    query = "SELECT (SELECT count(*) FROM eventstore.streams), (SELECT count(*) FROM eventstore.links)"
    return tuple(await store.fetchrow(query) or ())


async def test_a_linked_event_is_read_in_both_streams_and_stays_what_it_is(store: EventStore) -> None:
    """All that was recorded of it is the same; only its number is that of the stream being read."""
    given = EventData(
        "T",
        {"n": 1},
        {"m": 2},
        correlation_id="c",
        causation_id="d",
        created_at=datetime(2020, 1, 2, tzinfo=UTC),
    )
    await store.append_to_stream("a-1", 0, [EventData("E", 0), given])
    await written(store, "target-1", "own")
    original = (await store.read_stream_forward("a-1"))[1]
    await store.link_to_stream("target-1", 1, [original])
    own, linked = await store.read_stream_forward("target-1")
    assert (own.stream, own.event_number, linked.event_number) == ("target-1", 1, 2)
    for name in RecordedEvent.__struct_fields__:
        if name not in ("event_number", "feed_position"):
            assert getattr(linked, name) == getattr(original, name), name
    assert (linked.stream, linked.stream_version, original.event_number) == ("a-1", 2, 2)


async def test_links_have_no_place_in_all(store: EventStore) -> None:
    """`$all` and the categories hold each event once; the target's numbers are versions without holes."""
    one, two = await written(store, "a-1", 1, 2)
    await written(store, "target-1", 3)
    await store.link_to_stream("target-1", 1, [two, one])
    await written(store, "target-1", 4)
    assert await data(store, "target-1") == [3, 2, 1, 4]
    assert [e.event_number for e in await store.read_stream_forward("target-1")] == [1, 2, 3, 4]
    assert [e.data for e in await store.read_all_streams_forward()] == [1, 2, 3, 4]
    assert [e.data for e in await store.read_category_forward("target")] == [3, 4]
    assert (await store.stream_info("target-1")).version == 4


async def test_a_links_feed_position_is_its_own(store: EventStore) -> None:
    """It is drawn when linking, like an event's, so that followers of the target meet links and events in order; for
    the target's own events it is their position."""
    old, later = await written(store, "a-1", 1, 2)
    first = await store.append_to_stream("target-1", 0, [EventData("E", 3)])
    linked = await store.link_to_stream("target-1", 1, [later, old])
    last = await store.append_to_stream("target-1", 3, [EventData("E", 4)])
    events = await store.read_stream_forward("target-1")
    feed = [event.feed_position for event in events]
    assert feed == [first.first_position, linked.first_position, linked.last_position, last.first_position]
    assert feed == sorted(feed)
    assert [event.position for event in events[1:3]] == [later.position, old.position]
    assert (linked.stream, linked.first_version, linked.last_version) == ("target-1", 2, 3)


async def test_a_link_holds_readers_back_until_it_is_committed(store: EventStore) -> None:
    """P2 for followers of the target: while it is uncommitted, no position from it on is safe."""
    (event,) = await written(store, "a-1", 1)
    async with store.transaction() as connection:
        linked = await store.link_to_stream("target-1", 0, [event], connection=connection)
        assert await store.safe_position() < linked.first_position
    assert await store.safe_position() >= linked.last_position


async def test_events_and_ids_can_be_linked(store: EventStore) -> None:
    """Recorded events and UUIDs, mixed, of several streams, in the order of the list."""
    one, two = await written(store, "a-1", 1, 2)
    (three,) = await written(store, "b-1", 3)
    await store.link_to_stream("target-1", NO_STREAM, [three, one.event_id, two])
    assert await data(store, "target-1") == [3, 1, 2]


@pytest.mark.parametrize("bad", ["text", 7, None, EventData("E", 1)])
async def test_what_is_neither_event_nor_id_cannot_be_linked(store: EventStore, bad: Any) -> None:
    """P9: typed, and the good one beside it is not linked."""
    (event,) = await written(store, "a-1", 1)
    with pytest.raises(InvalidArgument, match="UUID"):
        await store.link_to_stream("target-1", ANY_VERSION, [event, bad])
    assert await rows(store) == (1, 0)


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (0, None),
        (ANY_VERSION, None),
        (NO_STREAM, None),
        (1, WrongExpectedVersion),
        (STREAM_EXISTS, StreamNotFound),
    ],
)
async def test_expected_versions_of_a_new_target(
    store: EventStore, expected: int, error: type[TrunklineError] | None
) -> None:
    """As for appends; a refused link leaves no stream."""
    (event,) = await written(store, "a-1", 1)
    if error is None:
        assert (await store.link_to_stream("target-1", expected, [event])).last_version == 1
        return
    with pytest.raises(error):
        await store.link_to_stream("target-1", expected, [event])
    assert await rows(store) == (1, 0)


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (2, None),
        (ANY_VERSION, None),
        (STREAM_EXISTS, None),
        (0, WrongExpectedVersion),
        (1, WrongExpectedVersion),
        (3, WrongExpectedVersion),
        (NO_STREAM, StreamExists),
    ],
)
async def test_expected_versions_of_an_existing_target(
    store: EventStore, expected: int, error: type[TrunklineError] | None
) -> None:
    """As for appends; links count in the target's version."""
    one, two, three = await written(store, "a-1", 1, 2, 3)
    await store.link_to_stream("target-1", 0, [one, two])
    if error is None:
        assert (await store.link_to_stream("target-1", expected, [three])).last_version == 3
        with pytest.raises(WrongExpectedVersion) as appending:
            await store.append_to_stream("target-1", 2, [EventData("E", 4)])
        assert appending.value.actual == 3
        return
    with pytest.raises(error) as caught:
        await store.link_to_stream("target-1", expected, [three])
    assert getattr(caught.value, "actual", None) == 2
    assert await rows(store) == (2, 2)


async def test_a_deleted_target_cannot_be_linked_to(store: EventStore) -> None:
    """Whatever is expected, and whether the events are there or not."""
    (event,) = await written(store, "a-1", 1)
    await written(store, "target-1", 2)
    await store.delete_stream("target-1", ANY_VERSION)
    for expected in (0, 1, ANY_VERSION, NO_STREAM, STREAM_EXISTS):
        with pytest.raises(StreamDeleted):
            await store.link_to_stream("target-1", expected, [event, uuid4()])


async def test_an_event_stands_once_in_a_stream(store: EventStore) -> None:
    """Linked again, linked where it was appended, or twice in the list: refused with its id, and nothing is linked."""
    one, two = await written(store, "a-1", 1, 2)
    await store.link_to_stream("target-1", 0, [one])
    for stream, events in (("target-1", [two, one]), ("a-1", [one])):
        with pytest.raises(DuplicateEvent) as caught:
            await store.link_to_stream(stream, ANY_VERSION, events)
        assert (caught.value.stream, caught.value.event_id) == (stream, one.event_id)
    with pytest.raises(InvalidArgument, match="twice"):
        await store.link_to_stream("target-1", ANY_VERSION, [two, two.event_id])
    assert await data(store, "target-1") == [1]
    await store.link_to_stream("target-2", 0, [one])
    await store.link_to_stream("target-3", 0, (await store.read_stream_forward("target-2")))
    assert await data(store, "target-3") == [1], "into many streams, also from a link"


@pytest.mark.parametrize("unknown", [[0], [1], [2], [0, 1, 2]])
async def test_one_unknown_event_refuses_all(store: EventStore, unknown: list[int]) -> None:
    """Wherever it stands: the first one is named, nothing is linked, and no target is made."""
    ids = [event.event_id for event in await written(store, "a-1", 1, 2, 3)]
    for place in unknown:
        ids[place] = uuid4()
    with pytest.raises(EventNotFound) as caught:
        await store.link_to_stream("target-1", 0, ids)
    assert (caught.value.stream, caught.value.event_id) == ("target-1", ids[unknown[0]])
    assert await rows(store) == (1, 0)


async def test_an_empty_link_checks_the_version_and_writes_nothing(store: EventStore) -> None:
    """It answers like an empty append, and makes no stream."""
    assert (await store.link_to_stream("target-1", 0, [])).last_version == 0
    with pytest.raises(WrongExpectedVersion):
        await store.link_to_stream("target-1", 1, [])
    assert await rows(store) == (0, 0)


@pytest.mark.parametrize("stream", ["$all", "", "a\nb", None])
async def test_a_bad_target_is_refused(store: EventStore, stream: Any) -> None:
    """P9: `$all` among them."""
    (event,) = await written(store, "a-1", 1)
    with pytest.raises(InvalidArgument):
        await store.link_to_stream(stream, ANY_VERSION, [event])


@pytest.mark.parametrize("size", [1, 1000, 1023, 1024, 1025, 3000])
async def test_a_link_of_any_size_is_whole_and_in_order(store: EventStore, size: int) -> None:
    """Versions are consecutive, also over several blocks; the answer's positions are the first and last link's."""
    events = [EventData("E", n) for n in range(size)]
    await store.append_to_stream("a-1", 0, events)
    linked = await store.link_to_stream("target-1", 0, [event.id for event in events[::-1]])
    read = await store.read_stream_forward("target-1", count=size + 1)
    assert [event.data for event in read] == list(range(size))[::-1]
    assert [event.event_number for event in read] == list(range(1, size + 1))
    assert [linked.first_position, linked.last_position] == [read[0].feed_position, read[-1].feed_position]
    assert linked.last_version == size


async def test_own_and_linked_events_are_read_together_in_pages_both_ways(store: EventStore) -> None:
    """Wherever a page begins and ends among them."""
    sources = await written(store, "a-1", *range(0, 20, 2))
    for n in range(0, 20, 2):
        await store.link_to_stream("target-1", n, [sources[n // 2]])
        await written(store, "target-1", n + 1)
    for page in (1, 3, 7, 20):
        assert [e.data async for e in store.stream_forward("target-1", page=page)] == list(range(20))
        assert [e.data async for e in store.stream_backward("target-1", page=page)] == list(range(20))[::-1]
    assert [e.data for e in await store.read_stream_forward("target-1", start=6, count=4)] == [5, 6, 7, 8]
    assert [e.data for e in await store.read_stream_backward("target-1", start=6, count=4)] == [5, 4, 3, 2]


async def test_a_link_in_the_callers_transaction_goes_with_it(store: EventStore) -> None:
    """Rolled back it leaves nothing; a refused one leaves the transaction usable; an event of the same transaction can
    be linked."""
    (event,) = await written(store, "a-1", 1)
    async with store.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.link_to_stream("target-1", 0, [event], connection=connection)
        await transaction.rollback()
    assert await rows(store) == (1, 0)
    new = EventData("E", 2)
    async with store.transaction() as connection:
        await store.append_to_stream("b-1", 0, [new], connection=connection)
        with pytest.raises(EventNotFound):
            await store.link_to_stream("target-1", 0, [uuid4()], connection=connection)
        await store.link_to_stream("target-1", 0, [new.id, event], connection=connection)
    assert await data(store, "target-1") == [2, 1]


@pytest.mark.parametrize("first", [0, 2])
async def test_of_links_that_expect_the_same_version_one_wins(store: EventStore, first: int) -> None:
    """Eight different ones at once, to a new and to an existing target: one is linked, the others are refused."""
    sources = await written(store, "a-1", *range(8))
    if first:
        await written(store, "target-1", *range(first))
    outcomes = await asyncio.gather(
        *(store.link_to_stream("target-1", first, [event]) for event in sources), return_exceptions=True
    )
    assert sum(isinstance(outcome, WrongExpectedVersion) for outcome in outcomes) == 7
    assert len(await store.read_stream_forward("target-1")) == first + 1


async def test_equal_links_that_race_are_linked_once(store: EventStore) -> None:
    """Of five at once, whatever version is expected, one succeeds and four are duplicates."""
    (event,) = await written(store, "a-1", 1)
    outcomes = await asyncio.gather(
        *(store.link_to_stream("target-1", ANY_VERSION, [event]) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(outcome, DuplicateEvent) for outcome in outcomes) == 4
    assert await data(store, "target-1") == [1]


async def test_links_and_appends_that_race_share_the_targets_versions(store: EventStore) -> None:
    """Forty at once to a new target: all succeed, versions have no holes, and the feed's order is theirs."""
    sources = await written(store, "a-1", *range(20))
    await asyncio.gather(
        *(store.link_to_stream("target-1", ANY_VERSION, [event]) for event in sources),
        *(store.append_to_stream("target-1", ANY_VERSION, [EventData("E", 100 + n)]) for n in range(20)),
    )
    read = await store.read_stream_forward("target-1")
    assert [event.event_number for event in read] == list(range(1, 41))
    assert sorted(event.data for event in read) == [*range(20), *range(100, 120)]
    feed = [event.feed_position for event in read]
    assert feed == sorted(feed)


async def test_links_cannot_be_changed_or_removed(store: EventStore) -> None:
    """Like events, also by the owner of the table."""
    (event,) = await written(store, "a-1", 1)
    await store.link_to_stream("target-1", 0, [event])
    for statement in (
        "UPDATE eventstore.links SET stream_version = 7",
        "DELETE FROM eventstore.links",
        "TRUNCATE eventstore.links",
    ):
        async with store.acquire() as connection:
            with pytest.raises(asyncpg.FeatureNotSupportedError, match="never changed"):
                await connection.execute(statement)
    assert await data(store, "target-1") == [1]
