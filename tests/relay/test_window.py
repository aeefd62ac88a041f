"""What is outstanding is bounded, and a stop does not wait for it for long."""

import asyncio
import json
from typing import Any

import pytest

from tests.relay.plain import append, plain, recorded
from tests.whole.flow import relay_running
from trunkline_ops.servers.proxy import Proxy
from trunkline_relay.metrics import Metrics
from trunkline_relay.patience import Patience
from trunkline_relay.publish import Publisher
from trunkline_relay.run import STOP_SECONDS, Relay
from trunkline_store import EventStore
from trunkline_store.wire import Message

KIB = 1024
LIMIT = 2048 * KIB
STORE = {"store": "eventstore"}


class Held(Publisher):
    """Hears no confirm before it is told to."""

    def __init__(self, url: str) -> None:
        super().__init__(
            url,
            "eventstore",
            0,
            window=1000,
            patience=Patience(60),
            metrics=Metrics("eventstore"),
            window_bytes=LIMIT,
        )
        self.hear = asyncio.Event()
        self.most = 0

    async def _on_confirm(self, frame: Any) -> None:
        await self.hear.wait()
        self.most = max(self.most, self.window.bytes)
        await super()._on_confirm(frame)


def message(number: int) -> Message:
    """One of 200 KiB, which is a single event."""
    body = json.dumps([{"sequence": f"{number}", "data": "x" * 200 * KIB}]).encode()
    return Message("a.E.a-1", [], f"{number}-{number}", None, "E", None, {}, body, number, number, 1)


async def test_what_is_outstanding_is_bounded_by_bytes(vhost: str) -> None:
    """P8: large messages are held back long before a thousand of them are outstanding, and go on with the confirms."""
    async with plain(vhost, "#") as consumer, Held(vhost) as publisher:
        publishing = asyncio.create_task(publisher.publish([message(n) for n in range(1, 101)]))
        async with asyncio.timeout(20):
            while publisher.window.bytes < LIMIT:
                await asyncio.sleep(0.01)  # between two looks
        outstanding = len(publisher.window)
        await consumer.until(outstanding)
        assert len(publisher.window) == outstanding < 20, "nothing was sent beyond the limit"
        publisher.hear.set()
        await publishing
        await publisher.flush()
        assert publisher.most < LIMIT + 1024 * KIB + 256 * KIB, "at most what is written at once, and one message"
        await consumer.until(100)
    assert consumer.positions == list(range(1, 101))


def published(relay: Relay) -> float:
    """Messages that it has sent."""
    return relay.metrics.registry.registry.get_sample_value("trunkline_relay_published_total", STORE) or 0


@pytest.mark.parametrize("where", ["publishing", "connecting"])
async def test_a_stop_is_quick_while_the_broker_hangs(store: EventStore, database: str, vhost: str, where: str) -> None:
    """What is not confirmed is not waited for; what was is recorded; the next leader begins there, at once."""
    async with plain(vhost, "#") as consumer, Proxy(vhost) as proxy, EventStore(database) as relays_store:
        relay = Relay(relays_store, proxy.url, lease=60, patience=60)
        if where == "connecting":
            proxy.stall()
        running = asyncio.create_task(relay.run())
        positions = await append(store, "a-1", "E")
        if where == "publishing":
            await recorded(store, positions[-1])
            proxy.stall()
        else:
            await asyncio.wait_for(relay.leading.wait(), 20)
        for _ in range(20):
            positions += await append(store, "a-1", "E")
        if where == "publishing":
            async with asyncio.timeout(20):
                while published(relay) < 2:
                    await asyncio.sleep(0.01)  # between two looks: some are under way
        relay.stop()
        await asyncio.wait_for(running, STOP_SECONDS + 5)
        async with relay_running(database, vhost, lease=60):
            await recorded(store, positions[-1])
    assert list(dict.fromkeys(consumer.positions)) == positions
