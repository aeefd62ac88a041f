"""A backlog of a million events: how fast it is drained, and what the relay needs for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from trunkline_ops.bench.broker import bounded_queue, channel_to
from trunkline_ops.bench.lab import Lab
from trunkline_ops.bench.line import Line, line
from trunkline_ops.bench.load import Run, whole
from trunkline_ops.bench.messages import messages_of
from trunkline_ops.bench.raw import raw_publisher
from trunkline_ops.bench.rounds import Effort, Measure, compared
from trunkline_relay.publish import WINDOW_BYTES
from trunkline_relay.run import WINDOW
from trunkline_relay.tail import PAGE_EVENTS

EVENTS: Final = 1_000_000
BATCH: Final = 10
"""Events of an append in a room that was filled, and so of a message."""
TARGET: Final = 0.4
TARGET_MIB: Final = 200

_DRAIN_SECONDS: Final = 600.0
_FORGET: Final = "DELETE FROM eventstore.relays"


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Beside prepared bytes of the same messages, to the same queue; and the greatest resident memory of all rounds."""
    if not effort.wants("backlog"):
        return
    events, messages = effort.scaled(EVENTS), messages_of(PAGE_EVENTS, BATCH)
    runs: dict[str, list[Run]] = {"ours": [], "raw": []}
    resident: list[float] = []
    async with (
        line(lab) as (running, url),
        channel_to(url) as channel,
        raw_publisher(url, WINDOW, WINDOW_BYTES) as raw,
    ):
        await bounded_queue(channel, "all")
        await running.room.fill(events)
        side, pages = raw.side(messages), 2
        for number in range(effort.rounds + 1):
            run = await side(pages)()
            pages = max(2, int(pages / run.seconds * effort.seconds))
            if number > 0:  # the first one only finds out how many they are in that time
                runs["raw"].append(run)
                drained, mebibytes = await _drain(running, events)
                runs["ours"].append(drained)
                resident.append(mebibytes)
    name = f"a backlog of {events:,} events in messages of {BATCH}"
    yield compared(f"{name}, drained", "events/s", runs, target=TARGET)._replace(p50_ms=None, p99_ms=None)
    yield Measure(
        f"{name}, resident memory at most",
        max(resident),
        "MiB",
        target=TARGET_MIB,
        at_most=True,
        lowest=min(resident),
        highest=max(resident),
    )


async def _drain(running: Line, events: int) -> tuple[Run, float]:
    """By a relay that starts anew, from where it leads to where everything is recorded; and its memory in MiB."""
    database = running.room.database
    last = await database.fetchval("SELECT max(position) FROM eventstore.events")
    await database.execute(_FORGET)
    relay = await running.relay()
    await running.leading()
    begun = time.perf_counter()
    async with asyncio.timeout(_DRAIN_SECONDS):
        await running.recorded(last)
    drained = whole(events, begun)
    mebibytes = _most_resident(relay.pid)
    await relay.stop()
    return drained, mebibytes


def _most_resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
