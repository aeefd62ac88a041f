"""How a store is at a moment, and who holds its line."""

import asyncio
import os
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from trunkline_store import ANY_VERSION, EventData, EventStore
from trunkline_store import overview as seen_of
from trunkline_store.lease import Lease
from trunkline_store.line import Depth, Waiting, line
from trunkline_store.overview import OpenTransaction, Overview, RelayInfo, overview, size
from trunkline_store.rights import Role
from trunkline_store.subscriptions import SubscriptionInfo

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = UUID(int=7)
E = [EventData("E", 1)]


async def relay_row(store: EventStore, position: int) -> Lease:
    """As a relay that leads leaves it."""
    owner = uuid4()
    lease = await Lease.acquire(store, "relay", owner, 60)
    assert lease is not None
    await store.fetch(store.sql["fence_relay"], "relay", owner, lease.epoch, position, store.history)
    return lease


async def test_a_store_is_seen_as_it_is(store: EventStore) -> None:
    """Counts, positions, the relay's row with its leader, and each subscription with what it is behind."""
    empty = await overview(store)
    assert (empty.events, empty.streams, empty.last_position, empty.held_back) == (0, 0, 0, 0)
    assert (empty.relay, empty.transaction, list(empty.subscriptions)) == (None, None, [])
    first = await store.append_to_stream("a-1", ANY_VERSION, E)
    last = await store.append_to_stream("a-2", ANY_VERSION, [EventData("E", n) for n in range(2)])
    await store.fetch(store.sql["create_subscription"], "s", "$all", first.last_position)
    lease = await relay_row(store, first.last_position)
    seen = await overview(store)
    assert (seen.events, seen.streams, seen.last_position) == (3, 2, last.last_position)
    assert (seen.schema, seen.history, seen.data_type) == ("eventstore", store.history, "json")
    assert [(s.name, s.behind) for s in seen.subscriptions] == [("s", 2)]
    assert seen.relay is not None
    assert (seen.relay.position, seen.relay.lag_events, seen.relay.owner) == (first.last_position, 2, lease.owner)
    assert (await overview(store)).held_back == 0
    await lease.release()
    seen = await overview(store)
    assert seen.relay is not None
    assert seen.relay.owner is None


async def test_a_locked_table_hides_nothing_but_the_size(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While snapshots are rebuilt (by VACUUM FULL, which locks them) all else is told; the size again afterwards."""
    monkeypatch.setattr(seen_of, "SIZE_SECONDS", 0.3)
    await store.append_to_stream("a-1", ANY_VERSION, E)
    async with store.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE eventstore.snapshots IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(10):
            assert (await overview(store)).events == 1
            assert await size(store) is None
    found = await size(store)
    assert found is not None
    assert found > 0


async def test_many_late_subscriptions_are_counted_in_bounded_time(store: EventStore) -> None:
    """P8: of five hundred that are ten thousand events behind, each is counted to as many as all together may cost,
    which is told; one alone is counted to ten thousand, and since when it waits is exact."""
    for n in range(11):
        await store.append_to_stream(f"a-{n}", ANY_VERSION, [EventData("E", n) for n in range(1000)])
    await store.fetch(
        "INSERT INTO eventstore.subscriptions (name, feed, checkpoint)"
        " SELECT 's' || n, CASE n % 2 WHEN 0 THEN '$all' ELSE '$category-a' END, 0 FROM generate_series(1, 500) AS n"
    )
    found = (await overview(store)).subscriptions
    assert len(found) == 500
    assert {(each.behind, each.or_more) for each in found} == {(1000, True)}
    [row] = await store.fetch(
        "SELECT extract(epoch FROM now() - min(created_at))::float8 AS age FROM eventstore.events"
    )
    assert all(abs(each.seconds_behind - row["age"]) < 30 for each in found)
    one = await store.subscriptions.get("s1")
    assert (one.behind, one.or_more) == (10_000, True)
    await store.fetch(
        "UPDATE eventstore.subscriptions SET checkpoint = $1 WHERE name = 's1'", await store.safe_position()
    )
    one = await store.subscriptions.get("s1")
    assert (one.behind, one.or_more, one.seconds_behind) == (0, False, 0)


async def test_who_holds_readers_back_is_named(store: EventStore) -> None:
    """A transaction that has appended: what is committed behind it is counted, and its process is named."""
    async with store.transaction() as connection:
        await store.append_to_stream("a-1", ANY_VERSION, E, connection=connection)
        await store.append_to_stream("b-1", ANY_VERSION, [EventData("E", n) for n in range(3)])
        seen = await overview(store)
        assert seen.transaction is not None
        assert seen.transaction.pid == connection.get_server_pid()
        assert (seen.transaction.application, seen.transaction.prepared) == ("trunkline", None)
        assert (seen.held_back, seen.events) == (3, 3)
        assert str(seen.transaction.pid) in line(seen)[0].who
    seen = await overview(store)
    assert (seen.held_back, seen.transaction) == (0, None)


async def test_who_waits_for_a_lock_taken_by_hand_is_not_named_for_it(store: EventStore) -> None:
    """Anybody may take such a lock alone, and appends wait for it: it is its holder that is named."""
    await store.append_to_stream("a-1", ANY_VERSION, E)
    last = await store.fetchval("SELECT last_value FROM eventstore.blocks")
    async with store.acquire() as connection:
        await connection.execute(f"SELECT pg_advisory_lock('eventstore.events'::regclass::int, {last})")
        waiting = asyncio.create_task(store.append_to_stream("a-1", ANY_VERSION, E))
        async with asyncio.timeout(20):
            while not await store.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                await asyncio.sleep(0.005)  # PostgreSQL tells nobody who waits
        seen = await overview(store)
        assert seen.transaction is not None
        assert seen.transaction.pid == connection.get_server_pid()
        await connection.execute("SELECT pg_advisory_unlock_all()")
    await waiting


async def test_a_prepared_transaction_is_named(store: EventStore) -> None:
    """By the name that it was prepared under, since it has no process."""
    name = f"over-{os.getpid()}-{uuid4().hex}"
    async with store.acquire() as connection:
        await connection.execute("BEGIN")
        await store.append_to_stream("a-1", ANY_VERSION, E, connection=connection)
        await connection.execute(f"PREPARE TRANSACTION '{name}'")
    try:
        transaction = (await overview(store)).transaction
        assert transaction is not None
        assert (transaction.pid, transaction.prepared) == (None, name)
        assert name in transaction.words
    finally:
        async with store.acquire() as connection:
            await connection.execute(f"ROLLBACK PREPARED '{name}'")


@pytest.mark.parametrize("role", ["reader", "writer", "relay", "consumer"])
async def test_a_reader_may_see_it(role: Role, logins: dict[Role, str], store: EventStore) -> None:
    """It takes no right that a role of the store does not have."""
    await store.append_to_stream("a-1", ANY_VERSION, E)
    async with EventStore(logins[role]) as theirs:
        assert (await overview(theirs)).events == 1


def subscription(
    name: str = "s", *, checkpoint: int = 10, behind: int = 5, owner: UUID | None = OWNER, halted: str | None = None
) -> SubscriptionInfo:
    return SubscriptionInfo(name, "$all", checkpoint, owner, 1, NOW, NOW, behind, 2.0, 0, halted)


def seen(
    *subscriptions: SubscriptionInfo,
    held_back: int = 0,
    transaction: OpenTransaction | None = None,
    relay: RelayInfo | None = None,
) -> Overview:
    return Overview(
        *(NOW, "eventstore", 3, "h", "json", "application/json", NOW, 100, 100, held_back, transaction),
        *(100, 1, 100, relay, subscriptions),
    )


def at(position: int, lag: int, owner: UUID | None = OWNER) -> RelayInfo:
    return RelayInfo(position, owner, 3, NOW, lag, 1.5)


QUEUE = "eventstore.s"


@pytest.mark.parametrize(
    ("view", "queues", "expected"),
    [
        (seen(subscription(behind=0), relay=at(100, 0)), {}, []),
        (seen(held_back=3, transaction=OpenTransaction(7, "ann", "shop", None, 4.0)), None, [("transaction", 3, 4.0)]),
        (seen(held_back=3), None, [("transaction", 3, None)]),
        (seen(relay=at(50, 9)), None, [("relay", 9, 1.5)]),
        (seen(subscription(checkpoint=50), relay=at(50, 9)), None, [("relay", 9, 1.5), ("relay", 5, 2.0)]),
        (seen(subscription(checkpoint=49), relay=at(50, 9)), None, [("relay", 9, 1.5), ("handler", 5, 2.0)]),
        (seen(subscription(), relay=at(100, 0)), {QUEUE: Depth(4, 0, 0)}, [("broker", 5, 2.0)]),
        (seen(subscription(), relay=at(100, 0)), {QUEUE: Depth(4, 1, 1)}, [("handler", 5, 2.0)]),
        (seen(subscription(), relay=at(100, 0)), {"another": Depth(4, 0, 0)}, [("handler", 5, 2.0)]),
        (seen(subscription(owner=None)), {QUEUE: Depth(4, 0, 0)}, [("nobody", 5, 2.0)]),
        (seen(subscription(owner=None, halted="{}")), None, [("halted", 5, 2.0)]),
    ],
)
def test_the_line_says_for_whom_events_wait(
    view: Overview, queues: dict[str, Depth] | None, expected: list[tuple[str, int, float | None]]
) -> None:
    """A transaction, the relay, the broker, a handler, a person or nobody: in the order of the way."""
    assert [(each.stage, each.events, each.seconds) for each in line(view, queues)] == expected


def test_without_a_leader_the_relay_is_said_to_be_away() -> None:
    """Whom to look for differs: a relay that is slow, or one that is not there."""
    assert line(seen(relay=at(1, 2, None)))[0] == Waiting("relay", "no relay leads", 2, 1.5)
    assert "epoch 3" in line(seen(relay=at(1, 2)))[0].who
