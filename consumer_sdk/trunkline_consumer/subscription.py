"""A subscription's life.

    starting ──► catching up ◄──► live ──► stopped | halted | lost

It is a chain of tenures: one ends, and the next begins from the row, when the subscription was reset or the past is
another one. What happens within a tenure stands in `follow` and `tenure`; who may have one, in `own`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Self
from uuid import uuid4

from trunkline_consumer.batch import Batch
from trunkline_consumer.bell import Bell
from trunkline_consumer.feed import Feed
from trunkline_consumer.follow import Counts, Follower
from trunkline_consumer.options import Options
from trunkline_consumer.outages import Outages, database_pause
from trunkline_consumer.own import BeginAgain, Claim, Disproved, NoClaim, Owner, first_checkpoint, resumed
from trunkline_consumer.receive import Queue, Receiver
from trunkline_consumer.sessions import Sessions
from trunkline_consumer.tenure import Shape, Tenure
from trunkline_store import (
    BrokerUnavailable,
    EventStore,
    InvalidArgument,
    RecordedEvent,
    Start,
    SubscriptionAlreadyExists,
    SubscriptionDeleted,
    SubscriptionLost,
    TrunklineError,
    Unavailable,
    names,
)
from trunkline_store.cancellation import ends_program
from trunkline_store.lease import Keeper

log = logging.getLogger("trunkline.consumer")

Work = Callable[[Tenure], Awaitable[None]]


class State(enum.Enum):
    STARTING = "starting"
    CATCHING_UP = "catching up"
    LIVE = "live"
    STOPPED = "stopped"
    HALTED = "halted"
    LOST = "lost"


class Working(NamedTuple):
    """The objects that one consumer's subscriptions share in their event loop."""

    loop: asyncio.AbstractEventLoop
    keeper: Keeper
    sessions: Sessions


class Subscription:
    """A subscription with one owner at a time: iterate over it, and acknowledge what was handled.

    Made by `Consumer.subscribe_to_…`; `async with` starts and stops it. transient: with nothing kept in the store.
    """

    def __init__(
        self,
        store: EventStore,
        working: Callable[[], Working],
        amqp_url: str,
        name: str,
        feed: Feed,
        *,
        start_from: Start | int,
        options: Options,
        shape: Shape | None = None,
        standby: bool = False,
        transient: bool = False,
        work: Work | None = None,
        grace: float = 0.0,
        forget: Callable[[Subscription], None] | None = None,
    ) -> None:
        self.name = names.check_subscription(name)
        self.feed = feed
        self.state = State.STARTING
        self.counts = Counts()
        self._handled_before = 0  # events that earlier tenures handled
        self._store = store
        self._options = options
        self._shape = shape or Shape()
        self._start_from = checked_start(start_from)
        self._standby = standby
        self._transient = transient
        self._work = work
        self._grace = grace
        self._forget = forget
        self._working = working
        self._owner: Owner | None = None
        self._receiver = Receiver(
            amqp_url,
            Queue(
                names.queue(store.schema, name),
                feed.bindings(store.schema),
                max_length=options.queue_length,
                max_bytes=options.queue_bytes,
                expires=None if transient else options.queue_expires,
            ),
            prefetch=options.prefetch,
        )
        self._arrived = Bell()
        self._outages = Outages(name)
        self._tenure: Tenure | None = None
        self._error: BaseException | None = None
        self._started = False
        self._stopping = False
        self._starting: asyncio.Task[None] | None = None
        self._living: asyncio.Task[None] | None = None
        self._stopped: asyncio.Task[None] | None = None

    @property
    def transient(self) -> bool:
        """Whether nothing of it is kept in the store."""
        return self._transient

    @property
    def handled(self) -> int:
        """Events that were finished since it was started."""
        return self._handled_before + (0 if self._tenure is None else self._tenure.acks.finished)

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
            tenure = self._tenure
            if tenure is not None and tenure.ready:
                if not tenure.claim.held:  # it may be somebody else's by now: the keeper finds out
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await tenure.claim.until_held()
                    continue
                batch = tenure.take()
                if batch.error is not None:
                    raise _raisable(batch.error)
                return batch
            if self._error is not None:
                raise self._error
            if self._stopping or not self._started:
                raise StopAsyncIteration
            await self._arrived.wait()

    async def next(self, *, timeout: float | None = None) -> Batch | None:  # noqa: ASYNC109 - it returns None then, without an error
        """Return the next batch, or None if none came in time. A caller that is cancelled loses no batch.

        Args:
            timeout: Seconds to wait; None: without a limit.

        Raises:
            SubscriptionLost: The subscription was lost or stopped.
        """
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await anext(self)
        except StopAsyncIteration:
            raise SubscriptionLost(self.name, "was stopped") from None
        except TimeoutError:
            if not limit.expired():  # a mapper raised it
                raise
            return None

    @property
    def checkpoint(self) -> int:
        """The position up to which everything is finished and written down."""
        return 0 if self._tenure is None else self._tenure.durable

    async def start(self) -> None:
        """Becomes the owner, and begins to follow. Waits for an owner that has vanished, at most its lease; with
        `standby`, for any.

        Raises `SubscriptionAlreadyExists` while another subscriber is alive, `SubscriptionLost` if it is stopped or
        deleted meanwhile, `InvalidArgument`, `Unavailable`.
        """
        if self._started:
            raise InvalidArgument(f"subscription {self.name!r} was started before: make another one")
        self._started = True
        self._starting = asyncio.create_task(self._start(), name=f"{self.name} start")
        try:
            await self._starting
        except asyncio.CancelledError:
            if self._stopping and not _is_cancelled():
                raise SubscriptionLost(self.name, "was stopped") from None
            if self._living is not None:
                await self.stop()  # nobody else would
            raise
        finally:
            if self._living is None:
                self._over()

    async def _start(self) -> None:
        _, keeper, sessions = self._working()
        args = self.name, self.feed, self._start_from, uuid4(), self._options
        self._owner = Owner(self._store, keeper, sessions, *args)
        tenure = self._begin(await self._claim(standby=self._standby))
        self._living = asyncio.create_task(self._live(tenure), name=f"subscription {self.name}")

    async def stop(self, *, grace: float | None = None) -> None:
        """Writes the checkpoint, hands the subscription over at once, and ends the iteration. The row stays.

        grace: seconds that running handlers have to come to their end, before they are cancelled (None: as `handler`
        was told).
        """
        if self._starting is None:
            return
        self._stopping = True
        if self._living is None and not self._starting.done():
            self.state = State.STOPPED
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._living is None:
            return
        if self._stopped is None:
            seconds = self._grace if grace is None else grace
            self._stopped = asyncio.create_task(self._stop(self._living, seconds), name=f"{self.name} stop")
        await asyncio.shield(self._stopped)  # who waits may be cancelled, the stop is not

    async def ended(self) -> None:
        """Waits until it was stopped, lost or halted; raises why, if it was not stopped."""
        if self._living is not None:
            await asyncio.wait([self._living])
        if self._error is not None:
            raise self._error
        if self._living is not None and self._stopped is None and not self._living.cancelled():
            self._living.result()

    async def delete_queue(self) -> None:
        """Removes the queue from the broker. Raises `BrokerUnavailable`."""
        await self._receiver.delete_queue()

    async def ack(self, handled: Batch | RecordedEvent | Sequence[RecordedEvent] | int) -> None:
        """Mark an event and all in flight before it as handled.

        Returns once the checkpoint is written, if the threshold is reached; otherwise at once. Waits for a database
        that is away.

        Args:
            handled: A batch, an event, a list of events, of which the last one counts, or a position of the feed.
                Objects that a `mapper` made of events have no position.

        Raises:
            UnexpectedAck: The position is not in flight.
            SubscriptionLost: The ack is too late.
            InvalidArgument: `handled` is something else, or a batch of another subscription.
        """
        if self._tenure is None:
            raise InvalidArgument(f"subscription {self.name!r} was not started")
        if not isinstance(handled, Batch):
            await self._tenure.ack(_last_position(handled))
        elif handled.subscription != self.name:
            raise InvalidArgument(f"ack: {handled!r} is from subscription {handled.subscription!r}, not {self.name!r}")
        else:
            await handled.ack()

    # --- its life

    async def _claim(self, *, standby: bool) -> Claim | NoClaim:
        assert self._owner is not None
        if not self._transient:
            return await self._owner.claim(standby=standby)
        look = await self._store.look()
        if self._tenure is None:
            async with self._store.acquire() as connection:
                first = await first_checkpoint(self._store, connection, self.feed, self._start_from, look)
            return NoClaim(self.name, look.history, first)
        start, handled = self._tenure.claim.checkpoint, self._tenure.handled()
        first = await resumed(self._store, look, start, handled)
        return NoClaim(self.name, look.history, first, {place: id for place, id in handled.items() if place <= first})

    def _begin(self, claim: Claim | NoClaim) -> Tenure:
        if self._tenure is not None:
            self._handled_before += self._tenure.acks.finished
        self._tenure = Tenure(claim, self.feed, self._options, self._shape, self._arrived, self._outages)
        if self._stopping:
            self._tenure.close()
        return self._tenure

    async def _live(self, tenure: Tenure) -> None:
        """Until it is stopped. Whatever else ends it is told to the user."""
        try:
            while not self._stopping:
                try:
                    await self._follow(tenure)
                except BeginAgain as why:
                    tenure.end(None)
                    if isinstance(why, Disproved):
                        await self._distrust()
                    tenure = await self._again()
        except BaseException as error:
            if not ends_program(error):  # a cancellation that was not requested of this task is an error, too
                await self._fail(tenure, error)
                return
            if self._stopped is None:  # cancelled from outside: tell the callers that iterate or wait
                self._error = RuntimeError(f"subscription {self.name!r} was cancelled: stop it instead")
                self.state = State.HALTED
                tenure.end(self._error)
            raise

    async def _distrust(self) -> None:
        """Delete the queue, which may hold events that the store does not, and read the store instead."""
        self.counts.damaged += 1
        log.error("subscription %s: an event that was handed out is not in the store: its queue is dropped", self.name)
        with suppress(BrokerUnavailable):
            await self._receiver.delete_queue()

    async def _again(self) -> Tenure:
        """The next tenure, of the same owner."""
        pause = database_pause()
        while True:
            try:
                tenure = self._begin(await self._claim(standby=False))
                self._outages.database.back()
                return tenure
            except SubscriptionAlreadyExists:
                raise SubscriptionLost(self.name) from None
            except Unavailable as error:
                self._outages.database.away(error)
                await asyncio.sleep(pause.next())

    async def _follow(self, tenure: Tenure) -> None:
        """Until one of the things that go on at once has ended it."""
        follower = Follower(self._store, self.feed, self._receiver, tenure, self._options, self.counts, self._now_live)
        works: list[Awaitable[None]] = [
            follower.follow(), follower.consume(), follower.checkpoint(), tenure.claim.until_lost()
        ]  # fmt: skip
        if self._work is not None:
            works.append(self._work(tenure))
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._receiver.close()
        for task in done:
            task.result()

    def _now_live(self, live: bool) -> None:
        self.state = State.LIVE if live else State.CATCHING_UP

    async def _fail(self, tenure: Tenure, error: BaseException) -> None:
        self.state = State.LOST if isinstance(error, SubscriptionLost) else State.HALTED
        if not isinstance(error, TrunklineError):
            log.error("subscription %s failed", self.name, exc_info=error)
            error = _raisable(error)
        elif isinstance(error, SubscriptionDeleted) or not isinstance(error, SubscriptionLost | Unavailable):
            log.error("subscription %s has ended: %s", self.name, error, exc_info=error.__cause__)
        self._error = error
        try:
            if self.state is State.HALTED and not tenure.over:
                tenure.close()
                with suppress(Exception):  # finished batches should not come again, if that can be written
                    await tenure.write()
        finally:
            tenure.end(error)

    async def _stop(self, living: asyncio.Task[None], grace: float) -> None:
        tenure = self._tenure
        assert tenure is not None
        tenure.close()
        if self._work is not None:
            await asyncio.wait([living], timeout=grace)
        living.cancel()
        try:
            await asyncio.gather(living, return_exceptions=True)
            tenure = self._tenure or tenure
            if self.state not in (State.LOST, State.HALTED):
                self.state = State.STOPPED
                if not tenure.over:
                    with suppress(Unavailable, SubscriptionLost):
                        await tenure.write()
            if not tenure.over:
                tenure.end(SubscriptionLost(self.name, "was stopped"))
        finally:
            await self._receiver.close()
            if isinstance(tenure.claim, Claim) and self._owner is not None:
                await self._owner.release(tenure.claim.lease)
            self._over()

    def _over(self) -> None:
        self._stopping = True
        self._arrived.ring()
        if self._forget is not None:
            self._forget(self)


def _last_position(handled: RecordedEvent | Sequence[RecordedEvent] | int) -> int:
    """Return the position to acknowledge. Raises `InvalidArgument`."""
    if isinstance(handled, int) and not isinstance(handled, bool):
        return handled
    events = [handled] if isinstance(handled, RecordedEvent) else handled
    if not isinstance(events, Sequence) or not all(isinstance(each, RecordedEvent) for each in events):
        raise InvalidArgument(f"ack: {handled!r} is not a batch, a recorded event, a list of these, or a position")
    if not events:
        raise InvalidArgument("ack: the list of events is empty: pass at least one event")
    return events[-1].feed_position


def _raisable(error: BaseException) -> BaseException:
    """Return an error that can be raised to a caller that iterates or waits. One that would end the iteration silently,
    cancel the caller or end the program becomes the cause of a `RuntimeError`."""
    if isinstance(error, Exception) and not isinstance(error, StopAsyncIteration | StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__} was raised from within a subscription: {error}")
    told.__cause__ = error
    return told


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def checked_start(start_from: Start | int) -> Start | int:
    """Returns where a subscription may begin, else raises `InvalidArgument`."""
    if isinstance(start_from, Start):
        return start_from
    if not isinstance(start_from, int) or isinstance(start_from, bool) or not 0 <= start_from < 2**63:
        raise InvalidArgument(f"start_from: {start_from!r} is neither ORIGIN, CURRENT nor a position")
    return start_from
