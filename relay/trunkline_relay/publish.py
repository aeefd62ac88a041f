"""Puts messages on the exchange, many at once, with confirms in a window.

aio-pika makes the connection and the topology. Its publish sends message by message and waits for each to be drained,
which costs ten times the broker's own time; so whole pages are marshalled and written at once, below it. All that is
used of aiormq for this stands in this module: `write_queue`, `ChannelFrame`, and the channel's two methods that take
confirms and returns.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import aio_pika
import aiormq
import pamqp.frame
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from trunkline_relay.confirms import Window
from trunkline_store import names
from trunkline_store.cancellation import obey_cancellation
from trunkline_store.errors import BrokerUnavailable
from trunkline_store.wire import CONTENT_TYPE, Message

_PERSISTENT: Final = 2
_FRAME_OVERHEAD: Final = 8
_WRITE_BYTES: Final = 1024 * 1024

_BROKER_ERRORS: Final = (aio_pika.exceptions.AMQPError, OSError, TimeoutError, RuntimeError)


class Refused(BrokerUnavailable):
    """The broker refused a message (nack): a queue of its is full, or has no majority."""


class Publisher:
    """One publishing channel on a connection of its own, from `position` on.

    window: messages that may be outstanding. patience: seconds without any confirm after which the broker counts as
    stuck (blocked by an alarm, for instance).
    """

    def __init__(self, url: str, store: str, position: int, *, window: int, patience: float) -> None:
        self.window = Window(position)
        self.unroutable = 0
        self._url = url
        self._exchange = names.exchange(store)
        self._links = names.links_exchange(store)
        self._app_id = f"trunkline/{store}"
        self.limit = window
        """Messages that may be outstanding."""
        self._patience = patience
        self._changed = asyncio.Event()
        self._connection: Any = None
        self._channel: Any = None
        self._closing: Any = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._patience):
                self._connection = await aio_pika.connect(
                    self._url,
                    client_properties={"connection_name": f"{self._exchange} relay"},
                )
                channel = await self._connection.channel(publisher_confirms=True)
                for exchange in (self._exchange, self._links):
                    await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True)
                await channel.close()
                underlying: aiormq.Connection = self._connection.transport.connection
                self._channel = await underlying.channel(publisher_confirms=True)
            obey_cancellation()
        except _BROKER_ERRORS as error:
            await self._close()
            obey_cancellation()
            raise BrokerUnavailable.because(error) from error
        except BaseException:
            await self._close()
            raise
        self._channel._on_confirm_frame = self._on_confirm
        self._channel._on_return_frame = self._on_return
        self._closing = self._channel.closing  # each question for it makes another observer
        self._closing.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                async with asyncio.timeout(2):
                    await connection.close()
            except _BROKER_ERRORS:
                pass  # it is gone, which is what was wanted

    async def publish(self, messages: Sequence[Message]) -> None:
        """Writes messages as the window has room for them; returns when all are written, not confirmed.

        Raises `BrokerUnavailable` (of which `Refused` is one); whether the messages above `window.position` arrived
        is then unknown.
        """
        ahead = deque(messages)
        while ahead:
            await self._until(lambda: len(self.window) < self.limit)
            payload = io.BytesIO()
            while ahead and len(self.window) < self.limit and payload.tell() < _WRITE_BYTES:
                message = ahead.popleft()
                self.window.sent(message.last_position)
                self._marshal(message, payload)
            await self._write(payload.getvalue())

    async def _write(self, payload: bytes) -> None:
        drained = asyncio.get_running_loop().create_future()
        try:
            await self._channel.write_queue.put(ChannelFrame(payload, False, drained))
        except _BROKER_ERRORS as error:
            raise BrokerUnavailable.because(error) from error
        await asyncio.wait({drained, self._closing}, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            self._check()
            raise BrokerUnavailable(
                f"RabbitMQ took nothing for {self._patience:g} s: it is blocked by an alarm, or stuck"
            )

    async def flush(self) -> None:
        """Waits until everything that was published is confirmed. Raises `BrokerUnavailable`."""
        await self._until(lambda: not len(self.window))

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

    async def _until(self, condition: Any) -> None:
        while not condition():
            before = self.window.position
            try:
                async with asyncio.timeout(self._patience):
                    await self._change()
            except TimeoutError as error:
                if self.window.position == before:
                    raise BrokerUnavailable(
                        f"RabbitMQ confirmed nothing for {self._patience:g} s: it is blocked by an alarm, or stuck"
                    ) from error
        self._check()

    def _check(self) -> None:
        if self._channel.is_closed:
            raise BrokerUnavailable(f"RabbitMQ closed the channel: {_reason(self._closing)}")
        if self.window.refused is not None:
            raise Refused("RabbitMQ refused a message: a queue is full, or has no majority")

    async def _on_confirm(self, frame: commands.Basic.Ack | commands.Basic.Nack) -> None:
        tag = frame.delivery_tag or 0
        if isinstance(frame, commands.Basic.Ack):
            self.window.ack(tag, multiple=frame.multiple)
        else:
            self.window.nack(tag, multiple=frame.multiple)
        self._changed.set()

    async def _on_return(self, frame: commands.Basic.Return) -> None:
        header = await self._channel._get_frame()  # header and body follow; so does a confirm, which counts
        await self._channel._read_content(frame, header)
        self.unroutable += 1

    def _marshal(self, message: Message, out: io.BytesIO) -> None:
        channel: int = self._channel.number
        headers = message.headers
        if message.further_keys:
            headers = {**headers, "CC": message.further_keys}
        frames: list[Any] = [
            commands.Basic.Publish(
                exchange=self._links if message.linked else self._exchange,
                routing_key=message.routing_key,
                mandatory=True,
            ),
            ContentHeader(
                body_size=len(message.body),
                properties=commands.Basic.Properties(
                    content_type=CONTENT_TYPE,
                    headers=headers,
                    delivery_mode=_PERSISTENT,
                    correlation_id=message.correlation_id,
                    message_id=message.message_id,
                    timestamp=message.timestamp,
                    message_type=message.type,
                    app_id=self._app_id,
                ),
            ),
        ]
        limit = self._channel.connection.connection_tune.frame_max - _FRAME_OVERHEAD
        frames.extend(ContentBody(message.body[i : i + limit]) for i in range(0, len(message.body), limit))
        out.writelines(pamqp.frame.marshal(frame, channel) for frame in frames)


def _reason(closing: asyncio.Future[Any]) -> str:
    if closing.done() and not closing.cancelled() and closing.exception() is not None:
        return str(closing.exception()) or type(closing.exception()).__name__
    return "no reason given"
