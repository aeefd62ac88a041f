"""The way of the data: catching up ⇄ live.

Catching up reads the store to its safe position; live takes messages of the queue as long as each goes on where the
last one ended. Everything else is one and the same return to catching up: a hole, a queue that was deleted, purged or
overflowed, a broker that is away, a relay that is dead (no progress for a while), a damaged message. Both sources
end in one `Tenure.deliver`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final

import msgspec

from trunkline_consumer.feed import Feed, Kind
from trunkline_consumer.options import Options
from trunkline_consumer.own import BeginAgain
from trunkline_consumer.place import Verdict, verdict
from trunkline_consumer.receive import Received, Receiver
from trunkline_consumer.replay import replay
from trunkline_consumer.tenure import Tenure
from trunkline_consumer.unpack import unpacked
from trunkline_store import BrokerUnavailable, EventStore, HistoryChanged, RecordedEvent, Unavailable
from trunkline_store.read import from_all
from trunkline_store.wire import BadMessage, placement

log = logging.getLogger("trunkline.consumer")

TURN_EVENTS: Final = 100
"""Delivered without a pause, before others have their turn: events that are handled soon are still in the processor's
cache. With 100 events in a message, a window that was filled first took half as long again."""


class Counts(msgspec.Struct):
    """What happened so far: events by where they came from, messages that brought nothing new, holes that were seen; of
    a handler, attempts that failed and were followed by another, and batches that were parked."""

    from_queue: int = 0
    from_store: int = 0
    duplicates: int = 0
    holes: int = 0
    healed: int = 0
    """Events from the store after the subscription had been live for the first time."""
    handled: int = 0
    """Events, until the last reset; see `Subscription.handled`."""
    retries: int = 0
    parked: int = 0
    damaged: int = 0
    """Events that were handed out and are not in the store."""


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

    async def follow(self) -> None:
        """For ever. Raises `BeginAgain` where the past is another one."""
        quiet = 0
        while True:
            try:
                self._live(False)
                found, unheard = await self._catch_up(), not self._counts.from_queue
                quiet = quiet + 1 if found and self._receiver.connected and not unheard else 0
                if quiet > 1 and quiet.bit_count() == 1:
                    self._receiver.bind_again()  # the store has what the queue should have had
                self._live(True)
                if await self._listen():
                    quiet = 0
            except HistoryChanged as error:  # while pages were read
                raise BeginAgain(self._tenure.claim.name) from error
            except Unavailable as error:
                log.warning("subscription %s: %s", self._tenure.claim.name, error)
                await asyncio.sleep(random.uniform(0.1, 0.3))

    async def consume(self) -> None:
        """Keeps the queue there and consumed, as far as the broker lets us."""
        pause, name = 0.1, self._tenure.claim.name
        while True:
            self._tenure.acks.forget_tags()
            try:
                await self._receiver.connect()
                pause = 0.1
                await self._receiver.until_lost()
                log.warning("subscription %s lost its queue; it goes on from the store", name)
            except BrokerUnavailable as error:
                log.warning("subscription %s: %s; it goes on from the store", name, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(5.0, pause * 2)

    async def checkpoint(self) -> None:
        """Writes checkpoints as they are due, for ever, and tells the broker what is done with."""
        tenure = self._tenure
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.checkpoint_after):
                    await tenure.due.wait()
            tenure.due.clear()
            try:
                await tenure.write()
                await self._settle()
            except Unavailable as error:
                log.warning("subscription %s: checkpoint not written yet: %s", tenure.claim.name, error)
                tenure.due.set()
                await asyncio.sleep(random.uniform(0.1, 0.3))

    async def _settle(self) -> None:
        generation = self._receiver.generation
        tag = self._tenure.acks.settle(self._tenure.durable)
        if tag is not None:
            await self._receiver.ack(tag, generation)

    async def _catch_up(self) -> bool:
        """Reads the store to its safe position. Returns whether there was anything."""
        store, tenure = self._store, self._tenure
        look = await store.look()
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
        """So many more were delivered, and counted: others have their turn now and then."""
        self._at_once += events
        if self._at_once >= TURN_EVENTS:
            self._at_once = 0
            await asyncio.sleep(0)

    async def _listen(self) -> bool:
        """Takes messages while they go on where we stand. Returns when the store must be asked, and whether a message
        came at all."""
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
            try:
                if not self._feed.covers(message.headers):
                    self._tenure.acks.received(message.tag, 0)
                    self._tenure.hold_nothing_up()
                    found = Verdict.FOREIGN
                else:
                    found = await self._take(message)
                match found:
                    case Verdict.HOLE:
                        return heard
                    case Verdict.FOREIGN | Verdict.STALE:  # if nothing else comes, the past may be another one by now
                        if time.monotonic() > progress + self._options.idle:
                            return heard
                    case _:
                        progress = time.monotonic()
            except BadMessage as error:
                log.warning("subscription %s: message passed over: %s", self._tenure.claim.name, error)
                self._counts.holes += 1
                return heard

    async def _take(self, message: Received) -> Verdict:
        """Returns how it stands to what was delivered, and has delivered what is next. Raises `BadMessage`."""
        tenure = self._tenure
        try:
            place = placement(message.headers, self._store.schema)
        except BadMessage:
            tenure.acks.received(message.tag, 0)
            raise
        # At once: after the first `await`, the tag may be of a channel that has gone.
        found = verdict(place, self._feed.previous(place), tenure.delivered, tenure.looked, tenure.claim.history)
        passed = found in (Verdict.FOREIGN, Verdict.STALE)
        tenure.acks.received(message.tag, 0 if passed else place.last_position)
        match found:
            case Verdict.NEXT:
                serializer, by_version = self._store.serializer, self._feed.kind is Kind.STREAM
                events, referred = unpacked(message.body, tenure.delivered, serializer, by_version=by_version)
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
        number, feed_position = event.event_number, event.feed_position
        return msgspec.structs.replace(found, event_number=number, feed_position=feed_position)
