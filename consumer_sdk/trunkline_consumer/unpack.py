"""A message's body into recorded events, equal to those that the store gives: pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import ge
from typing import NamedTuple

from msgspec.structs import astuple

from trunkline_store import RecordedEvent
from trunkline_store.read import recorded
from trunkline_store.serialize import Serializer
from trunkline_store.wire import BadMessage, decode


class Unpacked(NamedTuple):
    events: list[RecordedEvent]
    referred: list[int]
    """Which of them were too large for a message: their data is in the store."""


def unpacked(body: bytes, after: int, serializer: Serializer, *, by_version: bool) -> Unpacked:
    """The events above the feed position `after`. by_version: their number is the version in the stream that is
    followed, which for links is the target. Raises `BadMessage`.

    With 100 events in a message, this is most of what a subscriber does.
    """
    received = decode(body)
    (ids, types, streams, times, _, sequences, in_streams, correlations, causations, _, metadata, _, _, _, linked_at,
     linked_as) = zip(*map(astuple, received), strict=True)  # fmt: skip
    try:
        positions, versions = list(map(int, sequences)), list(map(int, in_streams))
        feed_positions = _linked(positions, linked_at)
        numbers = _linked(versions, linked_as) if by_version else positions
    except ValueError as error:
        raise BadMessage(str(error)) from error
    if any(map(ge, feed_positions, feed_positions[1:])):
        raise BadMessage("a batch grows")
    payloads = [event.payload for event in received]
    events = recorded(
        ids, numbers, streams, versions, positions, feed_positions, types, payloads, metadata, correlations, causations,
        times, map(_size, payloads, metadata), serializer,
    )  # fmt: skip
    if feed_positions[0] <= after:
        known = bisect_right(feed_positions, after)
        del events[:known], payloads[:known]
    return Unpacked(events, [at for at, payload in enumerate(payloads) if payload is None] if None in payloads else [])


def _linked(own: list[int], linked: Sequence[str | None]) -> list[int]:
    """The link's, where an event was linked."""
    if not any(linked):
        return own
    return [of_event if of_link is None else int(of_link) for of_event, of_link in zip(own, linked, strict=True)]


def _size(payload: bytes | None, metadata: str | None) -> int:
    size = 0 if payload is None else len(payload)
    if metadata is None:
        return size
    return size + (len(metadata) if metadata.isascii() else len(metadata.encode()))
