"""A relay that has nothing to do looks seldom, and is woken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.relay.plain import append, plain
from tests.whole.flow import relay_running
from trunkline_relay import Relay
from trunkline_store import EventStore

HOUR = 3600.0


@asynccontextmanager
async def seldom_looking(dsn: str, url: str) -> AsyncIterator[Relay]:
    """A relay that looks once an hour."""
    async with EventStore(dsn, application_name="relay") as store:
        relay = Relay(store, url, lease=2, poll=(HOUR, HOUR))
        running = asyncio.create_task(relay.run())
        try:
            yield relay
        finally:
            relay.stop()
            async with asyncio.timeout(10):
                await running


async def test_an_append_wakes_an_idle_relay(store: EventStore, database: str, vhost: str) -> None:
    """Each append is published at once, although the relay looks by itself only once an hour; and it stops at once."""
    async with plain(vhost, "#") as consumer, seldom_looking(database, vhost):
        for n in range(1, 6):
            await append(store, "a-1", "E")
            await consumer.until(n)
        async with store.transaction() as connection:
            await store.append_to_stream("b-1", 0, [], connection=connection)
        assert len(consumer.positions) == 5


async def test_a_relay_whose_ears_were_cut_off_is_woken_again(store: EventStore, database: str, vhost: str) -> None:
    """What is appended while its listening connection is gone arrives when it has another one, and later ones too."""
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = 'relay listen' AND datname = current_database()"
    )
    async with plain(vhost, "#") as consumer, seldom_looking(database, vhost):
        await append(store, "a-1", "E")
        await consumer.until(1)
        async with asyncio.timeout(20):
            while await store.fetchval(query) == 0:
                await asyncio.sleep(0.01)  # between two looks
        for n in range(2, 5):
            await append(store, "a-1", "E")
            await consumer.until(n)


async def test_without_nudges_the_relay_looks_by_itself(database: str, vhost: str) -> None:
    """A writer behind a pooler sends none; its events arrive all the same."""
    async with EventStore(database, statement_cache_size=0) as writer:
        async with plain(vhost, "#") as consumer, relay_running(database, vhost):
            for n in range(1, 4):
                await append(writer, "a-1", "E")
                await consumer.until(n)


async def test_an_idle_relay_asks_little(store: EventStore, database: str, vhost: str) -> None:
    """P8: twenty statements a second at most, in all that it does: looking, renewing, observing, listening."""
    query = (
        "SELECT xact_commit + xact_rollback AS count, extract(epoch FROM clock_timestamp())::float8 AS time "
        "FROM pg_stat_database WHERE datname = current_database()"
    )
    async with plain(vhost, "#") as consumer, relay_running(database, vhost, lease=5):
        await append(store, "a-1", "E")
        await consumer.until(1)
        await asyncio.sleep(2)  # until it is idle, and what it did before has been counted
        first = await store.fetchrow(query)
        await asyncio.sleep(10)  # the time in which it is measured
        last = await store.fetchrow(query)
    assert first is not None
    assert last is not None
    rate = (last["count"] - first["count"]) / (last["time"] - first["time"])
    print(f"{rate:.1f} statements/s")
    assert 2 < rate < 20
