"""P4: batches are of one stream and one correlation id, and their borders do not depend on who reads, or how."""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from trunkline_store.batch import TYPES, Cutter, block_start
from trunkline_store.events import BLOCK

COUNT, BYTES = 5, 100


class Event(NamedTuple):
    position: int
    stream: str
    correlation_id: str | None
    size: int
    type: str = "E"


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Blocks with runs of streams and correlation ids, gaps between and within them."""
    events: list[Event] = []
    block = 0
    for _ in range(draw(st.integers(1, 5))):
        block += draw(st.integers(1, 3))
        index = draw(st.sampled_from([0, 0, BLOCK - 4]))
        for _ in range(draw(st.integers(1, 12))):
            if index >= BLOCK:
                break
            stream = draw(st.sampled_from("ab"))
            correlation = draw(st.sampled_from([None, None, "x", ""]))
            events.append(Event(block * BLOCK + index, stream, correlation, draw(st.sampled_from([1, 10, 60, 101]))))
            index += draw(st.sampled_from([1, 1, 1, 2]))
    return events


def cut(events: list[Event], pages: list[int], count: int = COUNT) -> list[list[Event]]:
    """The batches of events that come in pages of these lengths; the last page holds the rest."""
    cutter: Cutter[Event] = Cutter(count, BYTES)
    batches, start = [], 0
    for length in pages:
        batches += cutter.cut(events[start : start + length])
        start += length
    return batches + cutter.cut(events[start:]) + cutter.rest()


@given(histories(), st.lists(st.integers(0, 7), max_size=8))
def test_batches_are_the_events_in_order_within_the_rules(events: list[Event], pages: list[int]) -> None:
    """Their concatenation is the input; each has one stream, correlation id and block, no gap, and fits the caps."""
    batches = cut(events, pages)
    assert [event for batch in batches for event in batch] == events
    for batch in batches:
        assert len({(e.stream, e.correlation_id, e.position // BLOCK) for e in batch}) == 1
        assert [e.position for e in batch] == list(range(batch[0].position, batch[0].position + len(batch)))
        assert len(batch) <= COUNT
        assert sum(e.size for e in batch) <= BYTES or len(batch) == 1


@given(histories(), st.lists(st.integers(0, 7), max_size=8))
def test_borders_do_not_depend_on_pages(events: list[Event], pages: list[int]) -> None:
    """Page by page or at once: the same batches."""
    assert cut(events, pages) == cut(events, [])


@given(histories(), st.data())
def test_borders_do_not_depend_on_where_reading_begins(events: list[Event], data: st.DataObject) -> None:
    """Whoever begins at the beginning of a block sees the same batches from there on."""
    start = block_start(data.draw(st.sampled_from(events)).position)
    later = [event for event in events if event.position >= start]
    assert cut(later, []) == [batch for batch in cut(events, []) if batch[0].position >= start]


@given(st.lists(st.integers(0, 400), max_size=BLOCK), st.lists(st.integers(0, 300), max_size=8))
def test_a_batch_has_only_so_many_types(types: list[int], pages: list[int]) -> None:
    """A message's header has a key for each: it is cut where one more would be too many, whatever the pages, and a type
    that comes again does not count."""
    events = [Event(n, "a", None, 0, f"t{type}") for n, type in enumerate(types)]
    events += [Event(len(types) + n, "a", None, 0, f"u{n}") for n in range(BLOCK - len(types))]
    batches = cut(events, pages, count=BLOCK)
    assert batches == cut(events, [], count=BLOCK)
    assert [event for batch in batches for event in batch] == events
    for one, two in pairwise(batches):
        assert len({event.type for event in one}) == TYPES
        assert len({event.type for event in [*one, two[0]]}) == TYPES + 1
    assert len({event.type for event in batches[-1]}) <= TYPES


@given(histories())
def test_no_batch_could_be_joined_with_the_next(events: list[Event]) -> None:
    """They are as long as the rules allow: neighbours differ in stream, correlation id or block, or a cap is met."""
    batches = cut(events, [])
    for one, two in pairwise(batches):
        alike = (one[-1].stream, one[-1].correlation_id) == (two[0].stream, two[0].correlation_id)
        if alike and two[0].position == one[-1].position + 1 and two[0].position % BLOCK:
            assert len(one) == COUNT or sum(e.size for e in one) + two[0].size > BYTES
