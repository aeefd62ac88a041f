"""A RabbitMQ for measures: a vhost for each of them, and queues that stay small however long it takes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

from trunkline_ops.management import Management
from trunkline_ops.servers import RabbitMQServer
from trunkline_store import names

SETTINGS: Final = {"collect_statistics_interval": "60000"}
"""Of a RabbitMQ of one's own: nobody looks at the management UI meanwhile, and what it shows is not free."""

QUEUE_LENGTH: Final = 20_000
"""Messages, beyond which a queue drops its oldest ones: the broker's memory is not what is measured."""


class Broker:
    """The server."""

    def __init__(self, server: RabbitMQServer) -> None:
        self._server = server

    @asynccontextmanager
    async def vhost(self) -> AsyncIterator[str]:
        """The AMQP URL of a new vhost; it is gone at the end."""
        server, name = self._server, f"trunkline_bench_{secrets.token_hex(3)}"
        async with Management(server.management_url, server.user, server.password) as management:
            await management.create_vhost(name)
            try:
                yield urlsplit(server.amqp_url)._replace(path=f"/{name}").geturl()
            finally:
                await management.delete_vhost(name)


@asynccontextmanager
async def channel_to(url: str) -> AsyncIterator[AbstractChannel]:
    """A channel on a connection of its own."""
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel(publisher_confirms=False)


async def declared_exchange(channel: AbstractChannel, store: str = "eventstore") -> AbstractExchange:
    """The exchange of a store, as its relay makes it."""
    return await channel.declare_exchange(names.exchange(store), aio_pika.ExchangeType.TOPIC, durable=True)


async def bounded_queue(
    channel: AbstractChannel, name: str, store: str = "eventstore", *, key: str = "#", length: int = QUEUE_LENGTH
) -> AbstractQueue:
    """A quorum queue that is bound to the exchange of a store."""
    exchange = await declared_exchange(channel, store)
    queue = await channel.declare_queue(
        name,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-max-length": length, "x-overflow": "drop-head"},
    )
    await queue.bind(exchange, key)
    return queue
