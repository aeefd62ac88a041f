"""Messages as bytes, held against the library that makes the same bytes more slowly."""

from datetime import UTC, datetime
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from trunkline_relay.frames import Frames, HeaderTooLarge
from trunkline_store.wire import CONTENT_TYPE, Message

short = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
positions = st.integers(0, 2**63 - 1) | st.integers(0, 2**17)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Whatever `encode` could make, and more."""
    names = ["wire_version", "first_version", "last_version", "first_position", "last_position", "previous_in_stream"]
    headers: dict[str, Any] = {name: draw(positions) for name in [*names, "relay_epoch"]}
    headers |= {name: draw(short) for name in ("store", "history", "stream", "category")}
    linked = draw(st.booleans())
    if linked:
        headers["linked"] = True
    else:
        headers |= {"previous_position": draw(positions), "previous_in_category": draw(positions)}
    return Message(
        routing_key=draw(short),
        further_keys=draw(st.lists(short, max_size=3)),
        message_id=draw(short),
        correlation_id=draw(st.none() | short),
        type=draw(st.none() | short),
        timestamp=draw(st.none() | st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC))),  # noqa: DTZ001
        headers=headers,
        body=draw(st.binary(max_size=300)),
        first_position=1,
        last_position=2,
        count=1,
        linked=linked,
    )


@given(messages(), st.integers(1, 65535), st.integers(0, 200))
def test_the_bytes_are_those_of_the_library(message: Message, channel: int, room: int) -> None:
    """Byte for byte, on any channel, and with bodies of no, one or several frames."""
    headers = message.headers | ({"CC": message.further_keys} if message.further_keys else {})
    properties = commands.Basic.Properties(
        content_type=CONTENT_TYPE,
        headers=headers,
        delivery_mode=2,
        correlation_id=message.correlation_id,
        message_id=message.message_id,
        timestamp=message.timestamp,
        message_type=message.type,
        app_id="trunkline/eventstore",
    )
    header = ContentHeader(body_size=len(message.body), properties=properties)
    frame_max = len(pamqp.frame.marshal(header, channel)) + room
    parts = range(0, len(message.body), frame_max - 8)
    expected: list[Any] = [
        commands.Basic.Publish(
            exchange="eventstore.links" if message.linked else "eventstore",
            routing_key=message.routing_key,
            mandatory=True,
        ),
        header,
        *(ContentBody(message.body[i : i + frame_max - 8]) for i in parts),
    ]
    assert Frames(channel, frame_max, "eventstore").of(message) == b"".join(
        pamqp.frame.marshal(frame, channel) for frame in expected
    )
    with pytest.raises(HeaderTooLarge):
        Frames(channel, frame_max - room - 1, "eventstore").of(message)


@given(messages())
def test_a_broker_without_a_limit_is_sent_frames_of_the_usual_size(message: Message) -> None:
    """P9: it says so with a `frame_max` of 0, by which nothing would fit."""
    assert Frames(1, 0, "eventstore").of(message) == Frames(1, 131_072, "eventstore").of(message)
