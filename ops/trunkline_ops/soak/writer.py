"""A program that appends in every way there is: python -m trunkline_ops.soak.writer RATE

What it is not sure of it sends again with the same ids, until it is told where the events are: so whatever it reports
is committed, once. Some appends are in transactions that stay open for a while, some of those are rolled back.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final

from trunkline_ops.demo.leash import report, told_to_stop
from trunkline_ops.demo.writer import Pace
from trunkline_store import ANY_VERSION, Appended, EventData, EventStore, StreamAppend, Unavailable

STREAMS: Final = 20
LARGE_BYTES: Final = 300_000
AWAY: Final = 75
"""The exit code of a program that finds no server when it starts (EX_TEMPFAIL): it is started again."""
_TASKS: Final = 4
_RETRY_SECONDS: Final = 0.1
_REPORT_SECONDS: Final = 0.2


class _RolledBack(Exception):
    """On purpose."""


class Writer:
    """Appends, and keeps the positions that it was told."""

    def __init__(self, store: EventStore, random: Random) -> None:
        self._store = store
        self._random = random
        self._acknowledged: list[tuple[int, int]] = []

    def report(self) -> None:
        """First and last position of each append since the last report."""
        report(acknowledged=self._acknowledged)
        self._acknowledged = []

    async def append(self, count: int) -> None:
        """So many events, in one of the ways, however often it takes."""
        random, store = self._random, self._store
        stream, events = self._stream(), self._events(count)
        ways: Sequence[Callable[[], Awaitable[Sequence[Appended]]]] = (
            lambda: _one(store.append_to_stream(stream, ANY_VERSION, events)),
            lambda: self._several(stream, events),
            lambda: self._in_transaction(stream, events, random.uniform(0, 0.1)),
        )
        (way,) = random.choices(ways, (8, 1, 1))
        while True:
            try:
                done = await way()
                self._acknowledged += [(each.first_position, each.last_position) for each in done]
                return
            except _RolledBack:
                return
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    def _stream(self) -> str:
        number = self._random.randrange(STREAMS)
        return f"{'ab'[number % 2]}-{number}"

    def _events(self, count: int) -> list[EventData]:
        random = self._random
        ids = [f"c-{random.randrange(10**9)}", None, f"c-{random.randrange(10**9)}"][: random.choice((1, 1, 1, 2, 3))]
        every = []
        for number in range(count):
            data: dict[str, Any] = {"n": random.randrange(10**6)}
            if random.random() < 0.001:
                data["large"] = "x" * LARGE_BYTES  # travels as a reference
            every.append(EventData(f"T{random.randrange(3)}", data, correlation_id=ids[number * len(ids) // count]))
        return every

    async def _several(self, stream: str, events: Sequence[EventData]) -> Sequence[Appended]:
        half = len(events) // 2
        parts = ((f"{stream}-x", events[:half]), (stream, events[half:]))
        return await self._store.append_to_streams(
            [StreamAppend(name, ANY_VERSION, part) for name, part in parts if part]
        )

    async def _in_transaction(self, stream: str, events: Sequence[EventData], seconds: float) -> Sequence[Appended]:
        async with self._store.transaction() as connection:
            done = await self._store.append_to_stream(stream, ANY_VERSION, events, connection=connection)
            await asyncio.sleep(seconds)  # readers are held back meanwhile
            if self._random.random() < 0.2:
                raise _RolledBack
        return [done]


async def _one(append: Awaitable[Appended]) -> Sequence[Appended]:
    return [await append]


async def _write(writer: Writer, pace: Pace, random: Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        count = random.randint(1, 5)
        await pace.turn(count)
        if not stop.is_set():
            await writer.append(count)


async def main(rate: float) -> None:
    """Writes with several tasks at once until it is told to stop."""
    stop, random = told_to_stop(), Random()
    async with EventStore(os.environ["TRUNKLINE_DSN"], timeout=5, application_name="soak writer") as store:
        writer, pace = Writer(store, random), Pace(rate, stop)
        writing = [asyncio.create_task(_write(writer, pace, random, stop)) for _ in range(_TASKS)]
        try:
            while not all(task.done() for task in writing):
                writer.report()
                await asyncio.wait(writing, timeout=_REPORT_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
                for task in writing:
                    if task.done():
                        task.result()
        finally:
            writer.report()


if __name__ == "__main__":
    try:
        asyncio.run(main(float(sys.argv[1])))
    except Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(AWAY)
