"""Judge a message before anything is done with it: pure.

A message is damaged if it contradicts itself, its exchange, or what the store can hold. It moves nothing: its events
are read from the store. False data under a true position is not found here, but only a login with the relay's rights
can publish it; `ops/decisions/0006-trust.md` says who is trusted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from trunkline_consumer.receive import Received
from trunkline_store import names
from trunkline_store.wire import BadMessage, Placement, placement

LEAP: Final = 2**40
"""The most that a message's position may be above the last look's safe position: a thousand million blocks, a day of
the fastest writers. An open transaction can hold the safe position back for long; then all of it comes at once."""
LEAP_A_SECOND: Final = 1024 * 100_000
"""Positions that can be drawn per second since that look: twice the appends of the fastest measured run, each in its
own block."""


class Horizon:
    """The highest position that a genuine message can have, from the last look at the store."""

    def __init__(self) -> None:
        self._safe = 0
        self._at = time.monotonic()

    def looked(self, safe: int) -> None:
        """Record the safe position of a look at the store."""
        self._safe, self._at = safe, time.monotonic()

    def check(self, place: Placement) -> None:
        """Raise `BadMessage` for a position that no append can have drawn by now."""
        beyond = place.last_position - self._safe - LEAP
        if beyond > 0 and beyond > LEAP_A_SECOND * (time.monotonic() - self._at):
            raise BadMessage(f"position {place.last_position} was never drawn")


def judged(message: Received, store: str) -> Placement:
    """Return the place of a message.

    The broker reports a message's exchange, and marks dead letters. A login that may not publish to the store's
    exchange can choose neither.

    Raises:
        BadMessage: The message did not come straight from the exchange of `store`, or its headers make no sense.
    """
    if "x-death" in message.headers:
        raise BadMessage("it was dead-lettered")
    place = placement(message.headers, store)
    if message.exchange != (names.links_exchange(store) if place.linked else store):
        raise BadMessage(f"it came by exchange {message.exchange!r}")
    return place


def check_key(key: str, place: Placement, types: Iterable[str]) -> None:
    """Raise `BadMessage` for a routing key that does not belong to the message.

    Of several keys, the broker reports the first. A message whose keys do not fit into one header is published in
    halves, the second under a later type's key.
    """
    if place.linked:
        if key == names.links_key(place.stream):
            return
    elif any(key == names.routing_key(place.category, type, place.stream) for type in dict.fromkeys(types)):
        return
    raise BadMessage(f"routing key {key!r} does not fit its events")
