"""The wire: frozen by golden files, valid CloudEvents, and equal to what the store gives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings import http  # noqa: F401 - shows that the library is the one we mean
from hypothesis import given
from hypothesis import strategies as st

from trunkline_store import wire
from trunkline_store.wire import BadMessage, Chain, Message, Replayed, StoredEvent, StoredLink

GOLDEN = Path(__file__).parent / "golden"


def stored(position: int = 2048, **changes: Any) -> StoredEvent:
    """An event as the relay reads it."""
    event = StoredEvent(
        position=position,
        stream="order-42",
        category="order",
        stream_version=position - 2047,
        event_id=f"0190b3a4-7c1e-7000-8000-00000000{position:04x}",
        type="OrderPlaced",
        size=12,
        data='{"total": 12}',
        metadata=None,
        correlation_id=None,
        causation_id=None,
        traceparent=None,
        time="2026-01-02T03:04:05.678900Z",
    )
    return msgspec.structs.replace(event, **changes)


def linked(position: int, number: int, event: StoredEvent) -> StoredLink:
    """The event as the relay reads it where it is linked, at `number` of the stream `paid.orders`."""
    fields = msgspec.structs.asdict(event) | {"stream": "paid.orders", "category": "paid.orders"}
    fields |= {"position": position, "stream_version": number, "own_position": event.position}
    return StoredLink(**fields, own_stream=event.stream, own_version=event.stream_version)


def encode(batch: Sequence[StoredEvent], **given: Any) -> Message:
    """Its message, with everything fixed that a golden file holds."""
    arguments: dict[str, Any] = {
        "store": "eventstore",
        "history": "h/1/2/3/00000001/i",
        "epoch": 3,
        "content_type": "application/json",
    }
    return wire.encode(batch, Chain(2000, 1900, 1800), **(arguments | given))


REPLAY = "018f0000-0000-7000-8000-000000000000"
CASES: dict[str, Message] = {
    "one": encode([stored()]),
    "several": encode(
        [
            stored(2048, correlation_id="c-1", metadata='{"user": "x\\"y"}'),
            stored(2049, correlation_id="c-1", causation_id="d", type="Order.Paid*#%", data="null"),
            stored(2050, correlation_id="c-1", traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ]
    ),
    "unicode": encode([stored(stream='ördër-1 "ü"', category="ördër", type="Größe", data='"\\u00e9 é 😀"')]),
    "binary": encode([stored(data=b"\x00\xff")], content_type="application/octet-stream"),
    "reference": encode([stored(data=None, size=300_000)]),
    "old": encode([stored(time="1969-12-31T23:59:59.000000Z")]),
    "replayed": wire.encode(
        [stored(2048, type="OrderPlaced"), stored(2049, type="OrderPaid")],
        Replayed(REPLAY, "$category-order", (), previous=1999, end=4095, first=True, last=False),
        store="eventstore",
        history="h/1/2/3/00000001/i",
        content_type="application/json",
    ),
    "replayed-last": wire.encode(
        [stored(2050)],
        Replayed(REPLAY, "order-42", ("OrderPlaced",), previous=2049, end=4095, first=False, last=True),
        store="eventstore",
        history="h/1/2/3/00000001/i",
        content_type="application/json",
    ),
    "linked": encode(
        [
            linked(4096, 7, stored(2050, correlation_id="c-1")),
            linked(4097, 8, stored(2048, correlation_id="c-1", metadata="{}")),
            linked(4098, 9, stored(2049, correlation_id="c-1", stream="a/b-1", category="a/b", data=None)),
        ]
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_messages_are_byte_for_byte_what_was_published(name: str) -> None:
    """A changed byte is a decision: consumers in other languages read this."""
    message = CASES[name]
    readable = msgspec.to_builtins(message)
    readable["body"] = json.loads(message.body)
    golden = GOLDEN / f"{name}.json"
    body = GOLDEN / f"{name}.body"
    if not golden.exists():  # a new case: look at it, then commit it
        golden.write_text(json.dumps(readable, indent=2, ensure_ascii=False) + "\n")
        body.write_bytes(message.body)
        pytest.fail(f"{golden.name} was written: look at it and commit it")
    assert readable == json.loads(golden.read_text())
    assert message.body == body.read_bytes()


@pytest.mark.parametrize("body", sorted(GOLDEN.glob("*.body")), ids=lambda path: path.stem)
def test_messages_of_this_wire_version_decode(body: Path) -> None:
    """What was ever published in this version can still be read."""
    events = wire.decode(body.read_bytes())
    assert events[0].feed_position == {"linked": 4096, "replayed-last": 2050}.get(body.stem, 2048)
    assert events[0].subject in ("order-42", 'ördër-1 "ü"')


EXTENSION_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


@pytest.mark.parametrize("name", CASES)
def test_events_are_cloudevents(name: str) -> None:
    """CloudEvents 1.0 §3: required attributes, lower-case names, and extension values that are strings."""
    for event in json.loads(CASES[name].body):
        assert event["specversion"] == "1.0"
        assert all(event[key] for key in ("id", "source", "type"))
        for key, value in event.items():
            if key not in ("data", "data_base64"):
                assert set(key) <= EXTENSION_NAME
                assert isinstance(value, str)
        assert ("data" in event) + ("data_base64" in event) + ("dataref" in event) == 1


def test_a_repeated_message_differs_in_its_epoch_only() -> None:
    """Another leader, another page, the same bytes."""
    one, two = encode([stored()], epoch=3), encode([stored()], epoch=4)
    assert one.body == two.body
    assert {k: v for k, v in one.headers.items() if v != two.headers[k]} == {"relay_epoch": 3}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_json_data_travels_byte_for_byte(value: Any) -> None:
    """What is spliced in is taken out: no number, escape or space is touched."""
    for text in (json.dumps(value, indent=1), json.dumps(value, ensure_ascii=False, separators=(",", ":"))):
        try:
            message = encode([stored(data=text)])
        except UnicodeEncodeError:
            continue  # a lone surrogate, which the append refuses
        assert wire.decode(message.body)[0].payload == text.encode()


def test_placement_reads_the_headers() -> None:
    """All that a consumer compares."""
    place = wire.placement(CASES["several"].headers, "eventstore")
    assert (place.first_position, place.last_position, place.previous_position) == (2048, 2050, 2000)
    assert (place.previous_in_category, place.previous_in_stream, place.relay_epoch) == (1900, 1800, 3)


def test_links_have_their_own_place_and_the_events() -> None:
    """A message of links stands in the chain of its stream only, and its events are what and where they were."""
    message = CASES["linked"]
    place = wire.placement(message.headers, "eventstore")
    assert (place.linked, place.first_position, place.last_position, place.previous_in_stream) == (
        True,
        4096,
        4098,
        1800,
    )
    assert "previous_position" not in message.headers
    assert "previous_in_category" not in message.headers
    assert not wire.placement(CASES["one"].headers, "eventstore").linked
    events = wire.decode(message.body)
    assert [event.feed_position for event in events] == [4096, 4097, 4098]
    assert [event.feed_version for event in events] == [7, 8, 9]
    assert [(event.subject, event.position, event.streamversion) for event in events] == [
        ("order-42", 2050, "3"), ("order-42", 2048, "1"), ("a/b-1", 2049, "2"),
    ]  # fmt: skip
    assert events[2].dataref == "/eventstore/a%2Fb-1/2"


@pytest.mark.parametrize(
    "change",
    [
        {"previous_position": None},
        {"previous_in_category": None},
        {"wire_version": 2},
        {"store": "other"},
        {"history": None},
        {"last_position": "x"},
    ],
)
def test_foreign_headers_are_bad_messages(change: dict[str, Any]) -> None:
    """Another version, another store, something missing or of another type."""
    with pytest.raises(BadMessage):
        wire.placement({**CASES["one"].headers, **change}, "eventstore")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b"[{}]", b"[1]", CASES["one"].body[:-2]])
def test_damaged_bodies_are_bad_messages(body: bytes) -> None:
    """Cut, empty, not JSON, or not ours."""
    with pytest.raises(BadMessage):
        wire.decode(body)
