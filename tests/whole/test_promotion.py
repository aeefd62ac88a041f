"""A standby is promoted while the old primary still answers on open connections: nothing is skipped or handed out over
and over, and no subscription stalls."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import asyncpg
import msgspec
import pytest

from tests.conftest import POSTGRES_SETTINGS
from tests.whole.flow import QUICK, relay_running
from tests.whole.standbys import Pair, appended, pair
from trunkline_consumer import ORIGIN, Consumer, Subscription
from trunkline_ops.servers import standby_of
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import EventStore

pytestmark = pytest.mark.timeout(300)  # two servers of one's own start here: a busy machine takes its time

STANDS_STILL_SECONDS = 5.0
SEED = 11


class Watched:
    """The events that a subscription received, and the longest time between two batches."""

    def __init__(self, subscription: Subscription) -> None:
        self.counts: Counter[tuple[int, str]] = Counter()
        self.longest = 0.0
        self._subscription = subscription
        self._last = time.monotonic()

    @asynccontextmanager
    async def handling(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._handle())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _handle(self) -> None:
        async for batch in self._subscription:
            now = time.monotonic()
            self.longest, self._last = max(self.longest, now - self._last), now
            self.counts.update((event.position, event.type) for event in batch)
            await batch.ack()

    def begin(self) -> None:
        """Start to measure stalls."""
        self.longest, self._last = 0.0, time.monotonic()

    def left(self, type: str, positions: list[int]) -> list[int]:
        """Return those of these events that it has not received."""
        return [position for position in positions if (position, type) not in self.counts]


async def all_handed(watched: dict[str, Watched], type: str, positions: list[int], seconds: float) -> None:
    """Wait until each subscription has received these events. Raises `AssertionError` if that does not happen."""
    end = time.monotonic() + seconds
    while left := {name: len(found) for name, each in watched.items() if (found := each.left(type, positions))}:
        assert time.monotonic() < end, f"not handed out, of {len(positions)}: {left}"
        await asyncio.sleep(0.05)  # between two looks


async def test_pools_that_keep_the_old_primary(vhost: str) -> None:
    """P2, P6: the address leads to the new primary, but open connections lead to the old one, which is read-only and
    answers all reads. Subscriptions with their own pool, in an application's pool, and transient ones continue at the
    new one within 5 s. Each event is handed out, and none more than once more than the promotion accounts for."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(pair())
        proxy = await stack.enter_async_context(Proxy(servers.primary.dsn))
        await stack.enter_async_context(relay_running(proxy.url, vhost))
        pool = await stack.enter_async_context(asyncpg.create_pool(proxy.url, min_size=4, max_size=4))
        watched: dict[str, Watched] = {}
        for kind, source in (("own", proxy.url), ("application's", pool)):
            store = await stack.enter_async_context(EventStore(source))
            consumer = await stack.enter_async_context(Consumer(store, vhost))
            for name, subscription in (
                (kind, consumer.subscribe_to_all_streams(f"in-{kind[:3]}", options=QUICK)),
                (f"transient, {kind}", consumer.subscribe(start_from=ORIGIN, options=QUICK)),
            ):
                await stack.enter_async_context(subscription)
                watched[name] = Watched(subscription)
                await stack.enter_async_context(watched[name].handling())
        async with EventStore(servers.primary.dsn) as store:
            old = await appended(store, "Old", 30)
        await all_handed(watched, "Old", old, 60)
        await servers.in_step()
        await servers.fence()
        await servers.promote()
        proxy.lead_to(servers.standby.dsn)
        for each in watched.values():
            each.begin()
        new: list[int] = []
        async with EventStore(servers.standby.dsn) as store:
            for _ in range(15):
                new += await appended(store, "New", 10)
                await asyncio.sleep(0.1)  # for 1.5 s at least there is always something to do
        await all_handed(watched, "New", new, 3 * STANDS_STILL_SECONDS)
        assert {name: each.longest for name, each in watched.items() if each.longest > STANDS_STILL_SECONDS} == {}
        again = {name: max(each.counts.values()) for name, each in watched.items()}
        assert max(again.values()) <= 2, again


async def test_statements_that_reach_either_server(vhost: str) -> None:
    """P2: each statement of a subscription may reach the old primary or the new one: history and safe position come
    from one, and rows from the other. The old one has events that the new one never got. Each event of the new one is
    handed out."""
    chance = Random(SEED)
    quick = msgspec.structs.replace(QUICK, idle=0.1)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(pair())
        proxy = await stack.enter_async_context(Proxy(servers.primary.dsn))
        each_anew = asyncpg.create_pool(proxy.url, min_size=0, max_size=6, max_queries=1)
        pool = await stack.enter_async_context(each_anew)
        store = await stack.enter_async_context(EventStore(pool))
        consumer = await stack.enter_async_context(Consumer(store, vhost))  # there is no relay: it reads the store
        watched = {}
        for name, subscription in (
            ("named", consumer.subscribe_to_all_streams("named", options=quick)),
            ("transient", consumer.subscribe(start_from=ORIGIN, options=quick)),
        ):
            await stack.enter_async_context(subscription)
            watched[name] = Watched(subscription)
            await stack.enter_async_context(watched[name].handling())
        async with EventStore(servers.primary.dsn) as primary:
            kept = await appended(primary, "Kept", 5)
            await all_handed(watched, "Kept", kept, 60)
            await servers.in_step()
            await servers.part()
            lost = await appended(primary, "Lost", 40)
        await servers.fence()
        await servers.promote()
        either = [servers.primary.dsn, servers.standby.dsn]
        proxy.lead_to(*(chance.choice(either) for _ in range(97)))
        async with EventStore(servers.standby.dsn) as standby:
            new: list[int] = []
            for _ in range(10):
                new += await appended(standby, "New", 3)
                await asyncio.sleep(0.3)  # so that some are read on the way, and some later
        assert set(new) & set(lost), "no position was given again: this shows nothing"
        await all_handed(watched, "New", new, 6 * STANDS_STILL_SECONDS)  # half of all statements are refused
        again = {name: max(each.counts.values()) for name, each in watched.items()}
        assert max(again.values()) <= 3, again


async def test_two_standbys_that_are_promoted_in_turn(vhost: str) -> None:
    """P2: two standbys of one primary are promoted one after the other, each to the same timeline. Events that were
    handled at the first are gone at the second; events that get their positions are handed out."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(pair())
        second = stack.enter_context(standby_of(servers.primary, name="second", settings=POSTGRES_SETTINGS))
        proxy = await stack.enter_async_context(Proxy(servers.primary.dsn))
        await stack.enter_async_context(relay_running(proxy.url, vhost))
        store = await stack.enter_async_context(EventStore(proxy.url))
        consumer = await stack.enter_async_context(Consumer(store, vhost))
        watched: dict[str, Watched] = {}
        for name, subscription in (
            ("named", consumer.subscribe_to_all_streams("named", options=QUICK)),
            (
                "transient",
                consumer.subscribe(start_from=ORIGIN, options=QUICK),
            ),  # no lease tells it of another server
        ):
            await stack.enter_async_context(subscription)
            watched[name] = Watched(subscription)
            await stack.enter_async_context(watched[name].handling())
        kept = await appended(store, "Kept", 3)
        await all_handed(watched, "Kept", kept, 60)
        await servers.in_step()
        await Pair(servers.primary, second).in_step()
        await asyncio.to_thread(servers.primary.kill)
        given: list[set[int]] = []
        for server, type in ((servers.standby, "Gone"), (second, "New")):
            await servers.ask(server, "SELECT pg_promote()")
            proxy.lead_to(server.dsn)
            positions = await appended(store, type, 3)
            given.append({*positions})
            await all_handed(watched, type, positions, 30)
            assert (await servers.ask(server, "SELECT pg_walfile_name(pg_current_wal_lsn())"))[:8] == "00000002"
            await asyncio.to_thread(server.kill)
        assert given[0] & given[1], "no position was given again: this shows nothing"
