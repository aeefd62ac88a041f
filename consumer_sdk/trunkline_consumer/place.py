"""Where a message stands against what was delivered: one comparison each, pure."""

from __future__ import annotations

import enum

from trunkline_store.wire import Placement


class Verdict(enum.Enum):
    NEXT = "it goes on where we stand; events at or below that are trimmed off"
    DUPLICATE = "all of it was delivered before"
    STALE = "the store was read beyond it since, and no longer holds it"
    HOLE = "something between was never seen: read the store"
    FOREIGN = "it is of another history, or not of the feed"


def verdict(message: Placement, previous: int, delivered: int, looked: int, history: str) -> Verdict:
    """Judge a message.

    Args:
        previous: The position before the message in the feed that is followed.
        delivered: The position up to which the feed was handed over; it rests on an event that was seen.
        looked: The safe position up to which the store was read. It only filters out what the store does not hold.
        history: The history in which both were learned.
    """
    if f"{message.history}/{message.incarnation}" != history:
        return Verdict.FOREIGN
    if message.last_position <= delivered:
        return Verdict.DUPLICATE
    if previous > delivered and message.first_position > delivered:
        return Verdict.STALE if message.last_position <= looked else Verdict.HOLE
    return Verdict.NEXT
