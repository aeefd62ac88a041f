"""Wake-ups: a statement of its own after the commit, of which no append knows."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from trunkline_store import ANY_VERSION, EventData, EventStore, StreamAppend, WrongExpectedVersion, nudge
from trunkline_store.rights import Role


@asynccontextmanager
async def listener(dsn: str) -> AsyncIterator["asyncio.Queue[str]"]:
    """The payloads that arrive on the store's channel."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(dsn)
    await connection.add_listener(nudge.channel("eventstore"), lambda *args: heard.put_nowait(str(args[3])))
    try:
        yield heard
    finally:
        await connection.close()


async def next_of(heard: "asyncio.Queue[str]") -> str:
    async with asyncio.timeout(20):
        return await heard.get()


async def heard_until_now(dsn: str, heard: "asyncio.Queue[str]") -> int:
    """How many nudges there were: notifications arrive in the order of their commits."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("SELECT pg_notify($1, 'end')", nudge.channel("eventstore"))
    await connection.close()
    count = 0
    while await next_of(heard) != "end":
        count += 1
    return count


async def append(store: EventStore, stream: str = "a-1") -> EventData:
    event = EventData("E", 1)
    await store.append_to_stream(stream, ANY_VERSION, [event])
    return event


async def test_whatever_is_appended_is_told(store: EventStore, database: str) -> None:
    """An append, several at once, to several streams, a link, and a transaction at its end, but not before."""
    async with listener(database) as heard:
        event = await append(store)
        await next_of(heard)
        await asyncio.gather(*(append(store, f"b-{n}") for n in range(20)))
        await next_of(heard)
        await store.close()
        await store.open()
        await heard_until_now(database, heard)
        await store.append_to_streams([StreamAppend("c-1", 0, [EventData("E", 1)])])
        await next_of(heard)
        await store.link_to_stream("d-1", 0, [event.id])
        await next_of(heard)
        async with store.transaction() as connection:
            await store.append_to_stream("e-1", 0, [EventData("E", 1)], connection=connection)
            assert await heard_until_now(database, heard) == 0
        await next_of(heard)


async def test_what_is_not_appended_is_not_told(store: EventStore, database: str) -> None:
    """A refused append and a transaction that is rolled back wake nobody."""
    async with listener(database) as heard:
        with pytest.raises(WrongExpectedVersion):
            await store.append_to_stream("a-1", 5, [EventData("E", 1)])
        with suppress(ZeroDivisionError):
            async with store.transaction() as connection:
                await store.append_to_stream("a-1", 0, [EventData("E", 1)], connection=connection)
                raise ZeroDivisionError
        await store.close()  # which sends what is left
        assert await heard_until_now(database, heard) == 0


async def test_many_appends_are_few_nudges(store: EventStore, database: str) -> None:
    """One in five milliseconds at most, and the last append is told as well."""
    async with listener(database) as heard:
        began = time.monotonic()
        for _ in range(300):
            await append(store)
        seconds = time.monotonic() - began
        await store.close()
        assert 1 <= await heard_until_now(database, heard) <= seconds / nudge.NUDGE_SECONDS + 2


async def test_appends_succeed_where_notify_fails(database: str, logins: dict[Role, str]) -> None:
    """P9: an append does not fail, nor does closing the store, when the nudge is refused."""
    owner = await asyncpg.connect(database)
    await owner.execute("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC")
    async with EventStore(logins["writer"]) as store:
        for _ in range(20):
            await append(store)
        async with store.transaction() as connection:
            await store.append_to_stream("b-1", 0, [EventData("E", 1)], connection=connection)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):  # the control: it is refused
            async with store.acquire() as connection:
                await connection.execute("SELECT pg_notify('x', '')")
    assert await owner.fetchval("SELECT count(*) FROM eventstore.events") == 21
    await owner.close()


async def test_a_nudge_takes_no_connection_that_an_append_could_need(database: str) -> None:
    """With one connection the nudge waits until the store is closed; a program that appends once and ends is heard."""
    async with listener(database) as heard:
        async with EventStore(database, pool_size=1) as store:
            for _ in range(20):
                await append(store)
            assert await heard_until_now(database, heard) == 0
        assert await heard_until_now(database, heard) == 1


async def test_an_applications_pool_is_nudged_through_as_well(database: str) -> None:
    """It has a connection to spare, or none is taken; nobody listens on one of its connections."""
    async with listener(database) as heard, asyncpg.create_pool(database, min_size=0, max_size=3) as pool:
        async with EventStore(pool) as store:
            await append(store)
            await next_of(heard)
            await store.listen(lambda: None)  # returns


async def test_behind_a_pooler_nobody_is_nudged(database: str) -> None:
    """There is nobody who could listen; listening returns at once."""
    async with listener(database) as heard:
        async with EventStore(database, statement_cache_size=0) as store:
            await append(store)
            await store.listen(lambda: None)  # returns
        assert await heard_until_now(database, heard) == 0


async def test_listening_goes_on_after_a_lost_connection(store: EventStore, database: str) -> None:
    """It connects again by itself, and then says that something may have been missed."""
    calls: asyncio.Queue[str] = asyncio.Queue()
    async with EventStore(database, application_name="ears") as ears:
        listening = asyncio.create_task(ears.listen(lambda: calls.put_nowait("")))
        await next_of(calls)  # it is there
        await append(store)
        await next_of(calls)
        killed = await store.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'ears listen' AND datname = current_database()"
        )
        assert killed == 1
        await next_of(calls)  # it is there again
        await append(store)
        await next_of(calls)
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
