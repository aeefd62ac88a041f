"""Writers in several processes at once, and (run as a program) one of these processes."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import uvloop

from trunkline_ops.bench import bare, sample
from trunkline_ops.bench.lab import Room
from trunkline_ops.bench.load import Run, drive
from trunkline_ops.bench.rounds import Side
from trunkline_store import NO_STREAM, EventData, EventStore

_ANSWER_BYTES: Final = 16 * 1024 * 1024


def appends_many(store: EventStore, writers: int, events_each: int) -> Side:
    """Appends of so many events, each to a new stream."""

    async def call(events: Sequence[EventData]) -> None:
        await store.append_to_stream(_new_stream(), NO_STREAM, events)

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        return partial(drive, [call] * writers, sample.appends(calls, events_each), events_each=events_each)

    return prepare


def appends_one(store: EventStore, writers: int) -> Side:
    """Appends of one event, each writer to a stream of its own, whose version it knows."""

    def writer() -> Any:
        stream, version = _new_stream(), 0

        async def call(events: Sequence[EventData]) -> None:
            nonlocal version
            version = (await store.append_to_stream(stream, version, events)).last_version

        return call

    callers = [writer() for _ in range(writers)]

    def prepare(calls: int) -> Callable[[], Awaitable[Run]]:
        return partial(drive, callers, sample.appends(calls, 1))

    return prepare


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
            running.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "trunkline_ops.bench.writers"),
                    stdin=PIPE,
                    stdout=PIPE,
                    limit=_ANSWER_BYTES,
                )
            )
        await everyone(order)
        yield prepare
    finally:
        for process in running:
            assert process.stdin is not None
            process.stdin.close()  # which ends it
        await asyncio.gather(*(process.wait() for process in running))


def _new_stream() -> str:
    return f"order-{secrets.token_hex(8)}"


async def _write(dsn: str, side: str, writers: int) -> None:
    async with AsyncExitStack() as stack:
        if side == "ours":
            prepare = appends_one(await stack.enter_async_context(EventStore(dsn)), writers)
        else:
            room = Room(dsn, await stack.enter_async_context(_connection(dsn)))
            prepare = bare.inserts_one(await stack.enter_async_context(room.connections(writers)))
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
