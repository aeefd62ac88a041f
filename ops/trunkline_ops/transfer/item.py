"""One line of an export. Those of events are as `read --json` prints them, and `append -` takes them; the others have
one name, which says what they are. Pure.

    {"export": {…}}                    the first line: what was exported
    {"position": 2048, "stream": …}    an event
    {"link": {…}}                      an event that was linked into a stream, where that stands in the order
    {"deleted": {…}}, {"snapshot": {…}}    after all of those: streams that are deleted, and snapshots
    {"end": {…}}                       the last line: how many there are, and their digest
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Final, cast
from uuid import UUID

import msgspec

from trunkline_ops.json_text import InLine, in_line
from trunkline_ops.lines import MAX_LINE_BYTES
from trunkline_store import EventData, InvalidArgument, RecordedEvent

FORMAT: Final = 1

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Head(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """position: up to here it goes."""

    format: int
    schema: str
    history: str
    data_type: str
    content_type: str
    position: int


class Link(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    position: int
    stream: str
    stream_version: int
    id: UUID


class Deleted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    stream: str
    deleted_at: _Time


class Kept(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A snapshot. data: JSON; else base64. metadata: any JSON; in base64 where it cannot be a part of a line."""

    source: str
    version: int
    type: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata_base64: bytes | msgspec.UnsetType = msgspec.UNSET


class End(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """digest: of everything; outline: of everything but data, whose text a store of another type keeps otherwise."""

    events: int
    links: int
    deleted: int
    snapshots: int
    digest: str
    outline: str


class Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A line: an event, or one of those that have a name."""

    export: Head | None = None
    link: Link | None = None
    deleted: Deleted | None = None
    snapshot: Kept | None = None
    end: End | None = None

    event_number: int | None = None  # as `read --json` has it
    position: int | None = None
    stream: str | None = None
    stream_version: int | None = None
    id: UUID | None = None
    type: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    correlation_id: str | None = None
    causation_id: str | None = None
    created_at: _Time | None = None

    @property
    def named(self) -> bool:
        """Whether it is no event."""
        return self.names > 0

    @property
    def names(self) -> int:
        """How many names it has."""
        return sum(each is not None for each in (self.export, self.link, self.deleted, self.snapshot, self.end))

    @property
    def place(self) -> int | None:
        """Its position in the order, if it has one."""
        return self.link.position if self.link is not None else self.position


_decoder: Final = msgspec.json.Decoder(Item)
encode: Final = msgspec.json.encode


def decode(line: bytes) -> Item:
    """The item of a line. Raises `InvalidArgument`."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidArgument(f"not of an export: it is over {MAX_LINE_BYTES} bytes long")
    try:
        item = _decoder.decode(line)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"not of an export: {error}") from error
    if item.names > 1:
        raise InvalidArgument("not of an export: a line is one thing")
    if not item.named:
        if None in (item.position, item.stream, item.type, item.id, item.created_at):
            raise InvalidArgument("not of an export: an event needs position, stream, type, id and created_at")
        assert item.created_at is not None
        try:
            item.created_at.astimezone(UTC)
        except OverflowError as error:
            raise InvalidArgument(f"not of an export: {item.created_at.isoformat()} is no date in UTC") from error
    return item


def of_event(event: RecordedEvent, *, is_json: bool) -> Item:
    """data: bytes, as they are stored."""
    item = Item(
        position=event.position,
        stream=event.stream,
        stream_version=event.stream_version,
        id=event.event_id,
        type=event.type,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        created_at=event.created_at,
    )
    item.data, item.data_base64 = in_line(event.data, is_json=is_json)
    item.metadata, item.metadata_base64 = metadata_in_line(event._metadata)
    return item


def metadata_in_line(text: str | None) -> InLine:
    """Metadata, which the store keeps as the JSON text that was given; neither is set where there is none."""
    return (msgspec.UNSET, msgspec.UNSET) if text is None else in_line(text.encode(), is_json=True)


def metadata_of(item: Item | Kept) -> msgspec.Raw | None:
    """The text to be stored, if there is any."""
    if not isinstance(item.metadata_base64, msgspec.UnsetType):
        return msgspec.Raw(item.metadata_base64)
    return None if isinstance(item.metadata, msgspec.UnsetType) else item.metadata


def data_of(item: Item | Kept) -> bytes:
    """The bytes to be stored. Raises `InvalidArgument`."""
    if not isinstance(item.data_base64, msgspec.UnsetType):
        return item.data_base64
    if isinstance(item.data, msgspec.UnsetType):
        raise InvalidArgument("not of an export: it has no data")
    return bytes(item.data)


def event_of(item: Item) -> EventData:
    """What is appended, with its own id and date."""
    assert item.type is not None
    assert item.id is not None
    return EventData(
        item.type,
        data_of(item),
        cast("Any", metadata_of(item)),
        id=item.id,
        correlation_id=item.correlation_id,
        causation_id=item.causation_id,
        created_at=item.created_at,
    )


class Tally:
    """Counts items and makes their digest: of what they are and in which order, not of the numbers that a store gives
    them."""

    def __init__(self) -> None:
        self.events = self.links = self.deleted = self.snapshots = 0
        self._digest, self._outline = sha256(), sha256()

    def copy(self) -> Tally:
        """Another one, which goes on by itself."""
        other = copy(self)
        other._digest, other._outline = self._digest.copy(), self._outline.copy()
        return other

    def add(self, item: Item) -> None:
        """The next one. Raises `InvalidArgument`."""
        data = b""
        parts: list[Any]
        if item.link is not None:
            self.links += 1
            parts = ["link", item.link.stream, item.link.id]
        elif item.deleted is not None:
            self.deleted += 1
            parts = ["deleted", item.deleted.stream]
        elif item.snapshot is not None:
            self.snapshots += 1
            kept = item.snapshot
            parts, data = ["snapshot", kept.source, kept.version, kept.type, metadata_of(kept)], data_of(kept)
        elif not item.named:
            self.events += 1
            parts, data = _identity(item), data_of(item)
        else:
            return
        outline = encode(parts) + b"\n"
        self._outline.update(outline)
        self._digest.update(outline + b"%d\n" % len(data) + data)

    @property
    def end(self) -> End:
        """What it comes to so far."""
        return End(
            events=self.events,
            links=self.links,
            deleted=self.deleted,
            snapshots=self.snapshots,
            digest=self._digest.copy().hexdigest(),
            outline=self._outline.copy().hexdigest(),
        )


def _identity(item: Item) -> list[Any]:
    assert item.created_at is not None
    time = item.created_at.astimezone(UTC)
    return ["event", item.stream, item.id, item.type, metadata_of(item), item.correlation_id, item.causation_id, time]


def same(ours: Item, theirs: Item) -> bool:
    """Whether two items of the order are the same event or link, whatever numbers they have."""
    if ours.link is not None or theirs.link is not None:
        return (
            ours.link is not None
            and theirs.link is not None
            and (ours.link.stream, ours.link.id) == (theirs.link.stream, theirs.link.id)
        )
    return encode(_identity(ours)) == encode(_identity(theirs))
