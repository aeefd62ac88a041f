"""The history that positions belong to: a crash, a restore or a promotion begins another one, and every statement
proves it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from trunkline_ops.servers import PostgresServer, postgres_server
from trunkline_store import ANY_VERSION, EventData, EventStore, HistoryChanged, StoreUnavailable
from trunkline_store.migrate import initialise
from trunkline_store.pages import lasting

LATER = "FFFFFFFF"
"""A timeline that no promotion of a test reaches."""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, which it can kill. It logs nothing ahead by itself."""
    with postgres_server(private=True, settings={"wal_writer_delay": "10s"}) as server:
        yield server


@pytest_asyncio.fixture
async def crashing(server: PostgresServer) -> AsyncIterator[EventStore]:
    """A store on that server."""
    connection = await asyncpg.connect(server.dsn)
    await initialise(connection)
    await connection.close()
    async with EventStore(server.dsn) as store:
        yield store


def later(history: str) -> str:
    """Return the history with a later timeline, as if a promoted server had been seen."""
    parts = history.split("/")
    return "/".join([*parts[:4], LATER, *parts[5:]])


async def append(store: EventStore, *data: Any) -> list[int]:
    """Append events, each in its own block; return their positions."""
    return [(await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", each)])).last_position for each in data]


async def rolled_back(store: EventStore, savepoint: bool = False) -> int:
    """Return the position of an append whose transaction was rolled back: the first one that was not logged ahead."""
    while await store.fetchval("SELECT log_cnt FROM eventstore.blocks"):
        await append(store, "logged ahead")
    connection = await store.open_connections().take()
    outer = connection.transaction()
    await outer.start()
    inner = connection.transaction()
    if savepoint:
        await connection.execute(
            "SET LOCAL synchronous_commit = off"
        )  # the append's own setting goes with the savepoint
        await inner.start()
    appended = await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 0)], connection=connection)
    if savepoint:
        await inner.rollback()
        await outer.commit()
    else:
        await outer.rollback()
    await store.open_connections().release(connection)
    return appended.last_position


async def crash(server: PostgresServer) -> None:
    """Kill the server, and start it again."""
    server.kill()
    server.start()


@pytest.mark.parametrize("savepoint", [False, True])
async def test_a_crash_gives_positions_again_and_begins_another_history(
    server: PostgresServer, crashing: EventStore, savepoint: bool
) -> None:
    """P2: the position of a rolled-back append is drawn again, and each statement reports that to a caller that read up
    to there."""
    await append(crashing, 1)
    lost = await rolled_back(crashing, savepoint)
    before = await crashing.look()
    assert before.safe >= lost
    await crash(server)
    assert await append(crashing, 2) == [lost], "the same position: else this shows nothing"
    with pytest.raises(HistoryChanged):
        await crashing.fetch(crashing.sql["page_all"], lost + 1, before.safe, 10, 10**6, before.history)
    after = await crashing.look()
    assert after.history != before.history
    assert lasting(after.history) == lasting(before.history)
    assert (await crashing.look()).history == after.history


async def test_a_clean_restart_is_no_other_history(server: PostgresServer, crashing: EventStore) -> None:
    """The control: nothing was lost, so nothing has to be forgotten."""
    before = await crashing.look()
    server.stop()
    server.start()
    assert (await crashing.look()).history == before.history


async def test_reading_all_goes_on_across_a_crash(server: PostgresServer, crashing: EventStore) -> None:
    """An iteration continues behind the last event that it returned, and misses none that comes later."""
    await append(crashing, *range(4))
    feed = crashing.stream_all_forward(page=2)
    seen = [await anext(feed) for _ in range(2)]
    lost = await rolled_back(crashing)
    await crash(server)
    assert await append(crashing, 4) == [lost]
    seen += [event async for event in feed]
    assert seen == await crashing.read_all_streams_forward()
    assert seen[-1].position == lost


async def test_a_dump_has_another_incarnation(server: PostgresServer, crashing: EventStore) -> None:
    """A dump does not hold the incarnation's id: a store restored from one draws the same positions again."""
    connection = await asyncpg.connect(server.dsn)
    try:
        row = await connection.fetchrow("SELECT * FROM eventstore.incarnation")
        assert row is not None
        await connection.execute("DELETE FROM eventstore.incarnation")
        with pytest.raises(asyncpg.GeneratedAlwaysError):
            await connection.execute("INSERT INTO eventstore.incarnation (only_row, id) VALUES (true, $1)", row["id"])
        await connection.execute("INSERT INTO eventstore.incarnation (only_row) VALUES (true)")  # as pg_restore does it
        assert await connection.fetchval("SELECT id FROM eventstore.incarnation") != row["id"]
    finally:
        await connection.close()


@pytest.mark.parametrize("how", ["append", "append many", "link", "delete", "checkpoint"])
async def test_writes_are_durable_whatever_the_session_says(database: str, how: str) -> None:
    """`synchronous_commit = off` of a role or session does not apply to writes that others rely on. It applies to
    transactions without such a write (the control)."""
    connection = await asyncpg.connect(database, server_settings={"synchronous_commit": "off"})
    try:
        await connection.execute("SELECT eventstore.append_one_v1('a-1', -1, gen_random_uuid(), 'E', '1')")
        statements = {
            "append": "SELECT eventstore.append_v1('a-1', -1, ARRAY[gen_random_uuid()], ARRAY['E'], ARRAY['1'])",
            "append many": "SELECT eventstore.append_many_v1(false, ARRAY['a-1'], '{-1}', '{1}', "
            "ARRAY[gen_random_uuid()], ARRAY['E'], ARRAY['1'])",
            "link": "SELECT eventstore.link_v1('b', -1, ARRAY(SELECT event_id FROM eventstore.events))",
            "delete": "SELECT eventstore.delete_v1('a-1', -1)",
            "checkpoint": "UPDATE eventstore.subscriptions SET halted = NULL WHERE (SELECT eventstore.durable_v1())",
        }
        async with connection.transaction():
            await connection.execute("SELECT 1")
            assert await connection.fetchval("SHOW synchronous_commit") == "off"
            await connection.execute(statements[how])
            assert await connection.fetchval("SHOW synchronous_commit") == "local"
        assert await connection.fetchval("SHOW synchronous_commit") == "off"
    finally:
        await connection.close()


GUARDED = {name for name, text in EventStore("postgresql://localhost/unused").sql.items() if "same_history_v1" in text}


def test_what_followers_are_given_is_guarded() -> None:
    """Each statement that returns rows for a position kept by a reader, the relay or a subscription proves its
    history."""
    assert {
        "read_all_forward", "read_all_backward", "read_category_forward", "page_all", "page_category", "stream_names",
        "last_position", "last_feed_position", "relay_page", "relay_page_barest", "relay_links", "replay_category",
        "replay_stream", "replay_links", "previous_in_category", "previous_in_stream", "stream_place", "page_stream",
        "fence_relay", "record_relay", "fence_subscription", "checkpoint", "finish", "guard", "standing", "left_of",
    } <= GUARDED  # fmt: skip


async def test_an_empty_page_proves_its_history_too(store: EventStore) -> None:
    """An empty page is an answer as well: from another server it would be wrong."""
    history = (await store.look()).history
    assert await store.fetch(store.sql["page_all"], 0, 10**9, 10, 10**6, history) == []
    with pytest.raises(HistoryChanged, match="read again"):
        await store.fetch(store.sql["page_all"], 0, 10**9, 10, 10**6, history.replace("-", "x"))


@pytest.mark.parametrize("pool", ["own", "application"])
async def test_a_server_that_was_left_behind_is_not_used_again(database: str, pool: str) -> None:
    """Once a later timeline was seen, an answer of an earlier one comes from the wrong server, not from another
    history. Its connection is closed, also in an application's pool."""
    theirs = await asyncpg.create_pool(database, min_size=1, max_size=1)
    try:
        async with EventStore(database if pool == "own" else theirs, pool_size=1) as store:
            before = await store.fetchval("SELECT pg_backend_pid()")
            seen = (await store.look()).history
            store.history = later(seen)
            for ask in (store.look, lambda: store.fetch(store.sql["page_all"], 0, 9, 9, 9, later(seen))):
                with pytest.raises(StoreUnavailable, match="was replaced: this server is on timeline"):
                    await ask()
                assert await store.fetchval("SELECT pg_backend_pid()") != before
                before = await store.fetchval("SELECT pg_backend_pid()")
    finally:
        await theirs.close()


async def test_a_follower_refuses_a_read_only_session_and_a_reader_does_not(database: str) -> None:
    """Report logins may have `default_transaction_read_only`, and still read all streams."""
    dsn = f"{database}?options=-cdefault_transaction_read_only%3Don"
    async with EventStore(database) as store:
        await append(store, 1)
    async with EventStore(dsn) as store:
        assert len(await store.read_all_streams_forward()) == 1
        assert [event.data async for event in store.stream_all_forward()] == [1]
        with pytest.raises(StoreUnavailable, match="the session is read-only"):
            await store.look()
