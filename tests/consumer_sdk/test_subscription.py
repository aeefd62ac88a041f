"""Subscriptions on real servers: starting, acknowledging, owning."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio

from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import CURRENT, ORIGIN, Batch, Consumer, Options, State, Subscription
from trunkline_consumer.own import Claim
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    HistoryChanged,
    InvalidArgument,
    StoreUnavailable,
    SubscriptionAlreadyExists,
    SubscriptionLost,
    UnexpectedAck,
)
from trunkline_store.errors import LeaseLost
from trunkline_store.lease import Lease

ONE_BY_ONE = msgspec.structs.replace(QUICK, checkpoint_threshold=1)


@pytest_asyncio.fixture
async def consumer(store: EventStore, vhost: str) -> AsyncIterator[Consumer]:
    """The SDK on the test's own store and vhost."""
    async with Consumer(store, vhost) as consumer:
        yield consumer


async def append(store: EventStore, *data: Any, stream: str = "a-1", **given: Any) -> None:
    """One append."""
    await store.append_to_stream(stream, ANY_VERSION, [EventData("E", d, **given) for d in data])


async def take(subscription: Subscription) -> Batch:
    """The next batch, or a failure."""
    async with asyncio.timeout(20):
        return await anext(subscription)


def data(batch: Batch) -> list[Any]:
    """What its events say."""
    return [event.data for event in batch]


@pytest.mark.parametrize(("start", "expected"), [(ORIGIN, [1]), (CURRENT, [3]), ("position", [2])])
async def test_a_new_subscription_begins_where_it_is_told(
    store: EventStore, consumer: Consumer, start: Any, expected: list[int]
) -> None:
    """ORIGIN: the first event; CURRENT: what is new; a position: what is after it."""
    await append(store, 1)
    if start == "position":
        start = (await store.read_all_streams_forward())[0].position
    await append(store, 2)
    async with consumer.subscribe_to_all_streams("s", start_from=start, options=QUICK) as subscription:
        await append(store, 3)
        assert data(await take(subscription)) == expected


async def test_current_is_after_the_last_event_that_is_there(store: EventStore, consumer: Consumer) -> None:
    """CURRENT is the position of an event, never the safe position: after a crash that may be given again."""
    await append(store, 1)
    await store.fetchval("SELECT nextval('eventstore.blocks')")
    async with consumer.subscribe_to_all_streams("s", start_from=CURRENT, options=QUICK) as subscription:
        assert subscription.checkpoint == (await store.read_all_streams_forward())[0].position


async def test_a_later_subscriber_goes_on_after_the_checkpoint(store: EventStore, consumer: Consumer) -> None:
    """At least once: what was acknowledged does not come again, what was not does; `start_from` counts only once."""
    await append(store, 1, correlation_id="x")
    await append(store, 2)
    await append(store, 3)
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        await (await take(subscription)).ack()
        assert data(await take(subscription)) == [2]
    async with consumer.subscribe_to_all_streams("s", start_from=CURRENT, options=ONE_BY_ONE) as subscription:
        assert data(await take(subscription)) == [2]
        second = await take(subscription)
        await second.ack()
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        await append(store, 4)
        assert data(await take(subscription)) == [4]


async def test_an_ack_of_an_event_covers_all_before_it_in_flight(store: EventStore, consumer: Consumer) -> None:
    """By event, by list or by position; one in the middle of a batch moves the checkpoint there."""
    await append(store, 1, 2, 3)
    await append(store, 4)
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        one, two = await take(subscription), await take(subscription)
        await subscription.ack(one[1])
        assert subscription.checkpoint == one[1].position
        for again in (one[0], one[1], one[1].position, two[0].position + 1):
            with pytest.raises(UnexpectedAck):
                await subscription.ack(again)
        await subscription.ack([one[2], two[0]])
        assert subscription.checkpoint == two[0].position
        with pytest.raises(InvalidArgument):
            await subscription.ack([])
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        await append(store, 5)
        assert data(await take(subscription)) == [5]


async def test_what_a_mapper_made_is_no_position(store: EventStore, consumer: Consumer) -> None:
    """Acknowledging a batch finishes its own events, whatever its values are; the values alone are refused."""
    for n in range(3):
        await append(store, n)
    positions = [event.position for event in await store.read_all_streams_forward()]
    options = msgspec.structs.replace(ONE_BY_ONE, buffer_size=4)
    async with consumer.subscribe_to_all_streams("s", mapper=lambda _: positions[-1], options=options) as subscription:
        batches = [await take(subscription) for _ in range(3)]
        assert list(batches[0]) == [positions[-1]], "the value would pass for the position of an event in flight"
        for wrong in ([*batches[0]], True, "1", [1], None):
            with pytest.raises(InvalidArgument):
                await subscription.ack(wrong)  # type: ignore[arg-type] # the case
        assert subscription.checkpoint == 0
        await subscription.ack(batches[0])
        assert subscription.checkpoint == positions[0]
        for outside in (positions[0], positions[-1] + 1, 2**62, -1):
            with pytest.raises(UnexpectedAck):
                await subscription.ack(outside)
        async with consumer.subscribe_to_all_streams("other", options=ONE_BY_ONE) as other:
            with pytest.raises(InvalidArgument, match="from subscription 's', not 'other'"):
                await other.ack(batches[1])
        assert (await store.subscriptions.get("s")).checkpoint == positions[0]


async def test_the_handler_holds_no_more_than_the_buffer(store: EventStore, consumer: Consumer) -> None:
    """P8: with two places, the third batch comes after an ack."""
    for n in range(5):
        await append(store, n)
    small = msgspec.structs.replace(ONE_BY_ONE, buffer_size=2)
    async with consumer.subscribe_to_all_streams("s", options=small) as subscription:
        one, _ = await take(subscription), await take(subscription)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):  # long enough for a batch that should not come
                await anext(subscription)
        await one.ack()
        assert data(await take(subscription)) == [2]


async def test_live_and_replayed_events_are_equal(
    store: EventStore, database: str, consumer: Consumer, vhost: str
) -> None:
    """What comes by the queue is what the store gives: every field, and the batches' borders."""
    async with relay_running(database, vhost):
        async with consumer.subscribe_to_all_streams("live", options=QUICK) as live:
            await append(store, "ready")
            await take(live)
            while not live.counts.from_queue:
                await append(store, "still?")
                await (await take(live)).ack()
            await append(store, {"ü": [1.5, None]}, "x", metadata={"m": 1}, causation_id="d", stream="ü-1")
            await store.append_to_stream(
                "b-1", 0, [EventData(f"T{n % 3}", n, correlation_id=str(n // 700)) for n in range(1500)]
            )
            by_queue: list[list[Any]] = []
            while sum(map(len, by_queue)) < 1502:
                batch = await take(live)
                await batch.ack()
                by_queue.append(list(batch))
            assert live.counts.from_queue >= 1502
    async with consumer.subscribe_to_all_streams("replayed", options=QUICK) as replayed:
        by_store: list[list[Any]] = []
        while not by_store or by_store[-1] != by_queue[-1]:
            batch = await take(replayed)
            await batch.ack()
            by_store.append(list(batch))
    assert by_store[-len(by_queue) :] == by_queue


async def test_a_high_threshold_does_not_stop_the_queue(
    store: EventStore, database: str, vhost: str, consumer: Consumer
) -> None:
    """The checkpoint is written in time for the broker to go on sending, whatever the threshold: with a prefetch of
    four, a hundred messages come by the queue, none by asking the store."""
    options = Options(lease=5.0, idle=10.0, prefetch=4, checkpoint_threshold=10_000)
    async with relay_running(database, vhost):
        async with consumer.subscribe_to_all_streams("s", options=options) as subscription:
            while not subscription.counts.from_queue:
                await append(store, "ready?")
                await (await take(subscription)).ack()
            for n in range(100):
                await append(store, n)
                await (await take(subscription)).ack()
            assert subscription.counts.from_queue >= 100


async def test_a_second_subscriber_is_refused_while_the_first_lives(store: EventStore, vhost: str) -> None:
    """By name, whatever process it is in; the first goes on undisturbed, and a stop lets the next one in at once."""
    async with Consumer(store, vhost) as one, Consumer(store, vhost) as two:
        async with one.subscribe_to_all_streams("s", options=QUICK) as first:
            with pytest.raises(SubscriptionAlreadyExists):
                await two.subscribe_to_all_streams("s", options=QUICK).start()
            await append(store, 1)
            await (await take(first)).ack()
        long = msgspec.structs.replace(QUICK, lease=60.0)
        for consumer in (two, one):
            async with asyncio.timeout(5):
                next_one = consumer.subscribe_to_all_streams("s", options=long)
                await next_one.start()
                await next_one.stop()
                assert next_one.state is State.STOPPED


async def test_a_subscription_that_has_started_is_its_owner(store: EventStore, consumer: Consumer, vhost: str) -> None:
    """Not before: a standby that still waits is starting and hands nothing out; once `start` has returned, the row
    names it as the owner, and where it goes on is known."""
    await append(store, 1)
    await append(store, 2)
    async with Consumer(store, vhost) as other:
        first = other.subscribe_to_all_streams("s", options=ONE_BY_ONE)
        await first.start()
        one = await take(first)
        await one.ack()
        owner = (await store.subscriptions.get("s")).owner
        second = consumer.subscribe_to_all_streams("s", standby=True, options=ONE_BY_ONE)
        starting, taking = asyncio.create_task(second.start()), asyncio.create_task(take(second))
        await asyncio.sleep(2 * ONE_BY_ONE.lease)  # however long it takes: the first one lives
        assert (starting.done(), taking.done(), second.state) == (False, False, State.STARTING)
        await first.stop()
        async with asyncio.timeout(20):
            await starting
        assert (await store.subscriptions.get("s")).owner not in (None, owner)
        assert second.checkpoint == one[-1].position
        assert data(await taking) == [2]


async def test_two_may_make_the_same_subscription_at_once(store: EventStore, consumer: Consumer) -> None:
    """The one waits for the other's row, which its own statement does not see: it goes on with it, and does not
    fail."""
    query = store.sql["create_subscription"]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await append(store, 1)
    async with store.acquire() as connection:
        async with connection.transaction():
            await connection.fetch(query, "s", "$all", 0)
            subscription = consumer.subscribe_to_all_streams("s", start_from=CURRENT, options=ONE_BY_ONE)
            starting = asyncio.create_task(subscription.start())
            async with asyncio.timeout(30):
                while not await store.fetchval(waiting):
                    await asyncio.sleep(0.01)  # between two looks
        async with asyncio.timeout(30):
            await starting
    assert data(await take(subscription)) == [1], "it begins where the other one said"
    await subscription.stop()


_OWNER = """
import asyncio, sys
from trunkline_consumer import Consumer, Options
from trunkline_store import EventStore, SubscriptionLost
async def main():
    async with EventStore(sys.argv[1]) as store, Consumer(store, sys.argv[2]) as consumer:
        async with consumer.subscribe_to_all_streams("s", options=Options(lease=1.0, idle=0.3)) as subscription:
            batch = await anext(subscription)
            print("owner", flush=True)
            sys.stdin.readline()
            try:
                await batch.ack()
                print("acknowledged", flush=True)
            except SubscriptionLost:
                print("lost", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_owner_that_vanished_is_replaced_within_the_lease_and_can_do_nothing_more(
    store: EventStore, database: str, vhost: str, consumer: Consumer, how: signal.Signals
) -> None:
    """P7: killed or paused, the next subscriber waits at most a lease and never fails; a paused owner that comes
    back gets `SubscriptionLost`, and the checkpoint stays where the new owner put it."""
    await append(store, 1)
    await append(store, 2)
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _OWNER, database, vhost),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert await owner.stdout.readline() == b"owner\n"
    os.kill(owner.pid, how)
    async with asyncio.timeout(10), consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        assert data(await take(subscription)) == [1], "it was not acknowledged, so it comes again"
        second = await take(subscription)
        await second.ack()
        if how is signal.SIGSTOP:
            os.kill(owner.pid, signal.SIGCONT)
            owner.stdin.write(b"\n")
            assert await owner.stdout.readline() == b"lost\n"
        assert subscription.checkpoint == second[-1].position
    await owner.wait()


async def test_a_renewal_that_was_overtaken_by_the_release_renews_nothing(store: EventStore) -> None:
    """A stop hands over at once, also when a renewal was on its way: one lease alone, and all of a process."""
    owner = uuid4()
    lease = await Lease.acquire(store, "subscription 1", owner, 60.0)
    assert lease is not None
    await lease.release()
    rows = await store.fetch(store.sql["renew_leases"], [lease.name], [owner], [lease.epoch])
    assert [row["renewed"] for row in rows] == [False]
    with pytest.raises(LeaseLost):
        await lease.renew()
    assert await Lease.acquire(store, "subscription 1", uuid4(), 60.0) is not None


async def test_a_replaced_owner_cannot_move_the_checkpoint(store: EventStore) -> None:
    """P7: one guarded statement checks row, owner, epoch and history, and never goes back."""
    old, new, q = uuid4(), uuid4(), store.sql
    row = await store.fetchrow(q["create_subscription"], "s", "$all", 0)
    assert row is not None
    number = row["subscription_id"]
    assert await store.fetchval(q["fence_subscription"], number, old, 1, store.history) == 0
    assert await store.fetchval(q["checkpoint"], number, old, 1, 50, store.history, [], []) == 50
    assert await store.fetchval(q["fence_subscription"], number, new, 2, store.history) == 50
    assert await store.fetchval(q["checkpoint"], number, old, 1, 90, store.history, [], []) is None
    assert await store.fetchval(q["fence_subscription"], number, old, 1, store.history) is None
    assert await store.fetchval(q["checkpoint"], number, new, 2, 40, store.history, [], []) == 50
    with pytest.raises(HistoryChanged):
        await store.fetchval(q["checkpoint"], number, new, 2, 90, "another history", [], [])


async def test_another_history_is_begun_from_its_own_rows(
    store: EventStore, database: str, vhost: str, consumer: Consumer
) -> None:
    """After a restore the rows are those of the backup: relay and subscription forget what they hold, go on from
    there, and messages of the old past are dropped."""
    async with relay_running(database, vhost):
        async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
            for n in range(10):
                await append(store, n)
            seen = [await take(subscription) for _ in range(10)]
            await seen[9].ack()
            backup = seen[3][-1].position
            async with store.acquire() as connection, connection.transaction():
                await connection.execute("TRUNCATE eventstore.incarnation")
                await connection.execute("UPDATE eventstore.subscriptions SET checkpoint = $1", backup)
                await connection.execute("UPDATE eventstore.relays SET position = $1", backup)
            assert [data(await take(subscription)) for _ in range(6)] == [[n] for n in range(4, 10)]
            await seen[8].ack()  # of the old past: without effect
            assert subscription.checkpoint == backup
            await append(store, 10)
            last = await take(subscription)
            assert data(last) == [10]
            await last.ack()
            assert subscription.checkpoint == last[-1].position


async def test_without_a_broker_a_subscription_goes_on_from_the_store(store: EventStore) -> None:
    """Nothing listens at the AMQP URL: everything comes, by polling."""
    async with Consumer(store, "amqp://guest:guest@127.0.0.1:1/") as consumer:
        async with consumer.subscribe_to_all_streams("s", options=QUICK) as subscription:
            for n in range(3):
                await append(store, n)
                batch = await take(subscription)
                assert data(batch) == [n]
                await batch.ack()


@pytest.mark.parametrize(
    "bad",
    [
        {"buffer_size": 0}, {"checkpoint_threshold": 0}, {"prefetch": 2001}, {"lease": 0}, {"idle": -1},
        {"queue_length": "x"}, {"checkpoint_after": 0}, {"lease": float("inf")}, {"lease": "5"},
        {"queue_expires": 0.0001},
    ],
)  # fmt: skip
def test_bad_options_are_refused(bad: dict[str, Any]) -> None:
    """P9: each names its option."""
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        Options(**bad)


@pytest.mark.parametrize("start", [-1, 2**63, "origin", None, True, 1.5])
async def test_a_bad_start_is_refused(consumer: Consumer, start: Any) -> None:
    """P9: neither ORIGIN, CURRENT nor a position."""
    with pytest.raises(InvalidArgument):
        consumer.subscribe_to_all_streams("s", start_from=start)


async def test_a_start_that_no_event_has_is_refused(store: EventStore, consumer: Consumer) -> None:
    """A position after the last event, of all streams or of a category, would hide the events up to there."""
    await append(store, 1)
    last = (await store.read_all_streams_forward())[-1].position
    async with consumer.subscribe_to_all_streams("fine", start_from=last, options=QUICK):
        pass
    for subscription in (
        consumer.subscribe_to_all_streams("s", start_from=last + 1),
        consumer.subscribe_to_category("a", "s", start_from=10**12),
        consumer.subscribe(start_from=10**12),
    ):
        with pytest.raises(InvalidArgument, match="is after the last event"):
            await subscription.start()
    assert [each.name for each in await store.subscriptions.list()] == ["fine"]


async def test_what_is_refused_names_what_to_write_instead(consumer: Consumer) -> None:
    """`$all` is no stream, and a name follows one feed: ending a subscription needs the method of that feed."""
    with pytest.raises(InvalidArgument, match="subscribe_to_all_streams"):
        consumer.subscribe_to_stream("$all", "s")
    with pytest.raises(InvalidArgument, match="subscribe_to_all_streams"):
        consumer.subscribe("$all")
    async with consumer.subscribe_to_stream("a-1", "s", options=QUICK) as subscription:
        with pytest.raises(InvalidArgument, match="follows 'a-1', not 'b-1'"):
            await consumer.unsubscribe_from_stream("b-1", "s")
        assert subscription.state is not State.STOPPED
        await consumer.unsubscribe_from_stream("a-1", "other")  # there is none


async def test_the_next_batch_or_none_by_then(store: EventStore, consumer: Consumer) -> None:
    """A caller that is cancelled at any moment loses no batch; a mapper's error passes, and a stop is reported."""

    def mapper(event: Any) -> Any:
        if event.data == "bad":
            raise TimeoutError("of the mapper")
        return event.data

    async with consumer.subscribe_to_all_streams("s", mapper=mapper, options=QUICK, buffer_size=1000) as subscription:
        assert await subscription.next(timeout=0.01) is None
        seen: list[int] = []

        async def write() -> None:
            for n in range(100):
                await append(store, n)

        writing = asyncio.create_task(write())
        async with asyncio.timeout(60):
            while len(seen) < 100:
                taking = asyncio.create_task(subscription.next())
                await asyncio.sleep(0.002 * (len(seen) % 3))  # the moments of a wait
                taking.cancel()
                await asyncio.wait([taking])
                batch = await subscription.next(timeout=0.001) if taking.cancelled() else taking.result()
                seen += batch or ()
        await writing
        assert seen == list(range(100))
        await append(store, "bad")
        with pytest.raises(TimeoutError, match="of the mapper"):
            await subscription.next(timeout=20)
        assert subscription.handled == 0
    with pytest.raises(SubscriptionLost, match="stopped"):
        await subscription.next()


async def test_an_ack_after_the_stop_is_an_error(store: EventStore, consumer: Consumer) -> None:
    """It could not be kept: the batch will come again, and the handler is told."""
    await append(store, 1)
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        batch = await take(subscription)
    with pytest.raises(SubscriptionLost, match="stopped"):
        await batch.ack()
    assert [batch async for batch in subscription] == []


async def test_an_ack_of_what_was_not_handed_out_is_refused(store: EventStore, consumer: Consumer) -> None:
    """P5: what still waits in the buffer was seen by nobody, and cannot be acknowledged."""
    for n in range(3):
        await append(store, n)
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        await take(subscription)
        last = (await store.read_all_streams_forward())[-1].position
        with pytest.raises(UnexpectedAck):
            await subscription.ack(last)
        assert subscription.checkpoint == 0


async def test_a_subscription_is_started_once(store: EventStore, consumer: Consumer) -> None:
    """A stopped one is not brought to life again: a typed error, and the name is free for another."""
    subscription = consumer.subscribe_to_all_streams("s", options=QUICK)
    async with subscription:
        pass
    with pytest.raises(InvalidArgument, match="before"):
        await subscription.start()
    async with asyncio.timeout(5), consumer.subscribe_to_all_streams("s", options=QUICK):
        pass


async def test_a_stop_goes_on_when_its_caller_is_cancelled(store: EventStore, consumer: Consumer) -> None:
    """The checkpoint's row is held by somebody: the stop is given up, the iteration has ended all the same, and a
    second stop waits for the first."""
    await append(store, 1)
    options = msgspec.structs.replace(QUICK, checkpoint_threshold=100, checkpoint_after=None)
    async with store.acquire() as connection:
        subscription = consumer.subscribe_to_all_streams("s", options=options)
        await subscription.start()
        await (await take(subscription)).ack()
        async with connection.transaction():
            await connection.execute("SELECT FROM eventstore.subscriptions FOR UPDATE")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(subscription.stop(), 0.3)
            assert [batch async for batch in subscription] == []
    await subscription.stop()
    assert (await store.subscriptions.get("s")).checkpoint > 0
    assert (await store.subscriptions.get("s")).owner is None


async def test_no_batch_is_handed_out_on_a_lease_that_has_run_out(store: EventStore, consumer: Consumer) -> None:
    """P7: after a pause of the process, only the keeper can say whether we are still the owner."""
    for n in range(5):
        await append(store, n)
    async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
        await take(subscription)
        tenure = subscription._tenure
        assert tenure is not None
        assert isinstance(tenure.claim, Claim)
        lease = tenure.claim.lease
        lease._deadline = 0  # as if the process had been stopped meanwhile
        await store.fetchval("UPDATE eventstore.leases SET owner = gen_random_uuid(), epoch = epoch + 1")
        with pytest.raises(SubscriptionLost):  # noqa: PT012 - whichever of them finds out
            for _ in range(5):
                await take(subscription)


async def test_another_past_is_entered_in_one_step(store: EventStore, consumer: Consumer) -> None:
    """P2: while the subscription begins again, which takes a while and fails at first, nothing of the old past becomes
    a checkpoint of the new one, and nothing of the new is passed over; also with a full buffer and no lease left."""
    small = msgspec.structs.replace(ONE_BY_ONE, buffer_size=2, checkpoint_after=0.01)
    for n in range(6):
        await append(store, n)
    async with consumer.subscribe_to_all_streams("s", options=small) as subscription:
        old = [await take(subscription), await take(subscription)]
        first, claim, tries = subscription._tenure, subscription._claim, 0

        async def slow_and_failing(*, standby: bool) -> Any:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise StoreUnavailable("the database was away for a moment")
            found = await claim(standby=standby)
            await asyncio.gather(*(batch.ack() for batch in old))  # of the old past, in the middle of it: no effect
            await asyncio.sleep(0.1)  # the answer is slow: the writer of checkpoints has its turns
            return found

        subscription._claim = slow_and_failing  # type: ignore[method-assign] # the answer's way is what is tested
        async with store.acquire() as connection, connection.transaction():
            await connection.execute("TRUNCATE eventstore.incarnation")
            await connection.execute("DELETE FROM eventstore.leases")
            await connection.execute("UPDATE eventstore.subscriptions SET epoch = 0, owner = NULL")
        seen: list[int] = []
        while len(seen) < 6:
            batch = await take(subscription)
            if batch._tenure is first:
                continue
            assert subscription.checkpoint < batch[0].position
            seen += data(batch)
            await batch.ack()
        assert seen == list(range(6))
        assert tries >= 2
