"""Between Python values and the bytes that are stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

import msgspec

from trunkline_store.errors import InvalidArgument, InvalidEvent
from trunkline_store.events import MAX_METADATA_BYTES
from trunkline_store.masking import shown

ANY_CONTENT: Final = "*/*"
JSON: Final = "application/json"
MAX_NESTING: Final = 512
SCHEMA_VERSION: Final = "schema_version"

_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+( *; *[\w!#$&^.+-]+=[\w!#$&^.+-]+)*", re.ASCII)
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # escaped, in a JSON string (PostgreSQL, "JSON Types")


class Serializer(Protocol):
    """What an application gives to store its own kind of data."""

    content_type: str
    """The media type of what `serialize` returns; it travels as CloudEvents' `datacontenttype`. `ANY_CONTENT` where
    data is passed on as it is, whatever it is."""

    def serialize(self, value: Any) -> bytes:
        """The bytes of `value`; raises `ValueError` or `TypeError` where it has none."""
        ...

    def deserialize(self, data: bytes | str, event_type: str) -> Any:
        """The value of `data`, which came from `serialize` or from another program."""
        ...


class JsonSerializer:
    """JSON by msgspec.

    Values: what JSON has, dataclasses, msgspec structs, pydantic models, UUIDs, dates, decimals, enums. Data is read as
    plain values, unless types are registered: then as those, and a type that is not registered is an error.

        serializer = JsonSerializer()

        @serializer.register("OrderPlaced", version=2)
        class OrderPlaced(msgspec.Struct):
            total: int
            currency: str

        @serializer.upcast("OrderPlaced", from_version=1)
        def _(data):
            return {**data, "currency": "EUR"}

    A version above 1 is written into the data, as `schema_version`; data without one is version 1.
    """

    content_type = JSON

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=_pydantic)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        self._types: dict[str, _Registered] = {}
        self._versions: dict[type, int] = {}

    def register(self, event_type: str, cls: Any = None, *, version: int = 1) -> Any:
        """Data of `event_type` is read as `cls`, whose shape is at `version` (≥ 1). Works as a decorator too."""
        if cls is None:
            return lambda decorated: self.register(event_type, decorated, version=version)
        if event_type in self._types:
            raise InvalidArgument(f"type {event_type!r} is registered already")
        if version < 1:
            raise InvalidArgument(f"version: {version} is not at least 1")
        self._types[event_type] = _Registered(cls, version)
        if version > 1:
            self._versions[cls] = version
        return cls

    def upcast(self, event_type: str, *, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """A decorator: the function turns plain data of `from_version` into data of the next version, when read."""

        registered = self._types.get(event_type)
        if registered is None:
            raise InvalidArgument(f"type {event_type!r} is not registered")

        def add(upcaster: Upcaster) -> Upcaster:
            registered.upcasters[from_version] = upcaster
            return upcaster

        return add

    def serialize(self, value: Any) -> bytes:
        if self._versions and (version := self._versions.get(type(value))) is not None:
            value = {SCHEMA_VERSION: version, **msgspec.to_builtins(value, enc_hook=_pydantic)}
        encoded = self._encoder.encode(value)
        if b"null" in encoded:
            _refuse_non_finite(value)  # written as null without a word
        if len(encoded) > 2 * MAX_NESTING and _nested(encoded):
            raise ValueError(f"is nested more than {MAX_NESTING} deep")
        return encoded

    def serialize_all(self, values: Sequence[Any]) -> list[bytes]:
        """As `serialize` of each: what is small and plain needs no look of its own."""
        if len(values) > 1 and not self._versions:
            encoded = list(map(self._encoder.encode, values))
            if max(map(len, encoded)) <= 2 * MAX_NESTING and b"null" not in b"".join(encoded):
                return encoded
        return list(map(self.serialize, values))

    def deserialize(self, data: bytes | str, event_type: str) -> Any:
        if not self._types:
            return self._decoder.decode(data)
        registered = self._types.get(event_type)
        if registered is None:
            raise LookupError(f"type {event_type!r} is not registered")
        return registered.read(data, self._decoder)


@lru_cache(maxsize=16)
def is_json(content_type: str) -> bool:
    """Whether data of this media type is JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or media_type.endswith("+json")


def check_content_type(content_type: str, data_type: str) -> str:
    """Returns the media type if a column of this type can hold such data, else raises `InvalidArgument`."""
    if not isinstance(content_type, str) or len(content_type) > 255 or not _MEDIA_TYPE.fullmatch(content_type):
        raise InvalidArgument(f"content_type {content_type!r}: use a media type, such as application/msgpack")
    if data_type != "bytea" and not is_json(content_type):
        raise InvalidArgument(f"content_type {content_type!r}: what is not JSON takes data_type bytea")
    return content_type


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class _Registered:
    def __init__(self, cls: Any, version: int) -> None:
        self.version = version
        self.upcasters: dict[int, Upcaster] = {}
        self._cls = cls
        self._decode = None if hasattr(cls, "model_validate") else msgspec.json.Decoder(cls).decode

    def read(self, data: bytes | str, plain: msgspec.json.Decoder[Any]) -> Any:
        if self.version == 1 and self._decode is not None:
            return self._decode(data)
        value = plain.decode(data)
        if self.version > 1:
            version = value.pop(SCHEMA_VERSION, 1)
            while version < self.version:
                upcaster = self.upcasters.get(version)
                if upcaster is None:
                    raise LookupError(f"there is no upcaster from version {version}")
                value = upcaster(value)
                version += 1
            if version > self.version:
                raise LookupError(f"version {version} is newer than {self.version}, which this program knows")
        return msgspec.convert(value, self._cls) if self._decode is not None else self._cls.model_validate(value)


def _pydantic(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON value, dataclass, struct or pydantic model")


METADATA: Final = JsonSerializer()
"""Metadata is JSON, whatever the data is."""


def columns(
    serializer: Serializer, field: str, values: Sequence[Any], limit: int, data_type: str
) -> list[str] | list[bytes]:
    """What the data column takes for events' data or metadata: text (json, jsonb) or bytes.

    Raises `InvalidEvent` where a value has no bytes, more than `limit`, or such as the column cannot hold.
    """
    try:
        if type(serializer) is JsonSerializer:
            found = serializer.serialize_all(values)
        else:
            found = list(map(serializer.serialize, values))
        if found and (largest := max(map(len, found))) > limit:
            raise InvalidEvent(field, f"is {largest} bytes long, at most {limit} are allowed")
        if data_type == "bytea":
            return found
        if data_type == "jsonb" and any(map(_NUL.search, found)):
            raise InvalidEvent(field, "holds the character NUL, which a jsonb column cannot")
        return list(map(bytes.decode, found))
    except InvalidEvent:
        raise
    except UnicodeEncodeError as error:
        raise InvalidEvent(field, "holds a lone surrogate, which is not Unicode text") from error
    except UnicodeDecodeError as error:
        raise InvalidEvent(field, f"is no UTF-8 text, which a {data_type} column needs") from error
    except RecursionError as error:
        raise InvalidEvent(field, f"is nested more than {MAX_NESTING} deep") from error
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InvalidEvent(field, shown(error)) from error


def metadata_column(values: Sequence[dict[str, Any] | None]) -> list[str | None] | None:
    """What the metadata column takes; None where no event has any. Raises `InvalidEvent`."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    texts = _metadata_texts(given)
    if len(given) == len(values):
        return texts
    each = iter(texts)
    return [None if value is None else next(each) for value in values]


def metadata_text(value: dict[str, Any]) -> str:
    """As `metadata_column`, of one."""
    return str(_metadata_texts([value])[0])


def _metadata_texts(values: Sequence[dict[str, Any] | msgspec.Raw]) -> list[Any]:
    """An import gives the text itself: SQL writers may have stored any JSON."""
    for value in values:
        if not isinstance(value, (dict, msgspec.Raw)):
            raise InvalidEvent("metadata", f"a dict is needed, not {type(value).__name__}")
    return columns(METADATA, "metadata", values, MAX_METADATA_BYTES, "json")


def _refuse_non_finite(value: Any) -> None:
    if isinstance(value, msgspec.Raw):
        return  # text, which can hold none
    todo = [msgspec.to_builtins(value, enc_hook=_pydantic)]
    while todo:
        item = todo.pop()
        if isinstance(item, float):
            if item != item or item in (float("inf"), float("-inf")):
                raise ValueError(f"{item} is not a JSON number")
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)


def _nested(encoded: bytes) -> bool:
    return encoded.count(b"[") + encoded.count(b"{") > MAX_NESTING and _nesting(encoded) > MAX_NESTING


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
