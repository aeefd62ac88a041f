"""A TCP proxy between a client and its server: faults of the network, made where the network is."""

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, urlsplit

HOST = "127.0.0.1"


class Proxy:
    """Listens on a port of its own and forwards to a server, until told otherwise.

    async with Proxy(amqp_url) as proxy:
        ...  # proxy.url is amqp_url by way of the proxy
    """

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._next: Iterator[SplitResult] = itertools.repeat(self._server)
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._hanging_up = False

    @property
    def url(self) -> str:
        """The server's URL by way of this proxy."""
        credentials, at, _ = self._server.netloc.rpartition("@")
        return self._server._replace(netloc=f"{credentials}{at}{HOST}:{self._port}").geturl()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    async def accept(self) -> None:
        """Accepts connections again, on the same port as before."""
        self._listener = await asyncio.start_server(self._serve, HOST, self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cuts all connections and refuses new ones, as a host whose server is gone."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self.cut()

    async def cut(self) -> None:
        """Cuts all connections without a word of their protocol; new ones are accepted."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn

    def lead_to(self, *urls: str) -> None:
        """Lead each new connection to the next of these servers, in turn. Open ones stay where they are, like those of
        a pool when an address moves to another host."""
        self._next = itertools.cycle(map(urlsplit, urls))

    def stall(self) -> None:
        """Accepts connections and forwards nothing, as a network that loses every packet."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forwards again, first what was held back."""
        self._flowing.set()

    async def hang_up(self) -> None:
        """Cut all connections, and close new ones at once, like a load balancer whose server is away."""
        self._hanging_up = True
        await self.cut()

    def answer(self) -> None:
        """Serve new connections again, after `hang_up`."""
        self._hanging_up = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        ends = [writer]
        ways: list[asyncio.Task[None]] = []
        try:
            if self._hanging_up:
                return
            await self._flowing.wait()
            server = next(self._next)
            server_reader, server_writer = await asyncio.open_connection(server.hostname, server.port)
            ends.append(server_writer)
            ways = [
                asyncio.create_task(self._forward(reader, server_writer)),
                asyncio.create_task(self._forward(server_reader, writer)),
            ]
            await asyncio.gather(*ways)
        except (asyncio.CancelledError, OSError):
            for end in ends:
                reset(end)
        finally:
            for way in ways:
                way.cancel()
            for end in ends:
                end.close()
            self._connections.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def reset(end: asyncio.StreamWriter) -> None:
    """Ends a connection without goodbye: with a time to linger of nothing, close(2) sends a reset."""
    with contextlib.suppress(OSError):  # it is closed already
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()
