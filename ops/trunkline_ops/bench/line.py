"""The whole line as it is run: writers, the relay and a subscriber, each a process of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from trunkline_ops.bench.lab import Lab, Room
from trunkline_ops.demo.processes import Process, Processes

READY_SECONDS: Final = 60.0
ARRIVE_SECONDS: Final = 60.0
"""After the last append, everything has so long to arrive."""
WARM_RATE: Final = 100
WARM_SECONDS: Final = 0.5
"""At the beginning of a run, which are not counted: new processes fill their caches."""

_RELAY_ROW: Final = "SELECT owner, position FROM eventstore.relays WHERE name = 'relay'"


class Arrival(NamedTuple):
    """When an event was appended and when its handler began, by a clock that all processes share."""

    begun: float
    arrived: float

    @property
    def latency(self) -> float:
        """From the call of append to the handler, in seconds."""
        return self.arrived - self.begun


class Passage(NamedTuple):
    """What came of a run at a rate."""

    rate: float
    """Offered, in events per second."""
    written: int
    seconds: float
    """From the first append to the last one's answer."""
    arrivals: list[Arrival]
    """In the order of their appends, without the warm-up."""
    lateness: list[float]
    """Of a timer of one millisecond in a process that has little else to do, in seconds: what the machine adds."""


class Line:
    """Of one store and one vhost."""

    def __init__(self, room: Room, processes: Processes) -> None:
        self.room = room
        self._processes = processes
        self._arrivals: list[Arrival] = []
        self._receiving = False

    async def relay(self, *arguments: str) -> Process:
        """Starts `trunkline relay`; returns when it is starting. It stands by if there is one."""
        return await self._processes.start("relay", "trunkline_ops.cli", "relay", *arguments)

    async def leading(self, *but: object) -> Any:
        """Waits until a relay leads whose id is none of these, and returns its id."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                row = await self.room.database.fetchrow(_RELAY_ROW)
                if row is not None and row["owner"] not in but:
                    return row["owner"]
                await asyncio.sleep(0.02)  # between two looks

    async def recorded(self, position: int) -> None:
        """Waits until the relay has recorded that everything is confirmed up to there."""
        while True:
            row = await self.room.database.fetchrow(_RELAY_ROW)
            if row is not None and row["position"] >= position:
                return
            await asyncio.sleep(0.02)  # between two looks

    async def subscribe(self) -> None:
        """Starts a subscriber; returns when events come to it through its queue."""

        def reported(report: dict[str, Any]) -> None:
            self._arrivals += [Arrival(*pair) for pair in report["arrivals"]]
            if report["received"]:
                self._receiving = True

        await self._processes.start("subscriber", "trunkline_ops.bench.arrivals", on_report=reported)
        writer = await self.write(WARM_RATE, 2 * READY_SECONDS)
        await self._until(lambda: self._receiving, READY_SECONDS)
        await writer.stop()

    async def write(self, rate: float, seconds: float) -> Process:
        """Starts a writer that appends at that rate."""
        return await self._processes.start("writer", "trunkline_ops.bench.steady", str(rate), str(seconds))

    async def passage(self, rate: float, seconds: float, *, writers: int) -> Passage:
        """Has so many writers append for that time; returns when all has arrived. Raises `TimeoutError`."""
        self._arrivals.clear()
        reports: list[dict[str, Any]] = []
        each = str(rate / writers), str(seconds + WARM_SECONDS)
        started = [
            await self._processes.start("writer", "trunkline_ops.bench.steady", *each, on_report=reports.append)
            for _ in range(writers)
        ]
        ticking = asyncio.create_task(_tick())
        try:
            await self._until(lambda: len(reports) == writers, READY_SECONDS + seconds)
        finally:
            ticking.cancel()
        written = sum(report["written"] for report in reports)
        await self._until(lambda: len(self._arrivals) >= written, ARRIVE_SECONDS)
        for process in started:
            await process.stop()
        begun, ended = min(report["begun"] for report in reports), max(report["ended"] for report in reports)
        counted = sorted(each for each in self._arrivals if each.begun >= begun + WARM_SECONDS)
        return Passage(rate, written, ended - begun, counted, await ticking)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        async def fulfilled() -> None:
            while True:
                if condition():
                    return
                await asyncio.sleep(0.05)  # between two looks

        async with asyncio.timeout(seconds):
            await self._processes.during(fulfilled())


@asynccontextmanager
async def line(lab: Lab) -> AsyncIterator[tuple[Line, str]]:
    """A new line, without any process yet, and the URL of its vhost."""
    async with lab.room() as room, lab.broker.vhost() as url:
        passed_on = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        environment = passed_on | {"TRUNKLINE_DSN": room.dsn, "TRUNKLINE_AMQP_URL": url}
        async with Processes(environment) as processes:
            yield Line(room, processes), url


async def _tick() -> list[float]:
    late: list[float] = []
    try:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)  # this is what is measured
            late.append(time.perf_counter() - begun - 0.001)
    except asyncio.CancelledError:
        return late
