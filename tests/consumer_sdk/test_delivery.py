"""Delivery against a model: whatever the queue does, and wherever it crashes, nothing is skipped, and nothing that was
finished comes again.

The store's side is the model's own list of events. Messages, verdicts, filters, acks and the hand-over are the SDK's.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Mapping
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from trunkline_consumer.acks import Unit
from trunkline_consumer.bell import Bell
from trunkline_consumer.feed import Feed, Kind
from trunkline_consumer.follow import Counts, Follower
from trunkline_consumer.options import Options
from trunkline_consumer.own import NoClaim
from trunkline_consumer.receive import Queue, Received, Receiver
from trunkline_consumer.sense import judged
from trunkline_consumer.tenure import Shape, Tenure
from trunkline_consumer.unpack import unpacked
from trunkline_store import EventStore, RecordedEvent
from trunkline_store.events import category_of
from trunkline_store.wire import Chain, StoredEvent, encode

HISTORY, OTHER = "1/1", "2/1"
FEEDS = [Feed.all(), Feed.category("a"), Feed.stream("a-1")]
WIDE = Options(buffer_size=10_000, prefetch=2000, checkpoint_threshold=10_000)

appends = st.lists(
    st.tuples(st.sampled_from(["a-1", "a-2", "b-1"]), st.integers(1, 4), st.sampled_from([1, 2, 3, 1500])),
    min_size=1,
    max_size=12,
)


class Row:
    """The subscription's row: what outlives a crash."""

    def __init__(self) -> None:
        self.checkpoint = 0
        self.finished: list[tuple[int, int]] = []

    def settle(self, start: int, last: int) -> int:
        """Intervals (start, last] that reach the checkpoint are joined to it."""
        self.finished = sorted([*self.finished, (start, last)])
        for begin, end in list(self.finished):
            if begin <= self.checkpoint:
                self.checkpoint = max(self.checkpoint, end)
        self.finished = [each for each in self.finished if each[0] > self.checkpoint]
        return self.checkpoint

    def has(self, position: int) -> bool:
        """Whether it is finished."""
        return position <= self.checkpoint or any(begin < position <= end for begin, end in self.finished)


class Owner(NoClaim):
    """A claim to the row, without a database."""

    def __init__(self, row: Row) -> None:
        super().__init__("s", HISTORY, row.checkpoint)
        self.finished = list(row.finished)
        self._row = row

    async def write(self, position: int, proof: Mapping[int, UUID]) -> int:
        return self._row.settle(0, position)


class World:
    """Events that were appended, and how they come."""

    def __init__(self, appended: list[tuple[str, int, int]]) -> None:
        self.batches: list[list[StoredEvent]] = []
        versions: dict[str, int] = {}
        position = 0
        for number, (stream, count, gap) in enumerate(appended):
            position += gap
            batch = []
            for _ in range(count):
                position += 1
                versions[stream] = versions.get(stream, 0) + 1
                batch.append(
                    StoredEvent(
                        position=position,
                        stream=stream,
                        category=category_of(stream),
                        stream_version=versions[stream],
                        event_id=f"00000000-0000-0000-0000-{position:012}",
                        type="E",
                        size=1,
                        data=str(position),
                        metadata=None,
                        correlation_id=f"c{number}",
                        causation_id=None,
                        traceparent=None,
                        time="2026-01-01T00:00:00Z",
                    )
                )
            self.batches.append(batch)
        self.events = [event for batch in self.batches for event in batch]

    def message(self, batch: list[StoredEvent], history: str, epoch: int, tag: int = 0) -> Received:
        """As a relay sends it, which knows what was before."""
        first = batch[0]
        before = [event for event in self.events if event.position < first.position]
        chain = Chain(
            *(
                max((event.position for event in before if same(event)), default=0)
                for same in (
                    lambda _: True,
                    lambda event: event.category == first.category,
                    lambda event: event.stream == first.stream,
                )
            )
        )
        message = encode(
            batch, chain, store="eventstore", history=history, epoch=epoch, content_type="application/json"
        )
        return Received(tag, message.headers, message.body, "eventstore", message.routing_key)

    def of(self, feed: Feed) -> list[StoredEvent]:
        """The events of a feed."""
        match feed.kind:
            case Kind.ALL:
                return self.events
            case Kind.CATEGORY:
                return [event for event in self.events if event.category == feed.name]
        return [event for event in self.events if event.stream == feed.name]


@given(data=st.data(), world=st.builds(World, appends), feed=st.sampled_from(FEEDS), odd_only=st.booleans())
def test_nothing_is_skipped_and_nothing_finished_comes_again(
    data: st.DataObject, world: World, feed: Feed, odd_only: bool
) -> None:
    """Messages in any order, several times, cut elsewhere by a newer relay, or of another past; pages of the store;
    acks and finished batches in any order; crashes. After each step, what was handed over is the feed up to there,
    without what was finished before; and what is finished was handled."""
    asyncio.run(_play(data, world, feed, odd_only=odd_only))


async def _play(data: st.DataObject, world: World, feed: Feed, *, odd_only: bool) -> None:
    store, row, handled, tag = EventStore("postgresql://nowhere/none"), Row(), set[int](), 0
    shape = Shape(selector=(lambda event: event.position % 2 == 1) if odd_only else None)
    wanted = [event.position for event in world.of(feed) if event.position % 2 == 1 or not odd_only]
    receiver = Receiver("amqp://nowhere/", Queue("q", [], max_length=1, max_bytes=1, expires=1.0), prefetch=1)

    def recorded(batch: list[StoredEvent]) -> list[RecordedEvent]:
        message = world.message(batch, HISTORY, 1)
        place = judged(message, "eventstore")
        return unpacked(message, place, 0, store.serializer, by_version=feed.kind is Kind.STREAM).events

    def begin() -> tuple[Tenure, Follower, list[int], list[Unit]]:
        tenure = Tenure(Owner(row), feed, WIDE, shape, Bell())
        return tenure, Follower(store, feed, receiver, tenure, WIDE, Counts(), lambda _: None), [], []

    def take_all() -> None:
        while tenure.ready:
            batch = tenure.take()
            given.extend(event.position for event in batch.events)
            units.append(batch.unit)

    async def read_to(safe: int) -> None:
        for batch in world.batches:
            events = [event for event in batch if tenure.delivered < event.position <= safe and event in of_feed]
            if events:
                tenure.deliver(recorded(events))
        tenure.looked_to(safe)

    of_feed = world.of(feed)
    tenure, follower, given, units = begin()
    found_before = Row()
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["message", "message", "message", "page", "ack", "finish", "write", "crash"])):
            case "message":
                batch = data.draw(st.sampled_from(world.batches))
                first = data.draw(st.integers(0, len(batch) - 1))
                batch = batch[first : data.draw(st.integers(first + 1, len(batch)))]
                history = data.draw(st.sampled_from([HISTORY, HISTORY, HISTORY, OTHER]))
                if history == OTHER:  # in which everything stands one place later
                    batch = [msgspec.structs.replace(event, position=event.position + 1) for event in batch]
                tag += 1
                message = world.message(batch, history, data.draw(st.integers(1, 3)), tag)
                if feed.covers(message.headers):
                    await follower._take(message)
            case "page":
                await read_to(
                    data.draw(st.sampled_from(world.events)).position + data.draw(st.sampled_from([0, 1, 1500]))
                )
            case "ack" if given:
                at = data.draw(st.sampled_from(given))
                in_flight = [unit for unit in units if unit.done < unit.last]
                if any(unit.first <= at <= unit.last and unit.done < at for unit in in_flight):
                    await tenure.ack(at)
                    handled.update(position for position in given if position <= at)
            case "finish" if units:
                unit = data.draw(st.sampled_from(units))
                if unit.done < unit.last:
                    handled.update(position for position in given if unit.first <= position <= unit.last)
                    tenure.finished(unit, row.settle(unit.start, unit.last))
            case "write":
                await tenure.write()
            case "crash":
                tenure.end(None)
                tenure, follower, given, units = begin()
                found_before = Row()
                found_before.checkpoint, found_before.finished = row.checkpoint, list(row.finished)
        take_all()
        upto = wanted[: bisect_right(wanted, tenure.delivered)]
        assert given == [position for position in upto if not found_before.has(position)]
        assert all(position in handled for position in wanted if row.has(position))
    await read_to(world.events[-1].position)
    take_all()
    for unit in units:
        if unit.done < unit.last:
            handled.update(position for position in given if unit.first <= position <= unit.last)
            tenure.finished(unit)
    await tenure.write()
    assert handled == set(wanted)
    assert all(row.has(event.position) for event in of_feed), "what was left out counts as finished"
