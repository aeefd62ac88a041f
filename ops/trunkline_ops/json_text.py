"""JSON as it was written: what was appended is stored byte for byte, and shown as it is stored."""

import json
from contextlib import suppress
from typing import Any, Final

import msgspec

from trunkline_store.errors import InvalidEvent
from trunkline_store.serialize import JsonSerializer

_json: Final = JsonSerializer()


InLine = tuple[msgspec.Raw | msgspec.UnsetType, bytes | msgspec.UnsetType]
"""JSON text that is a part of a line, or bytes that stand there as base64; one of them is set."""


def in_line(data: bytes, *, is_json: bool) -> InLine:
    """Data as a part of a line, byte for byte, where it can be one; as base64 where it has line breaks, or is no
    JSON."""
    if is_json and b"\n" not in data and b"\r" not in data:
        try:
            msgspec.json.decode(data, type=msgspec.Raw)
            data.decode()
            return msgspec.Raw(data), msgspec.UNSET
        except (ValueError, RecursionError):
            pass
    return msgspec.UNSET, data


def on_one_line(data: bytes, *, is_json: bool) -> InLine:
    """The same for who reads it, with blanks for line breaks: in JSON, they only stand where blanks may."""
    text, _ = in_line(data.replace(b"\r", b" ").replace(b"\n", b" "), is_json=is_json)
    return (msgspec.UNSET, data) if text is msgspec.UNSET else (text, msgspec.UNSET)


def checked(field: str, text: bytes) -> msgspec.Raw:
    """The text, if every JSON serializer can decode and encode it again. Raises `InvalidEvent`."""
    decoded(field, text)
    return msgspec.Raw(text)


def decoded(field: str, text: bytes) -> Any:
    """The value of a JSON text. Raises `InvalidEvent`."""
    try:
        value = _json.deserialize(text, "")
        _json.serialize(value)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(field, f"is no JSON that can be stored: {problem(error, text)}") from error
    return value


def problem(error: ValueError | RecursionError, text: bytes) -> str:
    """What msgspec says, except where it misleads: before a lone surrogate's end it misses something."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if "truncated" in str(error):
        with suppress(ValueError):
            json.loads(text)
            return "it holds a lone surrogate, which is not Unicode text"
    return str(error)
