"""The back-off while a server is away, and the rate of log lines about it: pure."""

from __future__ import annotations

import random
import re
from typing import Final

PAUSE_SECONDS: Final = (0.1, 5.0)
"""The shortest and the longest back-off after a fault."""
REMIND_SECONDS: Final = 60.0
"""The time between two log lines about the same fault."""
_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")
_KINDS: Final = 10
"""The number of kinds of faults that one outage tells apart."""


class Pause:
    """The back-off of one task, in seconds: it doubles up to a ceiling, with jitter, until `reset` after progress."""

    def __init__(self, longest: float | None = None) -> None:
        self._shortest, most = PAUSE_SECONDS
        self._longest = most if longest is None else longest
        self._seconds = self._shortest

    def next(self) -> float:
        seconds, self._seconds = self._seconds, min(self._longest, self._seconds * 2)
        return seconds * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._seconds = self._shortest


class Outage:
    """The log limit of one outage: the first fault of each kind is logged, then one a minute, until it is over.

    The kind is the message without its numbers: a port or a process id may differ with each try. Times are monotonic
    seconds.
    """

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._since = 0.0

    def is_news(self, fault: str, now: float) -> bool:
        """Return True if this fault is to be logged."""
        if not self._said:
            self._since = now
        kind = _NUMBERS.sub("", fault)
        if len(self._said) >= _KINDS and kind not in self._said:
            kind = ""
        if now - self._said.get(kind, now - REMIND_SECONDS) < REMIND_SECONDS:
            return False
        self._said[kind] = now
        return True

    def over(self, now: float) -> float | None:
        """End the outage. Return the seconds that it lasted, or None if there was none."""
        if not self._said:
            return None
        self._said.clear()
        return now - self._since
