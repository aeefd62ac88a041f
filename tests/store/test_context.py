"""What a piece of work passes on to the events that it appends."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidEvent,
    RecordedEvent,
    StreamAppend,
    caused_by,
    context,
)
from trunkline_store.context import current

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def append(store: EventStore, stream: str = "a-1", **given: Any) -> RecordedEvent:
    """Appends one event, and gives it as recorded."""
    appended = await store.append_to_stream(stream, ANY_VERSION, [EventData("E", 1, **given)])
    return (await store.read_stream_forward(stream, start=appended.first_version))[0]


async def traceparents(store: EventStore) -> list[str | None]:
    return [row[0] for row in await store.fetch("SELECT traceparent FROM eventstore.events ORDER BY position")]


async def test_events_take_what_is_set_around_them(store: EventStore) -> None:
    """Correlation, causation and trace context; outside of the block nothing is passed on."""
    with context(correlation_id="c", causation_id="d", traceparent=TRACE):
        inside = await append(store)
    outside = await append(store)
    assert (inside.correlation_id, inside.causation_id) == ("c", "d")
    assert (outside.correlation_id, outside.causation_id) == (None, None)
    assert await traceparents(store) == [TRACE, None]


async def test_what_an_event_is_given_itself_wins(store: EventStore) -> None:
    """Each of the two, on its own."""
    with context(correlation_id="c", causation_id="d"):
        one = await append(store, correlation_id="mine")
        other = await append(store, causation_id="mine")
    assert (one.correlation_id, one.causation_id) == ("mine", "d")
    assert (other.correlation_id, other.causation_id) == ("c", "mine")


async def test_blocks_nest(store: EventStore) -> None:
    """An inner one changes what it names, and at its end, also by an error, everything is as before."""
    with context(correlation_id="c", traceparent=TRACE):
        with suppress(InterruptedError), context(correlation_id="inner", causation_id="d"):
            assert current() == ("inner", "d", TRACE)
            raise InterruptedError
        assert current() == ("c", None, TRACE)
    assert current() == (None, None, None)


async def test_handling_an_event_passes_its_correlation_on(store: EventStore) -> None:
    """What is appended meanwhile has the event's correlation id, and the event as its cause."""
    first = await append(store, correlation_id="c")
    with caused_by(first):
        second = await append(store, "b-1")
        with caused_by(second):
            third = await append(store, "c-1")
    assert (second.correlation_id, second.causation_id) == ("c", str(first.event_id))
    assert (third.correlation_id, third.causation_id) == ("c", str(second.event_id))


async def test_handling_an_event_without_a_correlation_gives_none(store: EventStore) -> None:
    """Also within a block that sets one: what an event caused belongs to that event's work, not to what runs it."""
    first = await append(store)
    with context(correlation_id="of the worker"), caused_by(first):
        second = await append(store, "b-1")
    assert (second.correlation_id, second.causation_id) == (None, str(first.event_id))


async def test_tasks_do_not_see_each_others_context(store: EventStore) -> None:
    """Ten at once, whose appends travel together: each event has its own task's values."""

    async def work(number: int) -> None:
        with context(correlation_id=f"c{number}", traceparent=TRACE if number % 2 else None):
            await asyncio.sleep(0)  # the others set theirs meanwhile
            await append(store, f"s-{number}")

    await asyncio.gather(*(work(n) for n in range(10)))
    events = await store.read_all_streams_forward()
    assert {event.stream: event.correlation_id for event in events} == {f"s-{n}": f"c{n}" for n in range(10)}
    assert (await traceparents(store)).count(TRACE) == 5


async def test_a_task_inherits_what_was_set_when_it_was_started(store: EventStore) -> None:
    """And keeps it after the block's end."""
    with context(correlation_id="c"):
        task = asyncio.create_task(append(store))
    assert (await task).correlation_id == "c"


async def test_appends_to_several_streams_and_in_transactions_take_it_too(store: EventStore) -> None:
    """All ways of appending are alike."""
    with context(correlation_id="c", causation_id="d", traceparent=TRACE):
        await store.append_to_streams(
            [StreamAppend("a-1", 0, [EventData("E", 1)]), StreamAppend("b-1", 0, [EventData("E", 2)])]
        )
        async with store.transaction() as connection:
            await store.append_to_stream("c-1", 0, [EventData("E", 3)], connection=connection)
    events = await store.read_all_streams_forward()
    assert [(event.correlation_id, event.causation_id) for event in events] == [("c", "d")] * 3
    assert await traceparents(store) == [TRACE] * 3


async def test_a_repeated_append_may_have_another_context(store: EventStore) -> None:
    """Correlation and tracing are no part of what makes an append the same; the first ones stay."""
    events = [EventData("E", 1)]
    with context(correlation_id="c", traceparent=TRACE):
        original = await store.append_to_stream("a-1", 0, events)
    with context(correlation_id="another", causation_id="d"):
        assert await store.append_to_stream("a-1", 0, events) == original
    (event,) = await store.read_stream_forward("a-1")
    assert (event.correlation_id, event.causation_id) == ("c", None)


@pytest.mark.parametrize("name", ["correlation_id", "causation_id", "traceparent"])
@pytest.mark.parametrize("value", ["", " ", "x" * 129, "a\nb", "\ud800", 7])
def test_a_bad_value_is_refused_where_it_is_set(name: str, value: Any) -> None:
    """P9: there, and not at some append; the error names it, and nothing is set."""
    with pytest.raises(InvalidEvent) as caught, context(**{name: value}):
        raise AssertionError
    assert caught.value.field == name
    assert current() == (None, None, None)
