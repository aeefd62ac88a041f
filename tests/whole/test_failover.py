"""A standby takes over: what is lost with the primary, and that all go on with what is left, skipping nothing."""

import asyncio
from contextlib import suppress

import msgspec
import pytest

from tests.relay.plain import plain, recorded
from tests.whole.effects import projecting_anew, until_each_event_has_its_effect
from tests.whole.flow import QUICK, Flow, committed_positions, relay_running
from tests.whole.standbys import Handled, appended, pair, until
from trunkline_consumer import Consumer
from trunkline_consumer.subscription import State
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    OperationTimeout,
    StreamNotFound,
    Unavailable,
)

pytestmark = pytest.mark.timeout(300)  # two servers of one's own start here: a busy machine takes its time


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
