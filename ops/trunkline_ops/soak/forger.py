"""An attacker that publishes forged and damaged messages, to the store's exchange as with the relay's rights, or with
fewer rights straight into a subscription's queue.

A forged message continues where the store ends, with the store's history and chains, and holds an event that was never
appended. A real event soon gets its position.
"""

import asyncio
import random
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import aio_pika

from trunkline_store import EventStore
from trunkline_store.wire import Chain, Message, StoredEvent, encode

FORGED: Final = "forged-1"
"""The stream of all forged events, by which the audit knows them."""
_BLOCK: Final = 1024


async def forge(store: EventStore, url: str, queue: str | None) -> None:
    """Publish an event that the store does not hold, to `queue`, or to everybody."""
    message, last = await _forged(store)
    await store.fetch("INSERT INTO soak.forged (above, up_to) VALUES ($1, $2)", last, message.last_position)
    await _publish(url, queue, message.routing_key, message.headers, message.body)


async def damage(store: EventStore, url: str, queue: str | None) -> None:
    """Publish a message that contradicts itself, or is not a message of the store at all."""
    message, _ = await _forged(store)
    headers: dict[str, Any] = dict(message.headers)
    body = message.body
    match random.randrange(5):
        case 0:
            body = b"\xff" + body
        case 1:
            body = b"[]"
        case 2:
            headers["last_position"] = 2**62
        case 3:
            headers["category"] = "another"
        case 4:
            headers = {"x": "nothing of ours"}
    await _publish(url, queue, message.routing_key, headers, body)


async def _forged(store: EventStore) -> tuple[Message, int]:
    look = await store.look(follow=False)
    last = int(await store.fetchval("SELECT coalesce(max(position), 0) FROM eventstore.events"))
    position = (max(last, look.safe) // _BLOCK + 1) * _BLOCK
    event = StoredEvent(
        position, FORGED, "forged", 1, str(uuid4()), "T0", 8, '{"n": 1}', None, None, None, None,
        datetime.now(UTC).isoformat(),
    )  # fmt: skip
    return encode(
        [event], Chain(last, 0, 0), store="eventstore", history=look.history, content_type="application/json"
    ), last


async def _publish(url: str, queue: str | None, key: str, headers: dict[str, Any], body: bytes) -> None:
    async with asyncio.timeout(5), await aio_pika.connect(url) as connection, connection.channel() as channel:
        exchange = channel.default_exchange if queue is not None else await channel.get_exchange("eventstore")
        message = aio_pika.Message(body, headers=headers, content_type="application/cloudevents-batch+json")
        await exchange.publish(message, queue or key, mandatory=False)
