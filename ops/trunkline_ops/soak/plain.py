"""A program that consumes without the SDK, and writes down what it is given: python -m trunkline_ops.soak.plain

It knows its messages by what relay/README.md says of them. Its place is the last position that it has written down;
what is missing before a message it sees by one comparison, and writes that down as a hole. Whatever goes wrong, it ends
and is started again.
"""

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import Any, Final

import aio_pika
import asyncpg

from trunkline_ops.demo.leash import told_to_stop
from trunkline_ops.soak.forger import FORGED
from trunkline_ops.soak.subscriber import WRITE
from trunkline_ops.soak.writer import AWAY
from trunkline_store.translate import STATEMENT_ERRORS

SUBSCRIBER: Final = "amqp"
QUEUE: Final = "soak.amqp"
SILENT_SECONDS: Final = 5.0
"""Whoever hears nothing for so long connects again: a queue may be gone without a word."""
_FAULTS: Final = (OSError, TimeoutError, aio_pika.exceptions.AMQPError, RuntimeError)
_AWAY: Final = STATEMENT_ERRORS

_PLACE: Final = "SELECT coalesce(max(position), 0) FROM soak.effects WHERE subscriber = $1 AND NOT replayed"
_HOLE: Final = "INSERT INTO soak.holes (above, up_to) VALUES ($1, $2)"


async def take(database: asyncpg.Connection, headers: Any, body: bytes, place: int) -> int:
    """Writes a message down, with the hole before it if there is one. Returns the new place."""
    if headers.get("stream") == FORGED or headers.get("wire_version") is None or not _fits(headers, body):
        return place  # this program trusts every publisher; the attacker's effects on it are not counted
    events = json.loads(body)
    replayed = bool(headers.get("replayed"))
    async with database.transaction():
        if not replayed and headers["previous_position"] > place:
            await database.execute(_HOLE, place, headers["previous_position"])
        await database.execute(
            WRITE,
            SUBSCRIBER,
            [int(event["sequence"]) for event in events],
            [event["subject"] for event in events],
            [int(event["streamversion"]) for event in events],
            os.getpid(),
            replayed,
        )
    return place if replayed else max(place, headers["last_position"])


def _fits(headers: Any, body: bytes) -> bool:
    return body.startswith(b"[{") and headers["last_position"] < 2**62 and headers["category"] != "another"


async def consume(database: asyncpg.Connection) -> None:
    """For ever, until something goes wrong."""
    place = await database.fetchval(_PLACE, SUBSCRIBER)
    url = os.environ["TRUNKLINE_AMQP_URL"]
    async with await aio_pika.connect(url, timeout=5) as connection, connection.channel() as channel:
        await channel.set_qos(prefetch_count=100)
        exchange = await channel.declare_exchange("eventstore", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.bind(exchange, "#")
        async with queue.iterator(timeout=SILENT_SECONDS) as messages:
            async for message in messages:
                place = await take(database, message.headers, message.body, place)
                await message.ack()
    raise ConnectionError("the broker has closed the connection")  # an iteration ends without a word then


async def main() -> None:
    """Consumes until it is told to stop."""
    stop = told_to_stop()
    database = await asyncpg.connect(os.environ["TRUNKLINE_DSN"], timeout=5, command_timeout=5)
    consuming = asyncio.create_task(consume(database))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([consuming, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    consuming.cancel()
    with suppress(asyncio.CancelledError):
        await consuming


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (*_FAULTS, *_AWAY) as error:
        print(repr(error), file=sys.stderr)
        sys.exit(AWAY)
