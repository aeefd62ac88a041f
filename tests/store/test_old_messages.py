"""What the first relay of this wire version sent, kept as it was: it may lie in a queue for long, and is still read."""

import json
from pathlib import Path
from typing import Any

import pytest

from trunkline_store import wire

FIRST = Path(__file__).parent / "golden" / "first"
"""Never written again: a change of the wire has golden files of its own in the folder above."""


def sent(name: str) -> tuple[dict[str, Any], bytes]:
    """The headers and the body of a message."""
    return json.loads((FIRST / f"{name}.json").read_text())["headers"], (FIRST / f"{name}.body").read_bytes()


@pytest.mark.parametrize("name", sorted(path.stem for path in FIRST.glob("*.body")))
def test_messages_of_the_first_relay_still_decode(name: str) -> None:
    """Everything that they say is understood as it was meant."""
    headers, body = sent(name)
    place = wire.placement(headers, "eventstore")
    assert (place.history, place.relay_epoch) == ("h/1/2/3/00000001", 3)
    assert (place.first_position, place.last_position) == (headers["first_position"], headers["last_position"])
    assert (place.previous_position, place.previous_in_category, place.previous_in_stream) == (2000, 1900, 1800)
    events = wire.decode(body)
    assert [event.position for event in events] == list(range(place.first_position, place.last_position + 1))
    for event, plain in zip(events, json.loads(body), strict=True):
        assert (str(event.id), event.type, event.subject) == (plain["id"], plain["type"], plain["subject"])
        assert (event.correlationid, event.causationid) == (plain.get("correlationid"), plain.get("causationid"))
        assert event.metadata == plain.get("metadata")
        assert event.traceparent == plain.get("traceparent")
        assert event.time.isoformat().startswith(plain["time"][:19])
        if "data" in plain:
            assert event.payload is not None
            assert json.loads(event.payload) == plain["data"]
    assert {"binary": b"\x00\xff", "reference": None}.get(name, events[0].payload) == events[0].payload


def test_all_of_the_first_messages_are_there() -> None:
    """One lost file would be one claim less."""
    found = {path.name for path in FIRST.iterdir()}
    names = ("binary", "old", "one", "reference", "several", "unicode")
    assert found == {f"{name}.{kind}" for name in names for kind in ("body", "json")}


@pytest.mark.parametrize("name", ["one", "several"])
def test_what_a_later_relay_of_this_version_adds_is_passed_over(name: str) -> None:
    """A header or an attribute that this code does not know changes nothing of what it does know."""
    headers, body = sent(name)
    more = json.dumps([{**event, "later": "x"} for event in json.loads(body)]).encode()
    assert wire.placement({**headers, "later": [1, 2]}, "eventstore") == wire.placement(headers, "eventstore")
    assert [(event.id, event.position) for event in wire.decode(more)] == [
        (event.id, event.position) for event in wire.decode(body)
    ]
