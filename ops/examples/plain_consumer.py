#!/usr/bin/env python
"""A complete consumer without the SDK: nothing of Trunkline is imported, only what relay/README.md documents is used.

    pip install aio-pika
    python plain_consumer.py amqp://guest:guest@localhost/ billing billing.json
    python plain_consumer.py amqp://guest:guest@localhost/ orders orders.json order

It binds the queue `billing` to all events of the store `eventstore`, or `orders` to those of the category `order`,
prints one line of JSON for each event, and keeps its place in a file: the history, the last position that it has
handled, and the holes that it has found. So it can be killed at any time and started again. A real one keeps the place
where its effects are, and in the same transaction: then each event counts once.

A hole is told on standard error, with the command that fills it. A consumer that is new has missed everything so far:
that is a hole like any other.
"""

import asyncio
import json
import sys
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

STORE = "eventstore"


class Place:
    """What was handled, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.history: str | None = None
        self.position = 0
        """Everything that came along the chain is handled up to here."""
        self.holes: list[list[int]] = []
        """Pairs [a, b]: what lies above a, up to b, was missed, and is to be replayed."""
        if file.exists():
            self.history, self.position, self.holes = json.loads(file.read_text())

    def save(self) -> None:
        """Whole or not at all."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps([self.history, self.position, self.holes]))
        new.replace(self._file)


class Plain:
    """Decides what a message is: next, duplicate, behind a hole, or of a replay that fills one."""

    def __init__(self, place: Place, queue: str, category: str | None) -> None:
        self._place = place
        self._queue = queue
        self._category = category
        self._chain = "previous_in_category" if category else "previous_position"
        self._feed = f"$category-{category}" if category else "$all"
        self._broken: str | None = None
        """The id of the replay in which a part is known to be missing."""

    def take(self, exchange: str, headers: Mapping[str, Any], body: bytes) -> None:
        """Handles what is new in a message, and keeps the place. To be acknowledged when this returns."""
        place = self._place
        if exchange != ("" if headers.get("replayed") else STORE):  # reported by the broker, not the publisher
            print(f"a message by exchange {exchange!r}, which is nobody's: passed over", file=sys.stderr, flush=True)
            return
        if headers.get("wire_version") != 1 or headers.get("store") != STORE:
            print("not a message of this store, or of a newer version: passed over", file=sys.stderr, flush=True)
            return
        if place.history is None:
            place.history = headers["history"]
        if headers["history"] != place.history:  # a restore, or a failover that lost commits
            sys.exit(f"the store has another past now ({headers['history']}): positions kept here mean nothing in it")
        last = headers["last_position"]
        if headers.get("replayed"):
            self._fill(headers, body)
        elif last > place.position:  # else a duplicate: the relay repeats messages after a fault, RabbitMQ unacked ones
            if headers[self._chain] > place.position:  # the one comparison
                place.holes.append([place.position, headers[self._chain]])
                print(f"a hole: {self._replay(*place.holes[-1])}", file=sys.stderr, flush=True)
            self._handle(body, place.position, last)
            place.position = last
        place.save()

    def _fill(self, headers: Mapping[str, Any], body: bytes) -> None:
        """Fill a hole further, unless a part of the replay is missing before this message."""
        if headers["replay_of"] != self._feed or "replay_types" in headers:
            chosen = headers["replay_of"]
            print(f"skipped a replay of another feed: {chosen}", file=sys.stderr, flush=True)
            return
        holes, last = self._place.holes, bool(headers.get("replay_last"))
        reached = headers["replay_end"] if last else headers["last_position"]  # no event follows the last message
        missing = False
        for hole in [each for each in holes if each[0] < reached]:
            if headers["previous_in_replay"] > hole[0]:  # the same comparison, in the replay's own chain
                missing |= last or headers["previous_in_replay"] < hole[1]
                continue
            self._handle(body, *hole)
            hole[0] = min(reached, hole[1])
            if hole[0] == hole[1]:
                holes.remove(hole)
        if missing and self._broken != headers["replay_id"]:
            self._broken = headers["replay_id"]
            for hole in holes:
                print(f"a hole: {self._replay(*hole)}", file=sys.stderr, flush=True)

    def _handle(self, body: bytes, above: int, up_to: int) -> None:
        for event in json.loads(body):
            position = int(event["sequence"])
            if not above < position <= up_to:
                continue
            if "dataref" in event:
                data = f"too large for a message: to be read from the store, at {event['dataref']}"
            elif "data_base64" in event:
                data = b64decode(event["data_base64"]).hex()
            else:
                data = event["data"]
            line = {"position": position, "stream": event["subject"], "type": event["type"], "data": data}
            print(json.dumps(line), flush=True)

    def _replay(self, above: int, up_to: int) -> str:
        """The command that fills a hole."""
        category = f" --category {self._category}" if self._category else ""
        return f"trunkline replay --to {self._queue} --from {above + 1} --to-position {up_to}{category}"


async def main(url: str, queue_name: str, file: str, category: str | None = None) -> None:
    """Consumes until it is interrupted."""
    plain = Plain(Place(Path(file)), queue_name, category)
    # a robust connection comes back by itself, and declares, binds and consumes again
    async with await aio_pika.connect_robust(url, client_properties={"connection_name": queue_name}) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        exchange = await channel.declare_exchange(STORE, aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(
            queue_name, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 100_000}
        )
        await queue.bind(exchange, f"{_word(category)}.#" if category else "#")
        async with queue.iterator() as messages:
            async for message in messages:  # one after the other
                plain.take(message.exchange or "", message.headers, message.body)
                await _acknowledge(message)


async def _acknowledge(message: AbstractIncomingMessage) -> None:
    with suppress(aio_pika.exceptions.AMQPError):  # the channel is gone: it comes again, and is a duplicate
        await message.ack()


def _word(text: str) -> str:
    """As a word of a routing key (a category of more than 64 bytes is cut there, too)."""
    return "".join(f"%{ord(character):02X}" if character in "%.*#" else character for character in text)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(f"usage: {Path(sys.argv[0]).name} AMQP_URL QUEUE FILE [CATEGORY]")
    with suppress(KeyboardInterrupt):  # the way in which it ends
        asyncio.run(main(*sys.argv[1:]))
