"""Log lines of a subscription about servers that are away: one when they go, one a minute, one when they are back."""

from __future__ import annotations

import logging
import time
from typing import Final

from trunkline_store.outage import Outage, Pause

log = logging.getLogger("trunkline.consumer")

LONGEST_PAUSE: Final = 2.0
"""Seconds between two tries while the database is away: what waits for it is late by that at most."""


class Server:
    """PostgreSQL or RabbitMQ, as one subscription sees it. Everything that meets it tells the same object."""

    def __init__(self, subscription: str, name: str) -> None:
        self._subscription = subscription
        self._name = name
        self._outage = Outage()
        self._is_away = False  # asked for each message

    def away(self, error: Exception | str, consequence: str = "") -> None:
        """Log a fault, if it is news."""
        self._is_away = True
        if self._outage.is_news(str(error), time.monotonic()):
            log.warning("subscription %s: %s%s", self._subscription, error, consequence)

    def back(self) -> None:
        """Log that it answers again, if it was away."""
        if not self._is_away:
            return
        self._is_away = False
        seconds = self._outage.over(time.monotonic())
        if seconds is not None:
            log.warning("subscription %s: %s answers again after %.1f s", self._subscription, self._name, seconds)


class Outages:
    """Both servers of one subscription."""

    def __init__(self, subscription: str) -> None:
        self.database = Server(subscription, "PostgreSQL")
        self.broker = Server(subscription, "RabbitMQ")


def database_pause() -> Pause:
    """A back-off of one task while the database is away."""
    return Pause(longest=LONGEST_PAUSE)
