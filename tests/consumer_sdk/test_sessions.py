"""Sessions for handlers' transactions: what is left of one transaction is never the next one's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
import pytest_asyncio

from trunkline_consumer.sessions import Sessions
from trunkline_store import EventStore, StoreUnavailable
from trunkline_store.connections import Connection
from trunkline_store.translate import STATEMENT_ERRORS, translated

LIMIT = 20.0


@pytest_asyncio.fixture
async def seen(store: EventStore, database: str) -> AsyncIterator[asyncpg.Connection]:
    """Another session, which sees what was committed."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TABLE public.effects (n int)")
    yield connection
    await connection.close()


async def write(sessions: Sessions, n: int) -> None:
    async with sessions.transaction(LIMIT) as connection:
        await connection.execute("INSERT INTO public.effects VALUES ($1)", n)


async def effects(seen: asyncpg.Connection) -> list[int]:
    return [row["n"] for row in await seen.fetch("SELECT n FROM public.effects ORDER BY n")]


async def test_a_transaction_that_was_cancelled_anywhere_does_not_take_the_next_one_with_it(
    store: EventStore, seen: asyncpg.Connection
) -> None:
    """Be it while it begins, writes or commits: what is committed afterwards is committed."""
    sessions = Sessions(store)
    expected = []
    for turns in range(40):
        await write(sessions, 1000 + turns)  # its session is made ready for the next one
        expected.append(1000 + turns)
        task = asyncio.create_task(write(sessions, -turns))
        for _ in range(turns // 4):
            await asyncio.sleep(0)  # a step further
        await asyncio.sleep(0.0004 * (turns % 4))  # somewhere between two answers
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await write(sessions, 2000 + turns)
        expected.append(2000 + turns)
        assert [n for n in await effects(seen) if n >= 1000] == sorted(expected)
    await sessions.close()


@pytest.mark.parametrize("when", ["in a transaction", "ready"])
async def test_lost_connections_take_no_session_with_them(
    database: str, store: EventStore, seen: asyncpg.Connection, when: str
) -> None:
    """However many are lost, in a transaction or between two, others can be had."""
    async with EventStore(database, pool_size=3) as small:
        sessions = Sessions(small)

        async def lose(connection: Connection) -> None:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await seen.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)

        async with asyncio.timeout(30):
            for n in range(6):
                kept: Connection | None = None
                with suppress(StoreUnavailable, *STATEMENT_ERRORS):
                    async with sessions.transaction(LIMIT) as connection:
                        if when == "in a transaction":
                            await lose(connection)
                            await connection.execute("SELECT 1")
                        kept = connection
                if kept is not None:
                    pid = next(iter(each.connection.get_server_pid() for each in sessions._ready), None)
                    while pid is None:
                        await asyncio.sleep(0.005)  # it is being made ready
                        pid = next(iter(each.connection.get_server_pid() for each in sessions._ready), None)
                    await seen.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
                with suppress(StoreUnavailable):
                    await write(sessions, n)
            await write(sessions, 99)
        assert 99 in await effects(seen)
        await sessions.close()


async def test_the_applications_pool_makes_its_sessions_ready(database: str) -> None:
    """What its `setup` sets is there in every transaction: with another search path, a handler would write into another
    schema."""

    async def setup(connection: Connection) -> None:
        await connection.execute("SET search_path TO app")

    async with asyncpg.create_pool(database, setup=setup, min_size=1, max_size=5) as pool, EventStore(pool) as store:
        sessions = Sessions(store)
        for _ in range(4):
            async with sessions.transaction(LIMIT) as connection:
                assert await connection.fetchval("SHOW search_path") == "app"
                assert await connection.fetchval("SHOW lock_timeout") == "20s"
            await asyncio.gather(*sessions._tasks)
        await sessions.close()


async def test_a_session_on_a_server_that_was_left_behind_is_not_used_again(database: str) -> None:
    """A transaction that learns from its own statement that another server was promoted ends its connection, and all
    that were opened before: the next transaction is on a new one."""
    async with EventStore(database) as store:
        sessions = Sessions(store)
        before = set(await asyncio.gather(*(store.fetchval("SELECT pg_backend_pid()") for _ in range(3))))
        history = (await store.look()).history.split("/")
        later = "/".join([*history[:4], "FFFFFFFF", history[5]])
        with pytest.raises(StoreUnavailable, match="was replaced"):  # noqa: PT012 - the statement is what fails
            async with sessions.transaction(LIMIT) as connection:
                before.add(await connection.fetchval("SELECT pg_backend_pid()"))
                with translated(store.schema):
                    await connection.fetch(store.sql["last_position"], 1, later)
        await sessions.close()  # waits until the session has been given back
        async with sessions.transaction(LIMIT) as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") not in before
        await sessions.close()
