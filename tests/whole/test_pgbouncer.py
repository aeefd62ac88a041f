"""The whole way, with PgBouncer between all programs and PostgreSQL."""

import asyncio
from urllib.parse import urlsplit

from tests.whole.flow import LEASE, QUICK
from trunkline_consumer import Consumer
from trunkline_ops.servers import PostgresServer
from trunkline_ops.servers.pgbouncer import pgbouncer_server
from trunkline_relay import Relay
from trunkline_store import ANY_VERSION, EventData, EventStore


async def test_all_programs_share_two_connections(postgres: PostgresServer, database: str, vhost: str) -> None:
    """Leases, checkpoints and the order need no session of their own: a relay publishes and a subscriber follows, while
    writers append, over two connections of the server."""
    with pgbouncer_server(postgres, settings={"default_pool_size": "2"}) as pgbouncer:
        dsn = urlsplit(pgbouncer.dsn)._replace(path=urlsplit(database).path).geturl()
        async with (
            EventStore(dsn, statement_cache_size=0) as store,
            EventStore(dsn, statement_cache_size=0) as other,
            Consumer(other, vhost) as consumer,
            consumer.subscribe_to_all_streams("s", options=QUICK) as subscription,
            asyncio.timeout(30),
        ):
            relay = Relay(store, vhost, lease=LEASE)
            running = asyncio.create_task(relay.run())
            await relay.leading.wait()
            for n in range(30):
                await asyncio.gather(
                    *(store.append_to_stream(f"a-{m}", ANY_VERSION, [EventData("E", n)]) for m in range(5))
                )
            handled: list[int] = []
            async for batch in subscription:
                handled += [event.position for event in batch]
                await batch.ack()
                if len(handled) >= 150:
                    break
            assert handled == [event.position for event in await store.read_all_streams_forward()]
            while (await store.subscriptions.get("s")).checkpoint < handled[-1]:
                await asyncio.sleep(0.01)  # between two looks
            while await store.fetchval("SELECT position FROM eventstore.relays") < handled[-1]:
                await asyncio.sleep(0.01)  # until all is confirmed
            relay.stop()
            await running
