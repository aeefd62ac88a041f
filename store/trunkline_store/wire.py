"""One message of the broker is one batch: how it is written, and how it is read.

The body is a JSON array of CloudEvents 1.0 (`application/cloudevents-batch+json`). CloudEvents' AMQP binding knows no
batches, so sending one is a convention of ours; the array itself is CloudEvents' JSON Batch Format
(json-format.md §4). Extension attributes are strings, since CloudEvents has no 64-bit integers and no objects.
JSON data is spliced in and taken out byte by byte: what a consumer decodes is what was appended.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

import msgspec

from trunkline_store.events import NO_TEXT, category_of
from trunkline_store.names import links_key, routing_key
from trunkline_store.serialize import is_json

WIRE_VERSION: Final = 1
CONTENT_TYPE: Final = "application/cloudevents-batch+json"

Position = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A position in a message, in the range of PostgreSQL's bigint; 0 is before the first event."""

_text = encode_basestring
"""A string as JSON text, in which only what must be escaped is."""


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as the relay reads it: text where text is sent, no data where it is too large for a message."""

    position: int
    stream: str
    category: str
    stream_version: int
    event_id: str
    type: str
    size: int
    data: str | bytes | None
    metadata: str | None
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    time: str


class StoredLink(StoredEvent, frozen=True, gc=False):
    """An event as it is linked into a stream: position, stream, category and version are the link's, in the target;
    then the event's own."""

    own_position: int
    own_stream: str
    own_version: int


class Chain(msgspec.Struct, frozen=True):
    """The positions before a batch: of `$all`, of its category, of its stream; 0 where there is none.

    In a stream, links count as its own events do; `$all` and categories know no links, and links nothing of them."""

    previous: int
    previous_in_category: int
    previous_in_stream: int


class Replayed(msgspec.Struct, frozen=True):
    """The place of a message in a replay, which has its own chain.

    id: the replay's id. of: the chosen feed: `$all`, `$category-<category>` or a stream. types: the chosen types; empty
    for all. previous: the position of the message before it in this replay; for the first one, the position behind
    which the replay begins. end: the position up to which everything chosen is replayed. first, last: true for the
    first and the last message of the replay."""

    id: str
    of: str
    types: tuple[str, ...]
    previous: int
    end: int
    first: bool
    last: bool


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A batch ready to be published; linked: to the exchange of links. traceparents: its events' trace contexts, for
    whoever traces the publishing; they travel in the body."""

    routing_key: str
    further_keys: list[str]
    message_id: str
    correlation_id: str | None
    type: str | None
    timestamp: datetime | None
    headers: dict[str, Any]
    body: bytes
    first_position: int
    last_position: int
    count: int
    linked: bool = False
    traceparents: tuple[str, ...] = ()


class Placement(msgspec.Struct, frozen=True):
    """Where a received message stands: all that decides what is done with it. One of links has no place in the chains
    of `$all` and of categories."""

    history: str
    incarnation: str
    first_position: Position
    last_position: Position
    previous_in_stream: Position
    relay_epoch: int
    previous_position: Position = 0
    previous_in_category: Position = 0
    linked: bool = False
    stream: str = ""
    category: str = ""
    first_version: Position = 0
    last_version: Position = 0


class BadMessage(ValueError):
    """The message is not one of ours, or damaged."""


def encode(
    batch: Sequence[StoredEvent],
    chain: Chain | Replayed,
    *,
    store: str,
    history: str,
    epoch: int = 0,
    content_type: str,
) -> Message:
    """Encode `batch`, which holds events or links, as a message. Equal arguments give equal bytes. epoch: the relay's;
    a replay has none."""
    first, last = batch[0], batch[-1]
    linked = isinstance(first, StoredLink)
    types = list(dict.fromkeys([event.type for event in batch]))
    keys = [links_key(first.stream)] if linked else [routing_key(first.category, type, first.stream) for type in types]
    lasting, _, incarnation = history.rpartition("/")
    headers: dict[str, Any] = {
        "wire_version": WIRE_VERSION,
        "store": store,
        "history": lasting,
        "incarnation": incarnation,
        "stream": first.stream,
        "category": first.category,
        "first_version": first.stream_version,
        "last_version": last.stream_version,
        "first_position": first.position,
        "last_position": last.position,
        **({"linked": True} if linked else {}),
        **(_replayed(chain) if isinstance(chain, Replayed) else _chained(chain, linked, epoch)),
    }
    time = datetime.fromisoformat(first.time)
    return Message(
        routing_key=keys[0],
        further_keys=keys[1:],
        message_id=f"{first.position}-{last.position}",
        correlation_id=first.correlation_id,
        type=types[0] if len(types) == 1 else None,
        timestamp=time if time.timestamp() >= 0 else None,  # AMQP's timestamp is unsigned
        headers=headers,
        body=_body(batch, store, content_type),
        first_position=first.position,
        last_position=last.position,
        count=len(batch),
        linked=linked,
    )


def _chained(chain: Chain, linked: bool, epoch: int) -> dict[str, Any]:
    of_all = {"previous_position": chain.previous, "previous_in_category": chain.previous_in_category}
    return {**({} if linked else of_all), "previous_in_stream": chain.previous_in_stream, "relay_epoch": epoch}


def _replayed(place: Replayed) -> dict[str, Any]:
    """Return the headers of a place in a replay. Those that would be false or empty are left out."""
    return {
        "replayed": True,
        "replay_id": place.id,
        "replay_of": place.of,
        **({"replay_types": list(place.types)} if place.types else {}),
        "replay_end": place.end,
        "previous_in_replay": place.previous,
        **({"replay_first": True} if place.first else {}),
        **({"replay_last": True} if place.last else {}),
    }


def _body(batch: Sequence[StoredEvent], store: str, content_type: str) -> bytes:
    """Put together as text, and encoded once: piece by piece, that took half as long again."""
    as_json, linked = is_json(content_type), isinstance(batch[0], StoredLink)
    begun: str | None = None
    constant = ""
    type = coded_type = ""
    parts: list[str] = []
    for event in batch:
        stream, version, position, more = event.stream, event.stream_version, event.position, ""
        if linked:
            assert isinstance(event, StoredLink)
            more = f',"feedposition":"{str(position).zfill(20)}","feedversion":"{version}"'
            stream, version, position = event.own_stream, event.own_version, event.own_position
        if stream != begun:
            begun, constant = stream, _constant(stream, event.correlation_id, store, content_type)
        if event.type != type:
            type, coded_type = event.type, _text(event.type)
        if event.causation_id is not None:
            more += f',"causationid":{_text(event.causation_id)}'
        if event.traceparent is not None:
            more += f',"traceparent":{_text(event.traceparent)}'
        if event.metadata is not None:
            more += f',"metadata":{_text(_printable(event.metadata))}'
        data = event.data
        if data is None:
            more += f',"dataref":{_text(f"{_source(store, stream)}/{version}")}'
        elif as_json:
            more += f',"data":{data if isinstance(data, str) else data.decode()}'
        else:
            more += f',"data_base64":"{b64encode(data if isinstance(data, bytes) else data.encode()).decode()}"'
        parts.append(
            f'{constant}"id":"{event.event_id}","type":{coded_type},"time":"{event.time}",'
            f'"sequence":"{str(position).zfill(20)}","streamversion":"{version}"{more}}}'
        )
    return f"[{','.join(parts)}]".encode()


def _printable(text: str) -> str:
    """The same JSON without what no attribute of a CloudEvent may hold: outside of strings it is white space, inside of
    them it can be escaped."""
    return text if text.isprintable() else NO_TEXT.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    if found[0] in "\n\r\t":
        return " "
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def _constant(stream: str, correlation_id: str | None, store: str, content_type: str) -> str:
    """What all events of one stream in a batch begin with."""
    correlation = "" if correlation_id is None else f',"correlationid":{_text(correlation_id)}'
    return (
        f'{{"specversion":"1.0","source":{_text(_source(store, stream))},"subject":{_text(stream)},'
        f'"datacontenttype":{_text(content_type)}{correlation},'
    )


@lru_cache(maxsize=4096)
def _source(store: str, stream: str) -> str:
    return f"/{store}/{quote(stream, safe='')}"


class ReceivedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of a message's body, its data not decoded yet. Attributes that we do not know are passed over."""

    id: UUID
    type: str
    subject: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    datacontenttype: str
    sequence: str
    streamversion: str
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    metadata: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: bytes | None = None
    dataref: str | None = None
    feedposition: str | None = None
    feedversion: str | None = None

    @property
    def position(self) -> int:
        return int(self.sequence)

    @property
    def feed_position(self) -> int:
        """The link's, where it was linked; else the event's own."""
        return int(self.sequence if self.feedposition is None else self.feedposition)

    @property
    def feed_version(self) -> int:
        """Its version in the stream that the message is of: the link's, where it was linked."""
        return int(self.streamversion if self.feedversion is None else self.feedversion)

    @property
    def payload(self) -> bytes | None:
        """Return the data's bytes, or None if only a reference was sent. Raises `BadMessage` if there is neither."""
        if self.dataref is not None:
            return None
        if self.data_base64 is not None:
            return self.data_base64
        data = bytes(self.data)
        if not data:
            raise BadMessage("an event has neither data nor a reference to it")
        return data


_decode_body = msgspec.json.Decoder(list[ReceivedEvent]).decode


def placement(headers: Mapping[str, Any], store: str) -> Placement:
    """Read the headers of a message of `store`.

    Raises:
        BadMessage: The message belongs to another store, or its headers contradict each other.
    """
    if headers.get("wire_version") != WIRE_VERSION or headers.get("store") != store:
        raise BadMessage(f"not a message of store {store!r} in wire version {WIRE_VERSION}")
    if not headers.get("linked") and ("previous_position" not in headers or "previous_in_category" not in headers):
        raise BadMessage("the chain is missing")
    try:
        place = msgspec.convert(headers, Placement)
    except msgspec.ValidationError as error:
        raise BadMessage(str(error)) from error
    if category_of(place.stream) != place.category or not place.stream:
        raise BadMessage(f"stream {place.stream!r} is not in category {place.category!r}")
    first, last = place.first_position, place.last_position
    # A batch is a run of neighbours, both in `$all` (for links: among links) and in its stream.
    if not 0 <= last - first == place.last_version - place.first_version or not place.first_version:
        raise BadMessage(
            f"positions {first} to {last} do not match versions {place.first_version} to {place.last_version}"
        )
    if not first > max(place.previous_position, place.previous_in_category, place.previous_in_stream):
        raise BadMessage(f"position {first} does not follow the previous one")
    return place


def decode(body: bytes) -> list[ReceivedEvent]:
    """The events of a body as they stand there, one at least; raises `BadMessage`."""
    try:
        events = _decode_body(body)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadMessage(str(error)) from error
    except RecursionError as error:  # SQL writers may nest data deeper than Python can follow
        raise BadMessage("an event is nested too deeply to decode") from error
    if not events:
        raise BadMessage("a batch has at least one event")
    return events
