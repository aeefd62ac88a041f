"""Log lines of a subscription about a server's outage: one when it begins, one a minute, and one when it ends."""

from __future__ import annotations

import logging
import time
from typing import Final

from trunkline_store.outage import Outage, Pause

log = logging.getLogger("trunkline.consumer")

LONGEST_PAUSE: Final = 2.0
"""The longest back-off in seconds while the database is away, and so the most that anything is late afterwards."""


class Server:
    """The state of PostgreSQL or RabbitMQ for one subscription, shared by all of its tasks."""

    def __init__(self, subscription: str, name: str) -> None:
        self._subscription = subscription
        self._name = name
        self._outage = Outage()
        self._is_away = False  # kept apart, since `back` is called for each message

    def away(self, error: Exception | str, consequence: str = "") -> None:
        """Log a fault, unless the same kind was logged within the last minute."""
        self._is_away = True
        if self._outage.is_news(str(error), time.monotonic()):
            log.warning("subscription %s: %s%s", self._subscription, error, consequence)

    def back(self) -> None:
        """Log that the server answers again, if it was away."""
        if not self._is_away:
            return
        self._is_away = False
        seconds = self._outage.over(time.monotonic())
        if seconds is not None:
            log.warning("subscription %s: %s answers again after %.1f s", self._subscription, self._name, seconds)


class Outages:
    """The states of both servers of one subscription."""

    def __init__(self, subscription: str) -> None:
        self.database = Server(subscription, "PostgreSQL")
        self.broker = Server(subscription, "RabbitMQ")


def database_pause() -> Pause:
    """Return a back-off for one task while the database is away."""
    return Pause(longest=LONGEST_PAUSE)
