"""A program with one subscription, which writes down what it is given.

python -m trunkline_ops.soak.subscriber KIND LEASE LOOP [CONTROL]

LOOP is `asyncio` or `uvloop`, CONTROL one of `controls`. Kinds: `plain` acknowledges when it has written; `tx` writes
in the checkpoint's transaction; `concurrent` too, several streams at once; `parking` too, and cannot handle some events
before they are mended: those are parked, with what comes behind them in a stream.
"""

import asyncio
import os
import sys
from contextlib import suppress
from typing import Any, Final

import uvloop

from trunkline_consumer import Batch, Consumer, Options, by_stream
from trunkline_ops.demo.leash import told_to_stop
from trunkline_ops.soak.controls import CONTROLS
from trunkline_ops.soak.writer import AWAY
from trunkline_store import EventStore, SubscriptionLost, Unavailable

LOOPS: Final = ("asyncio", "uvloop")
MIX: Final = "mix"
"""Use both event loops, one subscriber after the other."""
POISON: Final = 400
"""One event of so many cannot be handled by `parking` at first."""
WORK_SECONDS: Final = 0.004
"""That a handler takes: so a signal often finds one in its transaction."""

WRITE: Final = """
    INSERT INTO soak.effects (subscriber, position, stream, stream_version, pid, replayed)
    SELECT $1, e.position, e.stream, e.version, $5, $6
    FROM unnest($2::bigint[], $3::text[], $4::bigint[]) AS e (position, stream, version)
"""


class Poison(Exception):
    """An event that is not mended yet."""


def options(lease: float) -> Options:
    """The queue is so short that it overflows in a pause that its owner outlives."""
    return Options(
        lease=lease, idle=0.5, checkpoint_threshold=20, checkpoint_after=0.2, transaction_idle=10.0,
        queue_length=20, prefetch=10,
    )  # fmt: skip


def rows(subscriber: str, batch: Batch) -> tuple[Any, ...]:
    """The arguments of `WRITE`. Each batch has one stream and one correlation id."""
    assert len({(event.stream, event.correlation_id) for event in batch}) == 1
    return (
        subscriber,
        [event.position for event in batch],
        [event.stream for event in batch],
        [event.stream_version for event in batch],
        os.getpid(),
        False,
    )


async def iterate(store: EventStore, consumer: Consumer, lease: float) -> None:
    """`plain`, for ever: whatever it loses, it subscribes again."""
    while True:
        with suppress(SubscriptionLost):
            try:
                subscription = consumer.subscribe_to_all_streams("plain", standby=True, options=options(lease))
                async with subscription:
                    async for batch in subscription:
                        await store.fetch(WRITE, *rows("plain", batch))
                        await batch.ack()
            except Unavailable:
                await asyncio.sleep(0.5)  # the database is away


def handle(consumer: Consumer, kind: str, lease: float) -> None:
    """The other kinds."""

    @consumer.handler(
        kind,
        tx=True,
        concurrency=4 if kind == "concurrent" else 1,
        partition_by=by_stream if kind == "concurrent" else None,
        attempts=2 if kind == "parking" else 1000,
        wait_initial=0.01,
        on_failure="park_key" if kind == "parking" else "halt",
        options=options(lease),
    )
    async def write(batch: Batch, tx: Any) -> None:
        await tx.execute(WRITE, *rows(kind, batch))
        if kind == "parking":
            mended = await tx.fetchval("SELECT position FROM soak.mended")
            if bad := [event.position for event in batch if event.position > mended and event.data["n"] % POISON == 0]:
                raise Poison(f"event {bad[0]} is not mended yet")
        await asyncio.sleep(WORK_SECONDS)


async def main(kind: str, lease: float, without: str | None = None) -> None:
    """Follows from the first event on until it is told to stop."""
    stop = told_to_stop()
    async with (
        EventStore(os.environ["TRUNKLINE_DSN"], timeout=5, application_name=f"soak {kind}") as store,
        Consumer(store, os.environ["TRUNKLINE_AMQP_URL"]) as consumer,
    ):
        if without is not None:
            CONTROLS[without](store)
        if kind == "plain":
            following = asyncio.create_task(iterate(store, consumer, lease))
        else:
            handle(consumer, kind, lease)
            following = asyncio.create_task(consumer.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([following, stopping], return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await following


if __name__ == "__main__":
    try:
        following = main(sys.argv[1], float(sys.argv[2]), *sys.argv[4:])
        if sys.argv[3] == "uvloop":
            uvloop.run(following)
        else:
            asyncio.run(following)
    except Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(AWAY)
