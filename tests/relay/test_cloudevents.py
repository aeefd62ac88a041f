"""What the relay publishes, event by event, against CloudEvents."""

import json
from datetime import UTC, datetime

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat

from tests.cloudevents import problems
from tests.relay.plain import plain
from tests.whole.flow import relay_running
from trunkline_store import ANY_VERSION, EventData, EventStore, new_event_id

ODD = "a.b*c#d%e/f?g&h ünï 😀 \u202e\ufeff\u2028"


@pytest.mark.every_rabbitmq
async def test_every_published_event_is_a_cloudevent(store: EventStore, database: str, vhost: str) -> None:
    """By the library and by the specification's type system: odd names, the first date and the last one, metadata with
    what no attribute may hold, data that is too large, links."""
    first = datetime(2, 1, 1, tzinfo=UTC)
    last = datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    events = [
        EventData("E", None),
        EventData(ODD, ODD, {ODD: "\x00\x7f\x85\ufdd0\uffff\U0010ffff"}, created_at=first),
        EventData("E", {"n": 2**63}, correlation_id=ODD, causation_id=ODD, created_at=last),
        EventData("L", "x" * (store.batch_bytes + 1)),
    ]
    for stream in ("a", f"{ODD}-1"):
        again = [msgspec.structs.replace(event, id=new_event_id()) for event in events]
        await store.append_to_stream(stream, ANY_VERSION, again)
    recorded = await store.read_stream_forward(f"{ODD}-1")
    await store.link_to_stream(f"all {ODD}", ANY_VERSION, recorded)
    async with plain(vhost, "#", links=["#"]) as consumer, relay_running(database, vhost):
        await consumer.until(12)
    for message in consumer.messages:
        for event in json.loads(message.body):
            assert problems(event) == []
            found = JSONFormat().read(None, json.dumps(event))
            assert found.get_type() == event["type"]
            assert found.get_subject() in ("a", f"{ODD}-1")
    metadata = [event.get("metadata") for message in consumer.messages for event in json.loads(message.body)]
    assert [json.loads(text) for text in metadata if text] == [events[1].metadata] * 3
