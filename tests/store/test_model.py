"""Random programs on the store do what they do on the plain program in model.py: one after another, and at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, pairwise
from typing import Any, Literal, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.model import (
    Append,
    Delete,
    Entry,
    Given,
    Link,
    Model,
    Operation,
    Outcome,
    Part,
    perform,
    refusal,
    state,
)
from trunkline_store import ANY_VERSION, NO_STREAM, STREAM_EXISTS, EventStore, TrunklineError

STREAMS = ["a-1", "a-2", "b"]
CATEGORIES = ["a", "b", "c"]
THE_RIGHT_ONE = 2**62
"""Of expected versions: stands for the one that the stream has by then."""

KINDS = ["append"] * 4 + ["several"] * 3 + ["link"] * 4 + ["read"] * 3 + ["erase"] * 2 + ["delete"]
How = Literal["plain", "in a transaction", "rolled back"]


class Read(NamedTuple):
    """A read, page by page if `lazily`. start: a version, or of `$all` the number of a draw, and how far beside it."""

    what: str
    backward: bool
    lazily: bool
    start: int | None
    beside: int
    limit: int


class Step(NamedTuple):
    what: Operation | Read
    how: How


expected_versions = st.sampled_from([ANY_VERSION] * 8 + [THE_RIGHT_ONE] * 8 + [NO_STREAM, STREAM_EXISTS, 0, 1, 2, 3, 5])
reads = st.builds(
    Read,
    what=st.sampled_from([*STREAMS, "$all", *(f"category {name}" for name in CATEGORIES)]),
    backward=st.booleans(),
    lazily=st.booleans(),
    start=st.none() | st.integers(0, 12),
    beside=st.integers(-1, 1),
    limit=st.sampled_from([1, 2, 3, 7, 1000]),
)


@st.composite
def parts(draw: st.DrawFn, stream: str, earlier: list[Part], fresh: Iterator[int]) -> Part:
    """Mostly new events; else those of an earlier part, whole, in part, changed, with others, or of another stream."""
    new = tuple(Given(next(fresh), draw(st.integers(0, 2))) for _ in range(draw(st.sampled_from([1, 1, 2, 3, 0]))))
    expected = draw(expected_versions)
    if not earlier or draw(st.integers(0, 2)):
        return Part(stream, expected, new)
    old = draw(st.sampled_from(earlier))
    events = old.events
    match draw(st.sampled_from(["same", "same", "some", "changed", "mixed", "elsewhere"])):
        case "some":
            events = events[draw(st.integers(0, 1)) : draw(st.integers(1, 3))]
        case "changed":
            events = tuple(each._replace(data=9) for each in events[:1]) + events[1:]
        case "mixed":
            events = (*events, *new) if draw(st.booleans()) else (*new, *events)
        case "elsewhere":
            return Part(stream, expected, events)
    return Part(old.stream, expected, events)


@st.composite
def programs(draw: st.DrawFn) -> list[Step]:
    """Steps that meet on few streams, from an empty store or from one in use."""
    fresh, earlier, steps = count(1), list[Part](), list[Step]()
    if draw(st.integers(0, 3)):
        earlier = [Part("a-1", 0, (Given(next(fresh)), Given(next(fresh)))), Part("b", 0, (Given(next(fresh)),))]
        steps = [Step(Append((part,)), "plain") for part in earlier]
        steps.append(Step(Link("a-2", 0, (1, 3)), "plain"))
    for _ in range(draw(st.sampled_from([12, 8, 16]))):
        kind = draw(st.sampled_from(KINDS))
        stream, expected = draw(st.sampled_from(STREAMS)), draw(expected_versions)
        what: Operation | Read
        if kind in ("append", "several"):
            targets = [stream] if kind == "append" else draw(st.permutations(STREAMS))[: draw(st.integers(2, 3))]
            drawn: dict[str, Part] = {}
            for target in targets:
                part = draw(parts(target, earlier, fresh))
                taken = {each.key for other in drawn.values() for each in other.events}
                if part.stream not in drawn and not taken.intersection(each.key for each in part.events):
                    drawn[part.stream] = part
            what = Append(tuple(drawn.values()))
            earlier += drawn.values()
        elif kind == "link":
            known = [each.key for part in earlier for each in part.events]
            keys = st.sampled_from([*known, 10_000])
            what = Link(stream, expected, tuple(draw(st.lists(keys, max_size=3, unique=True))))
        elif kind == "read":
            what = draw(reads)
        else:
            what = Delete(stream, ANY_VERSION if expected is NO_STREAM else expected, kind == "erase")
        steps.append(Step(what, draw(st.sampled_from(["plain"] * 3 + ["in a transaction"] * 2 + ["rolled back"]))))
    return steps


class Both:
    """The store and its model, side by side."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.model = Model()
        self.positions: list[int] = []
        """By draw."""

    async def step(self, step: Step) -> None:
        if isinstance(step.what, Read):
            await self.read(step.what)
        else:
            await self.write(self.with_versions(step.what), step.how)

    def with_versions(self, operation: Operation) -> Operation:
        """With the right expected versions in place of what stands for them."""

        def right(stream: str, expected: int) -> int:
            there = self.model.streams.get(stream)
            return expected if expected != THE_RIGHT_ONE else there.version if there else 0

        if isinstance(operation, Append):
            return Append(tuple(part._replace(expected=right(part.stream, part.expected)) for part in operation.parts))
        return operation._replace(expected=right(operation.stream, operation.expected))

    async def write(self, operation: Operation, how: How) -> None:
        model = self.model.copy()
        wanted = model.perform(operation)
        if how == "plain":
            outcome, answers = await perform(self.store, operation)
        else:
            async with self.store.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                outcome, answers = await perform(self.store, operation, connection)
                await (transaction.commit() if how == "in a transaction" else transaction.rollback())
        assert outcome == wanted, operation
        if how != "rolled back":
            before, self.model = self.model.draws, model
            self.note_positions(operation, answers, model.draws - before)

    def note_positions(self, operation: Operation, answers: list[Any], drawn: int) -> None:
        """Answers say where things are, also when they had been there before."""
        if drawn:
            self.positions += [
                position
                for answer in answers
                if answer.first_version <= answer.last_version
                for position in range(answer.first_position, answer.last_position + 1)
            ]
        assert len(self.positions) == self.model.draws
        assert all(one < other for one, other in pairwise(self.positions))
        if isinstance(operation, Append):
            for part, answer in zip(operation.parts, answers, strict=bool(answers)):
                if part.events:
                    ends = [self.positions[self.model.events[part.events[n].key].draw] for n in (0, -1)]
                    assert [answer.first_position, answer.last_position] == ends

    async def read(self, read: Read) -> None:
        wanted, start = self.wanted(read)
        assert await self.found(read, start) == wanted, read

    def wanted(self, read: Read) -> tuple[list[Outcome] | Outcome, int | None]:
        """What a read gives, and its start as the store is asked."""
        entries: list[Entry] | Outcome
        if read.what in STREAMS:
            start, entries = read.start, self.model.read(read.what)
            if isinstance(entries, tuple):
                return entries, start
        else:
            start = read.start
            if start is not None:
                last = self.positions[-1] if self.positions else 0
                start = max(0, (self.positions[start] if start < len(self.positions) else last) + read.beside)
            entries = self.model.read_all(read.what.removeprefix("category ") if read.what != "$all" else None)
        found = [self.shown(entry, in_stream=read.what in STREAMS) for entry in entries]
        if self.is_backward(read):
            found = [each for each in found[::-1] if start is None or each[0] <= start]
        else:
            found = [each for each in found if start is None or each[0] >= start]
        return found if read.lazily else found[: read.limit], start

    def shown(self, entry: Entry, *, in_stream: bool) -> Outcome:
        event = entry.event
        position, feed_position = self.positions[event.draw], self.positions[entry.draw]
        number = entry.number if in_stream else position
        return number, event.stream, event.version, event.key, event.data, position, feed_position

    @staticmethod
    def is_backward(read: Read) -> bool:
        return read.backward and not read.what.startswith("category")

    def ways(self, read: Read) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """How the store is asked: at once, and page by page."""
        store, backward = self.store, self.is_backward(read)
        if read.what == "$all" and backward:
            return store.read_all_streams_backward, store.stream_all_backward
        if read.what == "$all":
            return store.read_all_streams_forward, store.stream_all_forward
        if read.what.startswith("category "):
            name = read.what.removeprefix("category ")
            return partial(store.read_category_forward, name), partial(store.stream_category_forward, name)
        if backward:
            return partial(store.read_stream_backward, read.what), partial(store.stream_backward, read.what)
        return partial(store.read_stream_forward, read.what), partial(store.stream_forward, read.what)

    async def found(self, read: Read, start: int | None) -> list[Outcome] | Outcome:
        at_once, lazily = self.ways(read)
        try:
            if read.lazily:
                events = [event async for event in lazily(start=start, page=read.limit)]
            else:
                events = await at_once(start=start, count=read.limit)
        except TrunklineError as error:
            return refusal(error)
        return [
            (e.event_number, e.stream, e.stream_version, e.event_id.int, e.data, e.position, e.feed_position)
            for e in events
        ]

    async def compare(self) -> None:
        """The tables; and each stream read to its end, to its beginning, and from about its middle."""
        assert await state(self.store) == self.model.state()
        for what in [*STREAMS, "$all", *(f"category {name}" for name in CATEGORIES)]:
            there = self.model.streams.get(what)
            for start in (None, there.version, there.version // 2) if there else (None,):
                for backward in (False, True):
                    await self.read(Read(what, backward, False, start, 0, 1000))


Test = Callable[[EventStore, EventStore], Awaitable[None]]
EMPTY = """
    SET LOCAL session_replication_role = replica;  -- the triggers would not allow it
    DELETE FROM eventstore.links; DELETE FROM eventstore.events; DELETE FROM eventstore.streams"""


@contextmanager
def emptied_each_time(dsn: str) -> Iterator[Callable[[Test], None]]:
    """Runs tests, one after another, on one store without events: quicker than a new one for each. Each test gets two
    faces of it, as two processes have."""
    stores = EventStore(dsn), EventStore(dsn)

    async def run(test: Test) -> None:
        async with stores[0].transaction() as connection:
            await connection.execute(EMPTY)
        await test(*stores)

    with asyncio.Runner() as runner:
        for store in stores:
            runner.run(store.open())
        try:
            yield lambda test: runner.run(run(test))
        finally:
            for store in stores:
                runner.run(store.close())


def test_programs_give_what_the_model_gives(database: str) -> None:
    """Appends of all kinds, links, deletions and reads, alone and in transactions that are committed or rolled back:
    the same answers, the same errors, the same order, and the same tables at the end."""
    with emptied_each_time(database) as run_on_store:

        @settings(max_examples=150)
        @given(programs())
        def check(steps: list[Step]) -> None:
            async def test(store: EventStore, _: EventStore) -> None:
                both = Both(store)
                for step in steps:
                    await both.step(step)
                await both.compare()

            run_on_store(test)

        check()


# --- at once

SHARED = ["a-1", "b-1"]
SOURCE = Append((Part("source-1", 0, tuple(Given(1000 + n) for n in range(4))),))

Done = list[tuple[Operation, Outcome]]


@st.composite
def concurrent_parts(draw: st.DrawFn, stream: str) -> Part:
    """Runs of a few events that belong to the stream, so that parts repeat others, or overlap with them."""
    first, length = draw(st.integers(0, 8)), draw(st.sampled_from([1, 1, 2, 0]))
    keys = range(100 * SHARED.index(stream) + first + 1, 100 * SHARED.index(stream) + first + 1 + length)
    expected = draw(st.sampled_from([ANY_VERSION] * 4 + [NO_STREAM, STREAM_EXISTS, 0, 1, 2, 3]))
    return Part(stream, expected, tuple(Given(key) for key in keys))


@st.composite
def concurrent_operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from(["append"] * 6 + ["both"] * 3 + ["link"] * 2 + ["delete", "erase"]))
    stream = draw(st.sampled_from(SHARED))
    if kind == "append":
        return Append((draw(concurrent_parts(stream)),))
    if kind == "both":
        return Append(tuple([draw(concurrent_parts(each)) for each in draw(st.permutations(SHARED))]))
    expected = draw(st.sampled_from([ANY_VERSION, ANY_VERSION, 1, 2, 3]))
    if kind == "link":
        return Link(stream, expected, tuple(draw(st.lists(st.integers(1000, 1004), max_size=2, unique=True))))
    return Delete(stream, expected, kind == "erase")


concurrent_programs = st.lists(st.lists(concurrent_operations(), min_size=1, max_size=4), min_size=2, max_size=4)


def of_stream(stream: str, done: Done) -> Done:
    """Return a program's operations on one stream alone. A refused append to several streams names only the stream that
    refused it, and a part without events is not checked if the others were stored before."""
    found: Done = []
    for operation, outcome in done:
        if not isinstance(operation, Append):
            if operation.stream == stream:
                found.append((operation, outcome))
            continue
        for number, part in enumerate(operation.parts):
            checked = part.events or not any(each.events for each in operation.parts)
            if part.stream == stream and isinstance(outcome[0], tuple) and checked:
                found.append((Append((part,)), (outcome[number],)))
            elif part.stream == stream == outcome[1]:
                found.append((Append((part,)), (*outcome, len(operation.parts))))
    return found


def fits(model: Model, operation: Operation, outcome: Outcome) -> Model | None:
    """The model afterwards, if the outcome is what it gives."""
    after = model.copy()
    wanted = after.perform(operation)
    refused = isinstance(outcome[0], str) and outcome[0] != "deleted"
    if refused and outcome[0] == "DuplicateEvent" and outcome[3:] == (2,) and after.state() == model.state():
        return model  # stored already, and the other part is not: a duplicate for both together
    return after if outcome[:3] == wanted[:3] else None


def some_order(model: Model, programs: list[Done], end: Outcome) -> bool:
    """Whether the programs' steps, each program's in its order, can have been done one after another."""
    seen = set[str]()

    def search(model: Model, places: tuple[int, ...]) -> bool:
        mark = repr((places, model.state()))
        if mark in seen:
            return False
        seen.add(mark)
        if all(place == len(program) for place, program in zip(places, programs, strict=True)):
            return model.state() == end
        for number, (place, program) in enumerate(zip(places, programs, strict=True)):
            if place < len(program):
                after = fits(model, *program[place])
                if after and search(after, (*places[:number], place + 1, *places[number + 1 :])):
                    return True
        return False

    return search(model, (0,) * len(programs))


def alone(tables: Outcome, stream: str) -> Outcome:
    """What the tables hold of a stream, and of the source."""
    return tuple(sorted(row for row in rows if row[0] in (stream, "source-1")) for rows in tables)


def test_programs_at_once_end_as_in_some_order(database: str) -> None:
    """Of programs that run at the same time, appends, links and deletions of each stream have outcomes of some serial
    order, versions have no holes, and `$all` agrees with the streams."""
    with emptied_each_time(database) as run_on_store:

        @settings(max_examples=150)
        @given(concurrent_programs)
        def check(programs: list[list[Operation]]) -> None:
            async def test(store: EventStore, other: EventStore) -> None:
                async def one_after_another(store: EventStore, program: list[Operation]) -> Done:
                    return [(operation, (await perform(store, operation))[0]) for operation in program]

                await perform(store, SOURCE)
                done = await asyncio.gather(*map(one_after_another, [store, other] * 2, programs))
                tables = await state(store)
                for stream in SHARED:
                    model = Model()
                    model.perform(SOURCE)
                    histories = [of_stream(stream, program) for program in done]
                    assert some_order(model, histories, alone(tables, stream)), (stream, histories, tables)
                await agreement(store, tables)

            run_on_store(test)

        check()


async def agreement(store: EventStore, tables: Outcome) -> None:
    """Streams without holes, in the order of `$all`."""
    everything = await store.read_all_streams_forward()
    for stream, version, deleted in tables[0]:
        if not deleted:
            read = await store.read_stream_forward(stream)
            assert [event.event_number for event in read] == list(range(1, version + 1))
            own = [event.event_id for event in read if event.stream == stream]
            assert own == [event.event_id for event in everything if event.stream == stream]
            feed = [event.feed_position for event in read]
            assert feed == sorted(set(feed))
