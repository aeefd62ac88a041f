"""Links on the wire, as those see them who follow a stream into which events are linked."""

import asyncio
from typing import Any

import pytest
from aio_pika.abc import AbstractIncomingMessage

from tests.relay.plain import append, plain, recorded
from tests.whole.flow import relay_running
from trunkline_consumer.receive import Received
from trunkline_consumer.sense import judged
from trunkline_consumer.unpack import unpacked
from trunkline_relay import Relay
from trunkline_store import ANY_VERSION, EventData, EventStore, RecordedEvent, wire


def received(messages: list[AbstractIncomingMessage], store: EventStore) -> list[RecordedEvent]:
    """The events of a stream's messages, as its followers have them."""
    found = [Received(1, m.headers, m.body, m.exchange or "", m.routing_key or "") for m in messages]
    places = [judged(message, store.schema) for message in found]
    both = zip(found, places, strict=True)
    return [e for m, place in both for e in unpacked(m, place, 0, store.serializer, by_version=True).events]


def positions(message: AbstractIncomingMessage) -> list[int]:
    """Of its events, or of its links."""
    return [event.feed_position for event in wire.decode(message.body)]


async def events(store: EventStore, stream: str, *correlations: str | None) -> list[RecordedEvent]:
    """One append; returns all of the stream."""
    new = [EventData("E", n, {"n": n}, correlation_id=c) for n, c in enumerate(correlations)]
    await store.append_to_stream(stream, ANY_VERSION, new)
    return await store.read_stream_forward(stream)


async def test_a_stream_arrives_as_it_is_read(store: EventStore, database: str, vhost: str) -> None:
    """P6: own events and links of a stream come in the order of its versions, equal to what the store gives, each batch
    with one correlation id; the recorded position covers both."""
    one, two, three = await events(store, "a-1", "x", "x", None)
    (other,) = await events(store, "b-1", "x")
    async with (
        plain(vhost, "*.*.target-1", links=["target-1"]) as consumer,
        plain(vhost, "#") as everything,
        relay_running(database, vhost),
    ):
        await append(store, "target-1", "E", "E", correlation_id="own")
        await store.link_to_stream("target-1", 2, [two, other, three, one])
        await append(store, "target-1", "E")
        last = await store.link_to_stream("target-1", ANY_VERSION, await events(store, "c-1", None))
        await consumer.until(8)
        await recorded(store, last.last_position)
        await append(store, "a-1", "E")
        await everything.until(9)
    assert received(consumer.messages, store) == await store.read_stream_forward("target-1")
    assert [(m.correlation_id, m.headers.get("linked", False)) for m in consumer.messages] == [
        ("own", False), ("x", True), (None, True), ("x", True), (None, False), (None, True),
    ]  # fmt: skip
    assert not any("linked" in m.headers for m in everything.messages), "links are not in $all"


async def test_the_chain_of_a_stream_runs_through_its_links(store: EventStore, database: str, vhost: str) -> None:
    """P6: `previous_in_stream` is the position of the version before, event or link, also across a relay that begins
    again; the chains of `$all` and of the category know nothing of links."""
    sources = await events(store, "a-1", *["x"] * 20)
    async with plain(vhost, "#", links=["#"]) as consumer:
        count = len(sources)
        for round in range(3):
            async with relay_running(database, vhost):
                for n in range(4):
                    count += len(await append(store, f"t-{n % 2}", "E"))
                    await store.link_to_stream(f"t-{n % 2}", ANY_VERSION, [sources[round * 4 + n]])
                    count += 1
                await consumer.until(count)
    streams: dict[str, int] = {}
    every, categories = 0, dict[str, int]()
    for message in consumer.messages:
        h: dict[str, Any] = dict(message.headers)
        assert h["previous_in_stream"] == streams.get(h["stream"], 0)
        streams[h["stream"]] = h["last_position"]
        if h.get("linked"):
            assert "previous_position" not in h
            assert "previous_in_category" not in h
            continue
        assert (h["previous_position"], h["previous_in_category"]) == (every, categories.get(h["category"], 0))
        every = categories[h["category"]] = h["last_position"]
    firsts = [positions(m)[0] for m in consumer.messages]
    assert firsts == sorted(firsts), "events and links come in one order"


@pytest.mark.parametrize(("page_events", "page_bytes"), [(1, 10**6), (3, 10**6), (7, 10**6), (1000, 40), (1000, 400)])
async def test_pages_cut_neither_events_nor_links(
    store: EventStore,
    database: str,
    vhost: str,
    monkeypatch: pytest.MonkeyPatch,
    page_events: int,
    page_bytes: int,
) -> None:
    """P2, P4: whatever fits on a page, each message is there once, in order, with the borders that it always has."""
    monkeypatch.setattr("trunkline_relay.tail.PAGE_EVENTS", page_events)
    monkeypatch.setattr("trunkline_relay.tail.PAGE_BYTES", page_bytes)
    sources = await events(store, "a-1", *["x", "x", None] * 4)
    for n in range(4):
        await store.link_to_stream("t-1", ANY_VERSION, sources[n * 3 : n * 3 + 3][:: -1 if n % 2 else 1])
        await append(store, "t-1", *["E"] * n)
    await store.link_to_stream("t-2", ANY_VERSION, sources)
    async with plain(vhost, "#", links=["#"]) as consumer, relay_running(database, vhost):
        await consumer.until(12 + 12 + 0 + 1 + 2 + 3 + 12)
    firsts = [positions(m)[0] for m in consumer.messages]
    assert firsts == sorted(set(firsts))
    for stream in ("a-1", "t-1", "t-2"):
        of_stream = [m for m in consumer.messages if m.headers["stream"] == stream]
        assert received(of_stream, store) == await store.read_stream_forward(stream)
    sizes = [len(wire.decode(m.body)) for m in consumer.messages if m.headers["stream"] == "t-2"]
    assert sizes == [2, 1] * 4


async def test_a_large_linked_event_travels_as_a_reference(store: EventStore, database: str, vhost: str) -> None:
    """Its data is not loaded; the reference names the event where it was appended."""
    await store.append_to_stream("a-1", 0, [EventData("Large", "x" * 300_000)])
    await store.link_to_stream("t-1", 0, await store.read_stream_forward("a-1"))
    async with plain(vhost, links=["t-1"]) as consumer, relay_running(database, vhost):
        await consumer.until(1)
    (event,) = wire.decode(consumer.messages[0].body)
    assert event.dataref == "/eventstore/a-1/1"
    assert event.payload is None


async def test_current_is_behind_the_last_link(store: EventStore, database: str, vhost: str) -> None:
    """A first relay that begins at the current end publishes neither events nor links of before."""
    (old,) = await events(store, "a-1", None)
    link = await store.link_to_stream("t-1", 0, [old])
    async with plain(vhost, "#", links=["#"]) as consumer:
        relay = Relay(store, vhost, start_from=None, lease=5)
        running = asyncio.create_task(relay.run())
        await recorded(store, link.last_position)
        (new,) = await append(store, "a-1", "E")
        await consumer.until(1)
        relay.stop()
        await running
    assert consumer.positions == [new]
