"""A writer that keeps its pace, whatever becomes of its appends: python -m trunkline_ops.bench.paced RATE EVENTS_EACH

Each event's data says when its append began, by a clock that all processes share.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Final

import uvloop

from trunkline_ops.bench import sample
from trunkline_ops.demo.leash import told_to_stop
from trunkline_store import ANY_VERSION, EventData, EventStore

STREAMS: Final = 1000
AT: Final = "at"


async def _write(rate: float, events_each: int) -> None:
    stop, under_way = told_to_stop(), set[asyncio.Task[None]]()
    async with EventStore(os.environ["TRUNKLINE_DSN"]) as store:

        async def append(number: int) -> None:
            data = {**sample.data(number), AT: time.perf_counter()}
            events = [EventData(sample.TYPE, data, sample.metadata()) for _ in range(events_each)]
            await store.append_to_stream(f"order-{number % STREAMS}", ANY_VERSION, events)

        begun, number = time.perf_counter(), 0
        while not stop.is_set():
            due = int((time.perf_counter() - begun) * rate / events_each)
            for each in range(number, due):
                task = asyncio.create_task(append(each))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            number = max(number, due)
            await asyncio.sleep(max(0.001, begun + (number + 1) * events_each / rate - time.perf_counter()))
        await asyncio.gather(*under_way)


if __name__ == "__main__":
    uvloop.run(_write(float(sys.argv[1]), int(sys.argv[2])))
