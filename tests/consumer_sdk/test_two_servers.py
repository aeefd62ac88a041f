"""A pool whose connections lead to two servers, as in a failover: no position of one is kept by the other."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from tests.conftest import new_database
from tests.consumer_sdk.test_subscription import append
from trunkline_consumer import Consumer
from trunkline_ops.servers import PostgresServer
from trunkline_store import CURRENT, EventStore, Unavailable

EVENTS = 20
"""More on the first server: its last position is above all of the second."""
STATEMENTS = 9
"""After each number of connections, one for each statement or transaction, the pool leads to the second server."""


async def subscribe(store: EventStore, vhost: str) -> None:
    async with Consumer(store, vhost) as consumer, consumer.subscribe_to_all_streams("s", start_from=CURRENT):
        pass


async def subscribe_to_a_version(store: EventStore, vhost: str) -> None:
    async with Consumer(store, vhost) as consumer, consumer.subscribe_to_stream("a-1", "s", start_from=EVENTS):
        pass


async def reset(store: EventStore, _: str) -> None:
    await store.subscriptions.reset("s", CURRENT)


async def reset_to_a_time(store: EventStore, _: str) -> None:
    await store.subscriptions.reset("s", datetime.now(UTC))


@pytest.mark.parametrize("act", [subscribe, subscribe_to_a_version, reset, reset_to_a_time])
async def test_no_server_keeps_a_position_of_another(
    postgres: PostgresServer, template: str, vhost: str, act: Callable[[EventStore, str], Awaitable[None]]
) -> None:
    """P2: where a subscription begins was asked of the server that keeps it, whenever the pool changes servers."""
    for change in range(STATEMENTS):
        async with new_database(postgres.dsn, template) as first, new_database(postgres.dsn, template) as second:
            for dsn, count in ((first, EVENTS), (second, 1)):
                async with EventStore(dsn) as store:
                    for number in range(count):
                        await append(store, number)
                    if act in (reset, reset_to_a_time):
                        await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
            left: int | None = None

            async def connect(*_: Any, first: str = first, second: str = second, **given: Any) -> asyncpg.Connection:
                nonlocal left
                if left is None:
                    return await asyncpg.connect(first, **given)
                left -= 1
                return await asyncpg.connect(first if left >= 0 else second, **given)

            async with (
                asyncpg.create_pool(connect=connect, min_size=0, max_size=4, max_queries=1) as pool,
                EventStore(pool) as store,
            ):
                left = change
                with suppress(Unavailable, ValueError):
                    await act(store, vhost)
            async with EventStore(second) as store:
                last = (await store.read_all_streams_backward(count=1))[0].position
                kept = [each.checkpoint for each in await store.subscriptions.list()]
                assert not kept or kept[0] <= last
