"""An address that accepts connections and closes them: a proxy or load balancer whose server is away."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"


class ClosingServer:
    """A listening server. `connections` counts the accepted connections; `url` is for a client of RabbitMQ."""

    def __init__(self, listening: socket.socket) -> None:
        self.connections = 0
        self.url = f"amqp://guest:guest@{HOST}:{listening.getsockname()[1]}/"
        self._listening = listening

    async def until(self, connections: int) -> None:
        async with asyncio.timeout(60):
            while self.connections < connections:
                await asyncio.sleep(0.01)  # between two looks

    def accept(self) -> None:
        """Run until the listening socket is shut down."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.close()
            self.connections += 1


@contextmanager
def closing_server() -> Iterator[ClosingServer]:
    """Listen on a free port of loopback until the end of the block.

    It runs in a thread, so that a connection has ended before the client's event loop looks at it: the case that its
    library does not expect.
    """
    with socket.create_server((HOST, 0)) as listening:
        server = ClosingServer(listening)
        accepting = threading.Thread(target=server.accept, name="closing server")
        accepting.start()
        try:
            yield server
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
