"""A message's body into recorded events, equal to those that the store gives: pure."""

from __future__ import annotations

from bisect import bisect_right
from operator import lt
from typing import NamedTuple

from msgspec.structs import astuple

from trunkline_consumer.receive import Received
from trunkline_consumer.sense import check_key
from trunkline_store import RecordedEvent
from trunkline_store.read import recorded
from trunkline_store.serialize import Serializer
from trunkline_store.wire import BadMessage, Placement, decode


class Unpacked(NamedTuple):
    events: list[RecordedEvent]
    referred: list[int]
    """Which of them were too large for a message: their data is in the store."""


def unpacked(message: Received, place: Placement, after: int, serializer: Serializer, *, by_version: bool) -> Unpacked:
    """Return the events above the feed position `after`. by_version: their number is the version in the followed
    stream, which for links is the target.

    With 100 events in a message, this is most of what a subscriber does.

    Raises:
        BadMessage: The body cannot be read, or its events do not match the headers.
    """
    received = decode(message.body)
    (ids, types, streams, times, _, sequences, in_streams, correlations, causations, _, metadata, _, _, _,
     linked_at, linked_as) = zip(*map(astuple, received), strict=True)  # fmt: skip
    count = len(received)
    if count != place.last_position - place.first_position + 1:
        raise BadMessage(f"it has {count} events, which is not the number in its headers")
    try:
        positions, versions = list(map(int, sequences)), list(map(int, in_streams))
        feed_positions, feed_versions = (
            (list(map(int, linked_at)), list(map(int, linked_as))) if place.linked else (positions, versions)
        )
    except (ValueError, TypeError) as error:
        raise BadMessage(str(error)) from error
    if feed_positions != list(range(place.first_position, place.last_position + 1)):
        raise BadMessage("its events are not at the positions in its headers")
    if feed_versions != list(range(place.first_version, place.last_version + 1)):
        raise BadMessage("its events do not have the versions in its headers")
    if place.linked:
        if min(positions) < 1 or min(versions) < 1 or not all(map(lt, positions, feed_positions)):
            raise BadMessage("a link is before its event")
    elif streams.count(place.stream) != count or linked_at.count(None) != count or linked_as.count(None) != count:
        raise BadMessage(f"its events are not in stream {place.stream!r}")
    if correlations.count(correlations[0]) != count:
        raise BadMessage("its events have several correlation ids")
    check_key(message.routing_key, place, types)
    payloads = [event.payload for event in received]
    numbers = feed_versions if by_version else positions
    events = recorded(
        ids, numbers, streams, versions, positions, feed_positions, types, payloads, metadata, correlations, causations,
        times, map(_size, payloads, metadata), serializer,
    )  # fmt: skip
    if feed_positions[0] <= after:
        known = bisect_right(feed_positions, after)
        del events[:known], payloads[:known]
    return Unpacked(events, [at for at, payload in enumerate(payloads) if payload is None] if None in payloads else [])


def _size(payload: bytes | None, metadata: str | None) -> int:
    size = 0 if payload is None else len(payload)
    if metadata is None:
        return size
    return size + (len(metadata) if metadata.isascii() else len(metadata.encode()))
