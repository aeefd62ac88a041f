"""What was parked is handled again: once, in its key's order, whatever is lost on the way."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.consumer_sdk.test_failures import until_parked
from tests.consumer_sdk.test_handlers import EFFECTS, effects, running, until
from tests.consumer_sdk.test_subscription import append
from tests.whole.flow import QUICK
from trunkline_consumer import Batch, Consumer, by_stream
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import EventData, EventStore, InvalidArgument, RecordedEvent

HELD_UP = """
    CREATE FUNCTION held_up() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN coalesce(NEW, OLD); END $$
"""
"""By whoever has the lock: a commit that takes its time, where a constraint trigger is deferred."""
AT_COMMIT = (
    "CREATE CONSTRAINT TRIGGER held_up AFTER {} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held_up()"
)


@asynccontextmanager
async def holding(database: str, trigger: str) -> AsyncIterator[asyncpg.Connection]:
    """The lock for which the trigger waits is held, until the connection unlocks it."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(HELD_UP)
        await connection.execute(trigger)
        await connection.execute("SELECT pg_advisory_lock(7)")
        yield connection
    finally:
        await connection.close()


async def somebody_waits(connection: asyncpg.Connection, count: int = 1) -> None:
    """So many sessions wait for a lock of this database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(30):
        while await connection.fetchval(query) < count:
            await asyncio.sleep(0.01)  # between two looks


async def test_parking_whose_answer_is_lost_is_parking(store: EventStore, database: str, vhost: str) -> None:
    """P5: the commit is under way when the connection is cut; the batch is parked again, which changes nothing."""
    async with (
        holding(database, AT_COMMIT.format("INSERT ON eventstore.parked")) as lock,
        Proxy(database) as proxy,
        EventStore(proxy.url) as through,
        Consumer(through, vhost) as consumer,
    ):

        @consumer.handler("s", on_failure="park", attempts=1, options=QUICK)
        async def handle(batch: Batch) -> None:
            if batch[0].data == 1:
                raise RuntimeError("poison")

        await append(store, 1)
        last = (await append_at(store, 2))[0]
        async with running(consumer) as task:
            await somebody_waits(lock)
            await proxy.cut()
            await somebody_waits(lock, 2)
            await lock.execute("SELECT pg_advisory_unlock(7)")
            await store.subscriptions.wait_for("s", last, seconds=30)
            assert not task.done()
        [parked] = await store.subscriptions.parked("s")
        assert parked.attempts == 1


async def append_at(store: EventStore, *data: object, stream: str = "a-1") -> list[int]:
    """The positions of some events of one stream."""
    await append(store, *data, stream=stream)
    return [event.position for event in await store.read_all_streams_backward(count=len(data))]


async def test_a_retry_whose_answer_is_lost_has_its_effects_once(store: EventStore, database: str, vhost: str) -> None:
    """P5: the connection is cut while the server commits; the handler runs again, and finds that it was done."""
    await store.fetch(EFFECTS)
    broken = True
    async with (
        holding(database, AT_COMMIT.format("INSERT ON effects")) as lock,
        Proxy(database) as proxy,
        EventStore(proxy.url) as through,
        Consumer(through, vhost) as consumer,
    ):
        calls = 0

        @consumer.handler("s", tx=True, on_failure="park", attempts=1, options=QUICK)
        async def handle(batch: Batch, tx: asyncpg.Connection) -> None:
            nonlocal calls
            if broken:
                raise RuntimeError("poison")
            calls += 1
            await tx.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)

        [position] = await append_at(store, 1)
        async with running(consumer):
            await until_parked(store, 1)
            broken = False
            await store.subscriptions.retry("s")
            await somebody_waits(lock)
            await proxy.cut()
            await until(lambda: calls == 2)
            await lock.execute("SELECT pg_advisory_unlock(7)")
            await until_parked(store, 0)
            await until(lambda: consumer.subscriptions[0].counts.parked == 1)
        assert await effects(store) == [position]


async def test_a_key_is_free_again_though_the_database_was_silent(store: EventStore, database: str, vhost: str) -> None:
    """P2: the last batch of a key is handled, and the next question is not answered in time: later batches of the key
    are handled, and not parked for ever behind nothing."""
    broken, seen = True, list[int]()
    trigger = "CREATE TRIGGER held_up BEFORE DELETE ON eventstore.parked FOR EACH ROW EXECUTE FUNCTION held_up()"
    other = await asyncpg.connect(database)
    async with (
        holding(database, trigger) as lock,
        EventStore(database, timeout=1.0) as impatient,
        Consumer(impatient, vhost) as consumer,
    ):

        @consumer.handler("s", on_failure="park_key", attempts=1, options=QUICK)
        async def handle(batch: Batch) -> None:
            if broken:
                raise RuntimeError("poison")
            seen.append(batch[0].data)

        await append(store, 1)
        async with running(consumer):
            await until_parked(store, 1)
            broken = False
            await store.subscriptions.retry("s")
            await somebody_waits(lock)
            async with other.transaction():
                locked = asyncio.create_task(other.execute("LOCK TABLE eventstore.parked IN ACCESS EXCLUSIVE MODE"))
                await somebody_waits(lock, 2)
                await lock.execute("SELECT pg_advisory_unlock(7)")
                await locked
                await asyncio.sleep(2)  # longer than its timeout: that is the case
            await append(store, 2)
            await until(lambda: seen == [1, 2])
        await other.close()


async def test_what_was_finished_between_is_not_handled_again(store: EventStore, vhost: str) -> None:
    """P5: of a batch of keys a, b, a, only b was handled by one owner; the next one parks each a by itself, and a retry
    leaves b alone."""
    await store.fetch(EFFECTS)
    phase, never = "b only", asyncio.Event()

    async def handle(batch: Batch, tx: asyncpg.Connection) -> None:
        if phase == "b only" and batch[0].data == "a":
            await never.wait()
        if phase == "broken":
            raise RuntimeError("poison")
        for event in batch:
            await tx.execute("INSERT INTO public.effects VALUES ($1)", event.position)

    @asynccontextmanager
    async def owner() -> AsyncIterator[None]:
        async with Consumer(store, vhost) as consumer:
            consumer.handler(
                "s",
                tx=True,
                concurrency=3,
                partition_by=lambda event: event.data,
                on_failure="park_key",
                attempts=1,
                grace=0,
                options=QUICK,
            )(handle)
            async with running(consumer):
                yield

    await store.append_to_stream("x-1", 0, [EventData("E", key) for key in ("a", "b", "a")])
    every = [event.position for event in await store.read_all_streams_forward()]
    async with owner(), asyncio.timeout(30):
        while await effects(store) != every[1:2]:
            await asyncio.sleep(0.01)  # between two looks
    phase = "broken"
    async with owner():
        await until_parked(store, 2)
        phase = "mended"
        await store.subscriptions.retry("s")
        await until_parked(store, 0)
    assert await effects(store) == every


async def test_a_retry_waits_for_its_key(store: EventStore, vhost: str) -> None:
    """With `park`, too: nothing of a key runs beside another batch of it, be it parked or live."""
    broken, active, done, most = True, 0, 0, 0
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park", attempts=1, concurrency=4, partition_by=by_stream, options=QUICK)
        async def handle(batch: Batch) -> None:
            nonlocal active, most, done
            if broken:
                raise RuntimeError("poison")
            active += 1
            most = max(most, active)
            await asyncio.sleep(0.2)  # long enough to be met by another one
            active -= 1
            done += 1

        await append(store, 1)
        async with running(consumer):
            await until_parked(store, 1)
            broken = False
            await store.subscriptions.retry("s")
            for n in range(4):
                await append(store, n)
            await until(lambda: done == 5)
    assert most == 1


async def test_a_batch_can_be_discarded_while_it_is_tried(store: EventStore, vhost: str) -> None:
    """It fails once more, and is forgotten then, as was asked meanwhile."""
    trying, go = asyncio.Event(), asyncio.Event()
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park", attempts=1, options=QUICK)
        async def handle(batch: Batch) -> None:
            if trying.is_set():
                await go.wait()
            raise RuntimeError("poison")

        await append(store, 1)
        async with running(consumer):
            await until_parked(store, 1)
            trying.set()
            await store.subscriptions.retry("s")
            await asyncio.sleep(1)  # it has begun, twice over: the owner looks every half second
            assert await store.subscriptions.discard("s") == 1
            go.set()
            await until_parked(store, 0)


async def test_one_that_hangs_holds_up_no_other_key(store: EventStore, vhost: str) -> None:
    """P8: of more parked batches than are told of at a time, all are done but the one that hangs."""
    broken, never, seen = True, asyncio.Event(), set[int]()
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park", attempts=1, concurrency=4, partition_by=by_stream, options=QUICK)
        async def handle(batch: Batch) -> None:
            if broken:
                raise RuntimeError("poison")
            if batch[0].data == 0:
                await never.wait()
            seen.add(batch[0].data)

        for n in range(30):
            await append(store, n, stream=f"a-{n}")
        async with running(consumer):
            await until_parked(store, 30)
            broken = False
            await store.subscriptions.retry("s")
            await until_parked(store, 1)
            never.set()
            await until_parked(store, 0)
    assert seen == {*range(30)}


async def test_what_follows_a_retried_batch_has_its_attempts_and_no_more(store: EventStore, vhost: str) -> None:
    """One retry is asked for: the first of the key succeeds, the next fails `attempts` times, the third waits."""
    broken, calls = {1}, list[int]()
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park_key", attempts=2, wait_initial=0.7, options=QUICK)
        async def handle(batch: Batch) -> None:
            calls.append(batch[0].data)
            if batch[0].data in broken:
                raise RuntimeError("poison")

        for n in (1, 2, 3):
            await append(store, n)
        async with running(consumer):
            await until_parked(store, 3)
            broken = {2}
            calls.clear()
            await store.subscriptions.retry("s")
            async with asyncio.timeout(30):
                while [each.attempts for each in await store.subscriptions.parked("s")] != [2, 0]:
                    await asyncio.sleep(0.01)  # between two looks
            await asyncio.sleep(1)  # for a look or two, that find nothing more
    assert calls == [1, 2, 2]


@pytest.mark.parametrize("way", ["transaction", "ack"])
async def test_a_handler_may_finish_a_parked_batch_itself(store: EventStore, vhost: str, way: str) -> None:
    """As it does with one that was not parked: in a transaction of the batch, or by an ack."""
    await store.fetch(EFFECTS)
    broken = True
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park", attempts=1, options=QUICK)
        async def handle(batch: Batch) -> None:
            if broken:
                raise RuntimeError("poison")
            if way == "ack":
                await store.fetch("INSERT INTO public.effects VALUES ($1)", batch[0].position)
                await batch.ack()
            else:
                async with batch.transaction() as connection:
                    await connection.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)

        [position] = await append_at(store, 1)
        async with running(consumer):
            await until_parked(store, 1)
            broken = False
            await store.subscriptions.retry("s")
            await until_parked(store, 0)
    assert await effects(store) == [position]


@pytest.mark.parametrize(("key", "text"), [("k", "a name \udcff and \0"), ("\0\udcff", "plain")], ids=["error", "key"])
async def test_text_that_the_database_does_not_take_is_written_otherwise(
    store: EventStore, vhost: str, key: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """P9: of an error, or of a key: the batch is parked, and can be handled again."""
    caplog.set_level(logging.CRITICAL)  # xdist cannot pass such text on
    broken = True
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park_key", attempts=1, partition_by=lambda _: key, options=QUICK)
        async def handle(batch: Batch) -> None:
            if broken:
                raise ValueError(text)

        await append(store, 1)
        async with running(consumer):
            await until_parked(store, 1)
            [parked] = await store.subscriptions.parked("s")
            assert parked.error is not None
            assert parked.error.startswith("ValueError(")
            broken = False
            await store.subscriptions.retry("s")
            await until_parked(store, 0)


def test_parking_takes_connections(vhost: str) -> None:
    """P9: with fewer than three, it is refused when the handler is named, and not when it is needed."""
    consumer = Consumer(EventStore("postgresql://x", pool_size=2), vhost)
    with pytest.raises(InvalidArgument, match="park: the store needs a pool_size of at least 3"):
        consumer.handler("s", on_failure="park")


async def test_what_was_parked_as_one_and_is_several_batches_by_now_is_handled_once(
    store: EventStore, vhost: str
) -> None:
    """P5: `partition_by` failed, and is mended: the range is two batches then, whose effects are one transaction; the
    second one fails at first."""
    await store.fetch(EFFECTS)
    broken, attempts = True, 0

    def key(event: RecordedEvent) -> str:
        if broken:
            raise RuntimeError("no key")
        return str(event.data)

    async with Consumer(store, vhost) as consumer:

        @consumer.handler(
            "s", tx=True, on_failure="park", attempts=2, wait_initial=0.01, partition_by=key, options=QUICK
        )
        async def handle(batch: Batch, tx: asyncpg.Connection) -> None:
            nonlocal attempts
            for event in batch:
                await tx.execute("INSERT INTO public.effects VALUES ($1)", event.position)
            if batch.key == "b":
                attempts += 1
                if attempts == 1:
                    raise RuntimeError("once")

        await store.append_to_stream("x-1", 0, [EventData("E", each) for each in ("a", "b")])
        async with running(consumer):
            await until_parked(store, 1)
            broken = False
            await store.subscriptions.retry("s")
            await until_parked(store, 0)
    assert attempts == 2
    assert await effects(store) == [event.position for event in await store.read_all_streams_forward()]
