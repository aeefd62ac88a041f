"""The relay, as a plain consumer sees it."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import aio_pika
import pytest
from structlog.testing import capture_logs

from tests.closing_server import closing_server
from tests.relay.plain import append, plain, recorded
from tests.whole.flow import relay_running
from trunkline_relay import Relay
from trunkline_relay.tail import Tail
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    HistoryChanged,
    InvalidArgument,
    LeaseLost,
    names,
    wire,
)
from trunkline_store.lease import Lease

pytestmark = pytest.mark.both_loops


async def test_every_event_is_published_in_order_and_recorded(store: EventStore, database: str, vhost: str) -> None:
    """History first, then what comes; the position is recorded when all is confirmed."""
    positions = await append(store, "a-1", *["E"] * 1500)
    async with plain(vhost, "#") as consumer, relay_running(database, vhost):
        for n in range(50):
            positions += await append(store, f"b-{n % 3}", "E", "F")
        await consumer.until(len(positions))
        await recorded(store, positions[-1])
    assert consumer.positions == positions


async def test_the_chain_leads_from_message_to_message(store: EventStore, database: str, vhost: str) -> None:
    """P6: `previous` is the last position of the message before: in `$all`, in its category, in its stream; also
    across a relay that begins again, and a gap that a rolled-back append left."""
    async with plain(vhost, "#") as consumer:
        count = 0
        for _ in range(2):
            async with relay_running(database, vhost):
                for n in range(12):
                    count += len(await append(store, f"{'ab'[n % 2]}-{n % 3}", *["E"] * (n % 3 + 1)))
                await store.fetchval("SELECT nextval('eventstore.blocks')")  # a gap
                await consumer.until(count)
    last = {"all": 0, "category": {}, "stream": {}}  # type: dict[str, Any]
    for message in consumer.messages:
        h = message.headers
        assert h["previous_position"] == last["all"]
        assert h["previous_in_category"] == last["category"].get(h["category"], 0)
        assert h["previous_in_stream"] == last["stream"].get(h["stream"], 0)
        last["all"] = last["category"][h["category"]] = last["stream"][h["stream"]] = h["last_position"]


async def test_every_message_is_of_one_stream_and_one_correlation_id(
    store: EventStore, database: str, vhost: str
) -> None:
    """P4: an append that mixes them is split in order; none is a value of its own."""
    ids = ["x", "x", None, None, "y", "x"]
    await store.append_to_stream("a-1", 0, [EventData("E", n, correlation_id=c) for n, c in enumerate(ids)])
    async with plain(vhost, "#") as consumer, relay_running(database, vhost):
        await consumer.until(6)
    assert [(m.correlation_id, len(json.loads(m.body))) for m in consumer.messages] == [
        ("x", 2), (None, 2), ("y", 1), ("x", 1),
    ]  # fmt: skip


async def test_bindings_choose_by_category_type_and_stream(store: EventStore, database: str, vhost: str) -> None:
    """One copy for each queue, whichever of a batch's types match."""
    async with (
        plain(vhost, "order.#") as orders,
        plain(vhost, "*.Paid.*", "*.Placed.*") as both,
        plain(vhost, "order.*.order-2") as one,
        relay_running(database, vhost),
    ):
        await append(store, "order-1", "Placed", "Paid")
        await append(store, "order-2", "Shipped")
        await append(store, "user-1", "Paid")
        await orders.until(3)
        await both.until(3)
        await one.until(1)
    assert len(both.messages) == 2
    assert [m.headers["stream"] for m in one.messages] == ["order-2"]


async def test_what_nobody_wants_counts_as_confirmed(store: EventStore, database: str, vhost: str) -> None:
    """Unroutable messages hold nothing up: PostgreSQL has them."""
    async with relay_running(database, vhost):
        positions = await append(store, "a-1", *["E"] * 1100)
        await recorded(store, positions[-1])


async def test_an_append_of_many_long_types_is_published(store: EventStore, database: str, vhost: str) -> None:
    """P9: a message has a routing key for each of its types; as many as a store lets a batch have events, as long as
    they may be, do not break the line, and whoever binds the last of them gets it."""
    await store.fetchval("UPDATE eventstore.store SET batch_count = 1024")
    types = [f"{n}.".ljust(128, "#") for n in range(1000)]
    stream = "c" * 64 + "-" + "." * 190
    async with (
        plain(vhost, "#") as everything,
        plain(vhost, f"*.{names.word(types[-1], 96)}.*") as last,
        relay_running(database, vhost),
    ):
        positions = await append(store, stream, *types)
        positions += await append(store, "a-1", "E")
        await everything.until(1001)
        await last.until(1)
        await recorded(store, positions[-1])
    assert everything.positions == positions
    assert [message.headers["last_position"] for message in last.messages] == [positions[-2]]


@pytest.mark.parametrize("start", ["origin", "current", "position"])
async def test_a_first_start_begins_where_it_is_told(store: EventStore, database: str, vhost: str, start: str) -> None:
    """From the first event, from what is new, or after a position; a later start goes on where the last one ended."""
    old = await append(store, "a-1", "E", "E", "E")
    begin = {"origin": 0, "current": None, "position": old[1]}[start]
    async with plain(vhost, "#") as consumer, EventStore(database) as relays_store:
        new: list[int] = []
        for _ in range(2):
            relay = Relay(relays_store, vhost, start_from=begin, lease=1)
            running = asyncio.create_task(relay.run())
            async with asyncio.timeout(10):
                while await store.fetchrow(store.sql["see_relay"], "relay") is None:
                    await asyncio.sleep(0.01)  # between two looks: it has chosen where to begin
            new += await append(store, "a-2", "E")
            expected = {"origin": old, "current": [], "position": old[2:]}[start] + new
            await consumer.until(len(expected))
            relay.stop()
            await running
    assert consumer.positions == expected


async def test_a_relay_waits_for_a_broker_and_an_append_does_not(store: EventStore, database: str) -> None:
    """Nothing listens: appends succeed, the relay goes on trying, and stops when it is told to."""
    async with EventStore(database) as relays_store:
        relay = Relay(relays_store, "amqp://guest:guest@127.0.0.1:1/", lease=1)
        running = asyncio.create_task(relay.run())
        async with asyncio.timeout(10):
            await relay.leading.wait()
        await append(store, "a-1", "E")
        relay.stop()
        async with asyncio.timeout(5):
            await running


async def test_a_relay_keeps_leading_while_an_address_accepts_and_closes(store: EventStore, database: str) -> None:
    """A load balancer without its broker counts as a broker that is away: no failure of the relay, no new leader, and
    one log line however often it tries."""
    with closing_server() as broker, capture_logs() as logs:
        async with EventStore(database) as relays_store:
            relay = Relay(relays_store, broker.url, lease=1)
            running = asyncio.create_task(relay.run())
            await broker.until(4)
            assert relay.leading.is_set()
            assert await store.fetchval("SELECT epoch FROM eventstore.leases") == 1
            relay.stop()
            async with asyncio.timeout(10):
                await running
    warned = [entry["event"] for entry in logs if entry["log_level"] not in ("debug", "info")]
    assert warned == ["broker unavailable"], logs


async def test_a_relay_can_be_run_again(store: EventStore, database: str, vhost: str) -> None:
    """It can run again after a stop, also in another event loop, but not while it is running."""
    relay: Relay
    async with plain(vhost, "#") as consumer:

        async def run(count: int) -> None:
            async with relay.store:
                running = asyncio.create_task(relay.run())
                async with asyncio.timeout(20):
                    await relay.leading.wait()
                    with pytest.raises(InvalidArgument, match="already running"):
                        await relay.run()
                    await append(relay.store, "a-1", "E")
                    while relay.metrics.confirmed._value.get() < count:
                        await asyncio.sleep(0.01)  # between two looks
                relay.stop()
                await running

        relay = Relay(EventStore(database), vhost, lease=1)
        await run(1)
        await run(2)
        await asyncio.to_thread(asyncio.run, run(3))
        await consumer.until(3)


async def test_a_clean_stop_hands_over_at_once(store: EventStore, database: str, vhost: str) -> None:
    """A standby leads long before a lease of a minute would run out, in the next epoch."""
    async with plain(vhost, "#") as consumer, EventStore(database) as one, EventStore(database) as two:
        first, second = Relay(one, vhost, lease=60), Relay(two, vhost, lease=60)
        running = asyncio.create_task(first.run())
        await first.leading.wait()
        waiting = asyncio.create_task(second.run())
        await append(store, "a-1", "E")
        await consumer.until(1)
        assert not second.leading.is_set()
        first.stop()
        await running
        async with asyncio.timeout(3):
            await second.leading.wait()
        await append(store, "a-1", "E")
        await consumer.until(2)
        second.stop()
        await waiting
    assert [m.headers["relay_epoch"] for m in consumer.messages] == [1, 2]


async def test_a_lease_has_one_holder_by_the_databases_clock(store: EventStore) -> None:
    """Taken, refused, renewed, released, taken over when expired or impossibly far ahead; the loser finds out."""
    from uuid import uuid4

    one, two = uuid4(), uuid4()
    first = await Lease.acquire(store, "x", one, 60)
    assert first is not None
    assert await Lease.acquire(store, "x", two, 60) is None
    await first.renew()
    await first.release()
    second = await Lease.acquire(store, "x", two, 60)
    assert second is not None
    assert second.epoch == first.epoch + 1
    with pytest.raises(LeaseLost):
        await first.renew()
    assert not first.held
    for until in ("clock_timestamp() - interval '1 ms'", "clock_timestamp() + interval '121 s'"):
        await store.fetchval(f"UPDATE eventstore.leases SET until = {until}")
        third = await Lease.acquire(store, "x", uuid4(), 60)
        assert third is not None


async def test_whoever_stands_by_writes_nothing(store: EventStore) -> None:
    """Ten standbys that try several times a second use up no transaction ids; the control is a lease that is had."""
    from uuid import uuid4

    query, assigned = store.sql["acquire_lease"], "SELECT pg_current_xact_id_if_assigned()"
    seconds = timedelta(seconds=60)
    assert await Lease.acquire(store, "x", uuid4(), 60) is not None
    for name, had in (("x", False), ("y", True)):
        async with store.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(query, name, uuid4(), seconds, "host:1")
            assert (row is not None, await connection.fetchval(assigned) is not None) == (had, had)


async def test_a_relay_that_was_replaced_cannot_record(store: EventStore) -> None:
    """P7: row, owner and epoch are checked in the statement itself, and the history too; positions never go back."""
    from uuid import uuid4

    old, new, q = uuid4(), uuid4(), store.sql
    assert await store.fetchval(q["fence_relay"], "relay", old, 1, 0, store.history) == 0
    assert await store.fetchval(q["record_relay"], "relay", old, 1, 50, store.history, 0, 0, 0) == 50
    assert await store.fetchval(q["fence_relay"], "relay", new, 2, 0, store.history) == 50
    assert await store.fetchval(q["record_relay"], "relay", old, 1, 90, store.history, 0, 0, 0) is None
    assert await store.fetchval(q["fence_relay"], "relay", old, 1, 0, store.history) is None
    assert await store.fetchval(q["record_relay"], "relay", new, 2, 40, store.history, 0, 0, 0) == 50
    with pytest.raises(HistoryChanged):
        await store.fetchval(q["record_relay"], "relay", new, 2, 90, "another history", 0, 0, 0)


async def test_a_queue_that_refuses_does_not_flood_the_others(store: EventStore, database: str, vhost: str) -> None:
    """P9: a full reject-publish queue is met with one message at a time, what was confirmed is kept, and the relay gets
    past it as the queue is drained."""
    async with plain(vhost, "#") as other, await aio_pika.connect(vhost) as connection, connection.channel() as channel:
        full = await channel.declare_queue(
            "full", durable=True, arguments={"x-max-length": 3, "x-overflow": "reject-publish"}
        )
        await full.bind("eventstore", "#")
        async with relay_running(database, vhost):
            positions = [position for _ in range(40) for position in await append(store, "a-1", "E")]
            async with asyncio.timeout(60):
                while not other.positions or other.positions[-1] != positions[-1]:
                    message = await full.get(fail=False)
                    if message is not None:
                        await message.ack()
                    await asyncio.sleep(0.02)  # a slow consumer
            await full.delete(if_unused=False, if_empty=False)
            await recorded(store, positions[-1])
    assert list(dict.fromkeys(other.positions)) == positions
    assert len(other.positions) < 15 * len(positions), "the others were flooded with copies"


async def test_a_relay_that_is_cancelled_leaves_nothing_running(store: EventStore, database: str, vhost: str) -> None:
    """Its tasks end with it: nothing is published after the lease was given back."""
    async with EventStore(database) as relays_store, plain(vhost, "#") as consumer:
        relay = Relay(relays_store, vhost, lease=5)
        running = asyncio.create_task(relay.run())
        await append(store, "a-1", "E")
        await consumer.until(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("relay ")]


async def test_an_unexpected_error_does_not_end_the_relay(
    store: EventStore, database: str, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P6: a bug, or a row that nobody thought of, is logged and tried again; when it has gone, all is published."""
    failures = 0

    def failing(*args: Any, **given: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise TypeError("a bug")
        return wire.encode(*args, **given)

    monkeypatch.setattr("trunkline_relay.tail.encode", failing)
    async with plain(vhost, "#") as consumer, relay_running(database, vhost):
        positions = await append(store, "a-1", "E")
        await consumer.until(1)
    assert consumer.positions == positions


async def test_the_chain_holds_where_little_is_remembered(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many streams and categories come before an old one comes again, in one page or in several: its message
    names its predecessor."""
    monkeypatch.setattr("trunkline_relay.tail.REMEMBERED", 3)
    monkeypatch.setattr("trunkline_relay.tail.PORTION_EVENTS", 2)
    for page in (1000, 7):
        monkeypatch.setattr("trunkline_relay.tail.PAGE_EVENTS", page)
        tail = Tail(store, store.history, 0, 1)
        for n in range(3):
            for stream in ("old-1", *(f"c{n}x{i}-1" for i in range(9)), "old-1"):
                await store.append_to_stream(stream, ANY_VERSION, [EventData("E", n)])
            await published_as_stored(store, tail)


async def published_as_stored(store: EventStore, tail: Tail) -> None:
    """What comes from a tail next has the chains of what is in the store."""
    events = await store.read_all_streams_forward(count=10_000)
    begun, expected = tail.position, []
    for at, event in enumerate(events):
        of_category = [e.position for e in events[:at] if e.stream.split("-")[0] == event.stream.split("-")[0]]
        of_stream = [e.position for e in events[:at] if e.stream == event.stream]
        before = [e.position for e in events[:at]]
        chain = tuple((each or [0])[-1] for each in (before, of_category, of_stream))
        if event.position > begun:
            expected.append((event.position, *chain))
    names = ("first_position", "previous_position", "previous_in_category", "previous_in_stream")
    messages = [message async for some in tail.until(await store.safe_position()) for message in some]
    assert [tuple(message.headers[name] for name in names) for message in messages] == expected
