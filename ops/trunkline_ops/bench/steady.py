"""A program that appends single events at a steady rate: python -m trunkline_ops.bench.steady RATE SECONDS

It does not wait for an answer before the next append is due: whoever is slow is not asked less for it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from typing import Final

import uvloop

from trunkline_ops.bench import sample
from trunkline_ops.demo.leash import report, told_to_stop
from trunkline_store import ANY_VERSION, EventData, EventStore

STREAMS: Final = 100
OUTSTANDING: Final = 2000
"""Appends without an answer; with so many, the rate is not kept."""


async def write(rate: float, seconds: float) -> None:
    """Appends until the time is over, reports when every append has its answer, and waits until it is told to stop."""
    stop = told_to_stop()
    streams = [f"order-{secrets.token_hex(8)}" for _ in range(STREAMS)]
    async with EventStore(os.environ["TRUNKLINE_DSN"], application_name="bench writer") as store:
        number, under_way = 0, set[asyncio.Task[None]]()

        async def append() -> None:
            data = {**sample.data(number), "begun": time.perf_counter()}
            await store.append_to_stream(
                streams[number % STREAMS], ANY_VERSION, [EventData(sample.TYPE, data, sample.metadata())]
            )

        begun = time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds and not stop.is_set():
            due = int(elapsed * rate) + 1
            while number < due and len(under_way) < OUTSTANDING:
                task = asyncio.create_task(append())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                number += 1
                await asyncio.sleep(0)
            await asyncio.sleep(max(0.001, begun + number / rate - time.perf_counter()))  # until the next one is due
        if under_way:
            await asyncio.gather(*under_way)
        report(written=number, begun=begun, ended=time.perf_counter())
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(write(float(sys.argv[1]), float(sys.argv[2])))
