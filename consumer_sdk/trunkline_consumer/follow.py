"""The way of the data: catching up ⇄ live.

Catching up reads the store to its safe position; live takes messages of the queue as long as each goes on where the
last one ended. Everything else is one and the same return to catching up: a hole, a queue that was deleted, purged or
overflowed, a broker that is away, a relay that is dead (no progress for a while), a damaged message. Both sources
end in one `Tenure.deliver`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final

import msgspec

from trunkline_consumer.feed import Feed, Kind
from trunkline_consumer.options import Options
from trunkline_consumer.outages import database_pause
from trunkline_consumer.own import BeginAgain
from trunkline_consumer.place import Verdict, verdict
from trunkline_consumer.receive import Received, Receiver, is_unreadable
from trunkline_consumer.replay import replay
from trunkline_consumer.sense import Horizon, judged
from trunkline_consumer.tenure import Tenure
from trunkline_consumer.unpack import unpacked
from trunkline_store import (
    BrokerUnavailable,
    EventStore,
    HistoryChanged,
    RecordedEvent,
    TrunklineError,
    Unavailable,
)
from trunkline_store.outage import PAUSE_SECONDS, Pause
from trunkline_store.read import from_all
from trunkline_store.wire import BadMessage

log = logging.getLogger("trunkline.consumer")

TURN_EVENTS: Final = 100
"""Delivered without a pause, before others have their turn: events that are handled soon are still in the processor's
cache. With 100 events in a message, a window that was filled first took half as long again."""


DAMAGE_SECONDS: Final = 60.0
"""The time between two log lines about damaged messages."""
UNREADABLE_LOSSES: Final = 3
"""The number of connections in a row that a message ends, since it cannot be decoded, before its queue is deleted."""


class Counts(msgspec.Struct):
    """The counters of a subscription: events by source, messages without anything new, and holes; of a handler, failed
    attempts that were retried, and parked batches. `Subscription.handled` counts the finished events."""

    from_queue: int = 0
    from_store: int = 0
    duplicates: int = 0
    holes: int = 0
    healed: int = 0
    """Events from the store after the subscription had been live for the first time."""
    retries: int = 0
    parked: int = 0
    damaged: int = 0
    """Messages that contradict themselves or the store, and events that were handed out and are not in the store."""
    unreadable: int = 0
    """How many times the queue was deleted because of a message that cannot be decoded."""


class Follower:
    """Follows a feed during one tenure. live: told with each change whether it is live."""

    def __init__(
        self,
        store: EventStore,
        feed: Feed,
        receiver: Receiver,
        tenure: Tenure,
        options: Options,
        counts: Counts,
        live: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._feed = feed
        self._receiver = receiver
        self._tenure = tenure
        self._options = options
        self._counts = counts
        self._live = live
        self._was_live = counts.from_queue > 0
        self._at_once = 0
        self._horizon = Horizon()
        self._damage_said = self._damage_healed = -math.inf

    async def follow(self) -> None:
        """For ever. Raises `BeginAgain` where the past is another one."""
        quiet, pause, database = 0, database_pause(), self._tenure.outages.database
        while True:
            try:
                self._live(False)
                found, unheard = await self._catch_up(), not self._counts.from_queue
                database.back()
                pause.reset()
                quiet = quiet + 1 if found and self._receiver.connected and not unheard else 0
                if quiet > 1 and quiet.bit_count() == 1:
                    self._receiver.bind_again()  # the store has what the queue should have had
                self._live(True)
                if await self._listen():
                    quiet = 0
            except HistoryChanged as error:  # raised while pages are read
                raise BeginAgain(self._tenure.claim.name) from error
            except Unavailable as error:
                database.away(error)
                await asyncio.sleep(pause.next())

    async def consume(self) -> None:
        """Keeps the queue there and consumed, as far as the broker lets us."""
        receiver, broker, pause, unreadable = self._receiver, self._tenure.outages.broker, Pause(), 0
        while True:
            self._tenure.acks.forget_tags()
            try:
                await receiver.connect()
                began, taken = time.monotonic(), receiver.taken
                cause = await receiver.until_lost()
                if receiver.taken > taken or time.monotonic() > began + PAUSE_SECONDS[1]:
                    broker.back()  # it has worked: the next fault is another outage
                    pause.reset()
                unreadable = unreadable + 1 if is_unreadable(cause) else 0
                if unreadable == UNREADABLE_LOSSES and not receiver.transient:
                    unreadable = 0
                    await self._delete_unreadable(cause)
                broker.away(f"lost its queue: {_words(cause)}", "; it reads from the store")
            except BrokerUnavailable as error:
                broker.away(error, "; it reads from the store")
            await asyncio.sleep(pause.next())

    async def _delete_unreadable(self, cause: BaseException | None) -> None:
        """Delete the queue, which would deliver the same message again and again: it is only a cache. Raises
        `BrokerUnavailable`."""
        log.error(
            "subscription %s: its queue is deleted, since a message in it cannot be decoded (%s): find its publisher; "
            "the events come from the store",
            *(self._tenure.claim.name, _words(cause)),
        )
        self._counts.unreadable += 1
        await self._receiver.delete_queue()

    async def checkpoint(self) -> None:
        """Writes checkpoints as they are due, for ever, and tells the broker what is done with."""
        tenure, pause = self._tenure, database_pause()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.checkpoint_after):
                    await tenure.due.wait()
            tenure.due.clear()
            try:
                await tenure.write()
                await self._settle()
                pause.reset()
            except Unavailable as error:
                tenure.outages.database.away(error, "; the checkpoint is written later")
                tenure.due.set()
                await asyncio.sleep(pause.next())

    async def _settle(self) -> None:
        generation = self._receiver.generation
        tag = self._tenure.acks.settle(self._tenure.durable)
        if tag is not None:
            await self._receiver.ack(tag, generation)

    async def _catch_up(self) -> bool:
        """Reads the store to its safe position. Returns whether there was anything."""
        store, tenure = self._store, self._tenure
        look = await store.look()
        self._horizon.looked(look.safe)
        if look.history != tenure.claim.history:
            log.warning("subscription %s: the history changed to %s", tenure.claim.name, look.history)
            raise BeginAgain(tenure.claim.name)
        found = False
        async with aclosing(replay(store, self._feed, tenure.delivered, look)) as batches:
            async for events in batches:
                await self._deliver(events)
                found = True
                self._counts.from_store += len(events)
                self._counts.healed += len(events) if self._was_live else 0
                await self._turn(len(events))
        tenure.looked_to(look.safe)
        return found

    async def _deliver(self, events: Sequence[RecordedEvent]) -> None:
        """When there is room, and while we are the owner."""
        tenure = self._tenure
        await tenure.room()
        if not tenure.claim.held:
            await tenure.claim.until_held()  # the database is away, or we were paused: the keeper finds out which
        tenure.deliver(events)

    async def _turn(self, events: int) -> None:
        """Yield to the event loop after every `TURN_EVENTS` delivered events."""
        self._at_once += events
        if self._at_once >= TURN_EVENTS:
            self._at_once = 0
            await asyncio.sleep(0)

    async def _listen(self) -> bool:
        """Take messages while they continue the feed. Return when the store must be read: True if any message came."""
        receiver, progress, heard = self._receiver, time.monotonic(), False
        while True:
            message = receiver.at_hand()
            if message is None:
                idle = self._options.idle if receiver.connected else self._options.idle / 10
                remaining = progress + idle - time.monotonic()
                if remaining <= 0:
                    return heard
                if not receiver.connected:
                    await asyncio.sleep(remaining)
                    return heard
                message = await receiver.next(remaining)
                if message is None:
                    return heard
            self._was_live = heard = True
            self._tenure.outages.broker.back()
            before = self._tenure.delivered
            try:
                if not self._feed.covers(message.headers):
                    self._tenure.acks.received(message.tag, 0)
                    self._tenure.hold_nothing_up()
                    found = Verdict.FOREIGN
                else:
                    found = await self._take(message)
                if found is Verdict.HOLE:
                    return heard
                if self._tenure.delivered > before:
                    progress = time.monotonic()
                elif time.monotonic() > progress + self._options.idle:
                    return heard  # a backlog of old messages may be long, and the history may have changed meanwhile
            except TrunklineError:
                raise
            except Exception as error:  # noqa: BLE001 - any error is this message's: the store has its events
                if self._damage(error):
                    return heard
                await self._settle()

    def _damage(self, error: Exception) -> bool:
        """Count a damaged message, and log the first one of a minute. Return True if the store is to be read now, which
        for each of many damaged messages would slow its writers down."""
        self._counts.damaged += 1
        self._tenure.hold_nothing_up()
        now = time.monotonic()
        if now > self._damage_said + DAMAGE_SECONDS:
            self._damage_said = now
            log.warning(
                "subscription %s: skipped damaged message number %d (its events are read from the store): %s",
                self._tenure.claim.name,
                self._counts.damaged,
                error if isinstance(error, BadMessage) else repr(error),
            )
        if now <= self._damage_healed + self._options.idle:
            return False
        self._damage_healed = now
        return True

    async def _take(self, message: Received) -> Verdict:
        """Returns how it stands to what was delivered, and has delivered what is next. Raises `BadMessage`."""
        tenure = self._tenure
        events: list[RecordedEvent] = []
        referred: list[int] = []
        try:
            place = judged(message, self._store.schema)
            self._horizon.check(place)
            found = verdict(place, self._feed.previous(place), tenure.delivered, tenure.looked, tenure.claim.history)
            if found is Verdict.NEXT:
                serializer, by_version = self._store.serializer, self._feed.kind is Kind.STREAM
                events, referred = unpacked(message, place, tenure.delivered, serializer, by_version=by_version)
        except Exception:
            tenure.acks.received(message.tag, 0)
            raise
        # Record the tag at once: after the first `await`, its channel may be gone. Only the tag of a message that is
        # believed waits for the checkpoint, which might never reach the position of a forged one.
        believed = found is Verdict.DUPLICATE or (found is Verdict.NEXT and not referred)
        tenure.acks.received(message.tag, place.last_position if believed else 0)
        match found:
            case Verdict.NEXT:
                for index in referred:
                    events[index] = await self._fetched(events[index])
                if events:
                    await self._deliver(events)
                    self._counts.from_queue += len(events)
                    await self._turn(len(events))
            case Verdict.DUPLICATE:
                self._counts.duplicates += 1
                await self._settle()
            case Verdict.HOLE:
                self._counts.holes += 1
            case Verdict.FOREIGN | Verdict.STALE:
                await self._settle()
        return found

    async def _fetched(self, event: RecordedEvent) -> RecordedEvent:
        """The same with its data, which was too large for a message."""
        query, at = self._store.sql["read_all_forward"], event.position
        rows = await self._store.fetch(query, at, at, 1, 1, self._tenure.claim.history)
        if not rows:
            raise BadMessage(f"event {at} is no longer in the store")
        found = from_all(rows, self._store.serializer)[0]
        if (found.event_id, found.stream, found.stream_version) != (event.event_id, event.stream, event.stream_version):
            raise BadMessage(f"the store holds another event at position {at}")
        number, feed_position = event.event_number, event.feed_position
        return msgspec.structs.replace(found, event_number=number, feed_position=feed_position)


def _words(cause: BaseException | None) -> str:
    return "the broker cancelled it" if cause is None else str(cause) or type(cause).__name__
