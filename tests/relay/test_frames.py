"""Messages as bytes, held against the library that makes the same bytes more slowly."""

import json
from datetime import UTC, datetime
from typing import Any, Self

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from tests.relay.plain import plain
from trunkline_relay.frames import Frames, HeaderTooLarge, halves
from trunkline_relay.metrics import Metrics
from trunkline_relay.patience import Patience
from trunkline_relay.publish import Publisher
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
            exchange="eventstore-links" if message.linked else "eventstore",
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


class Narrow(Publisher):
    """On a connection whose frames hold next to nothing, as where RabbitMQ's `frame_max` was set to its minimum."""

    def __init__(self, url: str) -> None:
        super().__init__(
            url, "eventstore", 0, window=100, patience=Patience(60), metrics=Metrics("eventstore")
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._frames = Frames(self._channel.number, 4096, "eventstore")
        return self


async def test_keys_that_do_not_fit_into_a_frame_are_sent_in_parts(vhost: str) -> None:
    """P9: a batch of many long types does not stop the line: whoever bound one of its types has it, whoever bound all
    has repeats of it, and its position counts when all parts are confirmed."""
    types = [f"{number:0128d}" for number in range(100)]
    keys = [f"a.{type}.a-1" for type in types]
    body = json.dumps([{"sequence": f"{position}"} for position in range(1, 101)]).encode()
    many = Message(keys[0], keys[1:], "1-100", None, None, None, {}, body, 1, 100, 100)
    after = Message("a.E.a-1", [], "101-101", None, "E", None, {}, b'[{"sequence": "101"}]', 101, 101, 1)
    async with (
        plain(vhost, "#") as everything,
        plain(vhost, keys[0]) as first,
        plain(vhost, keys[57]) as middle,
        plain(vhost, keys[-1]) as last,
        Narrow(vhost) as publisher,
    ):
        await publisher.publish([many, after])
        await publisher.flush()
        assert publisher.window.position == 101
        for one in (first, middle, last):
            await one.until(100)
            assert one.positions == list(range(1, 101))
        await everything.until(301)
    assert everything.positions[-1] == 101
    assert list(dict.fromkeys(everything.positions)) == list(range(1, 102))


@given(messages())
def test_half_of_the_keys_is_not_the_message(message: Message) -> None:
    """P6: with the first part confirmed, the relay still stands before the message; the second one is all of it. Each
    key is in one of them."""
    both = halves(message)
    if not message.further_keys:
        assert both is None
        return
    assert both is not None
    first, second = both
    assert (first.last_position, second.last_position) == (message.first_position - 1, message.last_position)
    found = [first.routing_key, *first.further_keys, second.routing_key, *second.further_keys]
    assert found == [message.routing_key, *message.further_keys]
    assert (first.headers, first.body, first.message_id) == (second.headers, second.body, second.message_id)
