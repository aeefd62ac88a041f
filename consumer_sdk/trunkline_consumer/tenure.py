"""One owner's time with a subscription: from a checkpoint on, until it is stopped, lost, or begins again.

What is delivered comes in here, whether it was read from the store or received from the broker; what is handed out,
acknowledged and finished is kept here, and when a checkpoint is due. Nothing of one tenure is mixed with another.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

from trunkline_consumer.acks import AckMap, Unit
from trunkline_consumer.batch import Batch
from trunkline_consumer.bell import Bell
from trunkline_consumer.feed import Feed, Kind
from trunkline_consumer.options import Options
from trunkline_consumer.outages import Outages
from trunkline_consumer.own import Claim, NoClaim
from trunkline_store import RecordedEvent, SubscriptionLost, UnexpectedAck
from trunkline_store.batch import block_start
from trunkline_store.cancellation import ends_program
from trunkline_store.connections import Connection
from trunkline_store.events import BLOCK
from trunkline_store.store import MAX_POSITION

UNPROVEN: Final = 1000
"""The number of unproved batches, beside those in flight, at which a checkpoint is due."""


class Shape(NamedTuple):
    """What an application makes of events before they are handled."""

    selector: Callable[[RecordedEvent], bool] | None = None
    mapper: Callable[[RecordedEvent], Any] | None = None
    partition_by: Callable[[RecordedEvent], Hashable] | None = None


def _position_before(batch: Sequence[RecordedEvent], event: RecordedEvent) -> int:
    """Return the position of the event before this one, or 0 if it is the first."""
    at = bisect_left(batch, event.feed_position, key=attrgetter("feed_position"))
    return batch[at - 1].feed_position if at else 0


class _Finished(Exception):
    """The batch was finished before."""


class Tenure:
    """`arrived`: rung when a batch is ready, or the tenure has ended."""

    def __init__(
        self,
        claim: Claim | NoClaim,
        feed: Feed,
        options: Options,
        shape: Shape,
        arrived: Bell,
        outages: Outages | None = None,
    ) -> None:
        self.claim = claim
        self.outages = outages or Outages(claim.name)
        self.acks = AckMap(claim.checkpoint)
        self.delivered = claim.checkpoint
        """The position up to which the feed was handed over: an event that was seen, or the end of its block."""
        self.looked = 0
        """The safe position up to which the store was read. It is a filter only: no event or checkpoint rests on it."""
        self.durable = claim.checkpoint
        self.ready: deque[Batch] = deque()
        self.closing = False
        """No handler is to begin any more."""
        self.over = False
        self.error: BaseException | None = None
        """Why it ended, where acks are to fail for it."""
        self.due = asyncio.Event()
        """Set when the checkpoint is to be written."""
        self.settled = Bell()
        """Rung when the checkpoint was written."""
        self._feed = feed
        self._options = options
        self._shape = shape
        self.arrived = arrived
        self._room = Bell()
        self._counted = 0
        self._handed_out = claim.checkpoint
        self._before = list(claim.finished)
        self._anchor: dict[int, UUID] = {}
        """The last proved event, by feed position. It is proved again each time: an older copy of the data folder that
        is restored has the same history."""
        self._unproven: dict[int, UUID] = {}
        """The last event of each batch, by feed position, until the store has confirmed it."""

    def shelf(self, claim: NoClaim) -> Tenure:
        """Where batches are made of events that are read again; nothing of it is a part of this tenure, and acks wait
        for nothing."""
        shelf = Tenure(claim, self._feed, self._options, self._shape, Bell())
        shelf.durable = MAX_POSITION
        return shelf

    # --- in

    async def room(self) -> None:
        """Waits until the window has room for a batch, and while too much waits to be proved."""
        acks, options = self.acks, self._options
        while (
            len(acks) >= options.buffer_size
            or (len(acks) and acks.size >= options.buffer_bytes)
            or self._waits_for_proof > 4 * UNPROVEN
        ):
            await self._room.wait()

    def deliver(self, events: Sequence[RecordedEvent]) -> None:
        """Hands over a batch, as it was cut, of events above `delivered`."""
        last = events[-1].feed_position
        for run in self._unfinished(events) if self._before else (events,):
            self._offer(run, events)
        self.delivered = last
        self._unproven[last] = events[-1].event_id
        if self.acks.end < last:
            self.acks.filtered(last)
        self.hold_nothing_up()

    def looked_to(self, safe: int) -> None:
        """Record that the store was read to its end, the safe position."""
        self.looked = safe
        end = block_start(self.delivered) + BLOCK - 1  # a block is seen whole, and never drawn again once it was seen
        if end <= safe:
            self.delivered = max(self.delivered, end)

    def _offer(self, chosen: Sequence[RecordedEvent], batch: Sequence[RecordedEvent]) -> None:
        """Queue the wanted events among these, as units of one key. batch: the batch as it was cut."""
        selector, partition_by = self._shape.selector, self._shape.partition_by
        keys: Sequence[Hashable] = ()  # one for each event, if they may differ
        key: Hashable = None
        error: BaseException | None = None
        try:
            if selector is not None:
                chosen = [event for event in chosen if selector(event)]
            if partition_by is not None:
                keys = [partition_by(event) for event in chosen]
                hash((*keys, *map(str, keys)))  # fail here if a key cannot be hashed or shown
        except BaseException as raised:  # from the application's code: an error of this batch alone
            if ends_program(raised):
                raise
            error, keys, key = raised, (), chosen[0].stream
        begin = 0
        for end in range(1, len(keys)):
            if keys[end] != keys[begin]:
                self._ready(chosen[begin:end], keys[begin], error, batch)
                begin = end
        if chosen:
            self._ready(chosen[begin:] if begin else chosen, keys[begin] if keys else key, error, batch)

    def _ready(
        self,
        events: Sequence[RecordedEvent],
        key: Hashable,
        error: BaseException | None,
        batch: Sequence[RecordedEvent],
    ) -> None:
        values: Sequence[Any] = events
        if self._shape.mapper is not None and error is None:
            try:
                values = [self._shape.mapper(event) for event in events]
            except BaseException as raised:  # as above
                if ends_program(raised):
                    raise
                error = raised
        unit = self.acks.deliver(
            events[0].feed_position,
            events[-1].feed_position,
            count=len(events),
            size=sum([event.size for event in events]),
            passed=0 if events[0] is batch[0] else _position_before(batch, events[0]),
        )
        self._unproven[events[-1].feed_position] = events[-1].event_id
        stream = self._feed.name if self._feed.kind is Kind.STREAM else events[0].stream
        self.ready.append(Batch(events, values, stream=stream, key=key, tenure=self, unit=unit, error=error))
        self.arrived.ring()

    def _unfinished(self, events: Sequence[RecordedEvent]) -> Iterator[Sequence[RecordedEvent]]:
        """Runs of events that no predecessor has finished: a unit that spanned one that is would be parked, and handled
        again, with it."""
        for finished, run in groupby(events, key=lambda event: self._was_finished(event.feed_position)):
            if not finished:
                yield list(run)

    def _was_finished(self, position: int) -> bool:
        """By a predecessor, above its checkpoint."""
        before = self._before
        if before and before[-1][1] < position:
            before.clear()
        index = bisect_left(before, (position, -1))
        return index > 0 and before[index - 1][1] >= position

    def hold_nothing_up(self) -> None:
        """The broker sends no more than the prefetch, and no more is remembered than a bound: no threshold may stop
        them."""
        if self.acks.held >= self._options.prefetch // 2 or self._waits_for_proof > UNPROVEN:
            self.due.set()

    # --- out

    def take(self) -> Batch:
        """The next batch, which is in flight from now on."""
        batch = self.ready.popleft()
        self._handed_out = batch.unit.last
        return batch

    async def ack(self, position: int) -> None:
        """Acknowledge up to `position`, that of the last event; see `Subscription.ack`."""
        if self._is_over():
            return
        if position > self._handed_out or not self.acks.ack(position):
            raise UnexpectedAck(self.claim.name, position)
        if self._progress():
            while self.durable < min(position, self.acks.low_water) and not self._is_over():
                await self.settled.wait()

    def _is_over(self) -> bool:
        """It was delivered before a reset, or in another past: it comes once more. Raises why acks are too late."""
        if self.error is not None:
            raise self.error
        return self.over

    def _progress(self) -> bool:
        """Something was finished. Returns whether the checkpoint is to be written."""
        self._room.ring()
        self.hold_nothing_up()
        if self.acks.finished - self._counted >= self._options.checkpoint_threshold:
            self.due.set()
            return True
        return False

    def finished(self, unit: Unit, checkpoint: int | None = None) -> None:
        """A batch was handled; with `checkpoint`, it is written down already."""
        self.acks.finish(unit)
        if checkpoint is None:
            self._progress()
        else:
            self._counted = self.acks.finished
            self.durable = max(self.durable, checkpoint)
            self._room.ring()
            self.settled.ring()
            self.hold_nothing_up()

    @asynccontextmanager
    async def transaction(self, batch: Batch) -> AsyncIterator[Connection]:
        """See `Batch.transaction`."""
        claim = self.claim
        checkpoint: int | None = None
        if self._is_over():
            raise SubscriptionLost(claim.name, "has begun again")
        with suppress(_Finished):
            async with claim.transaction() as connection:
                yield connection
                proof = self._proof_of(batch.unit)
                checkpoint = await claim.finish(connection, batch.unit, proof)
                if checkpoint is None:
                    raise _Finished
        self._proved(proof)
        self.finished(batch.unit, self.durable if checkpoint is None else checkpoint)

    def _proof_of(self, unit: Unit) -> dict[int, UUID]:
        """Return the feed positions and ids of a unit's events, and of those that were filtered before it."""
        return self._anchor | {place: id for place, id in self._unproven.items() if unit.start < place <= unit.last}

    def _proof_up_to(self, position: int) -> dict[int, UUID]:
        """Return the same as `_proof_of` for everything up to the batch that holds a position. Events in flight behind
        it are left out, since they may be erased before they are handled."""
        proof, reached = dict(self._anchor), 0
        for place, id in self._unproven.items():
            if reached >= position:
                break
            proof[place] = id
            reached = place
        return proof

    @property
    def _waits_for_proof(self) -> int:
        """How many batches wait to be proved that are not in flight: they were filtered, or have been finished."""
        return len(self._unproven) - len(self.acks)

    def _proved(self, proof: Mapping[int, UUID]) -> None:
        for place in proof:
            self._unproven.pop(place, None)
        self._room.ring()
        last = max(proof, default=0)
        if last > max(self._anchor, default=0):
            self._anchor = {last: proof[last]}

    def handled(self) -> dict[int, UUID]:
        """Return the last event of each finished batch that is remembered, by feed position."""
        known = self._anchor | self._unproven
        if isinstance(self.claim, NoClaim):
            known = self.claim.handed | known
        return {place: id for place, id in known.items() if place <= self.acks.low_water}

    # --- checkpoints

    async def write(self) -> None:
        """In this order: handled, written in PostgreSQL; then the broker may be told. Raises as the claim does."""
        position, many = self.acks.low_water, self._waits_for_proof > UNPROVEN
        if position > self.durable or many:
            proof = self._proof_up_to(MAX_POSITION if many else position)
            self._counted = self.acks.finished
            self.durable = max(self.durable, await self.claim.write(position, proof))
            self._proved(proof)
            self.settled.ring()

    def close(self) -> None:
        """Nothing more is handed out; what is in flight may come to its end."""
        self.closing = True
        self.ready.clear()
        self.arrived.ring()

    def end(self, error: BaseException | None) -> None:
        """Nothing more is handed out. Acks fail with `error`, or have no effect."""
        self.over = True
        self.error = error
        self.ready.clear()
        self._room.ring()
        self.settled.ring()
        self.arrived.ring()
