"""The broker's side of a subscription: a queue of its own, bound to the store's exchange, and its messages.

The queue is only a cache. Whatever happens to it, this side declares and binds it again, and the store fills the hole.
All that is used of aiormq's inside stands here: the channel's method that takes deliveries, and two that it calls.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import aio_pika
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, InvalidFrameError
from pamqp import commands

from trunkline_store.broker import asking_broker, declare_exchange
from trunkline_store.cancellation import obey_cancellation
from trunkline_store.errors import BrokerUnavailable
from trunkline_store.presence import client_properties

log = logging.getLogger("trunkline.consumer")

CONNECT_SECONDS: Final = 10.0
CONSUME_SECONDS: Final = 5.0
BIND_SECONDS: Final = 5.0
"""The time between two tries to bind to a missing exchange."""


class Queue:
    """What is declared for a subscription. Without a name, the server gives one, and the queue goes with the
    connection."""

    def __init__(
        self, name: str, bindings: Sequence[tuple[str, str]], *, max_length: int, max_bytes: int, expires: float | None
    ) -> None:
        self.name = name
        self.bindings = bindings
        self.transient = expires is None
        self.arguments: dict[str, Any] = {
            "x-overflow": "drop-head",
            "x-max-length": max_length,
            "x-max-length-bytes": max_bytes,
        }
        if expires is not None:
            self.arguments |= {"x-queue-type": "quorum", "x-expires": int(expires * 1000)}


class Received(NamedTuple):
    """A message as it was received; its tag is valid only on its channel. exchange, routing_key: those that it was
    published with, as the broker reports them; a publisher needs the right to use them. body: empty if the queue was
    not bound to that exchange: nobody reads it, and it may be as large as RabbitMQ allows."""

    tag: int
    headers: Mapping[str, Any]
    body: bytes
    exchange: str
    routing_key: str


async def delete_queue(url: str, name: str) -> None:
    """Remove a queue, for good, if it is there. Raises `BrokerUnavailable`."""
    with asking_broker(url):
        async with (
            asyncio.timeout(2 * CONNECT_SECONDS),  # RabbitMQ itself waits 5 s for a queue that does not answer
            await aio_pika.connect(url, client_properties=client_properties(f"{name} deletion")) as connection,
            connection.channel() as channel,
        ):
            await channel.queue_delete(name)


class Receiver:
    """One consuming channel on a connection of its own. Messages wait here, at most `prefetch` of them."""

    def __init__(self, url: str, queue: Queue, *, prefetch: int) -> None:
        self._url = url
        self._queue = queue
        self._prefetch = prefetch
        self._exchanges = {exchange for exchange, _ in queue.bindings}
        self._messages: deque[Received] = deque()
        self._arrived = asyncio.Event()
        self._connection: Any = None
        self._channel: Any = None
        self._lost = True
        self._unbound = False
        self._missing: list[str] = []  # exchanges to which the queue could not be bound
        self._bind_at = math.inf  # the time of the next try to bind
        self._consumed = queue.name
        self.transient = queue.transient
        self.generation = 0
        """Counts the channels: a tag is good in its own generation only."""
        self.taken = 0
        """The number of messages that were taken from here, on all channels."""
        self._cause: BaseException | None = None  # the client library's reason for the loss of the channel

    @property
    def connected(self) -> bool:
        """Whether messages can arrive. False from the moment on that anything was heard to the contrary."""
        return not self._lost

    async def connect(self) -> None:
        """Declares, binds and consumes. Raises `BrokerUnavailable`."""
        await self.close()
        try:
            with asking_broker(self._url):
                async with asyncio.timeout(CONNECT_SECONDS):
                    self._connection = await aio_pika.connect(
                        self._url, client_properties=client_properties(f"{self._queue.name} subscription")
                    )
                    await self._declare()
                answered = await self._consume()
            if not answered:
                log.warning("queue %s does not answer: it is deleted, to be made again", self._queue.name)
                await self.delete_queue()
                obey_cancellation()
                raise BrokerUnavailable(f"queue {self._queue.name} did not answer")
            obey_cancellation()
        except BaseException:
            await self.close()
            raise

    async def _consume(self) -> bool:
        """Returns False where the broker is there and the queue is not: a quorum queue can be left without a leader
        for good, by a crash of its node (https://github.com/rabbitmq/rabbitmq-server/issues/10070), say."""
        channel = await self._connection.transport.connection.channel(publisher_confirms=False)
        self._channel = channel
        self._messages.clear()
        self._cause = None
        self.generation += 1
        channel.on_consumer_cancel_callbacks.add(partial(self._on_lost, self.generation))
        channel.closing.add_done_callback(partial(self._on_lost, self.generation))
        channel._on_deliver_frame = partial(self._on_deliver, channel)
        self._lost = False
        try:
            async with asyncio.timeout(CONSUME_SECONDS):
                await channel.basic_qos(prefetch_count=self._prefetch)
                await channel.basic_consume(self._consumed, _unused, consumer_tag=self._queue.name)
        except TimeoutError:
            return False
        return True

    async def _declare(self) -> None:
        try:
            await self._declare_once()
        except aio_pika.exceptions.ChannelPreconditionFailed:
            log.warning("queue %s has other arguments: it is deleted and made again", self._queue.name)
            async with self._connection.channel() as channel:
                await channel.queue_delete(self._queue.name)
            await self._declare_once()

    async def _declare_once(self) -> None:
        queue = self._queue
        async with self._connection.channel() as channel:
            if queue.transient:
                declared = await channel.declare_queue(exclusive=True, arguments=queue.arguments)
                self._consumed = declared.name
            else:
                declared = await channel.declare_queue(queue.name, durable=True, arguments=queue.arguments)
        await self._bind()

    async def _bind(self) -> None:
        missing = [exchange for exchange, key in self._queue.bindings if not await self._is_bound(exchange, key)]
        self._bind_at = time.monotonic() + BIND_SECONDS if missing else math.inf
        if missing and missing != self._missing:
            log.warning(
                "queue %s: exchange %s is missing, and this login may not declare it (events come from the store): "
                "start a relay, which declares it",
                *(self._queue.name, " and ".join(missing)),
            )
        self._missing = missing

    async def _is_bound(self, exchange: str, key: str) -> bool:
        """Bind the queue, and declare the exchange if it is missing. Return False if that is refused."""
        with suppress(ChannelNotFoundEntity):
            await self._bind_to(exchange, key)
            return True
        try:
            async with self._connection.channel() as channel:
                await declare_exchange(channel, exchange)
        except ChannelAccessRefused:
            return False
        await self._bind_to(exchange, key)
        return True

    async def _bind_to(self, exchange: str, key: str) -> None:
        async with self._connection.channel() as channel:
            queue = await channel.get_queue(self._consumed, ensure=False)
            await queue.bind(exchange, routing_key=key)

    def bind_again(self) -> None:
        """Asks `until_lost` to declare and bind once more, in case the exchange was made anew."""
        self._unbound = True
        self._arrived.set()

    async def close(self) -> None:
        """Drops the connection; what was not acknowledged goes back to the queue."""
        self._lost = True
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(BrokerUnavailable), asking_broker():
                async with asyncio.timeout(2):
                    await connection.close()

    async def delete_queue(self) -> None:
        """Removes the queue, for good. Raises `BrokerUnavailable`."""
        await delete_queue(self._url, self._queue.name)

    def at_hand(self) -> Received | None:
        """The next message, if it is there."""
        if self._lost or not self._messages:
            return None
        self.taken += 1
        return self._messages.popleft()

    async def next(self, seconds: float) -> Received | None:
        """The next message, or None when none came within `seconds`, or the queue was lost."""
        if not self._messages and self.connected:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
        return self.at_hand()

    async def ack(self, tag: int, generation: int) -> None:
        """Acknowledges all messages up to `tag`, if their channel is still there."""
        if generation == self.generation and self.connected:
            with suppress(BrokerUnavailable), asking_broker():
                await self._channel.basic_ack(tag, multiple=True, wait=False)

    async def until_lost(self) -> BaseException | None:
        """Wait until the queue, the channel or the connection is lost, and bind again on request.

        The task that connects also binds, since closing a connection ends all calls that run on it. Return the client
        library's reason for the loss. Raises `BrokerUnavailable`.
        """
        while self.connected:
            if self._unbound or time.monotonic() >= self._bind_at:
                self._unbound = False
                with asking_broker(self._url):
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await (self._bind() if self.transient else self._declare_once())
                obey_cancellation()
                continue
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._bind_at - time.monotonic() if self._missing else None):
                    await self._arrived.wait()
        return self._cause

    async def _on_deliver(self, channel: Any, frame: commands.Basic.Deliver) -> None:
        """In aiormq's place, which makes a task for each message, as dear as all that we do with a small one."""
        header = await channel._get_frame()
        message = await channel._read_content(frame, header)
        if channel is self._channel:
            exchange = frame.exchange or ""
            self._messages.append(
                Received(
                    frame.delivery_tag or 0,
                    header.properties.headers or {},
                    message.body if exchange in self._exchanges else b"",
                    exchange,
                    frame.routing_key or "",
                )
            )
            self._arrived.set()

    def _on_lost(self, generation: int, cause: object) -> None:
        error = None
        if isinstance(cause, asyncio.Future) and not cause.cancelled():
            error = cause.exception()  # retrieved, or asyncio would log it as never retrieved
        if generation == self.generation:
            self._cause = self._cause or error
            self._lost = True
            self._arrived.set()


def is_unreadable(cause: BaseException | None) -> bool:
    """Return True if a channel was lost to a frame that cannot be decoded, such as a header with a time in the year
    584,556,019. aiormq then closes the whole connection, and the broker delivers the message again."""
    if isinstance(cause, InvalidFrameError):
        return True
    return isinstance(cause, ValueError | ArithmeticError | LookupError | TypeError | RecursionError)


async def _unused(_: DeliveredMessage) -> None:
    """`_on_deliver` sees to messages."""
