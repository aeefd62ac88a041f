"""What happens in the demo, and when."""

import asyncio
import os
import time
from collections.abc import Callable

from trunkline_ops.demo.audit import Figures, audit
from trunkline_ops.demo.processes import Died, Process, Processes
from trunkline_ops.demo.rooms import Rooms
from trunkline_ops.demo.subscriber import subscription_name
from trunkline_ops.demo.watch import Scene
from trunkline_store.names import queue

WRITERS = 2
READY_SECONDS = 60
SETTLE_SECONDS = 30
"""Without any progress, before the audit is made all the same."""
LOOK_SECONDS = 0.1

_RELAY_POSITION = "SELECT coalesce(max(position), 0) FROM eventstore.relays"
_LAST_POSITION = "SELECT coalesce(max(position), 0) FROM eventstore.events"
_EVENTS_BETWEEN = "SELECT count(*) FROM eventstore.events WHERE position > $1 AND position <= $2"


def environment(rooms: Rooms) -> dict[str, str]:
    """That of the demo's programs. Settings that were made for other stores are none of theirs."""
    passed_on = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    return passed_on | {"TRUNKLINE_DSN": rooms.dsn, "TRUNKLINE_AMQP_URL": rooms.amqp_url}


class Story:
    """One run of the demo."""

    def __init__(self, rooms: Rooms, processes: Processes, scene: Scene, *, rate: float) -> None:
        self._rooms = rooms
        self._processes = processes
        self._scene = scene
        self._rate = rate
        self._relay_position = 0

    async def tell(self) -> Figures:
        """From the first program's start to the audit. The relay still runs then."""
        scene = self._scene
        await self._start_relay()
        first = await self._start_subscriber(1)
        await self._ready("subscriber 1", lambda: scene.subscriber(1)["state"] == "live")
        writers = [await self._start_writer(number) for number in range(WRITERS)]
        await self._ready("writers", lambda: scene.writing == WRITERS)
        scene.begin()
        scene.happens(f"{WRITERS} writers append to the same streams, {self._rate:g} events/s together")

        await self._until(lambda: scene.elapsed >= scene.seconds / 3)
        second = await self._start_subscriber(2)
        scene.happens("subscriber 2 starts late, from the first event on")

        await self._until(lambda: scene.elapsed >= scene.seconds / 2)
        await self._until(lambda: scene.subscriber(1)["from_queue"] > 0 or scene.elapsed >= scene.seconds)
        healed = scene.subscriber(1)["healed"]
        await self._rooms.management.delete_queue(self._rooms.name, queue("eventstore", subscription_name(1)))
        scene.happens("the queue of subscriber 1 is deleted, with all that is in it")
        await self._until(lambda: scene.subscriber(1)["healed"] > healed or scene.elapsed >= scene.seconds)
        if scene.subscriber(1)["healed"] > healed:
            scene.happens("subscriber 1 goes on from the store, and makes its queue anew")

        await self._until(lambda: scene.elapsed >= scene.seconds)
        await _stop(*writers)
        scene.end()
        scene.happens("the writers have stopped")
        await self._settle()
        await _stop(first, second)
        scene.act = "done"
        return await audit(
            self._rooms.database,
            acknowledged=scene.appended,
            conflicts=scene.conflicts,
            healed=scene.subscriber(1)["healed"],
            append_ms=scene.append_ms,
            seconds=scene.elapsed,
        )

    async def _start_relay(self) -> Process:
        return await self._processes.start("relay", "trunkline_ops.cli", "relay")

    async def _start_subscriber(self, number: int) -> Process:
        return await self._processes.start(
            f"subscriber {number}",
            "trunkline_ops.demo.subscriber",
            str(number),
            on_report=lambda report: self._scene.subscriber_reports(number, report),
        )

    async def _start_writer(self, number: int) -> Process:
        return await self._processes.start(
            f"writer {number + 1}",
            "trunkline_ops.demo.writer",
            str(self._rate / WRITERS),
            on_report=lambda report: self._scene.writer_reports(number, report),
        )

    async def _ready(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._until(condition)
        except TimeoutError:
            raise Died(f"not ready within {READY_SECONDS} s: {what}") from None

    async def _settle(self) -> None:
        """Waits until everything is confirmed and handled, as long as there is progress."""
        scene = self._scene
        last = await self._rooms.database.fetchval(_LAST_POSITION)
        seen, moved = scene.progress, time.monotonic()

        def settled() -> bool:
            nonlocal seen, moved
            if scene.progress != seen:
                seen, moved = scene.progress, time.monotonic()
            positions = (self._relay_position, scene.subscriber(1)["position"], scene.subscriber(2)["position"])
            return min(positions) >= last or time.monotonic() - moved > SETTLE_SECONDS

        await self._until(settled)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        database, before = self._rooms.database, self._relay_position
        self._relay_position = await database.fetchval(_RELAY_POSITION)
        if self._relay_position > before:
            self._scene.confirmed += await database.fetchval(_EVENTS_BETWEEN, before, self._relay_position)


async def _stop(*processes: Process) -> None:
    await asyncio.gather(*(process.stop() for process in processes))
