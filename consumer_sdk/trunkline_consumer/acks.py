"""What is in flight, up to where everything is finished, and which broker messages may be acknowledged: pure.

Positions only grow. A unit is one batch that a handler is given; units tile the feed, each beginning where the one
before it ended, whatever gaps there are between positions. So everything before the oldest unit that is not finished is
finished, and those that are need not be kept. What was filtered out counts as finished. Broker tags belong to one
channel, and only grow there.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_SWEPT: Final = 64
"""So many finished units may stay between those that are not, and as many again as there are of these."""


class Unit:
    """A batch in flight: it covers the feed from `start` (exclusive) to `last`."""

    __slots__ = ("count", "done", "finished", "first", "last", "size", "start")

    def __init__(self, start: int, first: int, last: int, count: int, size: int) -> None:
        self.start = start
        self.first = first
        self.last = last
        self.count = count
        self.size = size
        self.done = start  # finished up to this position
        self.finished = 0  # events of it


class AckMap:
    """Deliveries and acks in, checkpoint and broker tags out."""

    def __init__(self, checkpoint: int) -> None:
        self.low_water = checkpoint
        """Every event up to here is finished: what the checkpoint may be."""
        self.end = checkpoint
        """Every event up to here was delivered or filtered."""
        self._tiled = checkpoint  # the end of the last unit, or what was filtered while there was none
        self.finished = 0
        """Events that were acknowledged."""
        self.size = 0
        """Bytes of the batches that are not finished."""
        self._open = 0
        self._units: deque[Unit] = deque()
        self._tags: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        """Batches that are not finished."""
        return self._open

    def deliver(self, first: int, last: int, *, count: int | None = None, size: int = 0, passed: int = 0) -> Unit:
        """Record a batch that was handed out: `count` events from `first` to `last`, of `size` bytes. passed: the
        position, before `first`, up to which events of the same cut batch are not for the handler."""
        unit = Unit(self._tiled, first, last, last - first + 1 if count is None else count, size)
        unit.done = max(self.end, passed)  # events that were filtered before it are finished
        if not self._open:
            self.low_water = unit.done
        self.end = self._tiled = last
        self.size += size
        self._open += 1
        self._units.append(unit)
        return unit

    def filtered(self, last: int) -> None:
        """Events up to `last` are not for the handler."""
        if not self._open:
            self.low_water = self._tiled = last
        self.end = last

    def ack(self, position: int) -> bool:
        """Finishes the event at `position` and all before it; returns False if it is not in flight."""
        known = False
        for unit in self._units:
            if unit.first > position:
                break
            known = known or unit.done < position <= unit.last
        if known:
            for unit in self._units:
                if unit.first > position:
                    break
                self._finish(unit, min(position, unit.last))
            self._advance()
        return known

    def finish(self, unit: Unit) -> None:
        """Finishes one batch, whatever is before it."""
        self._finish(unit, unit.last)
        self._advance()

    def _finish(self, unit: Unit, position: int) -> None:
        if position <= unit.done:
            return
        unit.done = position
        whole = position == unit.last
        finished = unit.count if whole else min(unit.count, position - unit.first + 1)
        self.finished += finished - unit.finished
        unit.finished = finished
        if whole:
            self._open -= 1
            self.size -= unit.size

    def _advance(self) -> None:
        units = self._units
        while units and units[0].done == units[0].last:
            units.popleft()
        if not units:
            self._tiled = self.end
        self.low_water = units[0].done if units else self.end
        if len(units) > 2 * self._open + _SWEPT:  # the oldest takes long
            self._units = deque([unit for unit in units if unit.done < unit.last])

    def received(self, tag: int, last: int) -> None:
        """A broker message was received that holds events up to `last`."""
        self._tags.append((tag, last))

    @property
    def held(self) -> int:
        """Broker messages that are not acknowledged to it yet."""
        return len(self._tags)

    def settle(self, checkpoint: int) -> int | None:
        """The tag up to which the broker may be told (multiple) that all is done, now that `checkpoint` is durable."""
        settled = None
        while self._tags and self._tags[0][1] <= checkpoint:
            settled = self._tags.popleft()[0]
        return settled

    def forget_tags(self) -> None:
        """The channel has gone, and its tags with it."""
        self._tags.clear()
