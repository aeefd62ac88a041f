"""Which batch may be handled next, when several are handled at once: pure.

Batches of one key are handled one after the other, in the order in which they came, in any interleaving; the oldest
that may go goes first.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """What waits, by key; and which keys are taken."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._ready: deque[str] = deque()  # keys that wait and are not taken, by their oldest
        self._taken: set[str] = set()

    def add(self, key: str, batch: T) -> None:
        """It came last of all."""
        lane = self._waiting.get(key)
        if lane is not None:
            lane.append(batch)
            return
        self._waiting[key] = deque([batch])
        if key not in self._taken:
            self._ready.append(key)

    def take(self) -> tuple[str, T] | None:
        """The next one, whose key is taken from now on; None while there is none."""
        if not self._ready:
            return None
        key = self._ready.popleft()
        lane = self._waiting[key]
        batch = lane.popleft()
        if not lane:
            del self._waiting[key]
        self._taken.add(key)
        return key, batch

    def done(self, key: str) -> None:
        """Its batch is no longer handled."""
        self._taken.discard(key)
        if key in self._waiting:
            self._ready.append(key)
