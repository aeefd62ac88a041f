"""A subscription's life.

    starting ──► catching up ◄──► live ──► stopped | lost | failed

Catching up reads the store to its safe position; live takes messages of the queue as long as each goes on where the
last one ended. Everything else is one and the same return to catching up: a hole, a queue that was deleted, purged or
overflowed, a broker that is away, a relay that is dead (no progress for a while), a damaged message. Both sources
end in one `_deliver`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self
from uuid import uuid4

import msgspec

from trunkline_consumer.acks import AckMap
from trunkline_consumer.batch import Batch
from trunkline_consumer.place import Verdict, verdict
from trunkline_consumer.receive import Queue, Receiver
from trunkline_consumer.replay import replay
from trunkline_store import EventStore, RecordedEvent, names
from trunkline_store.errors import (
    BrokerUnavailable,
    InvalidArgument,
    LeaseLost,
    SubscriptionAlreadyExists,
    SubscriptionLost,
    TrunklineError,
    Unavailable,
    UnexpectedAck,
)
from trunkline_store.lease import Lease
from trunkline_store.read import from_message
from trunkline_store.wire import BadMessage, decode, placement

log = logging.getLogger("trunkline.consumer")

ALL: Final = "$all"
_LONGEST: Final = 10 * 365 * 24 * 3600.0


class Start(enum.Enum):
    """Where a subscription begins that does not exist yet."""

    ORIGIN = "the first event"
    CURRENT = "after the last event that is there"


ORIGIN: Final = Start.ORIGIN
CURRENT: Final = Start.CURRENT


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription behaves.

    - `buffer_size`: batches that are handed out or wait to be, and are not acknowledged.
    - `checkpoint_threshold`: events after which the checkpoint is written; `checkpoint_after`: seconds after which it
      is written all the same (None: only by the threshold, and at the end).
    - `lease`: seconds after which an owner that has vanished is replaced.
    - `idle`: seconds without progress after which the store is asked whether there is more; a tenth of it while the
      broker is away.
    - `prefetch`: messages that the broker may send ahead of their acknowledgement.
    - `queue_length`, `queue_bytes`: of the queue, which drops its oldest messages beyond; `queue_expires`: seconds
      without a consumer after which the broker removes it. What is dropped is read from the store.
    """

    buffer_size: int = 16
    checkpoint_threshold: int = 1
    checkpoint_after: float | None = None
    lease: float = 15.0
    idle: float = 1.0
    prefetch: int = 200
    queue_length: int = 100_000
    queue_bytes: int = 256 * 1024 * 1024
    queue_expires: float = 7 * 24 * 3600.0

    def __post_init__(self) -> None:
        for name in ("buffer_size", "checkpoint_threshold", "prefetch", "queue_length", "queue_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidArgument(f"{name}: {value!r} is not at least 1")
        if self.prefetch > 2000:
            raise InvalidArgument(f"prefetch: {self.prefetch} is over 2000, the most that quorum queues serve")
        for name, least in (("lease", 0.1), ("idle", 0.01), ("queue_expires", 1), ("checkpoint_after", 0.01)):
            value = getattr(self, name)
            if value is None and name == "checkpoint_after":
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= _LONGEST:
                raise InvalidArgument(f"{name}: {value!r} is not between {least} and {_LONGEST:.0f} seconds")


class State(enum.Enum):
    STARTING = "starting"
    CATCHING_UP = "catching up"
    LIVE = "live"
    STOPPED = "stopped"
    LOST = "lost"
    FAILED = "failed"


class Counts(msgspec.Struct):
    """What happened so far: events by where they came from, messages that brought nothing new, holes that were seen."""

    from_queue: int = 0
    from_store: int = 0
    duplicates: int = 0
    holes: int = 0
    healed: int = 0
    """Events from the store after the subscription had been live for the first time."""


class Subscription:
    """A named, durable subscription with one owner: iterate over it, and acknowledge what was handled.

    Made by `Consumer.subscribe_to_…`; `async with` starts and stops it.
    """

    def __init__(
        self,
        store: EventStore,
        amqp_url: str,
        name: str,
        *,
        start_from: Start | int,
        options: Options,
    ) -> None:
        self.name = names.check_subscription(name)
        self.state = State.STARTING
        self.counts = Counts()
        self._store = store
        self._options = options
        self._start_from = _checked_start(start_from)
        self._owner = uuid4()
        self._receiver = Receiver(
            amqp_url,
            Queue(
                names.queue(store.schema, name),
                names.exchange(store.schema),
                "#",
                max_length=options.queue_length,
                max_bytes=options.queue_bytes,
                expires=options.queue_expires,
            ),
            prefetch=options.prefetch,
        )
        self._lease: Lease | None = None
        self._id = 0
        self._acks = AckMap(0)
        self._generation = 0
        self._history = ""
        self._delivered = 0
        self._durable = 0
        self._written = 0
        self._was_live = False
        self._ready: deque[Batch] = deque()
        self._changed = asyncio.Condition()
        self._write = asyncio.Event()
        self._started = False
        self._stopping = False
        self._stopped: asyncio.Task[None] | None = None
        self._forsaken = False
        self._handed_out = 0
        self._error: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- the user's side

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        while True:
            async with self._changed:
                while not self._ready:
                    if self._error is not None:
                        raise self._error
                    if self._stopping:
                        raise StopAsyncIteration
                    await self._changed.wait()
                if self._lease is not None and self._lease.held:
                    batch = self._ready.popleft()
                    self._handed_out = batch[-1].feed_position
                    return batch
            await self._until_held()  # it may be somebody else's by now: the keeper finds out

    async def _until_held(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                if self._lease is not None:
                    await self._lease.until_held()

    @property
    def checkpoint(self) -> int:
        """The position up to which everything is finished and written down."""
        return self._durable

    async def start(self) -> None:
        """Becomes the owner, and begins to follow. Waits for an owner that has vanished, at most its lease.

        Raises `SubscriptionAlreadyExists` while another subscriber is alive, `InvalidArgument`, `Unavailable`.
        """
        if self._started:
            raise InvalidArgument(f"subscription {self.name!r} was started before: make another one")
        self._started = True
        store = self._store
        history = str(await store.fetchval(store.sql["history"]))
        row = await store.fetchrow(store.sql["create_subscription"], self.name, ALL, await self._first_checkpoint())
        assert row is not None
        if row["feed"] != ALL:
            raise InvalidArgument(f"subscription {self.name!r} follows {row['feed']!r}, not {ALL!r}")
        self._id = row["subscription_id"]
        lease = await self._become_owner()
        try:
            self._enter(lease, history, await self._fenced(lease))
        except BaseException:
            with suppress(Unavailable):
                await lease.release()
            raise
        for life in (self._own, self._consume, self._follow, self._write_checkpoints):
            self._tasks.append(asyncio.create_task(self._guarded(life), name=f"{self.name} {life.__name__}"))

    async def stop(self) -> None:
        """Writes the checkpoint, hands the subscription over at once, and ends the iteration. The row stays."""
        if not self._tasks:
            return
        if self._stopped is None:
            self._stopping = True
            self._stopped = asyncio.create_task(self._stop(), name=f"{self.name} stop")
        await asyncio.shield(self._stopped)  # who waits may be cancelled, the stop is not

    async def _stop(self) -> None:
        if self.state not in (State.LOST, State.FAILED):
            self.state = State.STOPPED
        self._ready.clear()
        await self._notify()
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self.state is State.STOPPED:
                with suppress(Unavailable, SubscriptionLost):
                    await self._write_checkpoint()
        finally:
            await self._receiver.close()
            await self._release()
            await self._notify()

    async def ack(self, handled: RecordedEvent | Sequence[RecordedEvent] | int) -> None:
        """This event (or position, or the last of these events) and all in flight before it are handled.

        Returns when the checkpoint is written, if the threshold is reached; otherwise at once. A database that is
        away is waited for. Raises `UnexpectedAck` if it is not in flight, `SubscriptionLost` if it is too late.
        """
        if isinstance(handled, Sequence):
            if not handled:
                raise InvalidArgument("ack: there is no event in the list")
            handled = handled[-1]
        position = handled if isinstance(handled, int) else handled.feed_position
        await self._ack(position, self._generation)

    async def _ack(self, position: int, generation: int) -> None:
        if self._error is not None:
            raise self._error
        if generation != self._generation:
            return  # it was delivered in another past, or before the checkpoint was read again: it will come once more
        if self._stopping:
            raise SubscriptionLost(self.name, "was stopped")
        if position > self._handed_out or not self._acks.ack(position):
            raise UnexpectedAck(self.name, position)
        await self._notify()
        if self._acks.held >= self._options.prefetch // 2:
            self._write.set()  # the broker sends no more than the prefetch: no threshold may stop it
        if self._acks.finished - self._written >= self._options.checkpoint_threshold:
            self._write.set()
            async with self._changed:
                while self._durable < position and generation == self._generation:
                    if self._error is not None:
                        raise self._error
                    if self._stopping:
                        return
                    await self._changed.wait()

    # --- ownership

    async def _first_checkpoint(self) -> int:
        match self._start_from:
            case Start.ORIGIN:
                return 0
            case Start.CURRENT:
                safe = await self._store.safe_position()
                return int(await self._store.fetchval(self._store.sql["last_position"], safe))
            case position:
                return position

    async def _become_owner(self) -> Lease:
        store, name = self._store, f"subscription {self._id}"
        seen: Any = None
        while True:
            lease = await Lease.acquire(store, name, self._owner, self._options.lease)
            if lease is not None:
                return lease
            row = await store.fetchrow(store.sql["see_lease"], name)
            if row is not None and seen is not None and row != seen:
                raise SubscriptionAlreadyExists(self.name)  # it was renewed, or taken: somebody is alive
            seen = row
            await asyncio.sleep(0.1)

    async def _fenced(self, lease: Lease) -> int:
        """Shuts a predecessor out; returns where it ended."""
        checkpoint: int | None = await self._store.fetchval(
            self._store.sql["fence_subscription"], self._id, self._owner, lease.epoch
        )
        if checkpoint is None:
            raise SubscriptionLost(self.name)
        return checkpoint

    def _enter(self, lease: Lease, history: str, checkpoint: int) -> None:
        """Begins at a checkpoint of a history, in one step: nothing that was learned before is mixed with it."""
        self._lease = lease
        self._history = history
        self._acks = AckMap(checkpoint)
        self._generation += 1
        self._delivered = self._durable = self._handed_out = checkpoint
        self._written = 0
        self._forsaken = False
        self._ready.clear()

    async def _own(self) -> None:
        while True:
            lease = self._lease
            assert lease is not None
            try:
                await lease.keep()
            except LeaseLost:
                with suppress(Unavailable):  # then it is asked again
                    replaced = not await self._another_past()
                    if self._lease is not lease:
                        continue  # the follower has begun again already
                    if replaced:
                        raise SubscriptionLost(self.name) from None
                    self._forsaken = True
                    await self._notify()
                    async with self._changed:
                        while self._lease is lease:  # the follower begins again, with a lease of this past
                            await self._changed.wait()

    async def _another_past(self) -> bool:
        """Whether what was refused was asked in a history that is no longer the database's."""
        history, generation = self._history, self._generation
        return await self._store.fetchval(self._store.sql["history"]) != history or generation != self._generation

    async def _release(self) -> None:
        if self._lease is not None:
            with suppress(Unavailable):
                await self._lease.release()

    async def _guarded(self, life: Callable[[], Awaitable[None]]) -> None:
        try:
            await life()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.state = State.LOST if isinstance(error, SubscriptionLost) else State.FAILED
            if not isinstance(error, TrunklineError):
                log.exception("subscription %s failed", self.name)
            if self._error is None:
                self._error = error
            self._ready.clear()
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            await self._receiver.close()
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- the way of the data

    async def _consume(self) -> None:
        """Keeps the queue there and consumed, as far as the broker lets us."""
        pause = 0.1
        while True:
            self._acks.forget_tags()
            try:
                await self._receiver.connect()
                pause = 0.1
                await self._receiver.lost()
                log.warning("subscription %s lost its queue; it goes on from the store", self.name)
            except BrokerUnavailable as error:
                log.warning("subscription %s: %s; it goes on from the store", self.name, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(5.0, pause * 2)

    async def _follow(self) -> None:
        quiet = 0
        while True:
            try:
                self.state = State.CATCHING_UP
                found, unheard = await self._catch_up(), not self.counts.from_queue
                quiet = quiet + 1 if found and self._receiver.connected and not unheard else 0
                if quiet > 1 and quiet.bit_count() == 1:
                    await self._receiver.bind_again()  # the store has what the queue should have had
                self.state = State.LIVE
                if await self._live():
                    quiet = 0
            except (Unavailable, BrokerUnavailable) as error:
                log.warning("subscription %s: %s", self.name, error)
                await asyncio.sleep(random.uniform(0.1, 0.3))

    async def _catch_up(self) -> bool:
        """Reads the store to its safe position. Returns whether there was anything."""
        store = self._store
        row = await store.fetchrow(store.sql["poll"])
        assert row is not None
        safe, history = row
        if history != self._history or self._forsaken:
            log.warning("subscription %s: the history changed from %s to %s", self.name, self._history, history)
            await self._begin_again(history)
        found = False
        async for events in replay(store, self._delivered, safe):
            if not await self._deliver(events):
                return found
            found = True
            self.counts.from_store += len(events)
            self.counts.healed += len(events) if self._was_live else 0
        self._delivered = max(self._delivered, safe)
        return found

    async def _begin_again(self, history: str) -> None:
        """Another past: what is known here was learned in the old one. The rows say where we are in this one."""
        lease = await Lease.acquire(self._store, f"subscription {self._id}", self._owner, self._options.lease)
        if lease is None:
            raise SubscriptionLost(self.name)
        self._enter(lease, history, await self._fenced(lease))
        await self._notify()

    async def _live(self) -> bool:
        """Takes messages while they go on where we stand. Returns when the store must be asked, and whether a message
        came at all."""
        receiver, progress, heard = self._receiver, time.monotonic(), False
        while True:
            idle = self._options.idle if receiver.connected else self._options.idle / 10
            remaining = progress + idle - time.monotonic()
            if remaining <= 0:
                return heard
            if not receiver.connected:
                await asyncio.sleep(remaining)
                return heard
            message = await receiver.next(remaining)
            if message is None or self._forsaken:
                return heard
            self._was_live = heard = True
            tag = message.tag
            try:
                place = placement(message.headers, self._store.schema)
                match verdict(place, place.previous_position, self._delivered, self._history):
                    case Verdict.NEXT:
                        self._acks.received(tag, place.last_position)
                        events = [
                            from_message(event, event.position, self._store.serializer)
                            for event in decode(message.body)
                            if event.position > self._delivered
                        ]
                        if events and await self._deliver(events):
                            self.counts.from_queue += len(events)
                        progress = time.monotonic()
                    case Verdict.DUPLICATE:
                        self._acks.received(tag, place.last_position)
                        self.counts.duplicates += 1
                        await self._settle()
                    case Verdict.HOLE:
                        self._acks.received(tag, place.last_position)
                        self.counts.holes += 1
                        return heard
                    case Verdict.FOREIGN:
                        self._acks.received(tag, 0)
                        await self._settle()
            except BadMessage as error:
                log.warning("subscription %s: message passed over, the store is read: %s", self.name, error)
                self._acks.received(tag, 0)
                self.counts.holes += 1
                return heard

    async def _deliver(self, events: list[RecordedEvent]) -> bool:
        """Hands a batch out when there is room and we own the subscription. Returns whether it was still ours to."""
        generation = self._generation
        async with self._changed:
            while len(self._acks) >= self._options.buffer_size and not self._forsaken:
                await self._changed.wait()
        while not (self._forsaken or (self._lease is not None and self._lease.held)):
            await self._until_held()  # the database is away, or we were paused: the keeper finds out which
        if self._forsaken or generation != self._generation:
            return False
        self._acks.deliver(events[0].feed_position, events[-1].feed_position)
        self._delivered = events[-1].feed_position
        self._ready.append(Batch(events, self._ack, generation))
        await self._notify()
        return True

    # --- checkpoints

    async def _write_checkpoints(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.checkpoint_after):
                    await self._write.wait()
            self._write.clear()
            try:
                await self._write_checkpoint()
            except Unavailable as error:
                log.warning("subscription %s: checkpoint not written yet: %s", self.name, error)
                self._write.set()
                await asyncio.sleep(random.uniform(0.1, 0.3))

    async def _write_checkpoint(self) -> None:
        """In this order: handled, written in PostgreSQL, acknowledged to the broker."""
        assert self._lease is not None
        position, generation, store = self._acks.low_water, self._generation, self._store
        if position <= self._durable:
            return
        self._written = self._acks.finished
        written = await store.fetchval(
            store.sql["checkpoint"], self._id, self._owner, self._lease.epoch, position, self._history
        )
        if generation != self._generation:
            return
        if written is None:
            if await self._another_past():
                return  # the follower finds out, and begins again
            raise SubscriptionLost(self.name)
        self._durable = max(self._durable, position)
        await self._settle()
        await self._notify()

    async def _settle(self) -> None:
        generation = self._receiver.generation
        tag = self._acks.settle(self._durable)
        if tag is not None:
            await self._receiver.ack(tag, generation)


def _checked_start(start_from: Start | int) -> Start | int:
    if isinstance(start_from, Start):
        return start_from
    if not isinstance(start_from, int) or isinstance(start_from, bool) or not 0 <= start_from < 2**63:
        raise InvalidArgument(f"start_from: {start_from!r} is neither ORIGIN, CURRENT nor a position")
    return start_from
