"""What a store's messages look like, as an AsyncAPI 3 document.

It is for tools: to draw the documentation, or to generate a consumer. The names in it are those that the relay uses,
and a test holds it against what the relay publishes. AsyncAPI describes AMQP's exchanges and routing keys in its
bindings; properties of a message have no place there but in its description. What later versions may add is not ruled
out: consumers pass over what they do not know.
https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

from typing import Any, Final

from trunkline_store import names
from trunkline_store.events import BLOCK
from trunkline_store.wire import CONTENT_TYPE, WIRE_VERSION

VERSION: Final = "3.0.0"
_BINDING: Final = "0.3.0"

_ABOUT: Final = """\
One message is one batch: events that were appended together, of one stream and with one correlation id, as a JSON array
of CloudEvents. They come in the order of the positions, maybe more than once, and a queue may lose some. Keep the last
position that was handled: a batch whose `last_position` is not above it is a duplicate; one whose `previous_position`
is above it (`previous_in_category` for a queue bound to a category, `previous_in_stream` for a stream) reveals a hole.
Bindings by type have no chain.

The messages' properties: `message_id` is `<first>-<last position>`, `correlation_id` that of the events, `type` theirs
if all have the same, `timestamp` the first one's in whole seconds (none before 1970), `app_id` `{app_id}`.
"""
_CLOUDEVENTS: Final = "https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents"
_POSITION: Final = {"type": "integer", "minimum": 0}

_OF_BATCH: Final[dict[str, Any]] = {
    "history": {
        "type": "string",
        "description": "The history of the store that positions belong to. A restore, or a failover that lost commits, "
        "begins another history, in which the same positions may mean other events.",
    },
    "incarnation": {
        "type": "string",
        "description": "An id that changes with each crash of PostgreSQL. Events that were published before stay "
        "valid; those that were not confirmed are published again.",
    },
    "stream": {"type": "string", "description": "The stream of all events of the batch; of links, their target."},
    "category": {"type": "string", "description": "The stream's name up to its first `-`."},
    "first_version": {"type": "integer", "minimum": 1, "description": "The first event's version in its stream."},
    "last_version": {"type": "integer", "minimum": 1, "description": "The last event's version in its stream."},
    "first_position": {**_POSITION, "description": "The first event's place among all events."},
    "last_position": {
        **_POSITION,
        "description": "The last event's. What is not above the last one handled comes again.",
    },
}
_IN_ALL: Final[dict[str, Any]] = {
    "previous_position": {**_POSITION, "description": "The position before this batch among all events; 0: none."},
    "previous_in_category": {**_POSITION, "description": "The position before this batch in its category; 0: none."},
}
_IN_STREAM: Final[dict[str, Any]] = {
    "previous_in_stream": {
        **_POSITION,
        "description": "The position before this batch in its stream, of an event or of a link; 0: none.",
    },
    "relay_epoch": {
        "type": "integer",
        "minimum": 1,
        "description": "Which leader sent it: all that differs when a message is published again.",
    },
}
_CC: Final[dict[str, Any]] = {
    "CC": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Further routing keys, where a batch holds several types.",
    }
}
_LINKED: Final[dict[str, Any]] = {"linked": {"const": True, "description": "The events are linked into the stream."}}
_REPLAYED: Final[dict[str, Any]] = {
    "replayed": {"const": True, "description": "Sent again, to this queue alone."},
    "replay_id": {"type": "string", "format": "uuid", "description": "One for all messages of a replay."},
    "replay_of": {
        "type": "string",
        "minLength": 1,
        "description": "The chosen feed: `$all`, `$category-<category>`, or a stream.",
    },
    "replay_end": {**_POSITION, "description": "The position up to which all chosen events are replayed."},
    "previous_in_replay": {
        **_POSITION,
        "description": "The position before the batch in this replay; in the first message, the position behind which "
        "the replay begins.",
    },
}
_OF_REPLAY: Final[dict[str, Any]] = {
    "replay_types": {"type": "array", "items": {"type": "string"}, "description": "The chosen types; absent: all."},
    "replay_first": {"const": True, "description": "The first message of a replay."},
    "replay_last": {"const": True, "description": "The last message of a replay: no event follows up to its end."},
}

_TEXT: Final = {"type": "string", "minLength": 1}
_EVENT: Final[dict[str, Any]] = {
    "specversion": {"const": "1.0"},
    "id": {"type": "string", "format": "uuid", "description": "The event's id; the same wherever it is linked."},
    "source": {"type": "string", "format": "uri-reference", "description": "`/<store>/<stream>`, percent-encoded."},
    "subject": {**_TEXT, "description": "The stream to which the event was appended."},
    "type": {**_TEXT, "description": "What has happened."},
    "time": {
        "type": "string",
        "format": "date-time",
        "description": "The event's `created_at`, in UTC: when it was appended, where it was not imported.",
    },
    "datacontenttype": {**_TEXT, "description": "Of the data; one for all events of a store."},
    "data": {"description": "The data, where it is JSON: byte for byte what was appended."},
    "data_base64": {"type": "string", "contentEncoding": "base64", "description": "The data, where it is not JSON."},
    "dataref": {
        "type": "string",
        "format": "uri-reference",
        "description": "In the data's place where that is too large for a message: `/<store>/<stream>/<version>`.",
    },
    "sequence": {
        "type": "string",
        "pattern": "^[0-9]{20}$",
        "description": "The event's position: its place among all events.",
    },
    "streamversion": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "Its place in its stream."},
    "correlationid": {**_TEXT, "description": "What the event belongs to; one for all events of a batch."},
    "causationid": {**_TEXT, "description": "What it was caused by."},
    "traceparent": {**_TEXT, "description": "The W3C trace context of the append."},
    "metadata": {"type": "string", "contentMediaType": "application/json", "description": "An object, as JSON text."},
}
_FEED: Final[dict[str, Any]] = {
    "feedposition": {"type": "string", "pattern": "^[0-9]{20}$", "description": "The link's position."},
    "feedversion": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "The link's place in its stream."},
}
_OPTIONAL: Final = {"data", "data_base64", "dataref", "correlationid", "causationid", "traceparent", "metadata"}


def document(store: str) -> dict[str, Any]:
    """The document of a store of this name. Raises `InvalidArgument` where a store cannot have it."""
    names.check_store(store)
    return {
        "asyncapi": VERSION,
        "info": {
            "title": f"The events of the store {store}",
            "version": f"{WIRE_VERSION}.0.0",
            "description": _ABOUT.format(app_id=names.app_id(store)),
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            "events": {
                "address": "{category}.{type}.{stream}",
                "title": "Events as they are appended",
                "description": "The routing key, with `.`, `*`, `#` and `%` percent-escaped in its words. "
                "Bind with `#`, `order.#`, `*.OrderPlaced.*`, `order.*.order-42`.",
                "parameters": {
                    "category": {
                        "description": "The stream's name up to its first `-`; over "
                        f"{names.MAX_CATEGORY_WORD} bytes it is cut, with `~` and a hash."
                    },
                    "type": {
                        "description": "The first event's type; other types of the batch have keys in the header CC. "
                        f"Over {names.MAX_TYPE_WORD} bytes it is cut, with `~` and a hash."
                    },
                    "stream": {
                        "description": f"The stream. Where the key would be over {names.MAX_KEY_BYTES} bytes, it is "
                        "cut, with `~` and a hash."
                    },
                },
                "messages": {"batch": {"$ref": "#/components/messages/batch"}},
                "bindings": _exchange(names.exchange(store)),
            },
            "links": {
                "address": "{stream}",
                "title": "Events as they are linked into other streams",
                "parameters": {"stream": {"description": "The stream that they are linked into, as one word."}},
                "messages": {"links": {"$ref": "#/components/messages/links"}},
                "bindings": _exchange(names.links_exchange(store)),
            },
            "replays": {
                "address": "{queue}",
                "title": "History, once more, to one queue",
                "description": "What `trunkline replay --to QUEUE` sends, by the default exchange.",
                "parameters": {"queue": {"description": "The queue, which its consumer has declared."}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in ("replay", "replayedLinks")},
            },
        },
        "operations": {
            f"publish{what.capitalize()}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{what}"},
                "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": _BINDING}},
            }
            for what in ("events", "links", "replays")
        },
        "components": {
            "messages": {
                "batch": _message("A batch of events", store, {**_IN_ALL, **_IN_STREAM}, _CC, "event"),
                "links": _message("A batch of links", store, {**_LINKED, **_IN_STREAM}, {}, "linkedEvent"),
                "replay": _message("A batch of events, sent again", store, _REPLAYED, _OF_REPLAY, "event"),
                "replayedLinks": _message(
                    "A batch of links, sent again", store, {**_LINKED, **_REPLAYED}, _OF_REPLAY, "linkedEvent"
                ),
            },
            "schemas": {
                "event": _event("An event", {}),
                "linkedEvent": _event("An event, and where it is linked", _FEED),
            },
        },
    }


def _exchange(name: str) -> dict[str, Any]:
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False}
    return {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": _BINDING}}


def _message(title: str, store: str, required: dict[str, Any], optional: dict[str, Any], event: str) -> dict[str, Any]:
    headers = {"wire_version": {"const": WIRE_VERSION}, "store": {"const": store}, **_OF_BATCH, **required}
    return {
        "title": title,
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "properties": {**headers, **optional},
            "required": list(headers),
        },
        "payload": {
            "type": "array",
            "minItems": 1,
            "maxItems": BLOCK,
            "items": {"$ref": f"#/components/schemas/{event}"},
            "description": f"CloudEvents' JSON batch format: {_CLOUDEVENTS}/formats/json-format.md#4-json-batch-format",
        },
    }


def _event(title: str, more: dict[str, Any]) -> dict[str, Any]:
    properties = {**_EVENT, **more}
    return {
        "title": title,
        "description": f"CloudEvents 1.0 ({_CLOUDEVENTS}/spec.md). All attributes are strings.",
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in _OPTIONAL],
        "oneOf": [{"required": [name]} for name in ("data", "data_base64", "dataref")],
    }
