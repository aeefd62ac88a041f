"""A message as the bytes that AMQP 0-9-1 wants: Basic.Publish, the content header, and the body in frames. Pure.

pamqp makes the same bytes, and the tests hold the two against each other; but it makes an object of each frame and
looks at the type of each value, which took three times as long as this, and as making a small message itself.
Its order and its types are kept: a table's keys are sorted, an integer takes the smallest type that holds it
(AMQP 0-9-1, 4.2.5; https://www.rabbitmq.com/amqp-0-9-1-errata#section_3).
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any, Final

import msgspec

from trunkline_store import names
from trunkline_store.wire import CONTENT_TYPE, Message

_FRAME_MAX: Final = 131_072
_END: Final = b"\xce"
_FRAME: Final = Struct(">BHI").pack
_PUBLISH: Final = bytes.fromhex("003c00280000")  # class 60, method 40, a reserved short
_MANDATORY: Final = b"\x01"
_HEADER: Final = Struct(">HHQH").pack
_BASIC: Final = 60
_LONG: Final = Struct(">I").pack
_TIME: Final = Struct(">Q").pack
_PERSISTENT: Final = b"\x02"

_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 13, 1 << 12
_CORRELATION_ID, _MESSAGE_ID, _TIMESTAMP, _TYPE, _APP_ID = 1 << 10, 1 << 7, 1 << 6, 1 << 5, 1 << 3
_ALWAYS: Final = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _APP_ID

_INTEGERS: Final = (
    (-(2**7), 2**7, Struct(">cb").pack, b"b"),
    (-(2**15), 2**15, Struct(">ch").pack, b"s"),
    (0, 2**16, Struct(">cH").pack, b"u"),
    (-(2**31), 2**31, Struct(">ci").pack, b"I"),
    (0, 2**32, Struct(">cI").pack, b"i"),
    (-(2**63), 2**63, Struct(">cq").pack, b"l"),
)
_BY_LENGTH: Final = [
    next((pack, kind) for low, high, pack, kind in _INTEGERS if (1 << bits >> 1) < high) for bits in range(64)
]
"""The type of an integer that is not negative, by its length in bits."""


class HeaderTooLarge(ValueError):
    """The content header does not fit into one frame of the broker's, as it must."""


class Frames:
    """Of one channel to the exchanges of one store. frame_max: the broker's, in bytes; 0 where it has no limit."""

    def __init__(self, channel: int, frame_max: int, store: str) -> None:
        self._channel = channel
        self._max = (frame_max or _FRAME_MAX) - 8  # each frame has seven bytes before it and one behind
        self._exchange = _PUBLISH + _short(names.exchange(store))
        self._links = _PUBLISH + _short(names.links_exchange(store))
        self._content_type = _short(CONTENT_TYPE)
        self._app_id = _short(names.app_id(store))
        self._names: dict[tuple[str, ...], list[tuple[str, bytes]]] = {}

    def of(self, message: Message) -> bytes:
        """All frames of a message. Raises `HeaderTooLarge`."""
        channel, body = self._channel, message.body
        publish = (self._links if message.linked else self._exchange) + _short(message.routing_key) + _MANDATORY
        flags, correlation, time, type = _ALWAYS, b"", b"", b""
        if message.correlation_id is not None:
            flags, correlation = flags | _CORRELATION_ID, _short(message.correlation_id)
        if message.timestamp is not None:
            flags, time = flags | _TIMESTAMP, _TIME(int(message.timestamp.timestamp()))
        if message.type is not None:
            flags, type = flags | _TYPE, _short(message.type)
        header = b"".join(
            (
                _HEADER(_BASIC, 0, len(body), flags),
                self._content_type,
                self._table(message.headers, message.further_keys),
                _PERSISTENT,
                correlation,
                _short(message.message_id),
                time,
                type,
                self._app_id,
            )
        )
        if len(header) > self._max:
            raise HeaderTooLarge(
                f"message {message.message_id}: {len(header)} bytes of header, {self._max} are allowed"
            )
        frames = [_FRAME(1, channel, len(publish)), publish, _END, _FRAME(2, channel, len(header)), header, _END]
        for i in range(0, len(body), self._max):
            part = body[i : i + self._max]
            frames += (_FRAME(3, channel, len(part)), part, _END)
        return b"".join(frames)

    def _table(self, headers: dict[str, Any], further_keys: list[str]) -> bytes:
        fields: list[bytes] = []
        if further_keys:  # in capitals, it stands before all others
            keys = b"".join(b"S" + _long(key) for key in further_keys)
            fields.append(b"\x02CCA" + _LONG(len(keys)) + keys)
        for name, coded in self._sorted(tuple(headers)):
            value = headers[name]
            fields.append(coded)
            if isinstance(value, str):
                fields.append(_string(value))
            elif value is True or value is False:
                fields.append(b"t\x01" if value else b"t\x00")
            else:
                fields.append(_integer(value))
        table = b"".join(fields)
        return _LONG(len(table)) + table

    def _sorted(self, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
        """The names of a table in their order, each with its bytes. There are few sets of them."""
        known = self._names.get(names)
        if known is None:
            known = self._names[names] = [(name, _short(name)) for name in sorted(names)]
        return known


def halves(message: Message) -> tuple[Message, Message] | None:
    """A message twice, each with half of its routing keys; None where it has but one. Whoever bound keys of both halves
    gets a repeat. While the second is not confirmed, nothing of the message counts as arrived."""
    keys = [message.routing_key, *message.further_keys]
    if len(keys) == 1:
        return None
    middle = len(keys) // 2
    first = msgspec.structs.replace(message, further_keys=keys[1:middle], last_position=message.first_position - 1)
    return first, msgspec.structs.replace(message, routing_key=keys[middle], further_keys=keys[middle + 1 :])


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def _long(text: str) -> bytes:
    encoded = text.encode()
    return _LONG(len(encoded)) + encoded


@lru_cache(maxsize=4096)
def _string(text: str) -> bytes:
    """As a value of a table. Stores, categories and most streams come again and again."""
    return b"S" + _long(text)


def _integer(value: int) -> bytes:
    if 0 <= value < 2**63:
        pack, kind = _BY_LENGTH[value.bit_length()]
        return bytes(pack(kind, value))
    for low, high, pack, kind in _INTEGERS:
        if low <= value < high:
            return bytes(pack(kind, value))
    raise OverflowError(value)
