"""The programs do with the rights of their roles."""

import asyncio

import pytest

from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import Consumer
from trunkline_store import ANY_VERSION, EventData, EventStore
from trunkline_store.rights import Role


@pytest.mark.every_rabbitmq
async def test_the_whole_way_takes_no_more_than_the_roles(logins: dict[Role, str], vhost: str) -> None:
    """A writer appends, a relay publishes, a subscriber follows and writes its checkpoint, each with its own login."""
    async with (
        EventStore(logins["writer"]) as writer,
        relay_running(logins["relay"], vhost),
        EventStore(logins["consumer"]) as store,
        Consumer(store, vhost) as consumer,
        consumer.subscribe_to_all_streams("s", options=QUICK) as subscription,
        asyncio.timeout(20),
    ):
        last = 0
        for n in range(50):
            last = (await writer.append_to_stream(f"a-{n % 3}", ANY_VERSION, [EventData("E", n)])).last_position
        handled = 0
        async for batch in subscription:
            handled += len(batch)
            await batch.ack()
            if batch[-1].position == last:
                break
        assert handled == 50
        while (await store.subscriptions.get("s")).checkpoint < last:
            await asyncio.sleep(0.01)  # between two looks
    async with EventStore(logins["reader"]) as reader:
        while (await reader.fetchval("SELECT position FROM eventstore.relays")) < last:
            await asyncio.sleep(0.01)  # between two looks
