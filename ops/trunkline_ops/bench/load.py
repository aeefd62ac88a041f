"""Callers that call as fast as they are answered."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import quantiles
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Run(NamedTuple):
    """One side's part of a round."""

    events: int
    begun: float
    ended: float
    """By a clock that all processes share."""
    latencies: list[float]
    """Of each call, in seconds."""
    value: float | None = None
    """What was measured, where it is not the rate."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.begun

    @property
    def figure(self) -> float:
        """Events per second, or what else was measured."""
        return self.events / self.seconds if self.value is None else self.value

    @property
    def p50_ms(self) -> float:
        """Half of the calls were answered within this time."""
        return percentile_ms(self.latencies, 50)


def whole(events: int, begun: float) -> Run:
    """A run that was one call, from `begun` until now."""
    ended = time.perf_counter()
    return Run(events, begun, ended, [ended - begun])


def percentile_ms(latencies: Sequence[float], percent: int) -> float:
    """Within how many milliseconds so many of the calls were answered."""
    if len(latencies) < 2:
        return 1000 * latencies[0]
    return 1000 * quantiles(latencies, n=100, method="inclusive")[percent - 1]


async def drive(callers: Sequence[Callable[[T], Awaitable[object]]], work: Sequence[T], *, events_each: int = 1) -> Run:
    """Each caller takes the next piece of work as soon as its last call was answered. All of it is made before the
    clock starts."""
    pieces, latencies = iter(work), list[float]()

    async def one(call: Callable[[T], Awaitable[object]]) -> None:
        for piece in pieces:
            begun = time.perf_counter()
            await call(piece)
            latencies.append(time.perf_counter() - begun)

    with nothing_to_collect():
        begun = time.perf_counter()
        await asyncio.gather(*(one(call) for call in callers))
        ended = time.perf_counter()
    return Run(len(work) * events_each, begun, ended, latencies)


def drive_threads(call: Callable[[T], object], threads: int, work: Sequence[T], *, events_each: int = 1) -> Run:
    """The same, for calls that block: each caller is a thread."""
    pieces, latencies, lock = iter(work), list[float](), threading.Lock()

    def following() -> Iterator[T]:
        while True:
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def one() -> None:
        for piece in following():
            begun = time.perf_counter()
            call(piece)
            latencies.append(time.perf_counter() - begun)

    callers = [threading.Thread(target=one) for _ in range(threads)]
    with nothing_to_collect():
        begun = time.perf_counter()
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        ended = time.perf_counter()
    return Run(len(work) * events_each, begun, ended, latencies)


@contextmanager
def nothing_to_collect() -> Iterator[None]:
    """What was made for the run is kept out of the collector's sight: walking through it is nobody's cost."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
