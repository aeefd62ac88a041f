"""A message's body into recorded events, equal to those that the store gives: pure."""

from __future__ import annotations

from typing import NamedTuple

from trunkline_store import RecordedEvent
from trunkline_store.read import decoded
from trunkline_store.serialize import Serializer
from trunkline_store.wire import BadMessage, parse


class Unpacked(NamedTuple):
    events: list[RecordedEvent]
    referred: list[int]
    """Which of them were too large for a message: their data is in the store."""


def unpacked(body: bytes, after: int, serializer: Serializer, *, by_version: bool) -> Unpacked:
    """The events above the feed position `after`. by_version: their number is the version in the stream that is
    followed, which for links is the target. Raises `BadMessage`.

    One loop over local names: with 100 events in a message, this is most of what a subscriber does.
    """
    events: list[RecordedEvent] = []
    referred: list[int] = []
    before = 0
    try:
        for received in parse(body):
            position, version = int(received.sequence), int(received.streamversion)
            linked = received.feedposition is not None
            feed_position = int(received.feedposition) if received.feedposition is not None else position
            if feed_position <= before:
                raise BadMessage("a batch grows")
            before = feed_position
            if feed_position <= after:
                continue
            number = position
            if by_version:
                number = int(received.feedversion) if linked and received.feedversion is not None else version
            stream, type, metadata = received.subject, received.type, received.metadata
            payload = received.payload
            if payload is None:
                referred.append(len(events))
                payload, data = b"", None
            else:
                data = decoded(serializer, payload, type, stream, version, position)
            size = len(payload)
            if metadata is not None:
                size += len(metadata) if metadata.isascii() else len(metadata.encode())
            events.append(
                RecordedEvent(
                    received.id,
                    number,
                    stream,
                    version,
                    position,
                    feed_position,
                    type,
                    data,
                    metadata,
                    received.correlationid,
                    received.causationid,
                    received.time,
                    size,
                )
            )
    except ValueError as error:
        raise BadMessage(str(error)) from error
    if not before:
        raise BadMessage("a batch has at least one event")
    return Unpacked(events, referred)
