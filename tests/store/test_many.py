"""`append_to_streams`: several streams, all or nothing."""

import asyncio
from contextlib import suppress
from random import Random
from typing import Any

import asyncpg
import pytest

from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    ConcurrencyFailure,
    DuplicateEvent,
    EventData,
    EventStore,
    InvalidArgument,
    InvalidEvent,
    StreamAppend,
    StreamDeleted,
    StreamExists,
    StreamNotFound,
    Unavailable,
    WrongExpectedVersion,
)


def events(*data: Any) -> list[EventData]:
    return [EventData("E", d) for d in data]


def part(stream: str, expected: int = ANY_VERSION, *data: Any) -> StreamAppend:
    return StreamAppend(stream, expected, events(*data or (1,)))


async def waits_for_a_lock(store: EventStore) -> None:
    """Until a session of this database waits for another one."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not await store.fetchval(query):
            await asyncio.sleep(0.005)  # PostgreSQL tells nobody who waits


async def rows(store: EventStore) -> tuple[int, int]:
    """How many streams and events there are."""
    query = "SELECT (SELECT count(*) FROM eventstore.streams), (SELECT count(*) FROM eventstore.events)"
    return tuple(await store.fetchrow(query) or ())


async def test_several_streams_are_appended_to_at_once(store: EventStore) -> None:
    """New and existing streams, in the order of the list: answers fit what is read, and all of it is one block."""
    await store.append_to_stream("old-1", 0, events("before"))
    appended = await store.append_to_streams(
        [part("z-1", NO_STREAM, "a", "b"), part("old-1", 1, "c"), part("a-1", 0, "d"), part("b-1", ANY_VERSION, "e")]
    )
    assert [(a.stream, a.first_version, a.last_version) for a in appended] == [
        ("z-1", 1, 2),
        ("old-1", 2, 2),
        ("a-1", 1, 1),
        ("b-1", 1, 1),
    ]
    read = (await store.read_all_streams_forward())[1:]
    assert [(e.stream, e.data) for e in read] == [
        ("z-1", "a"), ("z-1", "b"), ("old-1", "c"), ("a-1", "d"), ("b-1", "e")
    ]  # fmt: skip
    assert [e.position for e in read] == list(range(appended[0].first_position, appended[-1].last_position + 1))
    assert len({e.position // 1024 for e in read}) == 1
    for answer in appended:
        positions = [e.position for e in await store.read_stream_forward(answer.stream)]
        assert positions[-1] == answer.last_position
        assert answer.first_position in positions


async def test_an_empty_list_is_no_append(store: EventStore) -> None:
    """It has no answers, and writes nothing."""
    assert await store.append_to_streams([]) == []
    assert await rows(store) == (0, 0)


async def test_empty_parts_check_and_write_nothing(store: EventStore) -> None:
    """An empty part states what must be so of a stream: it makes none, and refuses the others."""
    await store.append_to_stream("there-1", 0, events(1, 2))
    untouched, written = await store.append_to_streams([StreamAppend("there-1", 2, []), part("new-1", 0)])
    assert (untouched.first_version, untouched.last_version, written.last_version) == (3, 2, 1)
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.append_to_streams([StreamAppend("there-1", 1, []), part("new-2", 0)])
    assert caught.value.stream == "there-1"
    absent = await store.append_to_streams([StreamAppend("absent-1", NO_STREAM, []), StreamAppend("absent-2", 0, [])])
    assert [a.last_version for a in absent] == [0, 0]
    assert await rows(store) == (2, 3)


@pytest.mark.parametrize("size", [1024, 1025, 3000])
async def test_parts_of_any_size_are_whole(store: EventStore, size: int) -> None:
    """Up to 1,024 events of all parts are one block; more take more, and each part's answer fits what is read."""
    half = size // 2
    parts = [StreamAppend("a-1", 0, events(*range(half))), StreamAppend("b-1", 0, events(*range(half, size)))]
    appended = await store.append_to_streams(parts)
    read = await store.read_all_streams_forward(count=size + 1)
    assert [e.data for e in read] == list(range(size))
    assert len({e.position // 1024 for e in read}) == -(-size // 1024)
    assert [(a.first_position, a.last_position) for a in appended] == [
        (read[0].position, read[half - 1].position),
        (read[half].position, read[-1].position),
    ]


REFUSED: list[tuple[str, int, type[Exception]]] = [
    ("there-1", 1, WrongExpectedVersion),
    ("there-1", 3, WrongExpectedVersion),
    ("there-1", NO_STREAM, StreamExists),
    ("absent-1", 1, WrongExpectedVersion),
    ("absent-1", STREAM_EXISTS, StreamNotFound),
    ("deleted-1", ANY_VERSION, StreamDeleted),
]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(("stream", "expected", "error"), REFUSED)
async def test_one_refused_part_refuses_all_and_nothing_remains(
    store: EventStore, stream: str, expected: int, error: type[Exception], place: int
) -> None:
    """Wherever it stands in the list, its error is raised, and no event, version or new stream is left."""
    await store.append_to_stream("there-1", 0, events(1, 2))
    await store.append_to_stream("other-1", 0, events(1))
    await store.append_to_stream("deleted-1", 0, events(1))
    await store.delete_stream("deleted-1", 1)
    before = await rows(store), await store.fetch("SELECT stream, version FROM eventstore.streams ORDER BY 1")
    parts = [part("new-1"), part("other-1", 1)]
    parts.insert(place, part(stream, expected))
    with pytest.raises(error) as caught:
        await store.append_to_streams(parts)
    assert type(caught.value) is error
    assert getattr(caught.value, "stream", None) == stream
    assert (await rows(store), await store.fetch("SELECT stream, version FROM eventstore.streams ORDER BY 1")) == before
    assert len(await store.append_to_streams([part("new-1", 0), part("other-1", 1)])) == 2, "without it they fit"


async def test_the_first_refused_part_speaks(store: EventStore) -> None:
    """Of several that are refused, the error is that of the first one in the list."""
    await store.append_to_stream("b-1", 0, events(1))
    for parts in ([part("b-1", 5), part("a-1", 7)], [part("a-1", 7), part("b-1", 5)]):
        with pytest.raises(WrongExpectedVersion) as caught:
            await store.append_to_streams([part("good-1"), *parts])
        assert (caught.value.stream, caught.value.expected) == (parts[0].stream, parts[0].expected_version)


async def test_a_stream_twice_is_refused(store: EventStore) -> None:
    """A stream, or an event, that stands twice in the list is a mistake: typed, before anything is sent."""
    (event,) = events(1)
    with pytest.raises(InvalidArgument, match="stream stands twice"):
        await store.append_to_streams([part("a-1"), part("b-1"), part("a-1")])
    with pytest.raises(InvalidArgument, match="event stands twice"):
        await store.append_to_streams([StreamAppend("a-1", 0, [event]), StreamAppend("b-1", 0, [event])])
    with pytest.raises(InvalidArgument, match="event stands twice"):
        await store.append_to_streams([StreamAppend("a-1", 0, [event, event])])
    assert await rows(store) == (0, 0)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (StreamAppend("$all", 0, events(1)), InvalidArgument),
        (StreamAppend("a-1", -7, events(1)), InvalidArgument),
        (StreamAppend("a-1", 0, [EventData("", 1)]), InvalidEvent),
        (StreamAppend("a-1", 0, ["no event"]), InvalidEvent),  # type: ignore[list-item] # the mistake
    ],
)
async def test_a_bad_part_is_refused(store: EventStore, bad: StreamAppend, error: type[Exception]) -> None:
    """P9: typed, and the good part beside it is not written."""
    with pytest.raises(error):
        await store.append_to_streams([part("good-1"), bad])
    assert await rows(store) == (0, 0)


@pytest.mark.parametrize("expected", [0, 17, ANY_VERSION, NO_STREAM, STREAM_EXISTS])
async def test_the_same_again_gives_the_original_answers(store: EventStore, expected: int) -> None:
    """Idempotent, whatever is expected now, in another order of parts, and after others have appended."""
    parts = [part("a-1", 0, 1, 2), part("b-1", 0, 3), part("c-1", 0, 4)]
    original = await store.append_to_streams(parts)
    await store.append_to_streams([part("b-1"), part("a-1")])
    again = [StreamAppend(stream, expected, stored) for stream, _, stored in parts]
    assert await store.append_to_streams(again) == original
    assert await store.append_to_streams(again[::-1]) == original[::-1]
    assert await store.append_to_streams([*again, StreamAppend("b-1x", 0, [])])
    for one, answer in zip(again, original, strict=True):
        assert await store.append_to_stream(*one) == answer
    assert await rows(store) == (3, 6)


@pytest.mark.parametrize("deleted", [False, True])
async def test_the_same_again_with_a_version_check_gives_the_original_answers(store: EventStore, deleted: bool) -> None:
    """After a lost answer, a retry does not check parts without events again if all others are stored as sent, even if
    their streams have moved, were made, or were deleted since. With one more event, it does."""
    await store.append_to_stream("moved-1", 0, events(1, 2))
    moved, made = StreamAppend("moved-1", 2, []), StreamAppend("made-1", NO_STREAM, [])
    parts = [moved, part("a-1", 0, 1, 2), made, part("b-1", 0)]
    original = await store.append_to_streams(parts)
    await store.append_to_stream("moved-1", 2, events(3))
    await store.append_to_stream("made-1", 0, events(1))
    if deleted:
        await store.delete_stream("moved-1", 3)
    assert await store.append_to_streams(parts) == original
    assert await store.append_to_streams(parts[::-1]) == original[::-1]
    for other in (StreamAppend("a-1", 2, events(3)), StreamAppend("new-1", 0, events(1))):
        with pytest.raises(StreamDeleted if deleted else WrongExpectedVersion):
            await store.append_to_streams([parts[0], other, *parts[2:]])
    with pytest.raises(StreamDeleted if deleted else WrongExpectedVersion):
        await store.append_to_streams([parts[0]])


@pytest.mark.parametrize("place", [0, 1])
async def test_a_partial_repetition_is_a_duplicate(store: EventStore, place: int) -> None:
    """Parts of which some are stored and others are not, or only a part's events, are no repetition: nothing is
    written, and the error names what is stored."""
    stored, other = part("a-1", 0, 1, 2), part("b-1", 0, 3)
    await store.append_to_streams([stored, other])
    mixtures: list[tuple[StreamAppend, StreamAppend]] = [
        (stored, part("new-1")),
        (stored, StreamAppend("b-1", 1, [*other.events, *events(4)])),
        (StreamAppend("a-1", 0, stored.events[::-1]), other),
        (StreamAppend("a-1", 2, [EventData("E", "changed", id=stored.events[0].id)]), other),
        (StreamAppend("b-1", 1, stored.events), part("new-1")),
        (StreamAppend("new-1", 0, stored.events), other),
    ]
    for mixture in mixtures:
        with pytest.raises(DuplicateEvent) as caught:
            await store.append_to_streams(mixture if place == 0 else mixture[::-1])
        assert caught.value.event_id in {event.id for event in (*stored.events, *other.events)}
        assert await rows(store) == (2, 3)


async def quick_to_find_deadlocks(database: str) -> Any:
    """A connection that looks for a deadlock after 20 ms, not after PostgreSQL's second."""
    return await asyncpg.connect(database, server_settings={"application_name": "opposite", "deadlock_timeout": "20"})


async def deadlocks(store: EventStore) -> int:
    """How many there were in this database. Sessions tell it at their end, so those called `opposite` must be gone."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'opposite'"
    async with asyncio.timeout(20):
        while await store.fetchval(query):
            await asyncio.sleep(0.01)  # PostgreSQL tells nobody when a session is gone
    return int(await store.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))


async def test_opposite_orders_never_meet_a_deadlock(store: EventStore, database: str) -> None:
    """Sixteen callers at a time, with the same streams in opposite orders, or with some new ones in any order, new
    streams among them, beside others that append to one: every call succeeds, and PostgreSQL sees no deadlock. The
    control, single appends in transactions, meets some."""
    rnd = Random(1)
    await store.append_to_streams([part(f"old-{n}") for n in range(4)])
    async with EventStore(database, pool_size=20, application_name="opposite") as crowd:
        for turn in range(16):
            order = [f"old-{n}" for n in range(4)] + [f"new-{turn}-{n}" for n in range(4)]
            orders = (
                [order[::step] for step in [1, -1] * 8] if turn % 2 else [rnd.sample(order[4:], 3) for _ in range(16)]
            )
            calls = [crowd.append_to_streams([part(stream) for stream in each]) for each in orders]
            alone = [crowd.append_to_stream(f"old-{n}", ANY_VERSION, events(1)) for n in range(4)]
            await asyncio.gather(*calls, *alone)
    assert (await rows(store))[1] == 4 + 8 * 16 * 8 + 8 * 16 * 3 + 16 * 4
    for name, expected in (("new-7-0", 16), ("new-15-3", 16)):
        assert [e.stream_version for e in await store.read_stream_forward(name)] == list(range(1, expected + 1))
    assert await deadlocks(store) == 0

    connections = [await quick_to_find_deadlocks(database) for _ in range(4)]
    met: list[ConcurrencyFailure] = []

    async def one_by_one(connection: Any, order: list[str]) -> None:
        while not met:
            try:
                async with connection.transaction():
                    for stream in order:
                        await store.append_to_stream(stream, ANY_VERSION, events(1), connection=connection)
            except ConcurrencyFailure as error:
                met.append(error)

    names = ["old-0", "old-1"]
    await asyncio.gather(*(one_by_one(c, names[:: 1 if n % 2 else -1]) for n, c in enumerate(connections)))
    for connection in connections:
        await connection.close()
    assert await deadlocks(store) > 0


async def test_opposite_orders_in_callers_transactions_end_in_a_typed_error(store: EventStore, database: str) -> None:
    """Two transactions that hold what the other wants: one gets `ConcurrencyFailure`, nothing of it remains, and it
    succeeds when it is run again; the other one commits."""
    connections = [await quick_to_find_deadlocks(database) for _ in range(2)]
    both = asyncio.Barrier(2)

    async def write(number: int) -> None:
        one, two = ["a-1", "b-1"][:: 1 if number else -1]
        async with connections[number].transaction():
            await store.append_to_streams([part(one), part(f"new-{number}")], connection=connections[number])
            await both.wait()
            await store.append_to_streams([part(two)], connection=connections[number])

    await store.append_to_streams([part("a-1"), part("b-1")])
    outcomes = await asyncio.gather(write(0), write(1), return_exceptions=True)
    (failed,) = [number for number, outcome in enumerate(outcomes) if outcome is not None]
    assert isinstance(outcomes[failed], ConcurrencyFailure)
    assert isinstance(outcomes[failed], Unavailable)
    assert await rows(store) == (3, 5)
    await asyncio.gather(write(failed), both.wait())
    assert await rows(store) == (4, 8)
    for connection in connections:
        await connection.close()


async def test_it_can_be_a_part_of_the_callers_transaction(store: EventStore) -> None:
    """Rolled back, nothing of it is there; a refused one leaves the transaction usable, and itself nothing."""
    async with store.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.append_to_streams([part("a-1"), part("b-1")], connection=connection)
        await transaction.rollback()
    assert await rows(store) == (0, 0)
    async with store.transaction() as connection:
        await store.append_to_streams([part("a-1"), part("b-1")], connection=connection)
        with pytest.raises(WrongExpectedVersion):
            await store.append_to_streams([part("c-1"), part("b-1", 0)], connection=connection)
        await store.append_to_streams([part("a-1", 1), part("d-1")], connection=connection)
    assert await rows(store) == (3, 4)


async def test_of_callers_that_expect_the_same_versions_one_wins(store: EventStore) -> None:
    """P1 for several streams: of eight at once one wins, whole; the others are refused, whole."""
    for expected in (0, 1):
        outcomes = await asyncio.gather(
            *(store.append_to_streams([part("a-1", expected, n), part("b-1", expected, n)]) for n in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, WrongExpectedVersion) for outcome in outcomes) == 7
    a, b = [[e.data for e in await store.read_stream_forward(s)] for s in ("a-1", "b-1")]
    assert a == b
    assert len(a) == 2


@pytest.mark.parametrize("expected", [0, ANY_VERSION])
@pytest.mark.parametrize("there", [[], ["a-1"], ["b-1"], ["a-1", "b-1"]], ids=["new", "a there", "b there", "there"])
async def test_repetitions_that_race_all_succeed(store: EventStore, there: list[str], expected: int) -> None:
    """Six at once of the same append, to new and existing streams: one is stored, and all get its answers."""
    for stream in there:
        await store.append_to_stream(stream, 0, events("before"))
    parts = [part(name, 1 if expected == 0 and name in there else expected) for name in ("b-1", "a-1")]
    answers = await asyncio.gather(*(store.append_to_streams(parts) for _ in range(6)))
    assert answers == [answers[0]] * 6
    assert await rows(store) == (2, 2 + len(there))


async def test_new_streams_that_others_make_meanwhile_are_met_as_they_are(store: EventStore, database: str) -> None:
    """A caller that waits for a stream which another transaction makes sees it as that leaves it: versions fit or not,
    and one that was rolled back was never there."""
    for commit, expected, first in ((True, ANY_VERSION, 3), (True, 0, None), (False, 0, 1)):
        for stream in ("a-1", "b-1"):
            with suppress(StreamNotFound):
                await store.delete_stream(stream, ANY_VERSION, hard=True)
        connection = await asyncpg.connect(database)
        transaction = connection.transaction()
        await transaction.start()
        await store.append_to_stream("b-1", 0, events(1, 2), connection=connection)
        waiting = asyncio.create_task(store.append_to_streams([part("b-1", expected), part("a-1", 0)]))
        await waits_for_a_lock(store)
        await (transaction.commit() if commit else transaction.rollback())
        await connection.close()
        if first is not None:
            assert [answer.first_version for answer in await waiting] == [first, 1]
        else:
            with pytest.raises(WrongExpectedVersion):
                await waiting
            assert await rows(store) == (1, 2)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 1, 1), (0, 2, 1)])
async def test_what_an_event_is_given_stays_with_it(store: EventStore, sizes: tuple[int, ...]) -> None:
    """However many events each stream gets, none at all among them: metadata and ids are those of the event."""
    parts = [
        StreamAppend(
            f"s-{n}",
            0,
            [
                EventData(
                    "E", (n, i), {"of": [n, i]} if size == 1 else None, correlation_id="one" if size == 1 else None
                )
                for i in range(size)
            ],
        )
        for n, size in enumerate(sizes)
    ]
    await store.append_to_streams(parts)
    for part in parts:
        if part.events:
            read = await store.read_stream_forward(part.stream)
            assert [(e.data, e.metadata, e.correlation_id) for e in read] == [
                (list(e.data), e.metadata, e.correlation_id) for e in part.events
            ]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("moved", [0, 1, 2])
async def test_lists_that_begin_elsewhere_are_refused(store: EventStore, together: bool, moved: int) -> None:
    """SQL's arrays may begin at 0: an event of one stream would get the category of the next one, whose followers alone
    would see it."""
    await store.append_to_streams([part("a-1"), part("b-1")])
    lists = ["{a-1,b-1}", "{-1,-1}", "{1,0}"]
    lists[moved] = f"[0:1]={lists[moved]}"
    query = f"""SELECT * FROM eventstore.append_many_v1({together}, '{lists[0]}', '{lists[1]}', '{lists[2]}',
                    ARRAY[gen_random_uuid()], '{{E}}', '{{1}}')"""
    async with store.acquire() as connection:
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await connection.execute(query)
    assert await rows(store) == (2, 2)
