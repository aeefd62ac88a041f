"""Between Python values and the bytes that are stored."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from trunkline_store.errors import InvalidEvent

MAX_NESTING: Final = 512


class Serializer(Protocol):
    """What an application gives to store its own kind of data."""

    content_type: str
    """The media type of what `serialize` returns; it travels as CloudEvents' `datacontenttype`."""

    def serialize(self, value: Any) -> bytes:
        """The bytes of `value`; raises `ValueError` or `TypeError` where it has none."""
        ...

    def deserialize(self, data: bytes | str, event_type: str) -> Any:
        """The value of `data`, which came from `serialize` or from another program."""
        ...


class JsonSerializer:
    """JSON by msgspec: dataclasses, msgspec structs, UUIDs, dates, decimals and enums are written as it documents."""

    content_type = "application/json"

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

    def serialize(self, value: Any) -> bytes:
        encoded = self._encoder.encode(value)
        if b"null" in encoded:
            _refuse_non_finite(value)  # written as null without a word
        if encoded.count(b"[") + encoded.count(b"{") > MAX_NESTING and _nesting(encoded) > MAX_NESTING:
            raise ValueError(f"is nested more than {MAX_NESTING} deep")
        return encoded

    def deserialize(self, data: bytes | str, event_type: str) -> Any:
        return self._decoder.decode(data)


METADATA: Final = JsonSerializer()
"""Metadata is JSON, whatever the data is."""


def serialized(serializer: Serializer, field: str, value: Any, limit: int) -> bytes:
    """The bytes of an event's data or metadata; raises `InvalidEvent` where it has none, or too many."""
    try:
        encoded = serializer.serialize(value)
    except UnicodeEncodeError as error:
        raise InvalidEvent(field, "holds a lone surrogate, which is not Unicode text") from error
    except RecursionError as error:
        raise InvalidEvent(field, f"is nested more than {MAX_NESTING} deep") from error
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InvalidEvent(field, str(error)) from error
    if len(encoded) > limit:
        raise InvalidEvent(field, f"is {len(encoded)} bytes long, at most {limit} are allowed")
    return encoded


def _refuse_non_finite(value: Any) -> None:
    todo = [msgspec.to_builtins(value, builtin_types=())]
    while todo:
        item = todo.pop()
        if isinstance(item, float):
            if item != item or item in (float("inf"), float("-inf")):
                raise ValueError(f"{item} is not a JSON number")
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)


def _nesting(encoded: bytes) -> int:
    depth = deepest = 0
    inside_string = escaped = False
    for byte in encoded:
        if inside_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside_string = False
        elif byte == 0x22:
            inside_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
