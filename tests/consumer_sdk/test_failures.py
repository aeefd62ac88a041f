"""Handlers that take too long, are cancelled, or are told what to do with what they could not handle."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from tests.consumer_sdk.test_handlers import EFFECTS, effects, running, store_has, until
from tests.consumer_sdk.test_subscription import append, take
from tests.ops.test_subscriptions_cli import trunkline
from tests.whole.flow import QUICK
from trunkline_consumer import Batch, Consumer
from trunkline_ops.servers import postgres_server
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    OperationTimeout,
    SubscriptionHalted,
    SubscriptionNotFound,
)
from trunkline_store.migrate import initialise


@pytest.mark.parametrize("tx", [False, True])
async def test_an_attempt_that_takes_too_long_is_a_failure(store: EventStore, vhost: str, tx: bool) -> None:
    """It is cancelled at its limit, its effects are rolled back, and after its attempts the batch is parked."""
    await store.fetch(EFFECTS)
    cancelled: list[int] = []
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", tx=tx, timeout=0.3, attempts=2, wait_initial=0.01, on_failure="park", options=QUICK)
        async def handle(batch: Batch, *given: Any) -> None:
            for connection in given:
                await connection.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)
            if batch[0].data == "slow":
                try:
                    await asyncio.sleep(60)  # the case
                except asyncio.CancelledError:
                    cancelled.append(batch[0].position)
                    raise

        await append(store, "slow")
        await append(store, "quick")
        last = (await store.stream_info("$all")).version
        async with running(consumer):
            await store_has(store, "s")
            await store.subscriptions.wait_for("s", last, seconds=60)
        parked = await store.subscriptions.parked("s")
        assert [(each.attempts, "TimeoutError" in (each.error or "")) for each in parked] == [(2, True)]
        assert cancelled == [parked[0].first_position] * 2
        assert await effects(store) == ([last] if tx else [])


async def test_what_is_kept_of_a_failure_holds_no_password_and_has_a_bound(
    store: EventStore, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler's error may hold a URL, and be of any size. Neither the parked batch nor the log shows the password,
    and the lease outlives the masking."""
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", attempts=1, on_failure="park", options=QUICK)
        async def handle(batch: Batch) -> None:
            raise ValueError("postgresql://app:geheim@host/database " + "://user:" * 20_000)

        last = (await store.append_to_stream("a-1", 0, [EventData("E", 1)])).last_position
        async with running(consumer):
            await store_has(store, "s")
            await store.subscriptions.wait_for("s", last, seconds=60)
    (parked,) = await store.subscriptions.parked("s")
    for text in (parked.error or "", parked.traceback or "", caplog.text):
        assert "geheim" not in text
    assert 0 < len(parked.error or "") < 3_000


async def test_a_transaction_that_its_handler_leaves_idle_is_a_failure(store: EventStore, vhost: str) -> None:
    """The server ends it, which looks like a database that went away, and is not waited for without end."""
    async with Consumer(store, vhost) as consumer:

        @consumer.handler(
            "s",
            tx=True,
            attempts=2,
            wait_initial=0.01,
            on_failure="park",
            options=QUICK,
            transaction_idle=0.3,
            lease=30.0,
        )
        async def handle(batch: Batch, tx: Any) -> None:
            if batch[0].data == "idle":
                await asyncio.sleep(1.5)  # the case
            await tx.execute("SELECT 1")

        await append(store, "idle")
        await append(store, "busy")
        last = (await store.stream_info("$all")).version
        async with running(consumer):
            await store_has(store, "s")
            await store.subscriptions.wait_for("s", last, seconds=60)
        (parked,) = await store.subscriptions.parked("s")
        assert parked.attempts == 2
        assert "transaction_idle" in (parked.error or "")


async def test_a_restart_of_the_database_is_not_the_handlers_failure(vhost: str) -> None:
    """Not even of a handler that has run for longer than its transaction may wait: with one attempt it is handled, and
    its effect is there once."""
    calls = 0
    begun = asyncio.Event()
    with postgres_server(private=True) as server:
        connection = await asyncpg.connect(server.dsn)
        await initialise(connection)
        await connection.execute("CREATE TABLE public.effects (position bigint)")
        await connection.close()
        async with EventStore(server.dsn) as store, Consumer(store, vhost) as consumer:

            @consumer.handler("s", tx=True, attempts=1, options=QUICK, transaction_idle=2.0, lease=30.0)
            async def handle(batch: Batch, tx: Any) -> None:
                nonlocal calls
                calls += 1
                await tx.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)
                if calls == 1:
                    for _ in range(25):
                        await asyncio.sleep(0.1)  # it takes long, and is never idle
                        await tx.execute("SELECT 1")
                    begun.set()
                    for _ in range(200):
                        await tx.execute("SELECT 1")
                        await asyncio.sleep(0.05)  # until it is noticed

            last = (await store.append_to_stream("s-1", 0, [EventData("E", 1)])).last_position
            async with running(consumer) as task:
                await begun.wait()
                await asyncio.to_thread(server.restart)
                await until(lambda: calls > 1 or task.done())
                await store.subscriptions.wait_for("s", last, seconds=60)
            assert calls == 2
            assert await effects(store) == [last]


async def test_a_wrong_value_for_a_statement_is_the_handlers_failure(store: EventStore, vhost: str) -> None:
    """It is parked, though asyncpg refuses it with one of the errors that also tell of a lost connection."""
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", tx=True, attempts=1, on_failure="park", options=QUICK)
        async def handle(batch: Batch, tx: Any) -> None:
            await tx.execute("SELECT $1::bigint", "no number")

        await append(store, 1)
        async with running(consumer):
            async with asyncio.timeout(30):
                while not await parked(store):
                    await asyncio.sleep(0.01)  # between two looks


async def parked(store: EventStore) -> bool:
    with suppress(SubscriptionNotFound):
        return bool(await store.subscriptions.parked("s"))
    return False


async def test_a_handler_may_take_longer_than_the_lease(store: EventStore, vhost: str) -> None:
    """The lease is renewed beside it: a standby does not get the subscription, and the work is done once."""
    seen: list[int] = []
    async with Consumer(store, vhost) as one, Consumer(store, vhost) as two:
        for consumer in (one, two):

            @consumer.handler("s", options=QUICK)
            async def handle(batch: Batch) -> None:
                seen.append(batch[0].data)
                await asyncio.sleep(3 * QUICK.lease)  # the case

        await append(store, 1)
        last = (await store.stream_info("$all")).version
        async with running(one), running(two):
            await store_has(store, "s")
            await store.subscriptions.wait_for("s", last, seconds=60)
        assert seen == [1]


async def test_a_standby_takes_over_at_once_from_one_that_stops(store: EventStore, vhost: str) -> None:
    """It waits as long as the owner lives, whatever the lease, and goes on at its checkpoint."""
    async with Consumer(store, vhost) as one, Consumer(store, vhost) as two:
        await append(store, 1)
        long = {"options": QUICK, "checkpoint_threshold": 1, "lease": 600.0}
        first = one.subscribe_to_all_streams("s", **long)  # type: ignore[arg-type] # options as they are
        await first.start()
        second = two.subscribe_to_all_streams("s", standby=True, **long)  # type: ignore[arg-type] # as above
        waiting = asyncio.create_task(second.start())
        await (await take(first)).ack()
        assert not waiting.done()
        await append(store, 2)
        await first.stop()
        async with asyncio.timeout(60):
            await waiting
        assert (await take(second))[0].data == 2


async def test_a_stop_lets_running_handlers_come_to_their_end(store: EventStore, vhost: str) -> None:
    """Within their grace, their work counts and no other begins; without, they are cancelled and it comes again."""
    began, may_end = asyncio.Event(), asyncio.Event()
    ended: list[int] = []
    for n in range(3):
        await append(store, n)
    positions = [event.position for event in await store.read_all_streams_forward()]

    def program(consumer: Consumer, grace: float) -> None:
        @consumer.handler("s", grace=grace, options=QUICK)
        async def handle(batch: Batch) -> None:
            began.set()
            await may_end.wait()
            ended.append(batch[0].data)

    for grace, expected in ((0.0, 0), (60.0, positions[0])):
        async with Consumer(store, vhost) as consumer:
            program(consumer, grace)
            began.clear()
            task = asyncio.create_task(consumer.run())
            await until(began.is_set)
            task.cancel()
            if grace:
                await asyncio.sleep(0.1)  # it is stopping
                assert not task.done()
                may_end.set()
            await asyncio.wait([task])
        assert (await store.subscriptions.get("s")).checkpoint == expected
    assert ended == [0]


async def test_what_is_parked_is_retried_and_discarded_one_by_one(store: EventStore, database: str, vhost: str) -> None:
    """By the API and the command line; a batch that fails again stays, with its attempts counted; discarding the first
    of a key lets those behind it go on."""
    broken, seen = {1, 2, 4}, list[int]()
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park_key", attempts=1, wait_initial=0.01, options=QUICK)
        async def handle(batch: Batch) -> None:
            if batch[0].data in broken:
                raise RuntimeError("poison")
            seen.append(batch[0].data)

        for n, stream in ((1, "a-1"), (2, "b-1"), (3, "b-1"), (4, "c-1")):
            await append(store, n, stream=stream)
        first, second, third, fourth = [event.position for event in await store.read_all_streams_forward()]
        async with running(consumer):
            await store_has(store, "s")
            await store.subscriptions.wait_for("s", fourth, seconds=60)

            async def parked() -> dict[int, int]:
                return {each.first_position: each.attempts for each in await store.subscriptions.parked("s")}

            async def until_parked(expected: dict[int, int]) -> None:
                async with asyncio.timeout(60):
                    while await parked() != expected:
                        await asyncio.sleep(0.02)  # between two looks

            assert await parked() == {first: 1, second: 1, third: 0, fourth: 1}
            assert await store.subscriptions.retry("s", first) == 1
            await until_parked({first: 2, second: 1, third: 0, fourth: 1})
            broken.remove(1)
            assert (await trunkline(database, "retry", "s", "--at", str(first)))[0]["wanted"] == 1
            await until_parked({second: 1, third: 0, fourth: 1})
            assert await store.subscriptions.discard("s", second) == 1
            await until_parked({fourth: 1})
            assert seen == [1, 3]
            assert [line["first_position"] for line in await trunkline(database, "parked", "s")] == [fourth]
            assert (await trunkline(database, "discard", "s", "--yes"))[0]["wanted"] == 1
            await until_parked({})
            assert seen == [1, 3]


async def test_a_parked_batch_may_be_handled_for_longer_than_a_transaction_may_idle(
    store: EventStore, vhost: str
) -> None:
    """Without tx, no transaction is open while the handler runs: retried, it has as much time as at first."""
    mended = False
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", on_failure="park", attempts=1, options=QUICK, transaction_idle=0.3, lease=30.0)
        async def handle(batch: Batch) -> None:
            if not mended:
                raise RuntimeError("poison")
            await asyncio.sleep(1.0)  # the case

        await append(store, 1)
        async with running(consumer):
            await until_parked(store, 1)
            mended = True
            await store.subscriptions.retry("s")
            await until_parked(store, 0)
            assert consumer.subscriptions[0].counts.retries == 0


async def until_parked(store: EventStore, batches: int) -> None:
    """So many are parked, of any subscription."""
    async with asyncio.timeout(30):
        while await store.fetchval("SELECT count(*) FROM eventstore.parked") != batches:
            await asyncio.sleep(0.01)  # between two looks


async def test_waiting_for_a_subscription_has_an_end(store: EventStore, vhost: str) -> None:
    """`wait_for` gives up after its seconds, and says of whom."""
    await append(store, 1)
    last = (await store.stream_info("$all")).version
    async with Consumer(store, vhost) as consumer, consumer.subscribe_to_all_streams("s", options=QUICK):
        began = time.monotonic()
        with pytest.raises(OperationTimeout, match=r"'s' has not finished"):
            await store.subscriptions.wait_for("s", last, seconds=0.2)
        assert time.monotonic() - began < 30


async def test_a_statement_that_is_used_wrongly_is_the_handlers_failure(
    store: EventStore, database: str, vhost: str
) -> None:
    """asyncpg raises the same for it as for a connection that is closed; but this one is open."""
    await store.append_to_stream("a-1", 0, [EventData("E", 1)])
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("wrong", tx=True, attempts=2, wait_initial=0.01, options=QUICK)
        async def wrong(batch: Batch, tx: Any) -> None:
            await tx.fetch("SELECT $1::int")

        with pytest.raises(SubscriptionHalted, match="2 times"):
            await asyncio.wait_for(consumer.run(), 30)


@pytest.mark.parametrize("tx", [False, True])
async def test_whoever_owns_it_next_goes_on_with_what_waits(store: EventStore, vhost: str, tx: bool) -> None:
    """An owner is told to retry, handles the first of a key, and ends in the middle of the next: the next owner goes on
    with that one, without being told again, and all come in order."""
    await store.fetch(EFFECTS)
    broken, standing = True, asyncio.Event()
    seen: list[int] = []

    async def handle(batch: Batch, *_: Any) -> None:
        if broken and batch[0].data == 1:
            raise RuntimeError("poison")
        if batch[0].data == 2 and not standing.is_set():
            standing.set()
            await asyncio.sleep(60)  # until its owner ends: that is the case
        seen.append(batch[0].data)

    def handler(consumer: Consumer) -> None:
        consumer.handler("s", tx=tx, on_failure="park_key", attempts=1, grace=0, options=QUICK)(handle)

    for n in range(1, 5):
        await append(store, n)
    last = (await store.stream_info("$all")).version
    async with Consumer(store, vhost) as consumer:
        handler(consumer)
        async with running(consumer):
            await store_has(store, "s")
            await store.subscriptions.wait_for("s", last, seconds=30)
            broken = False
            await store.subscriptions.retry("s")
            await asyncio.wait_for(standing.wait(), 30)
    assert seen == [1]
    async with Consumer(store, vhost) as consumer:
        handler(consumer)
        async with running(consumer):
            await until(lambda: seen == [1, 2, 3, 4])
            while await store.subscriptions.parked("s"):
                await asyncio.sleep(0.01)  # between two looks
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("tx", [False, True])
async def test_what_a_handler_waits_for_may_be_cancelled(store: EventStore, vhost: str, tx: bool) -> None:
    """P5: by somebody else, that is a failure like any other: the batch is tried again, before the next of its key."""
    seen: list[int] = []
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", tx=tx, attempts=2, wait_initial=0.01, options=QUICK)
        async def handle(batch: Batch, *_: Any) -> None:
            seen.append(batch[0].data)
            if seen == [1]:
                other = asyncio.create_task(asyncio.sleep(60))  # until it is cancelled: the case
                asyncio.get_running_loop().call_soon(other.cancel)
                await other

        await append(store, 1)
        await append(store, 2)
        async with running(consumer):
            await until(lambda: len(seen) == 3)
    assert seen == [1, 1, 2]


async def test_two_statements_at_once_are_the_handlers_failure(store: EventStore, vhost: str) -> None:
    """asyncpg tells of it as of a lost connection; tried for ever, nobody would hear of it."""
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", tx=True, attempts=2, wait_initial=0.01, options=QUICK)
        async def handle(batch: Batch, tx: Any) -> None:
            event = [EventData("E", 1)]
            await asyncio.gather(*(store.append_to_stream(f"o-{n}", ANY_VERSION, event, connection=tx) for n in (1, 2)))

        await append(store, 1)
        with pytest.raises(SubscriptionHalted, match="2 times"):
            await asyncio.wait_for(consumer.run(), 30)


async def test_another_database_that_is_away_is_the_handlers_failure(store: EventStore, vhost: str) -> None:
    """Only of the subscription's own database it is known that nothing can go on without it."""
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", attempts=2, wait_initial=0.01, options=QUICK)
        async def handle(batch: Batch) -> None:
            async with EventStore("postgresql://x@127.0.0.1:1/x"):
                pass

        await append(store, 1)
        with pytest.raises(SubscriptionHalted, match="2 times"):
            await asyncio.wait_for(consumer.run(), 30)


async def test_a_database_that_hangs_is_not_the_handlers_failure(store: EventStore, database: str, vhost: str) -> None:
    """It answers in none of several attempts at the end of a transaction; the batch is finished when it does again."""
    entered, go = asyncio.Event(), asyncio.Event()
    async with (
        Proxy(database) as proxy,
        EventStore(proxy.url, timeout=0.5) as through,
        Consumer(through, vhost) as consumer,
    ):

        @consumer.handler("s", tx=True, attempts=2, wait_initial=0.01, options=QUICK, lease=30.0)
        async def handle(batch: Batch, tx: Any) -> None:
            entered.set()
            await go.wait()

        await append(store, 1)
        last = (await store.stream_info("$all")).version
        async with running(consumer):
            await asyncio.wait_for(entered.wait(), 30)
            proxy.stall()
            go.set()
            await asyncio.sleep(3)  # several times its timeout: that is the case
            proxy.resume()
            await store.subscriptions.wait_for("s", last, seconds=30)
            assert consumer.subscriptions[0].counts.retries == 0


async def test_a_database_that_is_read_only_is_not_the_handlers_failure(
    store: EventStore, database: str, vhost: str
) -> None:
    """As a former primary is: a handler's own statement is refused as long as nothing can be written."""
    await store.fetch(EFFECTS)
    calls, read_only = 0, asyncio.Event()
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", tx=True, attempts=2, wait_initial=0.01, options=QUICK, lease=30.0)
        async def handle(batch: Batch, tx: Any) -> None:
            nonlocal calls
            calls += 1
            if batch[0].data == 2:
                await read_only.wait()
            await tx.execute("INSERT INTO public.effects VALUES ($1)", batch[0].position)

        await append(store, 1)
        await append(store, 2)
        async with running(consumer):
            await until(lambda: calls == 2)
            connection = await asyncpg.connect(database)
            try:
                name = await connection.fetchval("SELECT current_database()")
                await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
                await connection.execute(OTHERS_END)
                read_only.set()
                await until(lambda: calls > 5)
                await connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
                await connection.execute(OTHERS_END)
            finally:
                await connection.close()
            async with asyncio.timeout(30):
                while len(await effects(store)) != 2:
                    await asyncio.sleep(0.01)  # between two looks


OTHERS_END = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


async def test_a_handlers_error_of_any_length_is_kept_and_logged_in_part(
    store: EventStore, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The row, the log and the error that ends the subscription hold at most some 2,000 characters of it, and 20,000 of
    its traceback."""
    await append(store, 1)
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", attempts=2, wait_initial=0.01, on_failure="park", options=QUICK)
        async def park(batch: Batch) -> None:
            raise ValueError("x" * 1_000_000)

        @consumer.handler("h", attempts=2, wait_initial=0.01, options=QUICK)
        async def halt(batch: Batch) -> None:
            raise ValueError("x" * 1_000_000)

        async with running(consumer):
            async with asyncio.timeout(60):
                while [each.state for each in await store.subscriptions.list() if each.parked or each.halted] != [
                    "halted",
                    "following",
                ]:
                    await asyncio.sleep(0.02)  # between two looks
    (parked,) = await store.subscriptions.parked("s")
    assert len(parked.error or "") < 2100
    assert len(parked.traceback or "") <= 20_000
    assert len(str((await store.subscriptions.get("h")).halted)) < 25_000
    assert all(len(record.getMessage()) < 2500 for record in caplog.records)
