"""A subscriber that begins far behind, and reports what memory it took: python -m trunkline_ops.bench.behind EVENTS"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from trunkline_consumer import Consumer
from trunkline_ops.bench.queued import decoded
from trunkline_ops.demo.leash import report, told_to_stop
from trunkline_store import EventStore


def peak_mib() -> float:
    """The most memory that this process has had resident (proc(5): VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def _follow(events: int) -> None:
    stop, handled = told_to_stop(), 0
    async with (
        EventStore(os.environ["TRUNKLINE_DSN"]) as store,
        Consumer(store, os.environ["TRUNKLINE_AMQP_URL"]) as consumer,
        consumer.subscribe_to_all_streams("behind", checkpoint_threshold=1000) as subscription,
    ):
        async for batch in subscription:
            handled += decoded(batch)
            await batch.ack()
            if handled == events:
                break
    report(peak_mib=peak_mib())
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(_follow(int(sys.argv[1])))
