"""The floor of publishing: prepared bytes on one socket, and confirms that are counted. No client does less."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from struct import Struct
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pamqp.frame
from pamqp import commands, header

from trunkline_ops.bench.load import Run, nothing_to_collect
from trunkline_ops.bench.rounds import Side
from trunkline_relay.frames import Frames
from trunkline_store.wire import Message

CHANNEL: Final = 1
FRAME_MAX: Final = 131_072

_FRAME: Final = Struct(">BHI").unpack_from
_CONFIRM: Final = Struct(">IQB").unpack_from
_METHOD_OF: Final = Struct(">I").unpack_from
_HEAD, _END = 7, 1
_METHOD: Final = 1
_ACK: Final = 60 << 16 | 80  # Basic.Ack
_CLOSE: Final = 10 << 16 | 50  # Connection.Close


class RawPublisher(asyncio.Protocol):
    """A channel that confirms, on a connection of its own. What is outstanding is limited as the relay's is."""

    def __init__(self, window: int, window_bytes: int) -> None:
        self._window = window
        self._window_bytes = window_bytes
        self._transport: Any = None
        self._received = bytearray()
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._lowest = self._next = 1
        self._changed = asyncio.Event()
        self._error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc or ConnectionError("RabbitMQ closed the connection")
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        """Counts confirms; anything else ends it."""
        received, at = self._received, 0
        received += data
        while len(received) - at >= _HEAD:
            kind, _, size = _FRAME(received, at)
            if len(received) - at < _HEAD + size + _END:
                break
            if kind == _METHOD:
                method, tag, multiple = _CONFIRM(received, at + _HEAD)
                if method == _ACK:
                    self._confirmed(tag, bool(multiple & 1))
                else:
                    self._error = ConnectionError(f"not a confirm, but class {method >> 16}, method {method & 0xFFFF}")
            at += _HEAD + size + _END
        del received[:at]
        self._changed.set()

    def _confirmed(self, tag: int, multiple: bool) -> None:
        sizes = self._sizes
        if multiple:
            for each in range(self._lowest, tag + 1):
                self._bytes -= sizes.pop(each, 0)
            self._lowest = max(self._lowest, tag + 1)
        else:
            self._bytes -= sizes.pop(tag, 0)

    async def publish(self, frames: Sequence[bytes], count: int) -> None:
        """So many messages of the prepared ones, over and over; returns when all are confirmed."""
        sizes, ahead, left = self._sizes, cycle(frames), count
        while left or sizes:
            if self._error is not None:
                raise self._error
            parts = []
            while left and len(sizes) < self._window and self._bytes < self._window_bytes:
                frame = next(ahead)
                parts.append(frame)
                sizes[self._next] = len(frame)
                self._bytes += len(frame)
                self._next += 1
                left -= 1
            if parts:
                self._transport.write(b"".join(parts))
            self._changed.clear()
            await self._changed.wait()

    def side(self, messages: Sequence[Message]) -> Side:
        """Pages of the same messages, again and again."""
        frames = Frames(CHANNEL, FRAME_MAX, "eventstore")
        prepared, events = [frames.of(message) for message in messages], sum(message.count for message in messages)

        def prepare(pages: int) -> Callable[[], Awaitable[Run]]:
            async def do() -> Run:
                with nothing_to_collect():
                    begun = time.perf_counter()
                    await self.publish(prepared, pages * len(prepared))
                    ended = time.perf_counter()
                return Run(pages * events, begun, ended, [(ended - begun) / pages] * pages)

            return do

        return prepare


@asynccontextmanager
async def raw_publisher(url: str, window: int, window_bytes: int) -> AsyncIterator[RawPublisher]:
    """On a connection whose handshake is done."""
    loop = asyncio.get_running_loop()
    connection = await loop.run_in_executor(None, _handshaken, url)
    transport, publisher = await loop.create_connection(lambda: RawPublisher(window, window_bytes), sock=connection)
    try:
        yield publisher
    finally:
        transport.abort()  # without a word: RabbitMQ sees it go


def _handshaken(url: str) -> socket.socket:
    """A socket with an open channel in confirm mode (AMQP 0-9-1, 2.2.4)."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "localhost", parts.port or 5672), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answered() -> None:
        _, _, size = _FRAME(_exactly(connection, _HEAD))
        (method,) = _METHOD_OF(_exactly(connection, size + _END))
        if method == _CLOSE:
            raise ConnectionError("RabbitMQ refused the connection")

    def asked(channel: int, command: Any) -> None:
        connection.sendall(pamqp.frame.marshal(command, channel))
        answered()

    login = f"\0{unquote(parts.username or 'guest')}\0{unquote(parts.password or 'guest')}"
    connection.sendall(header.ProtocolHeader().marshal())
    answered()
    asked(0, commands.Connection.StartOk(client_properties={}, mechanism="PLAIN", response=login))
    connection.sendall(pamqp.frame.marshal(commands.Connection.TuneOk(2047, FRAME_MAX, 0), 0))
    asked(0, commands.Connection.Open(virtual_host=unquote(parts.path.removeprefix("/")) or "/"))
    asked(CHANNEL, commands.Channel.Open())
    asked(CHANNEL, commands.Confirm.Select())
    return connection


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise ConnectionError("RabbitMQ closed the connection")
        received += more
    return received
