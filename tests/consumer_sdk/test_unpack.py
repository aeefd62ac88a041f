"""Bodies of messages into recorded events."""

from collections.abc import Callable

import pytest

from trunkline_consumer.receive import Received
from trunkline_consumer.sense import judged
from trunkline_consumer.unpack import Unpacked
from trunkline_consumer.unpack import unpacked as unpacked_message
from trunkline_store import JsonSerializer, RecordedEvent
from trunkline_store.wire import BadMessage, Chain, ReceivedEvent, StoredEvent, StoredLink, decode, encode

SERIALIZER = JsonSerializer()


def stored(position: int, data: str | bytes | None = '{"a": [1]}', metadata: str | None = '{"m": "ö"}') -> StoredEvent:
    id = f"018f0000-0000-7000-8000-{position:012}"
    return StoredEvent(
        position, "s-1", "s", position - 1023, id, "E", 10, data, metadata, "c", None, None, "2025-01-01T00:00:00.5Z"
    )


def linked(position: int) -> StoredLink:
    event = stored(position)
    own = {"own_position": position - 512, "own_stream": "o-1", "own_version": position - 1024}
    fields = {name: getattr(event, name) for name in StoredEvent.__struct_fields__}
    return StoredLink(**{**fields, **own})


def message(events: list[StoredEvent], content_type: str = "application/json") -> Received:
    made = encode(events, Chain(0, 0, 0), store="s", history="h", content_type=content_type)
    return Received(1, made.headers, made.body, "s-links" if made.linked else "s", made.routing_key)


def unpacked(message: Received, after: int, *, by_version: bool = False) -> Unpacked:
    return unpacked_message(message, judged(message, "s"), after, SERIALIZER, by_version=by_version)


def one(event: ReceivedEvent, number: int) -> RecordedEvent:
    """What an event of a message is, looked at by itself."""
    assert event.payload is not None
    return RecordedEvent(
        event_id=event.id, event_number=number, stream=event.subject, stream_version=int(event.streamversion),
        position=event.position, feed_position=event.feed_position, type=event.type,
        _data=SERIALIZER.deserialize(event.payload, event.type), _metadata=event.metadata,
        correlation_id=event.correlationid, causation_id=event.causationid, created_at=event.time,
        size=len(event.payload) + len((event.metadata or "").encode()),
    )  # fmt: skip


@pytest.mark.parametrize("by_version", [False, True])
@pytest.mark.parametrize("make", [stored, linked])
def test_a_message_is_unpacked_into_what_its_events_are(make: Callable[[int], StoredEvent], by_version: bool) -> None:
    """All at once they are the same as one by one, be they events or links, numbered by position or by version."""
    whole = message([make(1025 + n) for n in range(3)])
    received = decode(whole.body)
    one_by_one = [one(e, e.feed_version if by_version else e.position) for e in received]
    found = unpacked(whole, 0, by_version=by_version)
    assert found.events == one_by_one
    assert [event.size for event in found.events] == [event.size for event in one_by_one]
    assert found.referred == []


def test_what_was_delivered_before_is_trimmed_off() -> None:
    """Only what is above the given position is left; all of it may be known."""
    whole = message([stored(1025 + n, None if n == 2 else "1") for n in range(4)])
    assert [e.position for e in unpacked(whole, 1025).events] == [1026, 1027, 1028]
    assert unpacked(whole, 1025).referred == [1]
    assert unpacked(whole, 1028) == ([], [])


def test_data_that_was_too_large_for_a_message_is_named() -> None:
    """Its event is there, without its data, and binary data is no such case, not even where there is none."""
    found = unpacked(message([stored(1025), stored(1026, None)]), 0)
    assert found.referred == [1]
    binary = message([stored(1025, b"")], "application/octet-stream")
    assert unpacked(binary, 0).referred == []


ONE = message([stored(1025)])


@pytest.mark.parametrize(
    "damaged",
    [
        b"[]",
        b"{",
        message([stored(1026), stored(1025)]).body,
        ONE.body.replace(b'"sequence":"00000000000000001025"', b'"sequence":"x"'),
        ONE.body.replace(b'"streamversion":"2"', b'"streamversion":"two"'),
    ],
    ids=["empty", "no JSON", "shrinking", "no position", "no version"],
)
def test_a_damaged_body_is_a_bad_message(damaged: bytes) -> None:
    """Whatever is wrong with it, one error tells, and the store is asked."""
    with pytest.raises(BadMessage):
        unpacked(ONE._replace(body=damaged), 0)
