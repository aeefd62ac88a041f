"""A service that binds a queue of its own, with the broker's client alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from trunkline_store import ANY_VERSION, EventData, EventStore


class Plain:
    """A service that binds a queue of its own, and knows nothing of us but the documents."""

    def __init__(self) -> None:
        self.messages: list[AbstractIncomingMessage] = []

    @property
    def positions(self) -> list[int]:
        return [int(event["sequence"]) for message in self.messages for event in json.loads(message.body)]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(40):
            while len(self.positions) < count:
                await asyncio.sleep(0.01)  # between two looks


@asynccontextmanager
async def plain(url: str, *bindings: str, links: Sequence[str] = ()) -> AsyncIterator[Plain]:
    """One that has bound its queue, and takes what comes. links: bindings to the exchange of links."""
    consumer = Plain()
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        for name, keys in (("eventstore", bindings), ("eventstore-links", links)):
            exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
            for key in keys:
                await queue.bind(exchange, key)

        async def take(message: AbstractIncomingMessage) -> None:
            consumer.messages.append(message)

        await queue.consume(take, no_ack=True)
        yield consumer


async def append(store: EventStore, stream: str, *types: str, **given: Any) -> list[int]:
    """One append; returns its positions."""
    appended = await store.append_to_stream(stream, ANY_VERSION, [EventData(type, 1, **given) for type in types])
    return list(range(appended.first_position, appended.last_position + 1))


async def recorded(store: EventStore, position: int) -> None:
    """Waits until the relay has recorded it."""
    async with asyncio.timeout(40):
        while True:
            row = await store.fetchrow(store.sql["see_relay"], "relay")
            if row is not None and row["position"] >= position:
                assert row["position"] == position
                return
            await asyncio.sleep(0.01)  # between two looks
