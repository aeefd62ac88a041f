"""Which of the messages that were published are safe: pure book-keeping of publisher confirms.

RabbitMQ numbers the messages of a channel 1, 2, 3 …; it confirms them in any order, one by one or all up to a number,
and may refuse (nack) one while earlier ones are still outstanding (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

from collections import deque


class Window:
    """Outstanding confirms of one channel. Positions are those of the messages' last events, and only grow."""

    def __init__(self, position: int) -> None:
        self.position = position
        """Everything up to here is confirmed."""
        self.refused: int | None = None
        """The lowest tag that the broker refused; the position never passes it."""
        self._next = 1
        self._outstanding: deque[tuple[int, int]] = deque()
        self._settled: set[int] = set()

    def __len__(self) -> int:
        return len(self._outstanding)

    def sent(self, position: int) -> int:
        """Notes that one more message was sent, and returns its tag."""
        tag = self._next
        self._next += 1
        self._outstanding.append((tag, position))
        return tag

    def ack(self, tag: int, *, multiple: bool = False) -> int:
        """Returns how many messages that settled at the low end."""
        if multiple:
            self._settled.update(t for t in self._tags_up_to(tag) if t != self.refused)
        else:
            self._settled.add(tag)
        return self._advance()

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        lowest = self._outstanding[0][0] if multiple and self._outstanding else tag
        self.refused = lowest if self.refused is None else min(self.refused, lowest)

    def _tags_up_to(self, tag: int) -> list[int]:
        tags = []
        for outstanding, _ in self._outstanding:
            if outstanding > tag:
                break
            tags.append(outstanding)
        return tags

    def _advance(self) -> int:
        count = 0
        while self._outstanding:
            tag, position = self._outstanding[0]
            if tag not in self._settled or tag == self.refused:
                break
            self._settled.discard(tag)
            self._outstanding.popleft()
            self.position = position
            count += 1
        return count
