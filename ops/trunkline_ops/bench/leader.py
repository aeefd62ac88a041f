"""A relay that has nothing to do, and one that takes over from another."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
import msgspec
from aio_pika.abc import AbstractIncomingMessage

from trunkline_ops.bench.broker import bounded_queue, channel_to
from trunkline_ops.bench.lab import Lab
from trunkline_ops.bench.line import READY_SECONDS, Line, line
from trunkline_ops.bench.rounds import Effort, Measure
from trunkline_ops.demo.processes import Process
from trunkline_ops.servers.ports import HOST, reserved_ports

IDLE_SECONDS: Final = 20.0
TARGET_CORE_PERCENT: Final = 1.0
TARGET_STATEMENTS: Final = 20

LEASE: Final = 5.0
QUICK_LEASE: Final = 1.0
TARGET_CRASH: Final = LEASE + 1
TARGET_STOP: Final = 0.5
RATE: Final = 200
"""Of appends meanwhile, in events per second: so often somebody finds out."""

_SETTLE_SECONDS: Final = 2.0
_TRANSACTIONS: Final = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """First it has nothing to do, then it leads, and others after it."""
    if not (effort.wants("idle") or effort.wants("takeover")):
        return
    async with line(lab) as (running, url):
        with reserved_ports(2) as ports:
            leader = await _relay(running, effort, ports[0])
            await running.leading()
            if effort.wants("idle"):
                async for measure in _idle(running, leader, effort):
                    yield measure
            if effort.wants("takeover"):
                async for measure in _takeover(running, leader, url, ports, effort):
                    yield measure


async def _idle(running: Line, leader: Process, effort: Effort) -> AsyncIterator[Measure]:
    """In a store in which nothing happens: its own share of a core, and what it asks the database."""
    database = running.room.database
    await asyncio.sleep(effort.lasting(_SETTLE_SECONDS))  # its start is not what is measured
    begun, busy, asked = time.perf_counter(), _busy(leader.pid), await database.fetchval(_TRANSACTIONS)
    await asyncio.sleep(max(1.5, effort.lasting(IDLE_SECONDS)))  # for so long it is watched
    busy, asked = _busy(leader.pid) - busy, await database.fetchval(_TRANSACTIONS) - asked
    passed = time.perf_counter() - begun
    yield Measure("an idle relay, of a core", 100 * busy / passed, "%", target=TARGET_CORE_PERCENT, at_most=True)
    yield Measure("an idle relay, statements", asked / passed, "1/s", target=TARGET_STATEMENTS, at_most=True)


def _busy(pid: int) -> float:
    """Seconds that a process has spent on a core."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc_pid_stat(5): utime, stime


async def _takeover(
    running: Line, leader: Process, url: str, ports: list[int], effort: Effort
) -> AsyncIterator[Measure]:
    """From the first event that a leader has not published any more until its successor's message with it is there."""
    watch, number = _Watch(), 0
    async with channel_to(url) as channel, httpx.AsyncClient(trust_env=False) as http:
        await (await bounded_queue(channel, "all")).consume(watch.see, no_ack=True)
        writer = await running.write(RATE, READY_SECONDS * 4 * effort.rounds)
        for crash, target in ((True, TARGET_CRASH), (False, TARGET_STOP)):
            found: list[float] = []
            for _ in range(effort.rounds):
                number += 1
                port = ports[number % 2]
                standby = await _relay(running, effort, port)
                await _stands_by(http, port)
                await watch.something()
                ending = asyncio.create_task(leader.kill() if crash else leader.stop())
                found.append(await watch.successor())
                await ending
                leader = standby
            name = f"takeover after SIGKILL, lease {_lease(effort):g} s" if crash else "takeover after a clean stop"
            lowest, highest = min(found), max(found)
            yield Measure(name, median(found), "s", target=target, at_most=True, lowest=lowest, highest=highest)
        await writer.stop()


def _lease(effort: Effort) -> float:
    return QUICK_LEASE if effort.quick else LEASE


async def _relay(running: Line, effort: Effort, port: int) -> Process:
    return await running.relay("--lease", str(_lease(effort)), "--listen", f"{HOST}:{port}")


async def _stands_by(http: httpx.AsyncClient, port: int) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            try:
                stores = (await http.get(f"http://{HOST}:{port}/readyz")).json()["stores"]
                if stores[0]["role"] == "standby" and stores[0]["ready"]:
                    return
            except httpx.HTTPError:
                pass  # it is starting
            await asyncio.sleep(0.05)  # between two looks


class _Data(msgspec.Struct):
    begun: float


class _Event(msgspec.Struct):
    data: _Data


class _Watch:
    """What a plain consumer sees of a takeover."""

    def __init__(self) -> None:
        self._epoch = 0
        self._position = 0
        self._came = asyncio.Event()
        self._succeeded: asyncio.Future[float] | None = None

    async def see(self, message: AbstractIncomingMessage) -> None:
        """A message; what was there before is a repeat."""
        arrived, headers = time.perf_counter(), message.headers
        epoch, position = _number(headers["relay_epoch"]), _number(headers["last_position"])
        if position <= self._position:
            return
        succeeded = epoch > self._epoch and self._succeeded is not None and not self._succeeded.done()
        if succeeded and self._succeeded is not None:
            self._succeeded.set_result(arrived - _begun(message.body)[0].data.begun)
        self._epoch, self._position = epoch, position
        self._came.set()

    async def something(self) -> None:
        """Waits for a message from now on: the one who leads is at work."""
        self._came.clear()
        async with asyncio.timeout(READY_SECONDS):
            await self._came.wait()
        self._succeeded = asyncio.get_running_loop().create_future()

    async def successor(self) -> float:
        """Waits for the first new event in a message of the next leader; the seconds since it was appended."""
        assert self._succeeded is not None
        async with asyncio.timeout(READY_SECONDS):
            return await self._succeeded


_begun: Final = msgspec.json.Decoder(list[_Event]).decode


def _number(value: Any) -> int:
    return int(value)
