"""Republishes history to one queue: for a plain consumer that found a hole, or is new.

The messages are those of the relay, cut at the same borders, with their own chain: the chosen events do not follow
those in the queue, and its consumer must see whether all of them came. Other queues receive nothing, and the relay
keeps running.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from heapq import merge
from operator import attrgetter
from typing import Final, NamedTuple
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

from trunkline_relay.tail import PAGE_BYTES, PAGE_EVENTS
from trunkline_store import EventStore, InvalidArgument, MessagesLost, QueueNotFound, StreamNotFound
from trunkline_store.batch import Cutter, block_start
from trunkline_store.broker import asking_broker
from trunkline_store.cancellation import obey_cancellation
from trunkline_store.errors import BrokerUnavailable
from trunkline_store.names import app_id
from trunkline_store.presence import client_properties
from trunkline_store.urls import check_amqp_url
from trunkline_store.wire import CONTENT_TYPE, Message, Replayed, StoredEvent, StoredLink, encode

WINDOW: Final = 200
PATIENCE_SECONDS: Final = 30.0
COUNT_SECONDS: Final = 5.0
"""The wait for a queue's correct message count: a quorum queue's can come from a member that is behind."""


class _Page(NamedTuple):
    """Up to `end` there are no other events than these, and there may be `more` behind it."""

    events: Sequence[StoredEvent]
    end: int
    more: bool


class Replay:
    """Puts the events from `start` up to `end` (both inclusive; at most up to what is safe now) into a queue that is
    there: those of a category, or of a stream (as it is read: with what is linked into it, whose positions here are the
    links'), or all; of some types, or all.

    window: messages that may be outstanding, which bounds what a fault leaves unknown. patience: seconds without a
    confirm after which the broker counts as stuck.
    """

    def __init__(
        self,
        store: EventStore,
        amqp_url: str,
        queue: str,
        *,
        start: int = 0,
        end: int | None = None,
        category: str | None = None,
        stream: str | None = None,
        types: Collection[str] = (),
        window: int = WINDOW,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        if start < 0 or (end is not None and end < 0):
            raise InvalidArgument("start and end are positions, from 0 on")
        if category is not None and stream is not None:
            raise InvalidArgument("a category or a stream, not both")
        if window < 1:
            raise InvalidArgument("window: at least one message is outstanding at a time")
        self.start = start
        self.end = end
        """Where it ends; known when it has begun."""
        self.position = start - 1
        """What is wanted up to here is in the queue, confirmed: go on behind it."""
        self.events = 0
        self.messages = 0
        self.id = str(uuid4())
        self._store = store
        self._url = check_amqp_url(amqp_url)
        self._queue = queue
        self._category = category
        self._stream = stream
        self._types = frozenset(types)
        self._chosen_types = tuple(sorted(self._types))
        self._window = window
        self._patience = patience
        self._history = ""
        self._version = 0  # of the stream: where its next page begins

    async def run(self) -> None:
        """Publish the events; return once all are confirmed and the queue holds them, as far as a count can show.

        The count cannot see what a consumer takes or what else enters the queue; only its consumer can, by the chain.

        Raises `QueueNotFound`, `StreamNotFound`, `BrokerUnavailable`, and what the store raises. Confirmed messages
        stay in the queue: a new replay from `position` + 1 continues, and may repeat the last `window` messages. Raises
        `MessagesLost` if the queue holds fewer messages than it confirmed. It is unknown which are missing, so a new
        replay begins at `start` again.
        """
        store = self._store
        safe, self._history = await store.look(follow=False)
        self.end = end = safe if self.end is None else min(self.end, safe)
        if self._stream is not None:
            before = block_start(self.start) - 1
            version = await store.fetchval(store.sql["version_above"], self._stream, before, self._history)
            if version is None:
                raise StreamNotFound(self._stream)
            self._version = version
        async with self._channel() as channel:
            before, consumed = await self._count(channel)
            sending = _Sending(self, channel, self._queue, self._window, app_id(store.schema))
            previous, held = max(0, self.start - 1), None

            async def send(batch: list[StoredEvent], *, last: bool) -> None:
                nonlocal previous
                place = Replayed(self.id, self._of, self._chosen_types, previous, end, not sending.sent, last)
                message = encode(
                    batch, place, store=store.schema, history=self._history, content_type=store.content_type
                )
                await sending.send(message, self._patience)
                previous = batch[-1].position

            try:
                async for batches, read_to in self._batches(end):
                    for batch in batches:
                        if held is not None:
                            await send(held, last=False)
                        held = batch  # held until the next batch shows that it is not the last
                    if not sending.outstanding:
                        self.position = max(self.position, read_to if held is None else held[0].position - 1)
                if held is not None:
                    await send(held, last=True)
                await sending.flush()
            finally:
                await sending.end()
            if not consumed:
                await self._find(channel, before)
        self.position = max(self.position, end)

    async def _count(self, channel: AbstractChannel) -> tuple[int, bool]:
        """Return the number of messages that are ready in the queue, and True if it has a consumer."""
        with self._asking():
            async with asyncio.timeout(self._patience):
                found = (await channel.declare_queue(self._queue, passive=True)).declaration_result
        obey_cancellation()
        return found.message_count or 0, bool(found.consumer_count)

    async def _find(self, channel: AbstractChannel, before: int) -> None:
        """Check that the queue holds the confirmed messages. Raises `MessagesLost`."""
        found, consumed = await self._count(channel)
        deadline = time.monotonic() + COUNT_SECONDS
        while not consumed and found < before + self.messages and time.monotonic() < deadline:
            await asyncio.sleep(0.1)  # between two counts; the broker has no event for it
            found, consumed = await self._count(channel)
        if not consumed and found < before + self.messages:
            self.position = self.start - 1
            raise MessagesLost(self._queue, self.messages, max(0, found - before))

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel with confirms, on a connection of its own; the queue is there."""
        connection = None
        try:
            with self._asking():
                async with asyncio.timeout(self._patience):
                    connection = await aio_pika.connect(
                        self._url, client_properties=client_properties(f"{self._store.schema} replay")
                    )
                    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                    await channel.declare_queue(self._queue, passive=True)
            obey_cancellation()
            yield channel
        finally:
            if connection is not None:
                with suppress(BrokerUnavailable), asking_broker():  # it is closed already, as intended
                    async with asyncio.timeout(2):
                        await connection.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn the errors of the client library within into ours."""
        with asking_broker(self._url):
            try:
                yield
            except (ChannelNotFoundEntity, PublishError) as error:  # raised before the first message, or after it
                raise QueueNotFound(self._queue) from error
            except DeliveryError as error:
                raise BrokerUnavailable(
                    f"queue {self._queue!r} refused a message: make room in it, or restore its majority"
                ) from error
            except TimeoutError as error:
                raise BrokerUnavailable(
                    f"RabbitMQ did not answer for {self._patience:g} s: look for an alarm that blocks publishers"
                ) from error

    @property
    def _of(self) -> str:
        """The label of the replayed feed, as subscriptions write it."""
        if self._stream is not None:
            return self._stream
        return "$all" if self._category is None else f"$category-{self._category}"

    async def _batches(self, end: int) -> AsyncIterator[tuple[list[list[StoredEvent]], int]]:
        """What is wanted, page by page, and up to where it is complete."""
        cutter: Cutter[StoredEvent] = Cutter(self._store.batch_count, self._store.batch_bytes)
        position, more = block_start(self.start), self.start <= end
        while more:
            page = await self._page(position, end)
            batches = cutter.cut(page.events)
            if not page.more:
                batches += cutter.rest()
            wanted = [kept for batch in batches if (kept := [event for event in batch if self._wants(event)])]
            # where there is more, the last block may go on, and with it the batch that is still open
            yield wanted, block_start(page.end) - 1 if page.more else page.end
            position, more = page.end + 1, page.more

    async def _page(self, start: int, end: int) -> _Page:
        if self._stream is not None:
            return await self._stream_page(self._stream, end)
        if self._category is not None:
            rows, more = await self._rows(StoredEvent, "replay_category", start, end, self._category)
        else:
            rows, more = await self._rows(StoredEvent, "relay_page", start, end)
        return _Page(rows, rows[-1].position if more else end, more)

    async def _stream_page(self, stream: str, end: int) -> _Page:
        """Its own events and its links, in the order of their versions, up to where none of either is missing."""
        found = [
            await self._rows(StoredEvent, "replay_stream", self._version, end, stream),
            await self._rows(StoredLink, "replay_links", self._version, end, stream),
        ]
        upto = min((rows[-1].stream_version for rows, more in found if more), default=None)
        merged = merge(*(rows for rows, _ in found), key=attrgetter("stream_version"))
        entries = [entry for entry in merged if upto is None or entry.stream_version <= upto]
        if upto is None:
            return _Page(entries, end, more=False)
        self._version = upto + 1
        return _Page(entries, entries[-1].position, more=True)

    async def _rows(
        self, kind: type[StoredEvent], query: str, start: int, end: int, *of: str
    ) -> tuple[list[StoredEvent], bool]:
        """At most a page of them, and whether there may be more."""
        largest, store = self._store.batch_bytes, self._store
        rows = await store.fetch(store.sql[query], start, end, PAGE_EVENTS, PAGE_BYTES, largest, *of, self._history)
        entries = [kind(*row[: len(kind.__struct_fields__)]) for row in rows]
        more = len(rows) == PAGE_EVENTS or sum(min(entry.size, largest) for entry in entries) >= PAGE_BYTES
        return entries, more

    def _wants(self, event: StoredEvent) -> bool:
        return event.position >= self.start and (not self._types or event.type in self._types)


class _Sending:
    """Messages on their way, in their order, and what is known of them."""

    def __init__(self, replay: Replay, channel: AbstractChannel, queue: str, window: int, app_id: str) -> None:
        self.outstanding: deque[tuple[asyncio.Task[object], Message]] = deque()
        self.sent = 0
        self._replay = replay
        self._channel = channel
        self._queue = queue
        self._window = window
        self._app_id = app_id

    async def send(self, message: Message, patience: float) -> None:
        """Returns when the window has room for the next one. Raises what became of an earlier one."""
        publishing = self._channel.default_exchange.publish(
            aio_pika.Message(
                message.body,
                headers=message.headers,
                content_type=CONTENT_TYPE,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                correlation_id=message.correlation_id,
                message_id=message.message_id,
                timestamp=message.timestamp,
                type=message.type,
                app_id=self._app_id,
            ),
            self._queue,
            timeout=patience,
        )
        self.sent += 1
        # each takes the channel's lock in its turn, so they are written in this order
        self.outstanding.append((asyncio.create_task(publishing, name=f"replay {message.message_id}"), message))
        while self.outstanding and (len(self.outstanding) >= self._window or self.outstanding[0][0].done()):
            await self._settle()

    async def flush(self) -> None:
        while self.outstanding:
            await self._settle()

    async def end(self) -> None:
        """Counts what was confirmed before something failed, and forgets the rest."""
        while self.outstanding and _succeeded(self.outstanding[0][0]):
            await self._settle()
        tasks = [task for task, _ in self.outstanding]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self) -> None:
        replay = self._replay
        task, message = self.outstanding[0]
        await asyncio.wait({task})
        with replay._asking():
            task.result()
        self.outstanding.popleft()
        replay.events += message.count
        replay.messages += 1
        replay.position = message.last_position


def _succeeded(task: asyncio.Task[object]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
