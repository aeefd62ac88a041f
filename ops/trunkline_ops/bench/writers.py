"""Writers in several processes at once, and (run as a program) one of these processes."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import uvloop

from trunkline_ops.bench import bare, ours
from trunkline_ops.bench.lab import Room, connections
from trunkline_ops.bench.load import Run
from trunkline_ops.bench.rounds import Side
from trunkline_store import EventStore

_ANSWER_BYTES: Final = 16 * 1024 * 1024


@asynccontextmanager
async def in_processes(room: Room, side: str, processes: int, writers: int) -> AsyncIterator[Side]:
    """Appends of one event by writers in several processes, which start together. side: ours or bare."""
    order = json.dumps({"dsn": room.dsn, "side": side, "writers": writers})
    running: list[Process] = []

    async def told(process: Process, line: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{line}\n".encode())
        answer = await process.stdout.readline()
        if not answer:
            raise ChildProcessError(f"a process of writers ended with exit code {await process.wait()}")
        return answer.decode()

    async def everyone(line: str) -> list[str]:
        return await asyncio.gather(*(told(process, line) for process in running))

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        async def do() -> Run:
            await everyone(str(-(-calls // processes)))
            runs = [Run(*json.loads(line)) for line in await everyone("go")]
            return Run(
                sum(run.events for run in runs),
                min(run.begun for run in runs),
                max(run.ended for run in runs),
                [latency for run in runs for latency in run.latencies],
            )

        return do

    try:
        for _ in range(processes):
            running.append(await _start())  # noqa: PERF401 - what has been started is stopped if the next one fails
        await everyone(order)
        yield prepare
    finally:
        for process in running:
            assert process.stdin is not None
            process.stdin.close()  # which ends it
        await asyncio.gather(*(process.wait() for process in running))


async def _start() -> Process:
    program = sys.executable, "-m", "trunkline_ops.bench.writers"
    return await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE, limit=_ANSWER_BYTES)


async def _write(dsn: str, side: str, writers: int) -> None:
    async with AsyncExitStack() as stack:
        if side == "ours":
            prepare = ours.appends_one(await stack.enter_async_context(EventStore(dsn)), writers)
        else:
            prepare = bare.inserts_one(await stack.enter_async_context(connections(dsn, writers)))
        do: Callable[[], Awaitable[Run]] | None = None
        answer: object = "ready"
        while True:
            print(json.dumps(answer), flush=True)
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                return
            if line.strip().isdigit():
                do, answer = prepare(int(line)), "ready"
            elif do is not None:
                answer = await do()


if __name__ == "__main__":
    uvloop.run(_write(**json.loads(sys.stdin.readline())))
