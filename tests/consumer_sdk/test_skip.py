"""Skipping a batch that cannot be handled: batches that were finished above it stay finished."""

import asyncio
import json
from collections import Counter

import asyncpg
import pytest

from trunkline_consumer import Batch, Consumer
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidArgument,
    SubscriptionHalted,
    SubscriptionNotFound,
    SubscriptionNotHalted,
)

BAD = "bad-1"


async def append(store: EventStore, stream: str) -> int:
    return (await store.append_to_stream(stream, ANY_VERSION, [EventData("E", 1)])).first_position


async def effects(store: EventStore) -> Counter[int]:
    return Counter(row["position"] for row in await store.fetch("SELECT position FROM public.effects"))


async def run(store: EventStore, url: str, name: str = "s", *, until: int | None = None) -> None:
    """Run a projection with four handlers at once, which cannot handle the stream BAD; it fails once the others have
    got as far as they can. until: the position at which it is stopped if it does not halt."""
    async with Consumer(store, url) as consumer:

        @consumer.handler(name, tx=True, concurrency=4, attempts=1, lease=1.0, idle=0.2)
        async def project(batch: Batch, tx: asyncpg.Connection) -> None:
            if batch.stream == BAD:
                while len(await effects(store)) < GOOD:
                    await asyncio.sleep(0.01)  # between two looks
                raise ValueError("it is bad")
            await tx.executemany("INSERT INTO public.effects VALUES ($1)", [(event.position,) for event in batch])

        running = asyncio.create_task(consumer.run())
        if until is not None:
            await store.subscriptions.wait_for(name, until, seconds=30)
            running.cancel()
            await asyncio.wait([running])
        else:
            async with asyncio.timeout(30):
                await running


GOOD = 9
"""Events that can be handled, on both sides of the bad one."""


async def halted(store: EventStore, url: str) -> tuple[list[int], int]:
    """A subscription that has halted, the positions of the good events, and that of the bad one."""
    await store.fetch("CREATE TABLE public.effects (position bigint)")
    good = [await append(store, f"a-{number}") for number in range(3)]
    bad = await append(store, BAD)
    good += [await append(store, f"b-{number}") for number in range(GOOD - 3)]
    with pytest.raises(SubscriptionHalted):
        await run(store, url)
    assert await effects(store) == Counter(good)
    return good, bad


async def test_a_skip_repeats_no_effect_and_loses_none_but_the_skipped_one(store: EventStore, vhost: str) -> None:
    """P5: each good event has one effect before and after, later ones too; the bad one has none."""
    good, bad = await halted(store, vhost)
    skipped = await store.subscriptions.skip("s")
    assert (skipped.first, skipped.last, skipped.stream) == (bad, bad, BAD)
    info = await store.subscriptions.get("s")
    assert (info.state, info.behind, info.checkpoint) == ("stopped", 0, skipped.checkpoint)
    assert info.checkpoint >= good[-1]
    good.append(await append(store, "a-1"))
    await run(store, vhost, until=good[-1])
    assert await effects(store) == Counter(good)


async def test_a_reset_to_the_bad_events_position_repeats_effects(store: EventStore, vhost: str) -> None:
    """The control: a reset forgets the finished intervals, and reports beforehand how many events come again."""
    good, bad = await halted(store, vhost)
    move = await store.subscriptions.preview_reset("s", bad)
    assert move == (bad, GOOD - 3, 1, 0)
    await store.subscriptions.reset("s", move.position)
    await run(store, vhost, until=good[-1])
    assert sum((await effects(store)).values()) == GOOD + move.again


async def test_only_what_halted_is_skipped(store: EventStore, vhost: str) -> None:
    """A running subscription, a missing one, another batch and a second call are refused; a consumer that was started
    again in between has halted anew."""
    _, bad = await halted(store, vhost)
    with pytest.raises(SubscriptionNotHalted, match=f"at {bad + 1}"):
        await store.subscriptions.skip("s", at=bad + 1)
    before = await store.subscriptions.get("s")
    with pytest.raises(SubscriptionHalted):
        await run(store, vhost)
    assert (await store.subscriptions.get("s")).epoch > before.epoch
    await store.subscriptions.skip("s", at=bad)
    with pytest.raises(SubscriptionNotHalted):
        await store.subscriptions.skip("s")
    with pytest.raises(SubscriptionNotFound):
        await store.subscriptions.skip("nope")


@pytest.mark.parametrize(
    "forged", ["[1]", '{"position": "x"}', '{"position": 9}', '{"position": 9, "start": 9, "last": 9}']
)
async def test_what_no_sdk_has_recorded_is_not_skipped(store: EventStore, forged: str) -> None:
    """A skip would finish a batch that nobody looked at."""
    await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
    await store.fetch("UPDATE eventstore.subscriptions SET halted = $1::text::json", forged)
    with pytest.raises(InvalidArgument, match="'s'"):
        await store.subscriptions.skip("s")
    assert (await store.subscriptions.get("s")).checkpoint == 0


async def test_the_batch_is_finished_with_what_was_filtered_before_it(store: EventStore, vhost: str) -> None:
    """The recorded interval begins at the end of the batch before, so the checkpoint gets past the filtered events
    too."""
    await append(store, "filtered-1")
    bad = await append(store, "order-1")
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", attempts=1, selector=lambda event: event.stream == "order-1")
        async def handle(batch: Batch) -> None:
            raise ValueError

        with pytest.raises(SubscriptionHalted):
            await consumer.run()
    recorded = json.loads((await store.subscriptions.get("s")).halted or "")
    assert recorded["start"] < recorded["position"] == recorded["last"] == bad
    assert (await store.subscriptions.skip("s")).checkpoint == bad
