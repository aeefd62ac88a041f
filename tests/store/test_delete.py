"""Deleting streams: softly and for good, alone and in races."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import combinations, permutations
from typing import Any

import asyncpg
import pytest

from tests.store.model import Append, Delete, Given, Link, Model, Operation, Outcome, Part, perform, state
from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    EventData,
    EventNotFound,
    EventStore,
    InvalidArgument,
    StreamDeleted,
    StreamNotFound,
    TrunklineError,
    WrongExpectedVersion,
)

both = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])


async def append(store: EventStore, stream: str, *data: Any) -> None:
    await store.append_to_stream(stream, ANY_VERSION, [EventData("E", d) for d in data])


async def read(store: EventStore, stream: str) -> list[Any]:
    return [event.data for event in await store.read_stream_forward(stream)]


async def read_all(store: EventStore) -> list[Any]:
    return [event.data for event in await store.read_all_streams_forward()]


async def test_nothing_can_be_done_with_a_deleted_stream(store: EventStore) -> None:
    """Appending, linking, reading, asking and deleting say `StreamDeleted`, whatever is expected; the name is never
    free again."""
    await append(store, "a-1", 1, 2)
    await append(store, "b-1", 3)
    (other,) = await store.read_stream_forward("b-1")
    await store.delete_stream("a-1", 2)
    calls: list[Callable[[int], Awaitable[Any]]] = [
        lambda expected: store.append_to_stream("a-1", expected, [EventData("E", 9)]),
        lambda expected: store.append_to_stream("a-1", expected, []),
        lambda expected: store.link_to_stream("a-1", expected, [other]),
        lambda _: store.read_stream_forward("a-1"),
        lambda _: store.read_stream_backward("a-1"),
        lambda _: anext(store.stream_forward("a-1")),
        lambda _: anext(store.stream_backward("a-1")),
        lambda _: store.stream_info("a-1"),
        lambda _: store.delete_stream("a-1", ANY_VERSION),
        lambda _: store.delete_stream("a-1", 17),
        lambda _: store.delete_stream("a-1", STREAM_EXISTS, hard=True),
    ]
    for call in calls:
        for expected in (0, 2, 7, ANY_VERSION, NO_STREAM, STREAM_EXISTS):
            with pytest.raises(StreamDeleted) as caught:
                await call(expected)
            assert caught.value.stream == "a-1"


async def test_repeating_a_stored_append_to_a_deleted_stream_is_refused(store: EventStore) -> None:
    """That the stream was deleted comes first, also for what had been stored before."""
    events = [EventData("E", 1)]
    await store.append_to_stream("a-1", 0, events)
    await store.delete_stream("a-1", 1)
    with pytest.raises(StreamDeleted):
        await store.append_to_stream("a-1", 0, events)


async def test_events_of_a_deleted_stream_stay_in_all_and_where_they_are_linked(store: EventStore) -> None:
    """`$all`, its category and other streams still give them, and they can still be linked."""
    await append(store, "a-1", 1, 2)
    events = await store.read_stream_forward("a-1")
    await store.link_to_stream("target-1", 0, events[:1])
    await store.delete_stream("a-1", ANY_VERSION)
    await append(store, "b-1", 3)
    await store.link_to_stream("target-1", 1, events[1:])
    assert await read_all(store) == [1, 2, 3]
    assert [event.data for event in await store.read_category_forward("a")] == [1, 2]
    assert await read(store, "target-1") == [1, 2]


async def test_a_hard_delete_removes_the_events_everywhere(store: EventStore) -> None:
    """Stream, events and links are gone, from `$all` and the category as well; the others stay, and no position is
    given again."""
    await append(store, "b-1", 0)
    await append(store, "a-1", 1, 2)
    last = (await store.read_all_streams_forward())[-1].position
    await store.delete_stream("a-1", 2, hard=True)
    with pytest.raises(StreamNotFound):
        await read(store, "a-1")
    with pytest.raises(StreamNotFound):
        await store.stream_info("a-1")
    assert await read_all(store) == [0]
    assert await store.read_category_forward("a") == []
    await append(store, "b-1", 3)
    assert (await store.read_all_streams_forward())[-1].position > last
    assert await store.fetchval("SELECT count(*) FROM eventstore.streams") == 1


async def test_the_name_and_the_ids_are_free_after_a_hard_delete(store: EventStore) -> None:
    """The stream begins anew at version 1, also with the same events."""
    events = [EventData("E", 1), EventData("E", 2)]
    first = await store.append_to_stream("a-1", 0, events)
    await store.delete_stream("a-1", 2, hard=True)
    again = await store.append_to_stream("a-1", NO_STREAM, events)
    assert (again.first_version, again.last_version) == (1, 2)
    assert again.first_position > first.last_position


async def test_a_target_loses_hard_deleted_events_and_keeps_its_version(store: EventStore) -> None:
    """Its numbers have holes then, which stop no reading; all of them gone, it is a stream without events."""
    await append(store, "a-1", 1, 2, 3)
    await append(store, "b-1", 4)
    linked = [*await store.read_stream_forward("a-1"), *await store.read_stream_forward("b-1")]
    await store.link_to_stream("target-1", 0, linked)
    await store.link_to_stream("target-2", 0, linked[:3])
    await store.delete_stream("a-1", STREAM_EXISTS, hard=True)
    await append(store, "target-1", 5)
    read_back = await store.read_stream_forward("target-1")
    assert [(event.event_number, event.data) for event in read_back] == [(4, 4), (5, 5)]
    for page in (1, 2):
        assert [event.data async for event in store.stream_forward("target-1", page=page)] == [4, 5]
        assert [event.data async for event in store.stream_backward("target-1", page=page)] == [5, 4]
    assert await read(store, "target-2") == []
    assert [event async for event in store.stream_backward("target-2")] == []
    assert (await store.stream_info("target-2")).version == 3
    assert (await store.append_to_stream("target-2", 3, [EventData("E", 6)])).first_version == 4


async def test_a_hard_deleted_target_leaves_the_events(store: EventStore) -> None:
    """Its links go, the events stay where they were appended, and can be linked there again."""
    await append(store, "a-1", 1)
    events = await store.read_stream_forward("a-1")
    await store.link_to_stream("target-1", 0, events)
    await store.delete_stream("target-1", 1, hard=True)
    assert await read(store, "a-1") == [1]
    assert await store.fetchval("SELECT count(*) FROM eventstore.links") == 0
    await store.link_to_stream("target-1", NO_STREAM, events)


@pytest.mark.parametrize("page", [1, 2, 3, 100])
async def test_gaps_of_hard_deletes_stop_no_reading(store: EventStore, page: int) -> None:
    """Whatever the page: wide gaps at the beginning, within, and at the end of `$all` and of a category."""
    for n, size in enumerate((30, 1, 30, 2, 1500, 1, 30)):
        await append(store, f"s-{n}", *[n] * size)
    for n in (0, 2, 4, 6):
        await store.delete_stream(f"s-{n}", ANY_VERSION, hard=True)
    for seen in (
        [event.data async for event in store.stream_all_forward(page=page)],
        [event.data async for event in store.stream_all_backward(page=page)][::-1],
        [event.data async for event in store.stream_category_forward("s", page=page)],
        await read_all(store),
    ):
        assert seen == [1, 3, 3, 5]


@both
@pytest.mark.parametrize("expected", [2, ANY_VERSION, STREAM_EXISTS])
async def test_an_existing_stream_is_deleted(store: EventStore, expected: int, hard: bool) -> None:
    """Its version, ANY_VERSION and STREAM_EXISTS fit."""
    await append(store, "a-1", 1, 2)
    await store.delete_stream("a-1", expected, hard=hard)
    with pytest.raises(StreamNotFound if hard else StreamDeleted):
        await read(store, "a-1")


@both
@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_stream_at_another_version_is_not_deleted(store: EventStore, expected: int, hard: bool) -> None:
    """The error says at which it is, and everything stays."""
    await append(store, "a-1", 1, 2)
    with pytest.raises(WrongExpectedVersion) as caught:
        await store.delete_stream("a-1", expected, hard=hard)
    assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("a-1", expected, 2)
    assert await read(store, "a-1") == [1, 2]


@both
@pytest.mark.parametrize("expected", [0, 1, ANY_VERSION, STREAM_EXISTS])
async def test_a_stream_that_is_not_there_cannot_be_deleted(store: EventStore, expected: int, hard: bool) -> None:
    """Whatever is expected."""
    with pytest.raises(StreamNotFound):
        await store.delete_stream("a-1", expected, hard=hard)


@both
@pytest.mark.parametrize(("stream", "expected"), [("$all", ANY_VERSION), ("", 0), ("a-1", NO_STREAM), ("a-1", -9)])
async def test_what_cannot_be_deleted_is_refused(store: EventStore, stream: str, expected: int, hard: bool) -> None:
    """P9: `$all`, bad names, and expectations that leave nothing to delete: typed, and everything stays."""
    await append(store, "a-1", 1)
    with pytest.raises(InvalidArgument):
        await store.delete_stream(stream, expected, hard=hard)
    assert await read(store, "a-1") == [1]


@both
async def test_a_delete_goes_with_the_callers_transaction(store: EventStore, hard: bool) -> None:
    """Rolled back, everything is there as before; a refused one leaves the transaction usable."""
    await append(store, "a-1", 1)
    await append(store, "b-1", 2)
    await store.link_to_stream("target-1", 0, await store.read_stream_forward("a-1"))
    before = await state(store)
    async with store.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.delete_stream("a-1", 1, hard=hard, connection=connection)
        await transaction.rollback()
    assert await state(store) == before
    async with store.transaction() as connection:
        with pytest.raises(WrongExpectedVersion):
            await store.delete_stream("a-1", 7, hard=hard, connection=connection)
        await store.delete_stream("b-1", 1, hard=hard, connection=connection)
    assert await read(store, "target-1") == [1]
    assert await read_all(store) == ([1] if hard else [1, 2])


REMOVALS = [f"DELETE FROM eventstore.{table}" for table in ("events", "links")]


async def test_a_session_is_left_as_it_was_after_a_hard_delete(store: EventStore, database: str) -> None:
    """The same connection cannot remove events afterwards: neither in the same transaction, nor later, nor after a
    rolled-back savepoint, nor with the setting kept by hand."""
    connection = await asyncpg.connect(database)
    for n in range(5):
        await append(store, f"a-{n}", 1)
    await store.link_to_stream("target-1", 0, await store.read_stream_forward("a-4"))

    async def refused() -> None:
        for statement in REMOVALS:
            with pytest.raises(asyncpg.FeatureNotSupportedError, match="never changed"):
                async with connection.transaction():
                    await connection.execute(statement)

    async with connection.transaction():
        await store.delete_stream("a-0", 1, hard=True, connection=connection)
    await refused()
    async with connection.transaction():
        await store.delete_stream("a-1", 1, hard=True, connection=connection)
        await refused()
        inner = connection.transaction()
        await inner.start()
        await store.delete_stream("a-2", 1, hard=True, connection=connection)
        await inner.rollback()
        await refused()
    await refused()
    await connection.execute("SET trunkline.hard_delete = 'on'")
    async with connection.transaction():
        await store.delete_stream("a-3", 1, hard=True, connection=connection)
    assert await connection.fetchval("SHOW trunkline.hard_delete") == "on"
    await refused()
    assert await read_all(store) == [1, 1]
    await connection.close()


async def test_a_refused_hard_delete_does_not_open_the_door(store: EventStore) -> None:
    """Events cannot be removed in the transaction in which one was refused."""
    await append(store, "a-1", 1)
    async with store.transaction() as connection:
        with pytest.raises(WrongExpectedVersion):
            await store.delete_stream("a-1", 9, hard=True, connection=connection)
        for statement in REMOVALS:
            with pytest.raises(asyncpg.FeatureNotSupportedError):
                async with connection.transaction():
                    await connection.execute(statement)


# --- races

BEFORE: list[Operation] = [
    Append((Part("a-1", 0, (Given(1), Given(2))),)),
    Append((Part("b-1", 0, (Given(3),)),)),
    Link("target-1", 0, (1, 3)),
]
RACERS: dict[str, Operation] = {
    "append": Append((Part("a-1", ANY_VERSION, (Given(11), Given(12))),)),
    "append at 2": Append((Part("a-1", 2, (Given(13),)),)),
    "append to no stream": Append((Part("a-1", NO_STREAM, (Given(14),)),)),
    "append to both": Append((Part("b-1", 1, (Given(15),)), Part("a-1", STREAM_EXISTS, (Given(16),)))),
    "repeat": BEFORE[0],
    "link": Link("a-1", ANY_VERSION, (3,)),
    "link from": Link("c-1", ANY_VERSION, (2,)),
    "delete": Delete("a-1", ANY_VERSION, False),
    "delete at 2": Delete("a-1", 2, False),
    "erase": Delete("a-1", ANY_VERSION, True),
    "erase at 2": Delete("a-1", 2, True),
}


def serially(operations: list[Operation]) -> list[tuple[list[Outcome], Outcome]]:
    """Outcomes and state at the end for every order of the operations."""
    results = []
    for order in permutations(range(len(operations))):
        model = Model()
        for operation in BEFORE:
            model.perform(operation)
        outcomes: list[Outcome] = [()] * len(operations)
        for number in order:
            outcomes[number] = model.perform(operations[number])
        results.append((outcomes, model.state()))
    return results


RACES = [names for names in combinations(RACERS, 3) if any(name.startswith(("delete", "erase")) for name in names)]


@pytest.mark.parametrize("own_connections", [True, False], ids=["sessions", "coalesced"])
@pytest.mark.parametrize("held", [True, False], ids=["held", "free"])
async def test_races_with_deletes_end_as_in_some_order(
    store: EventStore, database: str, held: bool, own_connections: bool
) -> None:
    """Any three appends, links and deletes at once, begun while the stream is held or free, by sessions of their own or
    through the pool: outcomes and tables are those of the three one after another in some order."""
    holder, *sessions = [await asyncpg.connect(database) for _ in range(4)]
    orders = set()
    for names in RACES:
        for stream in ("a-1", "b-1", "c-1", "target-1"):
            async with holder.transaction():
                await clear(holder, stream)
        for operation in BEFORE:
            await perform(store, operation)
        operations = [RACERS[name] for name in names]

        transaction = holder.transaction()
        await transaction.start()
        if held:
            await holder.execute("SELECT FROM eventstore.streams WHERE stream = 'a-1' FOR UPDATE")
        racing = [
            asyncio.create_task(perform(store, operation, session if own_connections else None))
            for operation, session in zip(operations, sessions, strict=True)
        ]
        if held:
            await until_waiting(store, racing, 3 if own_connections else 1)
        await transaction.rollback()
        found = [outcome for outcome, _ in await asyncio.gather(*racing)], await state(store)
        possible = serially(operations)
        assert found in possible, (names, found, possible)
        orders.add((names, possible.index(found)))
    assert len({order for _, order in orders}) > 1, "the operations never overtook each other"
    for connection in (holder, *sessions):
        await connection.close()


async def clear(connection: Any, stream: str) -> None:
    """Removes a stream, also a deleted one."""
    await connection.execute("UPDATE eventstore.streams SET deleted_at = NULL WHERE stream = $1", stream)
    await connection.execute("SELECT eventstore.hard_delete_v1($1, -1)", stream)


async def until_waiting(store: EventStore, racing: list[asyncio.Task[Any]], how_many: int) -> None:
    """Until so many have their answers or wait for a lock. What is queued in this process waits for neither."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while await store.fetchval(query) + sum(task.done() for task in racing) < how_many:
            await asyncio.sleep(0.001)  # PostgreSQL tells nobody who waits


async def test_a_link_never_outlives_its_event(store: EventStore, database: str) -> None:
    """A link that has found its event when a hard delete removes it either goes with it or is refused: no link points
    to nothing."""
    await append(store, "a-1", 1)
    events = await store.read_stream_forward("a-1")
    holder = await asyncpg.connect(database)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT pg_advisory_xact_lock('eventstore.streams'::regclass::int, hashtext('new-1') & 1023)")
    linking = asyncio.create_task(store.link_to_stream("new-1", 0, events))
    await until_waiting(store, [linking], 1)
    deleting = asyncio.create_task(store.delete_stream("a-1", 1, hard=True))
    await until_waiting(store, [linking, deleting], 2)
    await transaction.rollback()
    await holder.close()
    linked, deleted = await asyncio.gather(linking, deleting, return_exceptions=True)
    assert deleted is None
    assert await store.fetchval("SELECT count(*) FROM eventstore.links") == 0
    if isinstance(linked, TrunklineError):
        assert isinstance(linked, EventNotFound)
    else:
        assert await read(store, "new-1") == []
