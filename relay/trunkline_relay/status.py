"""What can be said of the relay of one store at a moment: is it ready, and if not, why. Pure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from trunkline_store.overview import OpenTransaction

STALLED_SECONDS: Final = 15.0
"""A leader that has something ahead, and has not moved for so long, makes no progress."""
UNSEEN_SECONDS: Final = 10.0
"""After which what was seen of the store says nothing any more."""
_REMEMBERED: Final = 8
"""Looks, of which the rate of events is made: some ten seconds."""


class Status:
    """Of one store. stalled: seconds. clock: gives monotonic seconds."""

    def __init__(
        self, store: str, *, stalled: float = STALLED_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.leading = False
        self.failure: str | None = None
        """Why the relay of this store has ended, if it has; a person is needed."""
        self.holder: OpenTransaction | None = None
        self._stalled = stalled
        self._clock = clock
        self._fault: str | None = None
        self._fault_since = 0.0
        self._seen: float | None = None
        self._moved = 0.0
        self._looks: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)
        self._facts: dict[str, Any] = {"position": 0, "safe_position": 0, "lag_events": 0, "lag_seconds": 0.0}

    def lead(self, leading: bool) -> None:
        """It has become the leader, which has time to begin; or it is so no more."""
        self.leading, self._moved = leading, self._clock()
        if leading:
            self.failure = None

    def blame(self, fault: str | None) -> None:
        """What keeps it from its work, as it was last found; None: nothing does."""
        if self._fault is None:
            self._fault_since = self._clock()
        self._fault = fault
        if fault is None:
            self.failure = None

    def see(self, position: int, safe: int, events: int, seconds: float, holder: OpenTransaction | None) -> None:
        """What the store says: what is recorded, what can be read, how much and how old what lies between is."""
        now = self._clock()
        if position != self._facts["position"] or not events:
            self._moved = now
        self._seen, self.holder = now, holder
        self._looks.append((now, safe))
        self._facts = {"position": position, "safe_position": safe, "lag_events": events, "lag_seconds": seconds}

    @property
    def window(self) -> tuple[float, int, int] | None:
        """Seconds between the first and the last look that are remembered, and the safe positions that they saw: what
        lies between these came in that time. None before the second look."""
        if len(self._looks) < 2 or (self._seen is not None and self._clock() - self._seen > UNSEEN_SECONDS):
            return None
        (first, low), (last, high) = self._looks[0], self._looks[-1]
        return (last - first, low, high) if last > first and high >= low else None

    @property
    def problem(self) -> str | None:
        """Why it is not ready, without names of anything, or None: it moves, has nothing to do, or stands by."""
        now = self._clock()
        if self.failure is not None:
            return "a person is needed"
        if self._seen is None or now - self._seen > UNSEEN_SECONDS:
            return "the database does not answer"
        if self.leading and self._facts["lag_events"] and now - self._moved > self._stalled:
            return f"no progress for {now - self._moved:.0f} s"
        if not self.leading and self._fault is not None and now - self._fault_since > UNSEEN_SECONDS:
            return "cannot lead"
        return None

    def report(self) -> dict[str, Any]:
        """All of it, for JSON."""
        role = "failed" if self.failure is not None else "leader" if self.leading else "standby"
        problem = self.problem
        return {
            "store": self.store,
            "role": role,
            "ready": problem is None,
            "problem": problem,
            "cause": None if problem is None else self.failure or self._fault,
            **self._facts,
            "holder": None if self.holder is None else self.holder._asdict(),
        }
