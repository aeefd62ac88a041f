"""Stores as a whole: opening and closing, connections, and several of them in one database."""

import asyncio
from typing import Any

import asyncpg
import pytest

from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidArgument,
    NotInitialised,
    Snapshot,
    StreamNotFound,
)
from trunkline_store.lease import Lease
from trunkline_store.migrate import initialise


async def make(dsn: str, *schemas: str) -> None:
    """New stores beside the one that is there."""
    connection = await asyncpg.connect(dsn)
    for schema in schemas:
        await initialise(connection, schema)
    await connection.close()


async def append(store: EventStore, stream: str, *data: Any) -> None:
    await store.append_to_stream(stream, ANY_VERSION, [EventData("E", d) for d in data])


async def read_all(store: EventStore) -> list[Any]:
    return [event.data for event in await store.read_all_streams_forward()]


async def test_stores_in_one_database_know_nothing_of_each_other(store: EventStore, database: str) -> None:
    """Streams, versions, event ids, `$all`, snapshots, subscriptions and leases are each store's own, and an open
    append holds back only the readers of its store."""
    await make(database, "second")
    events = [EventData("E", 1)]
    async with EventStore(database, schema="second") as second:
        for one in (store, second):
            assert (await one.append_to_stream("a-1", 0, events)).last_version == 1
            await one.record_snapshot(Snapshot("a-1", 1, "T", one.schema))
            await one.fetch(one.sql["create_subscription"], "projection", "$all", 0)
            assert await Lease.acquire(one, "relay", events[0].id, 60) is not None
        await append(second, "b-1", 2)
        with pytest.raises(StreamNotFound):
            await store.read_stream_forward("b-1")
        assert (await read_all(store), await read_all(second)) == ([1], [1, 2])
        assert (await store.read_snapshot("a-1")).data == "eventstore"
        await second.subscriptions.reset("projection", 7)
        assert (await store.subscriptions.get("projection")).checkpoint == 0
        async with store.transaction() as connection:
            await store.append_to_stream("a-1", 1, [EventData("E", 3)], connection=connection)
            await append(second, "a-1", 4)
            assert (await read_all(store), await read_all(second)) == ([1], [1, 2, 4])
        await second.delete_stream("a-1", ANY_VERSION, hard=True)
        assert (await read_all(store), await read_all(second)) == ([1, 3], [2])
        assert store.store_id != second.store_id


async def test_two_faces_of_a_store_are_one_store(store: EventStore, database: str) -> None:
    """As of two processes: what one appends the other reads, and they have one history."""
    async with EventStore(database) as other:
        await append(store, "a-1", 1)
        assert await read_all(other) == [1]
        assert (store.store_id, store.history) == (other.store_id, other.history)


async def test_a_pool_of_the_applications_is_shared_and_stays_open(store: EventStore, database: str) -> None:
    """Several stores use one pool, and closing one of them closes neither the pool nor the others."""
    await make(database, "second")
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        async with EventStore(pool) as first:
            async with EventStore(pool, schema="second") as second:
                await asyncio.gather(append(first, "a-1", 1), append(second, "a-1", 2))
            await append(first, "a-1", 3)
        assert await pool.fetchval("SELECT count(*) FROM second.events") == 1
    assert await read_all(store) == [1, 3]


async def test_a_store_takes_no_more_connections_than_it_was_told(store: EventStore, database: str) -> None:
    """P8: three, for a hundred appends and reads at once; none of them is kept for anything else, and none stays."""
    here = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'three'"
    seen = []
    async with EventStore(database, pool_size=3, application_name="three") as three:
        work = [append(three, f"s-{n}", n) for n in range(50)] + [read_all(three) for _ in range(50)]
        tasks = [asyncio.create_task(each) for each in work]
        while not all(task.done() for task in tasks):
            seen.append(await store.fetchval(here))
        await asyncio.gather(*tasks)
    assert max(seen) == 3
    async with asyncio.timeout(20):
        while await store.fetchval(here):
            await asyncio.sleep(0.01)  # PostgreSQL tells nobody when a session is gone


async def test_a_store_is_open_within_its_block(database: str) -> None:
    """Before and after it, a typed error; opening or closing it twice does no harm, and it can be opened again."""
    store = EventStore(database)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="not open"):
            await append(store, "a-1", 0)
        with pytest.raises(InvalidArgument, match="not open"):
            await read_all(store)
        async with asyncio.timeout(10), store:
            await store.open()
            await append(store, "a-1", 1)
        await store.close()
    async with store:
        assert await read_all(store) == [1, 1]


async def test_a_store_that_could_not_be_opened_can_be_opened_later(database: str) -> None:
    """With a pool of the application's too: nothing is remembered of the first attempt."""
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        for store in (EventStore(pool, schema="later"), EventStore(database, schema="later")):
            with pytest.raises(NotInitialised):
                await store.open()
            with pytest.raises(InvalidArgument, match="not open"):
                await read_all(store)
            await make(database, "later")
            async with asyncio.timeout(10), store:
                await append(store, "a-1", 1)
            with pytest.raises(InvalidArgument, match="not open"):
                await read_all(store)
            await pool.execute("DROP SCHEMA later CASCADE")
