"""Judge a message before anything is done with it: pure.

A message is damage where it contradicts itself, the way it came, or what the store can hold. Damage moves nothing: its
events are read from the store. A message that only the relay's equal can publish (false data under a true position) is
not found here; `ops/decisions/0006-trust.md` says who is trusted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from trunkline_consumer.receive import Received
from trunkline_store import names
from trunkline_store.wire import BadMessage, Placement, placement

LEAP: Final = 2**40
"""Positions that a message may be above the last look's safe position: a thousand million blocks, a day of the fastest
writers. An open transaction can hold the safe position back for long, and all that it held back comes at once."""
LEAP_A_SECOND: Final = 1024 * 100_000
"""Positions that can be drawn in a second since then: twice the appends of the fastest run that was measured, each in a
block of its own."""


class Horizon:
    """Positions that a true message can have: those that one look at the store explains. Beyond, the store is asked."""

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
    """Return where a message stands.

    The broker says by which exchange a message came, and marks what was dead-lettered: neither can be chosen by
    somebody who may not publish to the store's exchange.

    Raises:
        BadMessage: It did not come straight from the exchange of `store`, or its headers make no sense.
    """
    if "x-death" in message.headers:
        raise BadMessage("it was dead-lettered")
    place = placement(message.headers, store)
    if message.exchange != (names.links_exchange(store) if place.linked else store):
        raise BadMessage(f"it came by exchange {message.exchange!r}")
    return place


def check_key(key: str, place: Placement, types: Iterable[str]) -> None:
    """Raise `BadMessage` for a routing key that is none of the message's. The broker tells the first of several keys;
    a message whose keys do not fit into one header is published in halves, the second one under a later type's key."""
    if place.linked:
        if key == names.links_key(place.stream):
            return
    elif any(key == names.routing_key(place.category, type, place.stream) for type in dict.fromkeys(types)):
        return
    raise BadMessage(f"routing key {key!r} is not of its events")
