"""What is in flight, up to where everything is finished, and which broker messages may be acknowledged: pure.

Positions only grow. A delivery is one batch that the handler was given; what was filtered out counts as finished.
Broker tags belong to one channel, and only grow there.
"""

from __future__ import annotations

from collections import deque


class _Delivery:
    __slots__ = ("finished", "first", "last")

    def __init__(self, first: int, last: int, finished: int) -> None:
        self.first = first
        self.last = last
        self.finished = finished  # up to this position


class AckMap:
    """Deliveries and acks in, checkpoint and broker tags out."""

    def __init__(self, checkpoint: int) -> None:
        self.low_water = checkpoint
        """Every event up to here is finished: what the checkpoint may be."""
        self.finished = 0
        """Events that were acknowledged."""
        self._in_flight: deque[_Delivery] = deque()
        self._tags: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        """Deliveries that are not finished."""
        return sum(delivery.finished < delivery.last for delivery in self._in_flight)

    def deliver(self, first: int, last: int) -> None:
        """A batch was handed out, with events from `first` to `last`."""
        self._in_flight.append(_Delivery(first, last, first - 1))

    def filtered(self, last: int) -> None:
        """Events up to `last` are not for the handler."""
        self._in_flight.append(_Delivery(last, last, last))
        self._advance()

    def ack(self, position: int) -> bool:
        """Finishes the event at `position` and all before it; returns False if it is not in flight."""
        known = False
        for delivery in self._in_flight:
            if delivery.first > position:
                break
            if delivery.finished < position <= delivery.last:
                known = True
        if known:
            for delivery in self._in_flight:
                if delivery.first > position:
                    break
                finished = max(delivery.finished, min(position, delivery.last))
                self.finished += finished - delivery.finished  # a batch has no gaps
                delivery.finished = finished
            self._advance()
        return known

    def _advance(self) -> None:
        while self._in_flight:
            oldest = self._in_flight[0]
            self.low_water = max(self.low_water, oldest.finished if oldest.finished >= oldest.first else 0)
            if oldest.finished < oldest.last:
                return
            self._in_flight.popleft()

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
