"""Puts messages on the exchange, many at once, with confirms in a window.

aio-pika makes the connection and the topology. Its publish sends message by message and waits for each to be drained,
which costs ten times the broker's own time; so whole pages are marshalled and written at once, below it. All that is
used of aiormq for this stands in this module: `write_queue`, `ChannelFrame`, and the channel's two methods that take
confirms and returns.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import aio_pika
import aiormq
import structlog
from aiormq.abc import ChannelFrame
from pamqp import commands

from trunkline_relay.confirms import Sent, Window
from trunkline_relay.frames import Frames, HeaderTooLarge, halves
from trunkline_relay.metrics import Metrics
from trunkline_relay.patience import Patience
from trunkline_relay.trace import Spans
from trunkline_store import names
from trunkline_store.broker import asking_broker, declare_exchange
from trunkline_store.cancellation import obey_cancellation
from trunkline_store.errors import BrokerUnavailable
from trunkline_store.presence import client_properties
from trunkline_store.wire import Message

_WRITE_BYTES: Final = 1024 * 1024
WINDOW_BYTES: Final = 16 * 1024 * 1024
_ANSWER_SECONDS: Final = 10.0
"""A broker that is asked on the publishing channel, and does not answer for so long, is stuck."""
_LOOK_SECONDS: Final = 0.5
"""Between two looks whether a confirm is overdue."""
_NAMED: Final = 20
"""Messages given up at one time that the log names one by one."""

log = structlog.get_logger("trunkline.relay")


class Refused(BrokerUnavailable):
    """The broker refused a message (nack): a queue of its is full, or has no majority."""


class Publisher:
    """One publishing channel on a connection of its own, from `position` on.

    window: messages that may be outstanding. window_bytes: once so many are, nothing is sent before a confirm.
    patience: how long a queue that refuses, or never confirms, holds up the others; what is given up then is logged and
    counted, and the position goes on past it.
    """

    def __init__(
        self,
        url: str,
        store: str,
        position: int,
        *,
        window: int,
        patience: Patience,
        metrics: Metrics,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.window = Window(position)
        self.limit = window
        """Messages that may be outstanding."""
        self._limit_bytes = window_bytes
        self._url = url
        self._store = store
        self._exchange = names.exchange(store)
        self._patience = patience
        self._answer = min(_ANSWER_SECONDS, max(1.0, patience.seconds))
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._connection: Any = None
        self._underlying: aiormq.Connection | None = None
        self._channel: Any = None
        self._closing: Any = None
        self._frames: Frames | None = None
        self._failure: BrokerUnavailable | None = None
        self._watching: asyncio.Task[None] | None = None
        self._spans = Spans()

    async def __aenter__(self) -> Self:
        try:
            with asking_broker(self._url):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self._connection = await aio_pika.connect(
                        self._url,
                        client_properties=client_properties(f"{self._exchange} relay"),
                    )
                    channel = await self._connection.channel(publisher_confirms=True)
                    for exchange in (self._exchange, names.links_exchange(self._store)):
                        await declare_exchange(channel, exchange)
                    await channel.close()
                    underlying: aiormq.Connection = self._connection.transport.connection
                    self._underlying = underlying
                    self._channel = await underlying.channel(publisher_confirms=True)
            obey_cancellation()
        except BaseException:
            await self._close()
            raise
        self._channel._on_confirm_frame = self._on_confirm
        self._channel._on_return_frame = self._on_return
        self._closing = self._channel.closing  # each question for it makes another observer
        self._closing.add_done_callback(lambda _: self._changed.set())
        self._frames = Frames(self._channel.number, underlying.connection_tune.frame_max, self._store)
        self._watching = asyncio.create_task(self._watch(), name="relay watch")
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._spans:
            self._spans.end()
        await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(BrokerUnavailable), asking_broker():  # it is closed already, as intended
                async with asyncio.timeout(1):
                    await connection.close()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Writes messages as the window has room for them; returns when all are written, not confirmed.

        Raises `BrokerUnavailable` (of which `Refused` is one); whether the messages above `window.position` arrived
        is then unknown.
        """
        assert self._frames is not None
        ahead = deque(messages)
        while ahead:
            await self._until_room()
            parts: list[bytes] = []
            size, now = 0, time.monotonic()
            while ahead and self._has_room() and size < _WRITE_BYTES:
                message = ahead.popleft()
                try:
                    parts.append(self._frames.of(message))
                except HeaderTooLarge as error:
                    if (both := halves(message)) is None:
                        raise BrokerUnavailable(f"{error}: raise RabbitMQ's frame_max to its default") from error
                    ahead.extendleft(reversed(both))
                    continue
                size += len(parts[-1])
                tag = self.window.sent(
                    message.last_position, message.first_position, message.routing_key, now, len(parts[-1])
                )
                if self._spans:
                    exchange = names.links_exchange(self._store) if message.linked else self._exchange
                    self._spans.begin(tag, message, exchange)
                self._metrics.batch_events.observe(message.count)
            self._metrics.published.inc(len(parts))
            await self._write(b"".join(parts))

    async def _write(self, payload: bytes) -> None:
        drained = asyncio.get_running_loop().create_future()
        drained.add_done_callback(lambda _: self._changed.set())
        with asking_broker():
            await self._channel.write_queue.put(ChannelFrame(payload, False, drained))
        while not drained.done():  # a socket that takes nothing has messages outstanding: they are watched
            await self._change()

    async def flush(self) -> None:
        """Waits until everything that was published is confirmed or given up. Raises `BrokerUnavailable`."""
        while len(self.window):
            await self._change()
        self._check()

    def _has_room(self) -> bool:
        return len(self.window) < self.limit and self.window.bytes < self._limit_bytes

    async def _until_room(self) -> None:
        while not self._has_room():
            await self._change()
        self._check()

    async def beyond(self, position: int) -> int:
        """Waits until `window.position` is beyond `position`, and returns it. Raises `BrokerUnavailable`."""
        while self.window.position <= position:
            await self._change()
        return self.window.position

    async def _change(self) -> None:
        self._changed.clear()
        self._check()
        await self._changed.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._channel.is_closed:
            raise BrokerUnavailable(f"RabbitMQ closed the channel: {_reason(self._closing)}")
        if self.window.refused is not None:
            raise Refused("RabbitMQ refused a message: a queue is full, or has no majority")

    async def _watch(self) -> None:
        """Sees to it that nobody waits for ever: for a broker that is stuck, or for a queue that never confirms."""
        try:
            with asking_broker():
                await self._watch_confirms()
        except BrokerUnavailable as error:
            self._failure = error
            self._changed.set()

    async def _watch_confirms(self) -> None:
        """Watch publisher confirms. Raises `BrokerUnavailable` once the broker is stuck."""
        free_since = 0.0
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._answer / 4))
            blocked, now = await self._is_blocked(), time.monotonic()
            self._metrics.blocked.set(blocked)
            oldest = self.window.oldest
            if blocked:
                free_since = now
            if oldest is None or blocked:
                continue  # an alarm ends some day, and all that is outstanding is confirmed then
            grace = self._answer if self._patience.lost(now) else max(self._answer, self._patience.seconds)
            age = now - max(oldest.at, free_since)
            if age < self._answer:
                continue
            if not await self._answers():
                if not await self._is_blocked():
                    raise BrokerUnavailable(f"RabbitMQ has not answered for {self._answer:g} s: connecting again")
            elif age >= grace:
                # It took what came after, and said nothing of this one: a queue is silent.
                self._patience.lose(now)
                self._given_up(self.window.give_up_older(now - self._answer), "never confirmed")

    async def _is_blocked(self) -> bool:
        assert self._underlying is not None
        try:
            async with asyncio.timeout(0):
                await self._underlying.ready()
        except TimeoutError:
            return True
        return False

    async def _answers(self) -> bool:
        """Whether the broker answers on the channel, after all that was published there."""
        declare = commands.Exchange.Declare(exchange=self._exchange, exchange_type="topic", durable=True)
        with suppress(BrokerUnavailable), asking_broker():
            async with asyncio.timeout(self._answer):
                await self._channel.rpc(declare)
            return True
        return False

    async def _on_confirm(self, frame: commands.Basic.Ack | commands.Basic.Nack) -> None:
        tag, now = frame.delivery_tag or 0, time.monotonic()
        if isinstance(frame, commands.Basic.Ack):
            done = self.window.ack(tag, multiple=frame.multiple)
            self._metrics.confirmed.inc(len(done))
            if done:
                self._metrics.confirm_seconds.observe(now - done[0].at)
                if self._spans:
                    self._spans.confirmed_before(self.window.oldest and self.window.oldest.tag)
        else:
            self._metrics.refused.inc()
            if self._patience.refused(now):
                self._given_up(self.window.give_up(tag, multiple=frame.multiple), "refused")
            else:
                self.window.nack(tag, multiple=frame.multiple)
        self._changed.set()

    def _given_up(self, messages: Sequence[Sent], why: str) -> None:
        self._metrics.skipped.inc(len(messages))
        if self._spans:
            self._spans.given_up((sent.tag for sent in messages), why)
        for sent in messages[:_NAMED]:
            log.error(
                "message given up",
                why=why,
                message_id=f"{sent.first_position}-{sent.position}",
                routing_key=sent.routing_key,
                hint="a queue bound to this key is full and rejects, or has no majority; its consumer sees a hole",
            )
        if len(messages) > _NAMED:
            log.error("messages given up", why=why, count=len(messages), up_to=messages[-1].position)
        self._changed.set()

    async def _on_return(self, frame: commands.Basic.Return) -> None:
        header = await self._channel._get_frame()  # header and body follow; so does a confirm, which counts
        await self._channel._read_content(frame, header)
        self._metrics.unroutable.inc()


def _reason(closing: asyncio.Future[Any]) -> str:
    if closing.done() and not closing.cancelled() and closing.exception() is not None:
        return str(closing.exception()) or type(closing.exception()).__name__
    return "no reason given"
