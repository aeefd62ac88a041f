"""An event as one line of JSON: as `read` and `tail` print it, and as `append` takes it back."""

import codecs
from collections.abc import Iterator
from datetime import datetime
from io import BufferedIOBase
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from trunkline_ops.json_text import checked, on_one_line, problem
from trunkline_store import EventData, InvalidArgument, RecordedEvent, new_event_id
from trunkline_store.events import MAX_DATA_BYTES

MAX_LINE_BYTES: Final = MAX_DATA_BYTES // 3 * 4 + 1024 * 1024
"""Of an event with the most data, as base64."""
BYTE_ORDER_MARK: Final = codecs.BOM_UTF8
_CHUNK_BYTES: Final = 1024 * 1024


class Line(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The names are the contract: a misspelt one is an error, not something that is lost."""

    event_number: int | None = None
    position: int | None = None
    stream: str | None = None
    stream_version: int | None = None
    id: UUID | None = None
    type: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    created_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


_decoder: Final = msgspec.json.Decoder(Line)


def written(event: RecordedEvent, *, is_json: bool) -> bytes:
    """The line of a recorded event, without its end. is_json: whether its data, which is bytes, is JSON."""
    data, data_base64 = on_one_line(event.data, is_json=is_json)
    return msgspec.json.encode(
        Line(
            event_number=event.event_number,
            position=event.position,
            stream=event.stream,
            stream_version=event.stream_version,
            id=event.event_id,
            type=event.type,
            data=data,
            data_base64=data_base64,
            metadata=event.metadata,
            correlation_id=event.correlation_id,
            causation_id=event.causation_id,
            created_at=event.created_at,
        )
    )


def parsed(line: bytes) -> tuple[str | None, EventData]:
    """The stream, if it is named, and the event of a line; where it was recorded before does not matter.

    Raises `InvalidArgument`.
    """
    if len(line) > MAX_LINE_BYTES:
        raise InvalidArgument(f"not an event: it is over {MAX_LINE_BYTES} bytes long")
    try:
        found = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"not an event: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"not a JSON object: {problem(error, line)}") from error
    data = found.data if isinstance(found.data_base64, msgspec.UnsetType) else found.data_base64
    return found.stream, EventData(
        found.type,
        checked("data", b"{}" if isinstance(data, msgspec.UnsetType) else bytes(data)),
        found.metadata,
        id=found.id or new_event_id(),
        correlation_id=found.correlation_id,
        causation_id=found.causation_id,
        created_at=found.created_at,
    )


def bursts(file: BufferedIOBase) -> Iterator[list[bytes]]:
    """The lines of a file, those together that came together: so a slow writer's are not held back for more.

    At most one chunk and one line are in memory: of a line that is too long for an event, the last one then, only the
    beginning comes. A byte-order mark at the head, as Windows editors and shells write it, is skipped.
    """
    rest, mark = bytearray(), BYTE_ORDER_MARK
    while chunk := file.read1(_CHUNK_BYTES):
        *lines, tail = chunk.split(b"\n")
        if lines:
            lines[0] = (bytes(rest) + lines[0]).removeprefix(mark)
            mark = b""
            rest.clear()
            yield lines
        rest += tail
        if len(rest) > MAX_LINE_BYTES:
            break
    if last := bytes(rest).removeprefix(mark):
        yield [last]
