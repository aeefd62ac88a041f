"""A standby takes over: what is lost with the primary, and that all go on with what is left, skipping nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from tests.conftest import POSTGRES_SETTINGS
from tests.relay.plain import plain, recorded
from tests.whole.effects import projecting_anew, until_each_event_has_its_effect
from tests.whole.flow import QUICK, Flow, committed_positions, relay_running
from trunkline_consumer import Consumer, Subscription
from trunkline_consumer.subscription import State
from trunkline_ops.servers import PostgresServer, postgres_server, standby_of
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    OperationTimeout,
    RecordedEvent,
    StreamNotFound,
    Unavailable,
)
from trunkline_store.migrate import initialise

pytestmark = pytest.mark.timeout(300)  # two servers of one's own start here: a busy machine takes its time


class Pair:
    """A primary and its standby. dsn: names both, and leads to the one that can be written."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary = primary
        self.standby = standby
        one, two = urlsplit(primary.dsn), urlsplit(standby.dsn)
        both = f"{one.netloc},{two.hostname}:{two.port}"
        self.dsn = one._replace(netloc=both, query="target_session_attrs=read-write").geturl()

    async def ask(self, server: PostgresServer, question: str) -> Any:
        connection = await asyncpg.connect(server.dsn)
        try:
            return await connection.fetchval(question)
        finally:
            await connection.close()

    async def until(self, server: PostgresServer, question: str) -> None:
        async with asyncio.timeout(30):
            while not await self.ask(server, question):
                await asyncio.sleep(0.02)  # between two looks

    async def in_step(self) -> None:
        """Waits until the standby has all that the primary has."""
        at = await self.ask(self.primary, "SELECT pg_current_wal_flush_lsn()::text")
        await self.until(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{at}'")

    async def part(self) -> None:
        """From here on the standby gets nothing."""
        await self.ask(self.standby, "ALTER SYSTEM SET primary_conninfo = ''")
        await self.ask(self.standby, "SELECT pg_reload_conf()")
        await self.until(self.primary, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)")

    async def synchronous(self) -> None:
        """No commit without the standby."""
        await self.ask(self.primary, "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        await self.ask(self.primary, "SELECT pg_reload_conf()")
        await self.until(self.primary, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")

    async def fence(self) -> None:
        """The primary goes on, and lets nobody write."""
        await self.ask(self.primary, "ALTER SYSTEM SET default_transaction_read_only = on")
        await self.ask(self.primary, "SELECT pg_reload_conf()")
        await self.until(self.primary, "SELECT current_setting('default_transaction_read_only')::boolean")

    async def fail_over(self) -> None:
        """The primary is gone, without a word; the standby takes its place."""
        await asyncio.to_thread(self.primary.kill)
        await self.promote()

    async def promote(self) -> None:
        assert await self.ask(self.standby, "SELECT pg_promote()")


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Both running, with a store; what is on the primary comes to the standby as it is committed."""
    with postgres_server(private=True, settings=POSTGRES_SETTINGS) as primary:
        connection = await asyncpg.connect(primary.dsn)
        await initialise(connection)
        await connection.close()
        with standby_of(primary, settings=POSTGRES_SETTINGS) as standby:
            yield Pair(primary, standby)


class Handled:
    """What a subscription was given, in its order."""

    def __init__(self, subscription: Subscription) -> None:
        self.events: list[RecordedEvent] = []
        self.going = asyncio.Event()
        """Cleared, the handler stands still."""
        self.going.set()
        self._subscription = subscription

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
            await self.going.wait()
            self.events += batch
            await batch.ack()

    def types(self) -> list[str]:
        return [event.type for event in self.events]


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not fact():
            await asyncio.sleep(0.01)  # between two looks


async def appended(store: EventStore, type: str, count: int) -> list[int]:
    """Of so many appends, also while no server can be written."""
    positions: list[int] = []
    for number in range(count):
        event = EventData(type, number)
        while True:
            with suppress(Unavailable):
                done = await store.append_to_stream(f"s-{number % 3}", ANY_VERSION, [event])
                positions.append(done.first_position)
                break
            await asyncio.sleep(0.05)  # between tries
    return positions


async def test_a_standby_that_had_lost_commits(vhost: str) -> None:
    """P2, P6: what the asynchronous standby did not have is gone, though it was published and handled; its positions
    are given again. Relay and subscription find themselves in another history, messages of the old one that were still
    queued are dropped, and of the new one each event is published, handled in order, and recorded."""
    small = msgspec.structs.replace(QUICK, prefetch=5, buffer_size=1)
    async with (
        pair() as servers,
        EventStore(servers.dsn) as store,
        plain(vhost, "#") as other,
        relay_running(servers.dsn, vhost),
        projecting_anew(store, vhost),
        Consumer(store, vhost) as consumer,
        consumer.subscribe_to_all_streams("s", options=small) as subscription,
    ):
        handled = Handled(subscription)
        async with handled.handling():
            kept = await appended(store, "Kept", 5)
            await recorded(store, kept[-1])
            await until(lambda: len(handled.events) == len(kept) and subscription.checkpoint == kept[-1])
            await servers.in_step()
            await servers.part()

            lost = await appended(store, "Lost", 36)
            await until(lambda: handled.types().count("Lost") == len(lost))
            handled.going.clear()
            waiting = await appended(store, "Waiting", 12)
            await recorded(store, waiting[-1])

            await servers.fail_over()  # a sequence is up to 32 numbers ahead there
            new = await appended(store, "New", 30)
            assert set(new) & {*lost, *waiting}, "no position was given again: this shows nothing"
            handled.going.set()
            await recorded(store, new[-1])
            await until(lambda: handled.types().count("New") >= len(new) and other.positions[-1] == new[-1])
            assert await committed_positions(store) == kept + new
            await until_each_event_has_its_effect(store)

        assert [event.position for event in handled.events if event.type == "New"] == new, "each once, in order"
        assert handled.types().count("Waiting") <= 1 + small.prefetch, "only what had left the queue"
        assert "Lost" not in handled.types()[len(kept) + len(lost) :]
        histories = [message.headers["history"] for message in other.messages]
        assert len(set(histories)) == 2
        assert histories == sorted(histories, key=histories.index), "nothing of the old one after the new"
        in_new = [position for message, position in zip(other.messages, other.positions, strict=True)
                  if message.headers["history"] == histories[-1]]  # fmt: skip
        assert in_new[-len(new) :] == new
        assert set(in_new) <= {*kept, *new}


async def test_a_synchronous_standby_has_all_that_was_acknowledged(vhost: str) -> None:
    """P1, P5: under load, no append that succeeded is lost, and none is there twice, though writers send again what
    they are unsure of; what was handled and not yet written down comes once more, in order; and all go on live."""
    async with pair() as servers:
        await servers.synchronous()
        async with Flow(servers.dsn, vhost) as flow, projecting_anew(flow.store, vhost):
            await flow.until(lambda: flow.subscription.counts.from_queue > 100)
            await servers.fail_over()
            before = flow.subscription.counts.from_queue
            await flow.until(lambda: flow.subscription.counts.from_queue > before + 100)
            committed = await flow.rest()
            assert len(committed) == flow.written
            assert list(dict.fromkeys(flow.handled)) == committed
            await until_each_event_has_its_effect(flow.store)


async def test_a_primary_that_is_fenced_and_still_answers(vhost: str) -> None:
    """P6: the old primary is read-only, and nobody's connection to it breaks: all leave it for the new one, where
    nothing is missing."""
    async with pair() as servers, Flow(servers.dsn, vhost) as flow, projecting_anew(flow.store, vhost):
        await flow.until(lambda: flow.subscription.counts.from_queue > 50)
        await servers.fence()
        await servers.in_step()
        await servers.promote()
        before = flow.subscription.counts.from_queue
        await flow.until(lambda: flow.subscription.counts.from_queue > before + 50)
        committed = await flow.rest()
        assert len(committed) == flow.written
        assert list(dict.fromkeys(flow.handled)) == committed
        await until_each_event_has_its_effect(flow.store)
        assert await servers.ask(servers.primary, "SELECT max(position) FROM eventstore.events") < committed[-1]


async def test_a_commit_that_stopped_waiting_for_its_standby(vhost: str) -> None:
    """A synchronous standby is away: appends wait, and nobody sees them. One whose caller has waited for long enough is
    seen without being on the standby; if the primary is lost then, so is it, and all find themselves in another
    history. Sent again, as `OperationTimeout` says, it is there."""
    async with pair() as servers, EventStore(servers.dsn) as store, EventStore(servers.dsn, timeout=3) as hasty:
        await servers.synchronous()
        await appended(store, "Kept", 1)
        await servers.part()
        event, before = EventData("Hasty", 1), store.history
        waiting = asyncio.create_task(store.append_to_stream("waiting-1", ANY_VERSION, [EventData("Waiting", 1)]))
        with pytest.raises(OperationTimeout):
            await hasty.append_to_stream("hasty-1", ANY_VERSION, [event])
        async with asyncio.timeout(10):
            while not await has(store, "hasty-1"):
                await asyncio.sleep(0.05)  # between two looks: the server is told to cancel it
        assert waiting.done() or not await has(store, "waiting-1")
        await servers.fail_over()
        async with asyncio.timeout(60):
            while True:
                with suppress(Unavailable):
                    await store.append_to_stream("hasty-1", ANY_VERSION, [event])
                    break
                await asyncio.sleep(0.05)  # between tries
        with suppress(Unavailable):  # it failed with the primary, or the store itself has sent it again
            await waiting
        assert [each.type for each in await store.read_all_streams_forward()].count("Hasty") == 1
        assert (await store.look()).history != before


async def has(store: EventStore, stream: str) -> bool:
    """Whether anybody can see it."""
    with suppress(StreamNotFound):
        return bool(await store.read_stream_forward(stream))
    return False


async def test_another_history_is_noticed_in_a_flow_that_never_pauses(
    store: EventStore, database: str, vhost: str
) -> None:
    """P6: a subscription with nothing to write down, which gets messages of the new history only, one after the other,
    does not pass them over for ever."""
    quick = msgspec.structs.replace(QUICK, checkpoint_threshold=1)
    async with (
        relay_running(database, vhost),
        Consumer(store, vhost) as consumer,
        consumer.subscribe_to_all_streams("s", options=quick) as subscription,
    ):
        handled = Handled(subscription)
        async with handled.handling():
            old = await appended(store, "Old", 20)
            await until(lambda: subscription.checkpoint == old[-1])
            await until(lambda: subscription.state is State.LIVE)
            await store.fetch("TRUNCATE eventstore.incarnation")
            writing = asyncio.create_task(appended(store, "New", 100_000))
            await until(lambda: "New" in handled.types())
            writing.cancel()
