"""The AsyncAPI document: valid, and true of what is published."""

import json
from pathlib import Path
from typing import Any

import pytest
from aio_pika.abc import AbstractIncomingMessage
from jsonschema import Draft7Validator, ValidationError

from tests.relay.plain import append, plain
from tests.relay.test_replay import QUEUE, queue, received
from tests.whole.flow import relay_running
from trunkline_relay import Replay
from trunkline_relay.asyncapi import document
from trunkline_store import ANY_VERSION, EventData, EventStore, InvalidArgument
from trunkline_store.names import app_id

SCHEMA = json.loads((Path(__file__).parent / "asyncapi-3.0.0.json").read_text())


def validator(part: str, message: str) -> Draft7Validator:
    """For the headers or the payload of a message, as the document describes them; and there is to be nothing else."""
    found = document("eventstore")["components"]
    headers = [each["headers"] for each in found["messages"].values()]
    for described in (*headers, *found["schemas"].values()):
        assert "additionalProperties" not in described, "consumers pass over what they do not know"
        described["additionalProperties"] = False
    return Draft7Validator({**found["messages"][message][part], "components": found})


def problems(message: AbstractIncomingMessage, name: str) -> list[ValidationError]:
    """Where a published message is not what the document says of it."""
    return [
        *validator("headers", name).iter_errors(dict(message.headers)),
        *validator("payload", name).iter_errors(json.loads(message.body)),
    ]


def test_the_document_is_asyncapi() -> None:
    """Version 3.0.0's own JSON schema accepts it; its references lead somewhere; it is JSON."""
    found = json.loads(json.dumps(document("invoices_2")))
    Draft7Validator.check_schema(SCHEMA)
    assert list(Draft7Validator(SCHEMA).iter_errors(found)) == []
    for reference in references(found):
        target = found
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
    for channel in found["channels"].values():
        names = set(channel["parameters"])
        assert channel["address"] == ".".join(f"{{{name}}}" for name in channel["parameters"]), names
    with pytest.raises(InvalidArgument):
        document("No Store")


def test_the_validator_would_notice() -> None:
    """The control: what AsyncAPI does not know, or misses, is refused."""
    found = document("eventstore")
    assert list(Draft7Validator(SCHEMA).iter_errors({**found, "chanels": {}}))
    assert list(Draft7Validator(SCHEMA).iter_errors({k: v for k, v in found.items() if k != "info"}))
    found["channels"]["events"]["bindings"]["amqp"]["exchange"]["type"] = "none"
    assert list(Draft7Validator(SCHEMA).iter_errors(found))


def references(part: Any) -> list[str]:
    """Every $ref."""
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [each for value in part.values() for each in references(value)]
    return [each for value in part for each in references(value)] if isinstance(part, list) else []


@pytest.mark.every_rabbitmq
async def test_what_is_published_obeys_the_document(store: EventStore, database: str, vhost: str) -> None:
    """Events with everything that an event can have and with nothing, of one type and of several, too large for a
    message, linked, and replayed: headers and bodies have what is required, and nothing that is not described."""
    await append(store, "order-1", "Placed")
    await store.append_to_stream(
        "order-2",
        0,
        [EventData(f"T{n}", [n], {"by": "x"}, correlation_id="c", causation_id="d") for n in range(3)],
    )
    await store.append_to_stream("order-3", 0, [EventData("Large", "x" * (store.batch_bytes + 1))])
    events = await store.read_stream_forward("order-2")
    await store.link_to_stream("paid", ANY_VERSION, events)
    exchange = document("eventstore")["channels"]["events"]["bindings"]["amqp"]["exchange"]
    links = document("eventstore")["channels"]["links"]["bindings"]["amqp"]["exchange"]
    async with plain(vhost, "#", links=["#"]) as consumer, relay_running(database, vhost):
        await consumer.until(8)
    async with queue(vhost) as channel:
        await Replay(store, vhost, QUEUE).run()
        replayed = await received(channel)
        await Replay(store, vhost, QUEUE, stream="paid").run()
        replayed_links = await received(channel)
    by_exchange = {
        name: [message for message in consumer.messages if message.exchange == name]
        for name in (exchange["name"], links["name"])
    }
    assert [len(found) for found in by_exchange.values()] == [3, 1]
    assert (len(replayed), len(replayed_links)) == (3, 1)
    published = {
        "batch": by_exchange[exchange["name"]],
        "links": by_exchange[links["name"]],
        "replay": replayed,
        "replayedLinks": replayed_links,
    }
    assert published.keys() == document("eventstore")["components"]["messages"].keys()
    for name, messages in published.items():
        for message in messages:
            assert problems(message, name) == []
            assert message.app_id == app_id("eventstore")
            for other in published.keys() - {name}:
                assert problems(message, other), f"a {name} would also pass for a {other}"
    assert {"CC"} <= set(by_exchange[exchange["name"]][1].headers)
