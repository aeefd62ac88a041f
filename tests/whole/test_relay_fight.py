"""Two relays of one store, killed and paused at random: which of them leads changes, what is recorded only grows."""

import asyncio
import os
import random
import signal
import time
from contextlib import suppress

from tests.relay.plain import append, plain, recorded
from tests.whole.flow import LEASE, Flow, committed_positions, relay_process, relay_running
from tests.whole.test_relay_matrix import holes, paused, until, writing
from trunkline_store import EventStore

SECONDS = 60.0 if os.environ.get("TRUNKLINE_TEST_FULL") else 8.0


async def test_two_relays_fight_and_what_is_recorded_only_grows(store: EventStore, database: str, vhost: str) -> None:
    """P7: the recorded position never moves back, nor the epoch; and while nobody publishes, a consumer has all that
    was committed up to it: it never passed a message that the broker did not have."""
    chance = random.Random(5)
    seen: list[tuple[int, int]] = []

    async def watch() -> None:
        while True:
            row = await store.fetchrow(store.sql["see_relay"], "relay")
            seen.append((row["epoch"], row["position"]) if row else (0, 0))
            await asyncio.sleep(0.01)  # between two looks

    async with plain(vhost, "#") as consumer, writing(store) as written:
        relays = [await relay_process(database, vhost) for _ in range(2)]
        watching = asyncio.create_task(watch())
        try:
            await consumer.until(1)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                await asyncio.sleep(chance.uniform(0, LEASE))  # they work, or fight
                for relay in relays:
                    await paused(relay)
                row = await store.fetchrow(store.sql["see_relay"], "relay")
                assert row is not None
                known = {p for p in await committed_positions(store) if p <= row["position"]}
                await until(lambda: known <= set(consumer.positions))  # noqa: B023 - awaited here
                await asyncio.sleep(chance.choice([0, 0.2, 1.2]) * LEASE)  # a pause within the lease, or past it
                for n, relay in enumerate(relays):
                    if chance.random() < 0.4:
                        relay.kill()
                        await relay.wait()
                        relays[n] = await relay_process(database, vhost)
                    else:
                        relay.send_signal(signal.SIGCONT)
            await written()
            committed = await committed_positions(store)
            await until(lambda: len(set(consumer.positions)) == len(committed))
            await recorded(store, committed[-1])
        finally:
            watching.cancel()
            for relay in relays:
                with suppress(ProcessLookupError):
                    relay.kill()
                await relay.wait()
    assert list(dict.fromkeys(consumer.positions)) == committed
    assert holes(consumer.messages, "previous_position") == []
    for column in zip(*seen, strict=True):
        assert list(column) == sorted(column)
    assert seen[-1][0] > 1, "nobody was ever replaced: this shows nothing"


async def test_without_a_subscriber_nothing_stops_and_a_late_one_is_complete(
    store: EventStore, database: str, vhost: str
) -> None:
    """P6: what no queue wanted is confirmed and counted; who comes later has it from the store, then goes on live."""
    async with relay_running(database, vhost) as relay:
        positions = [position for n in range(100) for position in await append(store, f"s-{n % 3}", "E", "E")]
        await recorded(store, positions[-1])
        counters = relay.metrics.registry.registry
        assert (counters.get_sample_value("trunkline_relay_unroutable_total", {"store": "eventstore"}) or 0) >= 100
        async with Flow(database, vhost, relay=False) as flow:
            await flow.until(lambda: flow.subscription.counts.from_queue > 20)
            committed = await flow.finish()
    assert committed[: len(positions)] == positions
