"""How long the others wait for a queue that refuses, or never confirms: pure.

From its first refusal on, all that the relay publishes is held up, for `seconds` at most: the queue may be drained
meanwhile. Then the relay goes on past what is refused, and does so at once from there on, until nothing has been
refused for ten times as long: a queue that is full for good costs the others one wait, not one for each message.
"""

from __future__ import annotations

from typing import Final

CALM: Final = 10
AGAIN_SECONDS: Final = 15.0
"""Between two tries of what was refused, at most: the relay pauses, and connects again. Patience may be shorter."""


class Patience:
    """seconds: 0 for none at all. Times are of one monotonic clock, in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since: float | None = None
        self._last = 0.0
        self._lost = False

    def lost(self, now: float) -> bool:
        """Whether what is refused now is given up at once."""
        if self._lost and now - self._last > CALM * self.seconds:
            self._lost, self._since = False, None
        return self._lost

    def refused(self, now: float) -> bool:
        """Notes that something was refused, and returns whether it is to be given up."""
        lost = self.lost(now)
        if not lost and self._since is not None and now - self._last > max(self.seconds, AGAIN_SECONDS):
            self._since = None  # that was another time
        self._last = now
        if self._since is None:
            self._since = now
        self._lost = lost or now - self._since >= self.seconds
        return self._lost

    def lose(self, now: float) -> None:
        """Something was waited for in vain, for as long as patience lasts."""
        self._lost, self._last = True, now
