"""The choice of the next batch when several are handled at once: pure.

Batches of one key are handled one after the other, in the order in which they came. Of all that may go, the oldest goes
first, since the checkpoint waits for it.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """What waits, by key; and which keys are taken."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[int, T]]] = {}
        self._ready: list[tuple[int, str]] = []  # a heap of the waiting keys that are not taken, by their oldest batch
        self._taken: set[str] = set()
        self._added = 0

    def add(self, key: str, batch: T) -> None:
        """It came last of all."""
        self._added += 1
        lane = self._waiting.get(key)
        if lane is not None:
            lane.append((self._added, batch))
            return
        self._waiting[key] = deque([(self._added, batch)])
        if key not in self._taken:
            heappush(self._ready, (self._added, key))

    def take(self) -> tuple[str, T] | None:
        """The next one, whose key is taken from now on; None while there is none."""
        if not self._ready:
            return None
        _, key = heappop(self._ready)
        lane = self._waiting[key]
        _, batch = lane.popleft()
        if not lane:
            del self._waiting[key]
        self._taken.add(key)
        return key, batch

    def done(self, key: str) -> None:
        """Its batch is no longer handled."""
        self._taken.discard(key)
        if key in self._waiting:
            heappush(self._ready, (self._waiting[key][0][0], key))
