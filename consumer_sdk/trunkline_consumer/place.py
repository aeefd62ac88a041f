"""Where a message stands against what was delivered: one comparison each, pure."""

from __future__ import annotations

import enum

from trunkline_store.wire import Placement


class Verdict(enum.Enum):
    NEXT = "it goes on where we stand; events at or below that are trimmed off"
    DUPLICATE = "all of it was delivered before"
    HOLE = "something between was never seen: read the store"
    FOREIGN = "it is of another history, or not of the feed"


def verdict(message: Placement, previous: int, delivered: int, history: str) -> Verdict:
    """previous: the position before the message in the feed that is followed. delivered: the last one handed over,
    or the safe position up to which the store was read."""
    if message.history != history:
        return Verdict.FOREIGN
    if message.last_position <= delivered:
        return Verdict.DUPLICATE
    if previous > delivered and message.first_position > delivered:
        return Verdict.HOLE
    return Verdict.NEXT
