"""Pages become messages, however they were read."""

from trunkline_relay.tail import Tail
from trunkline_store import ANY_VERSION, EventData, EventStore
from trunkline_store.wire import Message

LARGE = "x" * 10_000


async def messages(tail: Tail, store: EventStore) -> list[Message]:
    """All that there are."""
    return [message async for some in tail.until(await store.safe_position()) for message in some]


async def test_large_events_change_the_query_and_nothing_of_the_messages(store: EventStore) -> None:
    """A page with an event that is too large for the barest query is read by the other one; byte for byte, the messages
    of all pages are those that the other query alone would have given, and none is left out or comes twice."""
    both, other = Tail(store, store.history, 0, 1), Tail(store, store.history, 0, 1)
    found: list[Message] = []
    for number, data in enumerate(("small", LARGE, "small", "small", LARGE, LARGE)):
        for stream in ("a-1", "b-1", f"new-{number}"):
            events = [EventData("E", "little", {"n": 1}), EventData("E", data), EventData("F", {})]
            await store.append_to_stream(stream, ANY_VERSION, events)
        found += await messages(both, store)
    other._large = True
    expected = await messages(other, store)
    assert found == expected
    assert sum(message.count for message in found) == 6 * 3 * 3


async def test_a_stream_that_is_removed_meanwhile_is_passed_over(store: EventStore) -> None:
    """Its name is asked for after its events were read; those of the others go out, in one chain."""
    for stream in ("a-1", "b-1", "a-1"):
        await store.append_to_stream(stream, ANY_VERSION, [EventData("E", 1)])
    fetch, tail = store.fetch, Tail(store, store.history, 0, 1)

    async def removing(query: str, *args: object) -> list:  # type: ignore[type-arg]
        if query == store.sql["stream_names"]:
            await store.delete_stream("b-1", 1, hard=True)
        return await fetch(query, *args)

    store.fetch = removing  # type: ignore[method-assign]
    found = await messages(tail, store)
    assert [message.headers["stream"] for message in found] == ["a-1", "a-1"]
    assert found[1].headers["previous_position"] == found[0].last_position
