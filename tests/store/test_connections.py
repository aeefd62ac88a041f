"""Connections that are kept at hand between the store's statements."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from trunkline_store import EventData, EventStore, InvalidArgument, OperationTimeout, connections
from trunkline_store.lease import Lease

BACKEND = "SELECT pg_backend_pid()"


async def others(store: EventStore) -> int:
    """How many more sessions this database has than the one that asks."""
    query = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
    return int(await store.fetchval(query))


async def until(fact: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await fact():
            await asyncio.sleep(0.01)  # PostgreSQL tells nobody who has come or gone


async def test_one_statement_after_the_other_takes_one_connection(store: EventStore) -> None:
    """The same for all of them."""
    assert len({await store.fetchval(BACKEND) for _ in range(5)}) == 1
    assert await others(store) == 0


async def test_no_more_connections_are_made_than_the_pool_has(database: str) -> None:
    """Whoever comes when all are busy gets the one that is free first."""
    async with EventStore(database, pool_size=3) as store:
        query = "SELECT pg_backend_pid() FROM pg_sleep(0.01)"
        assert len(set(await asyncio.gather(*(store.fetchval(query) for _ in range(20))))) == 3
        async with store.acquire() as one, store.transaction() as other:
            pids = {await one.fetchval(BACKEND), await other.fetchval(BACKEND)}
            assert len(pids | {await store.fetchval(BACKEND) for _ in range(5)}) == 3


async def test_who_waits_for_a_connection_waits_no_longer_than_the_timeout(database: str) -> None:
    """Then there is a typed error, and afterwards all goes on."""
    async with EventStore(database, pool_size=1, timeout=0.3) as store:
        async with store.acquire():
            with pytest.raises(OperationTimeout, match="the pool is exhausted"):
                await store.fetchval(BACKEND)
            waiting = asyncio.create_task(store.fetchval(BACKEND))
            await asyncio.sleep(0)  # it is waiting now
        assert await waiting == await store.fetchval(BACKEND)


async def test_who_is_cancelled_while_waiting_takes_no_connection_away(database: str) -> None:
    """However often that happens, all of them can still be had."""
    async with EventStore(database, pool_size=2) as store:
        async with store.acquire(), store.acquire():
            waiting = [asyncio.create_task(store.fetchval(BACKEND)) for _ in range(5)]
            await asyncio.sleep(0)  # they are waiting now
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        async with asyncio.timeout(5), store.acquire(), store.acquire():
            pass


async def test_a_statement_that_is_cancelled_ends_before_its_connection_is_used_again(database: str) -> None:
    """The next one is neither disturbed nor mixed up with it."""
    async with EventStore(database, pool_size=1) as store:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(store.fetchval("SELECT 'late' FROM pg_sleep(60)"), 0.05)
            assert await store.fetchval("SELECT 'next'") == "next"


async def test_a_connection_that_was_lost_while_at_hand_is_not_used(store: EventStore, database: str) -> None:
    """Another one is made in its place, as often as that happens."""
    administrator = await asyncpg.connect(database)
    for _ in range(3):
        pid = await store.fetchval(BACKEND)
        await administrator.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        assert await store.fetchval(BACKEND) != pid
    await administrator.close()


async def test_what_is_not_needed_goes_back_to_the_pool(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without work, which closes what it need not keep in its own time; one that has work stays."""
    monkeypatch.setattr(connections, "KEPT_SECONDS", 0.05)
    assert store._pool is not None
    pool, query = store._pool, "SELECT pg_backend_pid() FROM pg_sleep(0.01)"
    pids = set(await asyncio.gather(*(store.fetchval(query) for _ in range(4))))
    busy = await store.fetchval(BACKEND)

    async def all_but_one_are_back() -> bool:
        assert await store.fetchval(BACKEND) == busy
        return pool.get_idle_size() == len(pids) - 1

    assert pool.get_idle_size() == 0
    await until(all_but_one_are_back)


async def test_an_applications_pool_has_its_connections_back_at_once(database: str) -> None:
    """It may be a small one, and the application needs them too."""
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool, EventStore(pool) as store:
        for n in range(3):
            await store.append_to_stream(f"s-{n}", 0, [EventData("E", n)])
            assert pool.get_idle_size() == 1
            assert [event.data for event in await store.read_stream_forward(f"s-{n}")] == [n]
            assert pool.get_idle_size() == 1


async def test_a_store_that_is_closed_leaves_no_connection(store: EventStore, database: str) -> None:
    """Neither those at hand nor those at work at that moment, for which it waits no longer than they take."""
    other = EventStore(database)
    await other.open()
    await asyncio.gather(*(other.fetchval("SELECT 1 FROM pg_sleep(0.01)") for _ in range(4)))
    at_work = asyncio.create_task(other.fetchval("SELECT 7 FROM pg_sleep(0.1)"))
    await until(lambda: _is_at_work(store))
    async with asyncio.timeout(5):
        await other.close()
    assert await at_work == 7
    with pytest.raises(InvalidArgument, match="not open"):
        await other.fetchval(BACKEND)

    async def alone() -> bool:
        return await others(store) == 0

    await until(alone)


async def _is_at_work(store: EventStore) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    return int(await store.fetchval(query)) > 0


async def test_nobody_takes_what_another_one_was_promised(database: str) -> None:
    """A connection that is given back belongs to whoever waited for it, also before he has come to take it."""
    async with EventStore(database, pool_size=1) as store:
        ours = store.open_connections()
        connection = await ours.take()
        waiting = asyncio.create_task(ours.take())
        await asyncio.sleep(0)  # it is waiting now
        await ours.done(connection, ours.generation)
        assert ours.at_hand() is None
        assert await waiting is connection
        await ours.done(connection, ours.generation)
        assert ours.at_hand() is connection
        await ours.done(connection, ours.generation)


@asynccontextmanager
async def told_late(dsn: str) -> AsyncIterator[str]:
    """Give a DSN of the same server through a network that reports the end of a session only when it is used again."""
    server = urlsplit(dsn)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        from_server, to_server = await asyncio.open_connection(server.hostname, server.port)
        ended = False

        async def back() -> None:
            nonlocal ended
            while not ended and (data := await from_server.read(65_536)):
                ended = data[0:1] == b"E" and b"C57P01" in data  # admin_shutdown
                if not ended:
                    writer.write(data)
            if not ended:
                writer.close()

        backward = asyncio.create_task(back())
        with suppress(asyncio.CancelledError):
            while (data := await reader.read(65_536)) and not ended:
                to_server.write(data)
        backward.cancel()
        to_server.close()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield server._replace(netloc=f"{server.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def end_all_sessions(database: str) -> None:
    """End all sessions, like a restart of the server, after which it can be used at once."""
    administrator = await asyncpg.connect(database)
    await administrator.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await administrator.close()


@pytest.mark.parametrize("whose", ["ours", "the application's"])
async def test_a_statement_after_the_end_of_all_sessions_goes_over_a_new_connection(database: str, whose: str) -> None:
    """No other connection that was opened before is tried: an append, a read and a lease succeed, in either pool."""
    async with told_late(database) as dsn, asyncpg.create_pool(dsn, min_size=4, max_size=4) as theirs:
        async with EventStore(dsn if whose == "ours" else theirs, pool_size=4) as store:
            lease = await Lease.acquire(store, "lease", uuid4(), 30)
            assert lease is not None
            for n in range(3):
                for do in (
                    lambda n=n: store.append_to_stream(f"s-{n}", 0, [EventData("E", n)]),
                    lambda n=n: store.read_stream_forward(f"s-{n}"),
                    lease.renew,
                ):
                    await asyncio.gather(*(store.fetchval("SELECT 1 FROM pg_sleep(0.05)") for _ in range(4)))
                    await end_all_sessions(database)
                    await do()
