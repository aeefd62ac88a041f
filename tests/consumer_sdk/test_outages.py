"""A database that is away, or that refuses to be read, while a subscription works on."""

import asyncio
import logging
import re

import asyncpg
import pytest

from tests.closing_server import closing_server
from tests.consumer_sdk.test_subscription import ONE_BY_ONE, append, data, take
from tests.whole.flow import LEASE
from trunkline_consumer import Consumer, State
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import EventStore, PermissionRefused
from trunkline_store.rights import Role


async def test_an_ack_while_the_database_is_away_is_kept(store: EventStore, database: str, vhost: str) -> None:
    """It waits for the database, longer than the lease if need be, and counts then: it is neither lost nor refused."""
    await append(store, 1)
    await append(store, 2)
    async with Proxy(database) as proxy, EventStore(proxy.url) as far, Consumer(far, vhost) as consumer:
        async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
            batch = await take(subscription)
            await proxy.refuse()
            acking = asyncio.create_task(batch.ack())
            await asyncio.sleep(2 * LEASE)  # the outage lasts longer than the lease: that is the case
            assert not acking.done()
            assert (await store.subscriptions.get("s")).checkpoint == 0
            await proxy.accept()
            async with asyncio.timeout(60):
                await acking
            assert (await store.subscriptions.get("s")).checkpoint == batch[-1].position
            assert data(await take(subscription)) == [2]


async def test_catching_up_goes_on_where_the_connection_broke(store: EventStore, database: str, vhost: str) -> None:
    """Several times in the middle of it: everything comes, once, in order."""
    count = 5000  # some pages
    for start in range(0, count, 500):
        await append(store, *range(start, start + 500))
    seen: list[int] = []
    async with Proxy(database) as proxy, EventStore(proxy.url) as far, Consumer(far, vhost) as consumer:
        async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE, buffer_size=1) as subscription:
            while len(seen) < count:
                batch = await take(subscription)
                seen += data(batch)
                if len(seen) % 1000 == 0:
                    await proxy.cut()
                await batch.ack()
        assert far.open_connections().generation > 0, "no connection was lost: this shows nothing"
    assert seen == list(range(count))


async def test_what_waiting_does_not_heal_ends_the_subscription_where_it_stands(
    store: EventStore, database: str, logins: dict[Role, str], vhost: str
) -> None:
    """The right to read is taken from it: whoever iterates is told, the checkpoint stays, and when the right is back
    the next one goes on from there."""
    await append(store, 1)
    superuser = await asyncpg.connect(database)
    async with EventStore(logins["consumer"]) as narrow, Consumer(narrow, vhost) as consumer:
        subscription = consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE)
        await subscription.start()
        batch = await take(subscription)
        await batch.ack()
        holders = await superuser.fetch(
            "SELECT DISTINCT grantee::regrole::text FROM pg_class, aclexplode(relacl) "
            "WHERE oid = 'eventstore.events'::regclass AND privilege_type = 'SELECT' AND grantee <> relowner"
        )
        roles = ", ".join(row[0] for row in holders)
        await superuser.execute(f"REVOKE SELECT ON eventstore.events FROM {roles}")
        await append(store, 2)
        with pytest.raises(PermissionRefused, match="events"):
            await take(subscription)
        assert subscription.state is State.HALTED
        await subscription.stop()
        assert (await store.subscriptions.get("s")).checkpoint == batch[-1].position
        await superuser.execute(f"GRANT SELECT ON eventstore.events TO {roles}")
        async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as following:
            assert data(await take(following)) == [2]
    await superuser.close()


async def test_an_outage_is_told_once_and_its_end_too(
    store: EventStore, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For each server, a subscription logs one line of a kind and one at the end, however often it tries again."""

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "trunkline.consumer"]

    with closing_server() as broker:
        async with Proxy(database) as proxy, EventStore(proxy.url) as far, Consumer(far, broker.url) as consumer:
            async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
                await append(store, 1)
                batch = await take(subscription)
                await proxy.refuse()
                acking = asyncio.create_task(batch.ack())  # another task that meets the outage
                await asyncio.sleep(4 * LEASE)  # the length of the outage is the case
                await proxy.accept()
                await acking
                await append(store, 2)
                assert data(await take(subscription)) == [2]
                await broker.until(5)
    assert not [each for each in caplog.records if each.name.startswith("trunkline") and each.levelno >= logging.ERROR]
    lines = said()
    assert len([line for line in lines if "RabbitMQ" in line]) == 1, lines
    kinds = [re.sub(r"\d+", "", line) for line in lines]
    assert len(kinds) == len(set(kinds)) < 10, lines
    assert len([line for line in lines if "PostgreSQL answers again" in line]) == 1, lines
