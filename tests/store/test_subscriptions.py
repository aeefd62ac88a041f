"""The rows of subscriptions: what an operator sees and changes. Following one is tested with the consumer SDK."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    HistoryChanged,
    InvalidArgument,
    LeaseLost,
    SubscriptionNotFound,
)
from trunkline_store.lease import Lease


async def create(store: EventStore, name: str, checkpoint: int = 0, feed: str = "$all") -> int:
    """The row that the first subscribe makes; gives its id."""
    row = await store.fetchrow(store.sql["create_subscription"], name, feed, checkpoint)
    assert row is not None
    return int(row["subscription_id"])


async def own(store: EventStore, number: int, owner: UUID, length: float = 60) -> Lease:
    """Takes the subscription's lease, and shuts former owners out."""
    lease = await Lease.acquire(store, f"subscription {number}", owner, length)
    assert lease is not None
    await store.fetch(store.sql["fence_subscription"], number, owner, lease.epoch, store.history)
    return lease


async def checkpoint(store: EventStore, number: int, lease: Lease, position: int) -> bool:
    """Writes a checkpoint as the lease's holder; gives whether it was taken."""
    args: tuple[Any, ...] = number, lease.owner, lease.epoch, position, store.history, [], []
    return await store.fetchrow(store.sql["checkpoint"], *args) is not None


async def append(store: EventStore, *data: Any) -> list[int]:
    """Positions of new events, each of a block of its own."""
    return [(await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", d)])).first_position for d in data]


async def test_subscriptions_are_listed_by_name(store: EventStore) -> None:
    """With what they follow, where they are, and who follows; an empty store has none."""
    assert await store.subscriptions.list() == []
    positions = await append(store, 1, 2, 3)
    await create(store, "b", positions[0])
    number = await create(store, "a")
    await create(store, "B", positions[2])
    lease = await own(store, number, uuid4())
    listed = await store.subscriptions.list()
    assert [(s.name, s.feed, s.checkpoint, s.owner, s.epoch, s.behind) for s in listed] == [
        ("B", "$all", positions[2], None, 0, 0),
        ("a", "$all", 0, lease.owner, 1, 3),
        ("b", "$all", positions[0], None, 0, 2),
    ]
    assert all(s.created_at <= s.updated_at for s in listed)
    same = [s._replace(seconds_behind=0) for s in listed]
    assert [(await store.subscriptions.get(s.name))._replace(seconds_behind=0) for s in listed] == same
    assert [s.seconds_behind > 0 for s in listed] == [False, True, True]
    assert [s.state for s in listed] == ["stopped", "following", "stopped"]


async def test_a_subscription_is_made_once(store: EventStore) -> None:
    """A second subscribe finds the row; where it would have begun does not matter then."""
    await create(store, "a", 5)
    assert await store.fetchrow(store.sql["create_subscription"], "a", "$all", 7) is None
    assert (await store.subscriptions.get("a")).checkpoint == 5


async def test_an_owner_is_shown_while_its_lease_lasts(store: EventStore) -> None:
    """Nobody is shown after it was released, or ran out."""
    number = await create(store, "a")
    lease = await own(store, number, uuid4())
    assert (await store.subscriptions.get("a")).owner == lease.owner
    await lease.release()
    assert (await store.subscriptions.get("a")).owner is None
    await own(store, number, uuid4(), 60)
    await store.fetch("UPDATE eventstore.leases SET until = clock_timestamp() - $1::interval", timedelta(seconds=1))
    shown = await store.subscriptions.get("a")
    assert (shown.owner, shown.epoch) == (None, 2)


async def test_events_behind_are_counted_to_a_limit(store: EventStore) -> None:
    """Exactly at first, and up to 10,000, however many there are."""
    await create(store, "a")
    await store.append_to_stream("a-1", 0, [EventData("E", n) for n in range(9_999)])
    assert (await store.subscriptions.get("a")).behind == 9_999
    await store.append_to_stream("a-1", 9_999, [EventData("E", n) for n in range(5)])
    assert (await store.subscriptions.get("a")).behind == 10_000


async def test_a_subscription_that_is_not_there_is_an_error(store: EventStore) -> None:
    """To be shown or reset; deleting it is none."""
    with pytest.raises(SubscriptionNotFound, match="'a'") as caught:
        await store.subscriptions.get("a")
    assert caught.value.subscription == "a"
    with pytest.raises(SubscriptionNotFound):
        await store.subscriptions.reset("a", 0)
    await store.subscriptions.delete("a")
    assert await store.fetchval("SELECT count(*) FROM eventstore.leases") == 0


async def test_a_deleted_subscription_is_gone_and_its_owner_shut_out(store: EventStore) -> None:
    """Row and lease are removed; the former owner can neither renew nor write a checkpoint, also when there is a new
    subscription of the name; another one stays as it is."""
    number, other = await create(store, "a", 5), await create(store, "b", 6)
    lease = await own(store, number, uuid4())
    await own(store, other, uuid4())
    await store.subscriptions.delete("a")
    assert [s.name for s in await store.subscriptions.list()] == ["b"]
    assert (await store.subscriptions.get("b")).owner is not None
    again = await create(store, "a", 7)
    assert again != number
    with pytest.raises(LeaseLost):
        await lease.renew()
    assert not await checkpoint(store, number, lease, 9)
    assert not await checkpoint(store, again, lease, 9)
    assert (await store.subscriptions.get("a")).checkpoint == 7
    assert await checkpoint(store, again, await own(store, again, uuid4()), 9), "the new owner can"


@pytest.mark.parametrize("position", [0, 3, 5, 2**62])
async def test_a_reset_moves_the_checkpoint_both_ways(store: EventStore, position: int) -> None:
    """Back, forward or to where it is; what is behind follows from it."""
    number = await create(store, "a", 5)
    lease = await own(store, number, uuid4())
    await lease.release()
    before = await store.subscriptions.get("a")
    await append(store, 1)
    await store.subscriptions.reset("a", position)
    after = await store.subscriptions.get("a")
    assert (after.checkpoint, after.epoch, after.owner) == (position, before.epoch + 1, None)
    assert after.behind == (1 if position < 2**62 else 0)
    assert after.updated_at > before.updated_at
    assert after.created_at == before.created_at


async def test_a_reset_leaves_no_guard_and_the_owner_can_adopt_it(store: EventStore) -> None:
    """A late checkpoint of the living owner does not undo the reset, and it cannot renew; nobody else gets the lease
    from it, and it goes on in the new epoch."""
    number, other = await create(store, "a", 5), await create(store, "b", 6)
    lease, untouched = await own(store, number, uuid4()), await own(store, other, uuid4())
    assert await checkpoint(store, number, lease, 9)
    await store.subscriptions.reset("a", 2)
    assert not await checkpoint(store, number, lease, 11)
    with pytest.raises(LeaseLost):
        await lease.renew()
    assert (await store.subscriptions.get("a")).checkpoint == 2
    assert await Lease.acquire(store, f"subscription {number}", uuid4(), 60) is None
    new = await own(store, number, lease.owner)
    assert new.epoch > lease.epoch
    assert await checkpoint(store, number, new, 3)
    await untouched.renew()
    assert (await store.subscriptions.get("b")).checkpoint == 6


async def test_a_subscription_that_nobody_ever_owned_can_be_reset(store: EventStore) -> None:
    """And owned afterwards."""
    number = await create(store, "a", 5)
    await store.subscriptions.reset("a", 1)
    assert (await store.subscriptions.get("a")).checkpoint == 1
    assert await checkpoint(store, number, await own(store, number, uuid4()), 4)


async def test_a_reset_to_a_time_leaves_out_no_event_of_that_time_or_later(store: EventStore) -> None:
    """Times need not grow with positions. Wherever the first event of that time or later is, among imported ones too,
    the subscription is set to the event before it. A time after all events sets it to the last one."""
    await create(store, "a")
    rnd, start = random.Random(7), datetime(2020, 1, 1, tzinfo=UTC)
    minutes = [*range(40), *range(-500, -460), *range(40, 60), *rnd.sample(range(30, 90), 40)]
    times = [start + timedelta(minutes=minute) for minute in minutes]
    events = [EventData("E", 1, created_at=time) for time in times]
    positions = [(await store.append_to_stream("a-1", ANY_VERSION, [event])).first_position for event in events]
    for when in [*times, start - timedelta(days=9), start + timedelta(seconds=30), start + timedelta(days=9)]:
        await store.subscriptions.reset("a", when)
        first = next((n for n, time in enumerate(times) if time >= when), len(times))
        assert (await store.subscriptions.get("a")).checkpoint == (positions[first - 1] if first else 0), when


async def test_a_reset_to_a_time_stays_below_what_may_still_appear(store: EventStore) -> None:
    """An uncommitted event of that time comes as well, even if a later position holds an older event."""
    await create(store, "a")
    [before] = await append(store, 0)
    old = datetime(2020, 1, 1, tzinfo=UTC)
    async with store.transaction() as connection:
        await store.append_to_stream("b-1", 0, [EventData("E", 1)], connection=connection)
        await store.append_to_stream("c-1", 0, [EventData("E", 2, created_at=old)])
        await store.subscriptions.reset("a", datetime.now(UTC) + timedelta(minutes=1))
    assert (await store.subscriptions.get("a")).checkpoint == before


@pytest.mark.parametrize("position", [-1, 2**63, "1", None, True, 1.0])
async def test_a_bad_position_is_refused(store: EventStore, position: Any) -> None:
    """P9: typed, and the checkpoint stays."""
    await create(store, "a", 5)
    with pytest.raises(InvalidArgument):
        await store.subscriptions.reset("a", position)
    assert (await store.subscriptions.get("a")).checkpoint == 5


@pytest.mark.parametrize("name", ["a\x00b", "\ud800", 7])
async def test_a_bad_name_is_refused(store: EventStore, name: Any) -> None:
    """P9: whatever is asked of it."""
    with pytest.raises(InvalidArgument):
        await store.subscriptions.get(name)
    with pytest.raises(InvalidArgument):
        await store.subscriptions.delete(name)
    with pytest.raises(InvalidArgument):
        await store.subscriptions.reset(name, 0)


@pytest.mark.parametrize(
    ("wrong", "taken"),
    [
        ({}, True),
        ({"owner": UUID(int=1)}, False),
        ({"epoch": 7}, False),
        ({"positions": [9]}, False),
        ({"ids": [UUID(int=1)]}, False),
    ],
    ids=["right", "owner", "epoch", "position", "event"],
)
async def test_a_checkpoint_is_guarded(store: EventStore, wrong: dict[str, Any], taken: bool) -> None:
    """P7: row, owner, epoch and history must match, and the store must hold the events on which the checkpoint
    stands."""
    appended, number = await append(store, 1), await create(store, "a", 5)
    stored = (await store.read_all_streams_forward())[0]
    lease = await own(store, number, uuid4())
    right: dict[str, Any] = {"owner": lease.owner, "epoch": lease.epoch, "position": appended[0]}
    right |= {"history": store.history, "positions": appended, "ids": [stored.event_id]}
    args: list[Any] = [*(right | wrong).values()]
    assert (await store.fetchrow(store.sql["checkpoint"], number, *args) is not None) is taken
    assert (await store.subscriptions.get("a")).checkpoint == (appended[0] if taken else 5)
    with pytest.raises(HistoryChanged):
        await store.fetchrow(store.sql["checkpoint"], number, *(right | {"history": "another"}).values())


async def test_a_checkpoint_never_goes_back(store: EventStore) -> None:
    """A lower one is taken, and changes nothing."""
    number = await create(store, "a", 5)
    lease = await own(store, number, uuid4())
    assert await checkpoint(store, number, lease, 3)
    assert (await store.subscriptions.get("a")).checkpoint == 5
