"""Group commit: appends of one process that travel together, and each its own outcome."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Appended,
    DuplicateEvent,
    EventData,
    EventStore,
    InvalidArgument,
    StoreUnavailable,
    StreamDeleted,
    StreamExists,
    StreamNotFound,
    Unavailable,
    WrongExpectedVersion,
)
from trunkline_store.coalesce import Coalescer

Connection = Any  # asyncpg's, or one of its pool


def events(*data: Any) -> list[EventData]:
    return [EventData("E", d) for d in data]


async def append(store: EventStore, stream: str, *data: Any, expected: int = ANY_VERSION) -> Appended:
    return await store.append_to_stream(stream, expected, events(*data or (1,)))


async def read(store: EventStore, stream: str) -> list[Any]:
    return [event.data for event in await store.read_stream_forward(stream, count=100_000)]


async def transactions(store: EventStore, streams: str) -> int:
    """In how many transactions the events of these streams were written."""
    query = "SELECT count(DISTINCT e.xmin::text) FROM eventstore.events e JOIN eventstore.streams s USING (stream_id)"
    return int(await store.fetchval(f"{query} WHERE s.stream LIKE $1", streams))


async def waits_for_a_lock(store: EventStore, how_many: int = 1) -> None:
    """Until so many sessions of this database wait for another one."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while await store.fetchval(query) < how_many:
            await asyncio.sleep(0.005)  # PostgreSQL tells nobody who waits


async def appended(store: EventStore, stream: str, connection: Connection) -> None:
    await store.append_to_stream(stream, ANY_VERSION, events("held"), connection=connection)


async def linked(store: EventStore, stream: str, connection: Connection) -> None:
    (event,) = await store.read_stream_forward("source-1")
    await store.link_to_stream(stream, ANY_VERSION, [event], connection=connection)


async def soft_deleted(store: EventStore, stream: str, connection: Connection) -> None:
    await store.delete_stream(stream, ANY_VERSION, connection=connection)


async def hard_deleted(store: EventStore, stream: str, connection: Connection) -> None:
    await store.delete_stream(stream, ANY_VERSION, hard=True, connection=connection)


async def locked(store: EventStore, stream: str, connection: Connection) -> None:
    await connection.execute("SELECT FROM eventstore.streams WHERE stream = $1 FOR UPDATE", stream)


Hold = Callable[[EventStore, str, Connection], Awaitable[None]]


@asynccontextmanager
async def another_session(store: EventStore, database: str) -> AsyncIterator[Connection]:
    """An open transaction of another program; rolled back at the end."""
    connection = await asyncpg.connect(database)
    try:
        transaction = connection.transaction()
        await transaction.start()
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


@asynccontextmanager
async def own_transaction(store: EventStore, database: str) -> AsyncIterator[Connection]:
    """An open transaction on a connection of the store's own pool; rolled back at the end."""
    async with store.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield connection
        await transaction.rollback()


async def test_each_append_of_a_call_has_its_own_outcome(store: EventStore) -> None:
    """Appends of all outcomes travel in one transaction, and each is told its own."""
    repeated = events("repeated")
    await append(store, "there-1", 0, 0)
    await append(store, "deleted-1")
    await store.delete_stream("deleted-1", ANY_VERSION)
    original = await store.append_to_stream("repeated-1", 0, repeated)

    outcomes = await asyncio.gather(
        append(store, "first-1"),  # goes at once; the others arrive while it is under way
        append(store, "good-1"),
        append(store, "there-1", expected=5),
        append(store, "new-1", expected=1),
        append(store, "good-2", 1, 2, expected=0),
        append(store, "repeated-1", expected=NO_STREAM),
        append(store, "new-2", expected=STREAM_EXISTS),
        append(store, "deleted-1"),
        store.append_to_stream("new-3", 0, repeated),
        append(store, "good-3", expected=NO_STREAM),
        store.append_to_stream("new-4", 0, []),
        return_exceptions=True,
    )
    assert [getattr(outcome, "last_version", type(outcome)) for outcome in outcomes] == [
        1,
        1,
        WrongExpectedVersion,
        WrongExpectedVersion,
        2,
        StreamExists,
        StreamNotFound,
        StreamDeleted,
        DuplicateEvent,
        1,
        0,
    ]
    assert await transactions(store, "good-%") == 1
    assert [event.data for event in await store.read_all_streams_forward()] == [0, 0, 1, "repeated", 1, 1, 1, 2, 1]
    assert await store.fetchval("SELECT count(*) FROM eventstore.streams WHERE stream LIKE 'new-%'") == 0

    again = await asyncio.gather(store.append_to_stream("repeated-1", 9, repeated), append(store, "good-1"))
    assert again[0] == original
    assert again[1].last_version == 2


@pytest.mark.parametrize("hold", [appended, linked, soft_deleted, hard_deleted, locked])
@pytest.mark.parametrize("session", [another_session, own_transaction])
async def test_a_stream_that_an_open_transaction_holds_delays_nobody_else(
    store: EventStore, database: str, hold: Hold, session: Any
) -> None:
    """While another program, or this one, holds a stream, its appends wait and a hundred others succeed."""
    await append(store, "source-1", "source")
    await append(store, "held-1", 1)
    async with session(store, database) as connection:
        await hold(store, "held-1", connection)
        waiting = [asyncio.create_task(append(store, "held-1", n)) for n in (2, 3, 4)]
        for turn in range(10):
            others = await asyncio.gather(*(append(store, f"free-{turn % 2}-{n}") for n in range(10)))
            assert len(others) == 10
            waiting.append(asyncio.create_task(append(store, "held-1", 5 + turn)))
        assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    assert await read(store, "held-1") == list(range(1, 15))


@pytest.mark.parametrize("session", [another_session, own_transaction])
async def test_a_stream_that_is_being_made_delays_nobody_else(store: EventStore, database: str, session: Any) -> None:
    """A name that an open transaction has created is waited for by its own appends only, not even by those of names
    that share its lock."""
    same_lock = """
        SELECT 'new-' || n FROM generate_series(1, 100000) AS n
        WHERE hashtext('new-' || n) & 1023 = hashtext('held-1') & 1023 LIMIT 5"""
    neighbours = [row[0] for row in await store.fetch(same_lock)]
    assert len(neighbours) == 5
    async with session(store, database) as connection:
        await appended(store, "held-1", connection)
        waiting = asyncio.create_task(append(store, "held-1"))
        for turn in range(5):
            names = [f"free-{turn}-{n}" for n in range(5)]
            await asyncio.gather(*(append(store, name) for name in [*names, *neighbours]))
        assert not waiting.done()
    assert (await waiting).first_version == 1, "the other transaction was rolled back"


async def test_more_streams_may_be_held_than_there_are_connections(store: EventStore, database: str) -> None:
    """With three connections and nine held streams, fifty appends to others succeed meanwhile."""
    async with EventStore(database, pool_size=3) as small, another_session(store, database) as connection:
        for n in range(9):
            await appended(store, f"held-{n}", connection)
        waiting = [asyncio.create_task(append(small, f"held-{n}")) for n in range(9)]
        for _ in range(5):
            await asyncio.gather(*(append(small, f"free-{n}") for n in range(10)))
        assert not any(task.done() for task in waiting)
        assert await transactions(store, "free-%") < 50
        await connection.execute("ROLLBACK; BEGIN")
        await asyncio.gather(*waiting)


async def test_a_pool_of_the_applications_is_not_used_up_by_held_streams(store: EventStore, database: str) -> None:
    """However small the given pool is, held streams leave a connection to the others."""
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool, EventStore(pool) as small:
        async with another_session(store, database) as connection:
            for n in range(3):
                await appended(store, f"held-{n}", connection)
            waiting = [asyncio.create_task(append(small, f"held-{n}")) for n in range(3)]
            await waits_for_a_lock(store)
            async with asyncio.timeout(10):
                await asyncio.gather(*(append(small, f"free-{n}") for n in range(10)))
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


async def test_a_transaction_can_wait_for_an_append_beside_it(store: EventStore) -> None:
    """Whoever holds a stream may append to others outside of the transaction, also while this stream's appends wait:
    no deadlock that PostgreSQL could not see."""
    async with store.transaction() as connection:
        await appended(store, "a-1", connection)
        waiting = [asyncio.create_task(append(store, "a-1")) for _ in range(20)]
        outside = await asyncio.gather(*(append(store, f"b-{n}") for n in range(20)))
        assert len(outside) == 20
        assert not any(task.done() for task in waiting)
    assert sorted(answer.last_version for answer in await asyncio.gather(*waiting)) == list(range(2, 22))


SIZES = [1, 1, 70, 1, 65, 64, 1, 200, 1, 1]


async def test_appends_to_one_stream_keep_their_order(store: EventStore) -> None:
    """Small ones and large ones, of several streams at once: a stream's events stand in the order of the calls."""
    await asyncio.gather(
        *(append(store, f"s-{n % 3}", *[n] * SIZES[n % len(SIZES)]) for n in range(60)),
    )
    for stream in range(3):
        seen = await read(store, f"s-{stream}")
        assert seen == sorted(seen)
        assert set(seen) == set(range(stream, 60, 3))


@pytest.mark.parametrize("session", [another_session, own_transaction])
async def test_appends_to_a_held_stream_keep_their_order(store: EventStore, database: str, session: Any) -> None:
    """Those that wait for a stream, small and large, go on in the order of the calls, and so do later ones."""
    await append(store, "held-1", -1)
    async with session(store, database) as connection:
        await locked(store, "held-1", connection)
        tasks = []
        for n in range(0, 20, 2):
            tasks += [asyncio.create_task(append(store, "held-1", *[m] * SIZES[m % 10])) for m in (n, n + 1)]
            await append(store, "free-1")
    tasks += [asyncio.create_task(append(store, "held-1", *[m] * SIZES[m % 10])) for m in range(20, 30)]
    await asyncio.gather(*tasks)
    seen = await read(store, "held-1")
    assert seen == sorted(seen)
    assert set(seen) == set(range(-1, 30))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_cancelled_caller_harms_nobody(store: EventStore, turns: int) -> None:
    """However far it is: the append of a cancelled caller is stored whole or not at all, the others succeed, and the
    next ones do as well."""
    tasks = [asyncio.create_task(append(store, f"s-{n}", n, n)) for n in range(40)]
    for _ in range(turns):
        await asyncio.sleep(0)  # one turn of the loop further
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    assert all(isinstance(outcome, Appended) and outcome.last_version == 2 for outcome in outcomes[1::2])
    assert len(await asyncio.gather(*(append(store, f"s-{n}", n) for n in range(1, 40, 2)))) == 20
    for n in range(0, 40, 2):
        stored = await store.fetchval("SELECT version FROM eventstore.streams WHERE stream = $1", f"s-{n}")
        assert stored in (None, 2)


async def test_a_cancelled_caller_of_a_held_stream_does_not_take_the_others_with_it(
    store: EventStore, database: str
) -> None:
    """The wire call goes on, so that those behind it get their turn."""
    await append(store, "held-1", 0)
    async with another_session(store, database) as connection:
        await locked(store, "held-1", connection)
        tasks = [asyncio.create_task(append(store, "held-1", n)) for n in (1, 2, 3)]
        await waits_for_a_lock(store)
        for task in tasks[:2]:
            task.cancel()
        await append(store, "free-1")
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, asyncio.CancelledError)
    assert isinstance(third, Appended)
    seen = await read(store, "held-1")
    assert (seen[0], seen[-1], len(seen)) == (0, 3, third.last_version)


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_closing_the_store_lets_appends_finish(database: str, store: EventStore, turns: int) -> None:
    """What had been called before `close` succeeds: on its way, waiting for company, and too large for it."""
    closing = EventStore(database)
    await closing.open()
    tasks = [asyncio.create_task(append(closing, f"s-{n % 4}", *[n] * SIZES[n % 10])) for n in range(40)]
    for _ in range(turns):
        await asyncio.sleep(0)  # one turn of the loop further
    await closing.close()
    assert all(task.done() for task in tasks)
    assert len(await asyncio.gather(*tasks)) == 40
    assert await store.fetchval("SELECT count(*) FROM eventstore.events") == 4 * sum(SIZES)


async def test_closing_waits_for_a_held_stream_no_longer_than_the_timeout(database: str, store: EventStore) -> None:
    """Then each of its appends gets a typed error. Those that may have been sent say that trying again may help; and
    tried again, each is stored once."""
    events_of = [events(n) for n in range(3)]
    closing = EventStore(database, timeout=0.5)
    await closing.open()
    async with another_session(store, database) as connection:
        await appended(store, "held-1", connection)
        tasks = [asyncio.create_task(closing.append_to_stream("held-1", ANY_VERSION, each)) for each in events_of]
        await waits_for_a_lock(store)
        async with asyncio.timeout(20):
            await closing.close()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for each, outcome in zip(events_of, outcomes, strict=True):
        assert isinstance(outcome, Unavailable | InvalidArgument)
        if isinstance(outcome, InvalidArgument):  # nothing was sent
            assert each[0].id not in {event.event_id for event in await store.read_all_streams_forward()}
    assert isinstance(outcomes[0], Unavailable)
    for each in events_of:
        await store.append_to_stream("held-1", ANY_VERSION, each)
    assert sorted(await read(store, "held-1")) == [0, 1, 2]


async def test_large_appends_do_not_starve_small_ones(database: str, store: EventStore) -> None:
    """While more large appends than connections are stuck, and while one is at work, small ones go on."""
    async with EventStore(database, pool_size=3) as small, another_session(store, database) as connection:
        for n in range(4):
            await appended(store, f"held-{n}", connection)
        stuck = [asyncio.create_task(append(small, f"held-{n}", *range(2000))) for n in range(4)]
        for _ in range(10):
            await asyncio.gather(*(append(small, f"free-{n}") for n in range(5)))
        assert not any(task.done() for task in stuck)
        await connection.execute("ROLLBACK; BEGIN")
        await asyncio.gather(*stuck)

    working = asyncio.create_task(append(store, "large-1", *range(30_000)))
    beside = 0
    while not working.done():
        await append(store, "small-1")
        beside += 1
    assert beside > 5
    assert (await working).last_version == 30_000


@pytest.mark.parametrize("commit", [True, False])
async def test_an_append_that_breaks_the_call_fails_alone(store: EventStore, database: str, commit: bool) -> None:
    """An equal id that another transaction is storing in another stream is met in mid-call: once it is committed
    only that append fails, and if it is rolled back none does."""
    taken = EventData("E", "taken")
    connection = await asyncpg.connect(database)
    transaction = connection.transaction()
    await transaction.start()
    await store.append_to_stream("theirs-1", 0, [taken], connection=connection)
    tasks = [asyncio.create_task(append(store, f"good-{n}", n)) for n in range(5)]
    tasks.insert(2, asyncio.create_task(store.append_to_stream("ours-1", 0, [EventData("E", "ours", id=taken.id)])))
    await waits_for_a_lock(store)
    await (transaction.commit() if commit else transaction.rollback())
    await connection.close()
    *good, bad = [*tasks[:2], *tasks[3:], tasks[2]]
    assert [answer.last_version for answer in await asyncio.gather(*good)] == [1] * 5
    if commit:
        with pytest.raises(DuplicateEvent) as caught:
            await bad
        assert caught.value.stream == "ours-1"
    else:
        assert (await bad).last_version == 1
    assert await transactions(store, "good-%") == (5 if commit else 1)


async def test_an_id_that_two_appends_of_a_call_share_is_stored_once(store: EventStore) -> None:
    """Of two streams that get the same id at the same time, one has it; the others of the call succeed."""
    twice = EventData("E", "twice")
    outcomes = await asyncio.gather(
        append(store, "good-1"),
        store.append_to_stream("a-1", 0, [twice]),
        store.append_to_stream("b-1", 0, [twice]),
        append(store, "good-2"),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Appended"] * 3 + ["DuplicateEvent"]
    assert isinstance(outcomes[0], Appended)
    assert isinstance(outcomes[3], Appended)


@pytest.mark.parametrize("streams", [1, 50])
async def test_fifty_writers_all_succeed(store: EventStore, streams: int) -> None:
    """Fifty writers of ten appends each, on one stream and on fifty: versions have no holes, `$all` has everything,
    and writers of different streams shared transactions."""

    async def write(number: int) -> None:
        for turn in range(10):
            await append(store, f"s-{number % streams}", [number, turn])

    await asyncio.gather(*(write(n) for n in range(50)))
    everything = [tuple(event.data) for event in await store.read_all_streams_forward()]
    assert sorted(everything) == [(n, turn) for n in range(50) for turn in range(10)]
    for stream in range(streams):
        read = await store.read_stream_forward(f"s-{stream}")
        assert [event.stream_version for event in read] == list(range(1, 500 // streams + 1))
        for number in range(stream, 50, streams):
            assert [e.data[1] for e in read if e.data[0] == number] == list(range(10))
    written_in = await transactions(store, "s-%")
    assert written_in == 500 if streams == 1 else written_in < 250


async def test_a_crowd_is_carried_in_several_calls(store: EventStore) -> None:
    """More appends, events and bytes than one call takes are all stored, each stream's in its order."""
    many = [append(store, f"many-{n}", n) for n in range(600)]
    wide = [append(store, f"wide-{n}", *range(60)) for n in range(40)]
    heavy = [append(store, f"heavy-{n}", "x" * 100_000) for n in range(30)]
    assert len(await asyncio.gather(*many, *wide, *heavy)) == 670
    assert await store.fetchval("SELECT count(*) FROM eventstore.events") == 600 + 40 * 60 + 30
    assert 1 < await transactions(store, "many-%") < 100
    assert await transactions(store, "heavy-%") < 30


async def test_a_small_pool_is_not_used_up_by_held_streams(store: EventStore, database: str) -> None:
    """A pool of the store's own with two connections and two held streams: others are appended to meanwhile."""
    async with EventStore(database, pool_size=2) as small:
        await append(small, "first-1")  # a connection is at hand now
        async with another_session(store, database) as connection:
            for n in range(2):
                await appended(store, f"held-{n}", connection)
            waiting = [asyncio.create_task(append(small, "held-0"))]
            await waits_for_a_lock(store)
            waiting.append(asyncio.create_task(append(small, "held-1")))
            with suppress(TimeoutError):  # that it may have to wait for its turn is what keeps a connection free
                async with asyncio.timeout(1):
                    await waits_for_a_lock(store, 2)
            async with asyncio.timeout(10):
                await asyncio.gather(*(append(small, f"free-{n}") for n in range(10)))
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


class Senders:
    """What carries appends for a `Coalescer` of its own, in place of a database: each call stands still where a test
    has put a gate for its append, until the gate is opened."""

    def __init__(self, *gates: tuple[str, int]) -> None:
        self.written: list[tuple[str, int]] = []
        self.begun: list[tuple[str, int]] = []  # the way, and the number
        self.gates = {gate: asyncio.Event() for gate in gates}
        self.busy: set[int] = set()
        self.lost: set[int] = set()
        self.closed = False
        self.coalescer = Coalescer(self.at_once, self.one, self.many, connections=10)

    def at_once(self, args: list[Any]) -> Coroutine[Any, Any, Any] | None:
        return self.sent(args) if args[2] in self.lost else None

    async def sent(self, args: list[Any]) -> Any:
        await self.carried("at once", args)
        raise StoreUnavailable("the connection was lost")

    async def one(self, args: list[Any]) -> Any:
        if self.closed:
            raise InvalidArgument("the store is not open")
        await self.carried("one", args)
        self.written.append((args[0], args[2]))
        return ("appended",)

    async def many(self, appends: Sequence[list[Any]]) -> Sequence[Any]:
        for args in appends:
            await self.carried("many", args)
        rows = [("busy" if args[2] in self.busy else "appended",) for args in appends]
        self.written += [(args[0], args[2]) for args, row in zip(appends, rows, strict=True) if row[0] == "appended"]
        return rows

    async def carried(self, way: str, args: list[Any]) -> None:
        self.begun.append((way, args[2]))
        if (gate := self.gates.get((way, args[2]))) is not None:
            await gate.wait()

    async def stands_at(self, way: str, number: int) -> None:
        async with asyncio.timeout(10):
            while (way, number) not in self.begun:
                await asyncio.sleep(0)  # until it has come so far

    def open(self, way: str, number: int) -> None:
        self.gates[way, number].set()

    def append(self, stream: str, number: int) -> asyncio.Task[Any]:
        return asyncio.create_task(self.coalescer.append([stream, -1, number, "E", "{}", *[None] * 5]))

    def of(self, stream: str) -> list[int]:
        return [number for name, number in self.written if name == stream]


async def test_what_waited_before_a_stream_goes_alone_keeps_its_place() -> None:
    """A second append waits, the first goes on alone for a while, a third comes: they are written in their order."""
    senders = Senders(("one", 1))
    tasks = [senders.append("s", 1), senders.append("s", 2)]
    await senders.stands_at("one", 1)
    tasks.append(senders.append("s", 3))
    await asyncio.wait_for(senders.append("other", 9), 10)  # whom the first does not keep waiting
    senders.open("one", 1)
    await asyncio.gather(*tasks)
    assert senders.of("s") == [1, 2, 3]


async def test_the_order_of_a_stream_survives_two_calls_at_once() -> None:
    """One of two overlapping calls finds a stream busy, while more of its appends wait: they come behind it, also where
    the other call ends meanwhile."""
    senders = Senders(("one", 0), ("many", 1), ("many", 139), ("one", 1))
    senders.busy = {1}
    tasks = [senders.append("first", 0)]
    await senders.stands_at("one", 0)
    tasks += [senders.append("s", 1), *(senders.append(f"a-{n}", 100 + n) for n in range(40))]
    await senders.stands_at("many", 1)
    senders.open("one", 0)
    await senders.stands_at("many", 139)  # two calls are under way
    tasks.append(senders.append("s", 2))
    await asyncio.sleep(0)  # it waits
    senders.open("many", 1)
    await senders.stands_at("one", 1)
    tasks.append(senders.append("s", 3))
    await asyncio.sleep(0)  # it waits behind the one that goes alone
    senders.open("many", 139)
    await asyncio.wait_for(senders.append("later", 9), 10)  # the other call has ended, and looked at what waits
    senders.open("one", 1)
    await asyncio.gather(*tasks)
    assert senders.of("s") == [1, 2, 3]


async def test_an_append_whose_connection_was_lost_keeps_its_place() -> None:
    """It is tried again before those that came to its stream meanwhile."""
    senders = Senders(("at once", 1))
    senders.lost = {1}
    tasks = [senders.append("s", 1)]
    await senders.stands_at("at once", 1)
    tasks += [senders.append("s", 2), senders.append("s", 3)]
    await asyncio.sleep(0)  # they wait
    senders.open("at once", 1)
    await asyncio.gather(*tasks)
    assert senders.of("s") == [1, 2, 3]


async def test_an_append_that_was_under_way_when_the_store_was_closed_may_be_there() -> None:
    """The error says that it cannot be known: not that the store was not open, as of an append that was never sent."""
    senders = Senders()
    senders.lost = {1}
    senders.closed = True
    with pytest.raises(StoreUnavailable):
        await senders.append("s", 1)


async def test_whoever_closes_at_the_same_time_waits_as_well() -> None:
    """Two waits for the last append both end with it."""
    senders = Senders(("at once", 1))
    senders.lost = {1}
    task = senders.append("s", 1)
    await senders.stands_at("at once", 1)
    draining = [asyncio.create_task(senders.coalescer.drain()) for _ in range(2)]
    await asyncio.sleep(0)  # both wait
    senders.open("at once", 1)
    await asyncio.wait_for(asyncio.gather(*draining), 10)
    assert await task == ("appended",)
