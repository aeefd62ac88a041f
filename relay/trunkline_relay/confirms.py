"""Which of the messages that were published are safe: pure book-keeping of publisher confirms.

RabbitMQ numbers the messages of a channel 1, 2, 3 …; it confirms them in any order, one by one or all up to a number,
and may refuse (nack) one while earlier ones are still outstanding (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Sent(NamedTuple):
    """A message that is outstanding. at: the sender's monotonic clock, in seconds; size: its bytes on the wire."""

    tag: int
    first_position: int
    position: int
    routing_key: str
    at: float
    size: int


class GivenUp(NamedTuple):
    """So many messages, between two positions."""

    first_position: int
    last_position: int
    messages: int


class Window:
    """Outstanding confirms of one channel. Positions are those of the messages' last events, and only grow."""

    def __init__(self, position: int) -> None:
        self.position = position
        """Everything up to here is confirmed, or was given up."""
        self.refused: int | None = None
        """The lowest tag that the broker refused and that was not given up; the position never passes it."""
        self.bytes = 0
        """What is outstanding, on the wire."""
        self.given_up: list[Sent] = []
        """Messages that the position may pass though they were not confirmed, until they are `noted`."""
        self._next = 1
        self._outstanding: deque[Sent] = deque()
        self._settled: set[int] = set()
        self._acked_up_to = 0

    def __len__(self) -> int:
        return len(self._outstanding)

    @property
    def oldest(self) -> Sent | None:
        """The outstanding message that the position waits for."""
        return self._outstanding[0] if self._outstanding else None

    def sent(
        self, position: int, first_position: int = 0, routing_key: str = "", at: float = 0.0, size: int = 0
    ) -> int:
        """Notes that one more message was sent, and returns its tag."""
        tag = self._next
        self._next += 1
        self._outstanding.append(Sent(tag, first_position, position, routing_key, at, size))
        self.bytes += size
        return tag

    def ack(self, tag: int, *, multiple: bool = False) -> list[Sent]:
        """Returns the messages that this settled at the low end."""
        if multiple:
            self._acked_up_to = max(self._acked_up_to, tag)
        elif self._outstanding and tag >= self._outstanding[0].tag:
            self._settled.add(tag)
        return self._advance()

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        """The position stops before it."""
        lowest = self._outstanding[0].tag if multiple and self._outstanding else tag
        self.refused = lowest if self.refused is None else min(self.refused, lowest)

    def give_up(self, tag: int, *, multiple: bool = False) -> list[Sent]:
        """The position may pass it, confirmed or not. Returns the messages that this gave up."""
        gone = [
            sent
            for sent in self._outstanding
            if (sent.tag == tag or (multiple and sent.tag <= tag))
            and sent.tag not in self._settled
            and sent.tag > self._acked_up_to
        ]
        self._settled.update(sent.tag for sent in gone)
        self.given_up += gone
        self._advance()
        return gone

    def passed(self, position: int) -> GivenUp | None:
        """What was given up and not noted, of the messages up to a position."""
        gone = [sent for sent in self.given_up if sent.position <= position]
        if not gone:
            return None
        return GivenUp(min(sent.first_position for sent in gone), max(sent.position for sent in gone), len(gone))

    def noted(self, position: int) -> None:
        """What was given up to there is written down."""
        self.given_up = [sent for sent in self.given_up if sent.position > position]

    def give_up_older(self, at: float) -> list[Sent]:
        """Gives up what was sent at that time or before, and is still outstanding."""
        old = [sent.tag for sent in self._outstanding if sent.at <= at]
        return self.give_up(old[-1], multiple=True) if old else []

    def _advance(self) -> list[Sent]:
        done: list[Sent] = []
        while self._outstanding:
            sent = self._outstanding[0]
            if sent.tag == self.refused or (sent.tag > self._acked_up_to and sent.tag not in self._settled):
                break
            self._settled.discard(sent.tag)
            self._outstanding.popleft()
            self.bytes -= sent.size
            self.position = sent.position
            done.append(sent)
        return done
