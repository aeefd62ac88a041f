"""Events as they are given, and as they were recorded; and the bounds of both."""

from __future__ import annotations

import enum
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import msgspec
from asyncpg.pgproto import pgproto

from trunkline_store.errors import InvalidArgument, InvalidEvent, UndecodableEvent
from trunkline_store.masking import shown

if TYPE_CHECKING:
    from trunkline_store.serialize import Serializer

MAX_STREAM_BYTES: Final = 255
MAX_CATEGORY_BYTES: Final = 64
MAX_TYPE_BYTES: Final = 128
MAX_ID_BYTES: Final = 128
MAX_METADATA_BYTES: Final = 64 * 1024
MAX_DATA_BYTES: Final = 64 * 1024 * 1024

BLOCK: Final = 1024
"""Positions of one block: `position = block * BLOCK + index`."""

_decode_metadata: Final = msgspec.json.Decoder().decode
NO_TEXT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(f"{chr(n + 0xFFFE)}{chr(n + 0xFFFF)}" for n in range(0, 0x110000, 0x10000))
    + "]"
)
"""Control characters and Unicode's noncharacters, which CloudEvents allows in no attribute (spec.md, Type System)."""


class ExpectedVersion(enum.IntEnum):
    """What a stream must look like for an append to it; the values are those of the SQL interface."""

    ANY = -1
    NO_STREAM = -2
    STREAM_EXISTS = -3


ANY_VERSION: Final = ExpectedVersion.ANY
"""Append whatever the stream's version is."""
NO_STREAM: Final = ExpectedVersion.NO_STREAM
"""Append only if the stream has no events yet."""
STREAM_EXISTS: Final = ExpectedVersion.STREAM_EXISTS
"""Append only to a stream that was appended to before."""


def new_event_id() -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): milliseconds, then 74 random bits. Ids that grow with time keep the unique index
    in memory; random ones cost 2.6 times as much WAL on a large table. It is of the class that asyncpg gives ids that
    are read, a UUID that is made, compared and sent several times as fast."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    id: UUID = pgproto.UUID(value.to_bytes(16, "big"))
    return id


class EventData(msgspec.Struct, frozen=True, kw_only=False):
    """An event to append.

    Its `id` is fixed here, so that appending the same object again after a lost connection is recognised.
    `created_at` (with a time zone) is for imports only; otherwise the database's clock is taken.
    """

    type: str
    data: Any
    metadata: dict[str, Any] | None = None
    id: UUID = msgspec.field(default_factory=new_event_id)
    correlation_id: str | None = None
    causation_id: str | None = None
    created_at: datetime | None = None

    def __post_init__(self) -> None:
        """Convert an id given as text, and correlation and causation ids given as UUIDs: other libraries do so."""
        if isinstance(self.id, str):
            with suppress(ValueError):  # the append refuses it
                msgspec.structs.force_setattr(self, "id", UUID(self.id))
        if isinstance(self.correlation_id, UUID):
            msgspec.structs.force_setattr(self, "correlation_id", str(self.correlation_id))
        if isinstance(self.causation_id, UUID):
            msgspec.structs.force_setattr(self, "causation_id", str(self.causation_id))


class Undecoded(msgspec.Struct, frozen=True, gc=False):
    """An event's data as it is stored (None: too large for a message, it has to be fetched), and what decodes it."""

    raw: bytes | str | None
    serializer: Serializer


class RecordedEvent(msgspec.Struct, frozen=True, gc=False, eq=False):
    """An event as it was recorded.

    - `stream`, `stream_version`, `position`: where it was appended; the position is its place in `$all`.
    - `event_number`: its place in what is being read: the version in a stream, the position in `$all`.
    - `feed_position`: its position in the feed being read; differs from `position` for links only.
    - `size`: bytes of data and metadata as they were given.
    """

    event_id: UUID
    event_number: int
    stream: str
    stream_version: int
    position: int
    feed_position: int
    type: str
    _data: Any
    """`Undecoded` until it is asked for."""
    _metadata: str | None
    correlation_id: str | None
    causation_id: str | None
    created_at: datetime
    size: int

    @property
    def data(self) -> Any:
        """The event's data, decoded when it is asked for first: the same object from then on.

        Raises `UndecodableEvent` whatever the serializer raises, each time; all else of the event can be read.
        """
        data = self._data
        if type(data) is not Undecoded:
            return data
        try:
            assert data.raw is not None
            value = data.serializer.deserialize(data.raw, self.type)
        except Exception as error:  # whatever it is: the serializer is the application's
            raise UndecodableEvent(self.stream, self.stream_version, self.position, self.type, shown(error)) from error
        msgspec.structs.force_setattr(self, "_data", value)
        return value

    def __eq__(self, other: object) -> bool:
        """Whether it is the same event at the same place of a feed, with equal data; what cannot be decoded is equal to
        the same bytes only."""
        if not isinstance(other, RecordedEvent):
            return NotImplemented
        if self is other:
            return True
        if _told(self) != _told(other):
            return False
        try:
            return self._data == other._data or bool(self.data == other.data)
        except UndecodableEvent:
            return False

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and other processes: with its data decoded, since a serializer need not be for them."""
        fields = {field: getattr(self, field) for field in self.__struct_fields__}
        return RecordedEvent, tuple((fields | {"_data": self.data}).values())

    def __hash__(self) -> int:
        return hash((self.event_id, self.feed_position))

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The event's metadata, decoded when it is asked for: a new dict each time. Raises `UndecodableEvent` if
        another program stored what this one cannot decode."""
        if self._metadata is None:
            return None
        try:
            found: dict[str, Any] = _decode_metadata(self._metadata)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UndecodableEvent(
                self.stream, self.stream_version, self.position, self.type, f"metadata: {shown(error)}"
            ) from error
        return found


def _told(event: RecordedEvent) -> tuple[Any, ...]:
    """All but the data."""
    return tuple(getattr(event, field) for field in _FIELDS)


_FIELDS: Final = tuple(field for field in RecordedEvent.__struct_fields__ if field != "_data")


class Appended(NamedTuple):
    """Where an append landed. For an empty one, the last version and position are those before it."""

    stream: str
    first_version: int
    last_version: int
    first_position: int
    last_position: int


def category_of(stream: str) -> str:
    """The stream's name up to its first `-`; all of it where there is none."""
    return stream.partition("-")[0]


def check_stream(stream: str) -> str:
    """Returns the name if it can be a stream's, else raises `InvalidArgument`."""
    check_text("stream", stream, MAX_STREAM_BYTES, InvalidArgument)
    if stream.startswith("$"):
        raise InvalidArgument(f"stream {stream!r}: names that begin with $ are reserved")
    if len(category_of(stream).encode()) > MAX_CATEGORY_BYTES:
        raise InvalidArgument(
            f"stream {stream[:80]!r}: the category (up to the first -) is over {MAX_CATEGORY_BYTES} bytes"
        )
    return stream


def check_category(category: str) -> str:
    """Returns the name if it can be a category's, else raises `InvalidArgument`."""
    check_text("category", category, MAX_CATEGORY_BYTES, InvalidArgument)
    if "-" in category:
        raise InvalidArgument(f"category {category!r}: a category ends before the first - of a stream's name")
    return category


def check_expected_version(expected: int) -> int:
    """Returns a version ≥ 0 or one of the three constants, else raises `InvalidArgument`."""
    if not isinstance(expected, int) or isinstance(expected, bool):
        raise InvalidArgument(f"expected_version: {expected!r} is no version")
    if not isinstance(expected, ExpectedVersion) and not 0 <= expected < 2**63:
        raise InvalidArgument(
            f"expected_version: {expected} is no version; use ANY_VERSION, NO_STREAM or STREAM_EXISTS"
        )
    return expected


def check_sequence(events: Sequence[EventData]) -> None:
    """Raises `InvalidArgument` where these are no list of events."""
    if not isinstance(events, Sequence):
        raise InvalidArgument(f"events: a list is needed, not {type(events).__name__}")


def check_events(events: Sequence[EventData]) -> None:
    """Raises `InvalidEvent` where an event is out of bounds. Data and metadata are checked when serialized."""
    check_sequence(events)
    seen: set[UUID] = set()
    checked: object = check_events  # which is no type
    for event in events:
        if not isinstance(event, EventData):
            raise InvalidEvent("event", f"an EventData is needed, not {type(event).__name__}")
        if not isinstance(event.id, UUID):
            raise InvalidEvent("id", f"a uuid.UUID is needed, not {event.id!r}")
        if event.id in seen:
            raise InvalidEvent("id", f"{event.id} stands twice in this append")
        seen.add(event.id)
        if event.type is not checked:  # the same object again and again, mostly
            check_text("type", event.type, MAX_TYPE_BYTES)
            checked = event.type
        if event.correlation_id is not None:
            check_text("correlation_id", event.correlation_id, MAX_ID_BYTES)
        if event.causation_id is not None:
            check_text("causation_id", event.causation_id, MAX_ID_BYTES)
        if event.created_at is not None:
            if not isinstance(event.created_at, datetime):
                raise InvalidEvent("created_at", f"a datetime is needed, not {event.created_at!r}")
            if event.created_at.tzinfo is None:
                raise InvalidEvent("created_at", "has no time zone")
            if not 2 <= event.created_at.year < 9999:
                raise InvalidEvent("created_at", f"{event.created_at.isoformat()} is not between the years 2 and 9998")


def check_text(field: str, value: str, limit: int, error: type[InvalidArgument | InvalidEvent] = InvalidEvent) -> None:
    """Raises `error` unless `value` is text without control characters and noncharacters, not blank, of at most `limit`
    bytes."""
    problem = _problem(value, limit)
    if problem is not None:
        raise InvalidEvent(field, problem) if error is InvalidEvent else InvalidArgument(f"{field}: {problem}")


def _problem(value: str, limit: int) -> str | None:
    if not isinstance(value, str):
        return f"a str is needed, not {value!r}"
    if value.isascii() and len(value) <= limit and value.isprintable() and value and not value.isspace():
        return None
    shown = repr(value[:40] + "…" if len(value) > 40 else value)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return f"{shown} holds a lone surrogate, which is not Unicode text"
    if size > limit:
        return f"{shown} is {size} bytes long, at most {limit} are allowed"
    if not value.strip():
        return f"{shown} is blank"
    if found := NO_TEXT.search(value):
        return f"{shown} holds a control character or noncharacter, U+{ord(found[0]):04X}"
    return None
