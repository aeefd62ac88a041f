"""A subscriber in a process of its own that stands still at a named point of its life, until it is told to go on.

python -m tests.consumer_sdk.tripwire DSN AMQP_URL KIND LENGTH [POINT TIMES]: a handler that writes each event into the
table `effects`, with `tx` in the checkpoint's transaction, else by a connection of its own; LENGTH is of its queue.
When it comes to the point for the given time it prints "tripped", and stops there with all that it does until it reads
a line. SIGTERM stops the subscription.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec

from tests.tripwire import Tripwire
from tests.whole.flow import QUICK
from trunkline_consumer import Batch, Consumer, consumer, own, subscription
from trunkline_consumer.follow import Follower
from trunkline_consumer.place import Verdict
from trunkline_consumer.receive import Receiver
from trunkline_store import EventStore

NAME = "matrix"
POINTS = {
    "lease taken": 1,
    "queue declared": 1,
    "catching up": 7,
    "hand over": 1,
    "before handler": 9,
    "in handler": 30,
    "before checkpoint": 20,
    "before broker ack": 3,
    "at stop": 1,
}
"""The way of a subscription's life, and at which time it is tripped there."""


wire = Tripwire()


class TrippingOwner(own.Owner):
    async def _lease(self, *args: Any, **more: Any) -> Any:
        lease = await super()._lease(*args, **more)
        wire.at("lease taken")
        return lease


class TrippingClaim(own.Claim):
    async def write(self, *args: Any) -> int:
        wire.at("before checkpoint")
        return await super().write(*args)

    async def finish(self, *args: Any) -> int | None:
        wire.at("before checkpoint")
        return await super().finish(*args)


class TrippingReceiver(Receiver):
    async def _consume(self) -> bool:
        wire.at("queue declared")
        return await super()._consume()

    async def ack(self, tag: int, generation: int) -> None:
        wire.at("before broker ack")
        await super().ack(tag, generation)


class TrippingFollower(Follower):
    _listening = False

    async def _deliver(self, events: Any) -> None:
        if not self._listening:
            wire.at("catching up")
        await super()._deliver(events)

    async def _listen(self) -> bool:
        wire.at("hand over")
        self._listening = True
        try:
            return await super()._listen()
        finally:
            self._listening = False

    async def _take(self, message: Any) -> Verdict:
        wire.at("before handler")
        return await super()._take(message)


class TrippingSubscription(subscription.Subscription):
    async def _stop(self, *args: Any) -> None:
        wire.at("at stop")
        await super()._stop(*args)


async def write(connection: Any, batch: Batch) -> None:
    """The effects of a batch; each batch has one stream and one correlation id."""
    assert len({(event.stream, event.correlation_id) for event in batch}) == 1, "P4"
    rows = [(event.position, os.getpid()) for event in batch]
    await connection.executemany("INSERT INTO public.effects (position, writer) VALUES ($1, $2)", rows)
    wire.at("in handler")


async def main(dsn: str, url: str, kind: str, length: str, point: str = "", times: str = "0") -> None:
    wire.point, wire.times = point, int(times)
    own.Claim = TrippingClaim  # type: ignore[misc]
    subscription.Owner = TrippingOwner  # type: ignore[attr-defined]
    subscription.Receiver = TrippingReceiver  # type: ignore[attr-defined]
    subscription.Follower = TrippingFollower  # type: ignore[attr-defined]
    consumer.Subscription = TrippingSubscription  # type: ignore[attr-defined]
    options = msgspec.structs.replace(QUICK, queue_length=int(length), prefetch=10, checkpoint_threshold=5)
    async with (
        EventStore(dsn) as store,
        asyncpg.create_pool(dsn, min_size=1, max_size=1) as effects,
        Consumer(store, url) as program,
    ):

        @program.handler(NAME, tx=kind == "tx", options=options, attempts=100, wait_max=0.5, transaction_idle=5.0)
        async def handle(batch: Batch, *given: Any) -> None:
            for connection in given:
                await write(connection, batch)
            if not given:
                async with effects.acquire(timeout=10) as connection:
                    await write(connection, batch)

        running = asyncio.create_task(program.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        with suppress(asyncio.CancelledError):
            await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
