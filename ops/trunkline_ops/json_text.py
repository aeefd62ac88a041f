"""JSON as it was written: what was appended is stored byte for byte, and shown as it is stored."""

import json
from contextlib import suppress
from typing import Any, Final

import msgspec

from trunkline_store.errors import InvalidEvent
from trunkline_store.serialize import JsonSerializer

_json: Final = JsonSerializer()


class JsonText:
    """A serializer that keeps the text: a decoded 1.0 or 1e2 would not be written again as it was."""

    content_type = _json.content_type

    def serialize(self, value: msgspec.Raw) -> bytes:
        """The text, which `checked` has checked."""
        return bytes(value)

    def deserialize(self, data: bytes | str, event_type: str) -> msgspec.Raw:
        """The text on one line: in JSON, line breaks only stand where spaces may."""
        text = data.decode() if isinstance(data, bytes) else data
        return msgspec.Raw(text.replace("\r", " ").replace("\n", " "))


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
