"""History, once more, to one queue: what it takes there, and where it goes on after a fault."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from tests.relay.plain import append, plain
from tests.whole.flow import relay_running
from trunkline_ops.servers.proxy import Proxy
from trunkline_relay import Replay
from trunkline_relay.tail import PAGE_EVENTS
from trunkline_store import (
    ANY_VERSION,
    BrokerUnavailable,
    EventData,
    EventStore,
    InvalidArgument,
    MessagesLost,
    QueueNotFound,
    StreamNotFound,
)

QUEUE = "heal/plain.1"


@asynccontextmanager
async def queue(url: str, **arguments: Any) -> AsyncIterator[AbstractChannel]:
    """A channel of a consumer that has declared its queue, and has bound it to nothing."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(QUEUE, arguments=arguments)
        yield channel


async def received(channel: AbstractChannel) -> list[AbstractIncomingMessage]:
    """All that is in the queue, which is empty then."""
    found = []
    ready = await channel.get_queue(QUEUE)
    while (message := await ready.get(fail=False, no_ack=True)) is not None:
        found.append(message)
    return found


def positions(messages: Sequence[AbstractIncomingMessage]) -> list[int]:
    """Of all events of the messages."""
    return [int(event["sequence"]) for message in messages for event in json.loads(message.body)]


def told(message: AbstractIncomingMessage) -> dict[str, Any]:
    """What a message says of itself, but for what tells a replay from the relay."""
    headers = {key: value for key, value in message.headers.items() if not key.startswith("previous_")}
    for key in [key for key in headers if key.startswith("replay")] + ["relay_epoch", "CC"]:
        headers.pop(key, None)
    properties = ("content_type", "message_id", "correlation_id", "type", "timestamp", "app_id", "delivery_mode")
    return {"headers": headers, "body": message.body} | {name: getattr(message, name) for name in properties}


@pytest.mark.every_rabbitmq
async def test_a_replay_is_what_the_relay_published_with_another_chain(
    store: EventStore, database: str, vhost: str
) -> None:
    """The same messages to this queue alone, byte for byte; marked, and with no predecessor that could be compared."""
    await append(store, "a-1", *["E"] * 1200)  # more than one batch
    await store.append_to_stream("ördër-1", 0, [EventData("Größe", "é", {"by": "x"}, correlation_id="c")])
    ids = ["x", "x", None, "y"]
    await store.append_to_stream("b", 0, [EventData(f"T{n % 2}", n, correlation_id=c) for n, c in enumerate(ids)])
    await append(store, "big-1", "Large", "Small")
    await store.append_to_stream("big-1", 2, [EventData("Large", "x" * (store.batch_bytes + 1))])
    async with plain(vhost, "#") as live:
        async with relay_running(database, vhost):
            await live.until(1208)
        seen = len(live.messages)
        async with queue(vhost) as channel:
            replay = Replay(store, vhost, QUEUE)
            await replay.run()
            again = await received(channel)
        assert [told(message) for message in again] == [told(message) for message in live.messages]
        for message in again:
            assert message.headers["replayed"] is True
            assert not {"previous_position", "previous_in_category", "previous_in_stream", "relay_epoch"} & set(
                message.headers
            )
        assert (replay.events, replay.messages) == (1208, len(again))
        assert replay.position == replay.end == await store.safe_position()
        assert len(live.messages) == seen, "another queue received something"
    assert "dataref" in json.loads(again[-1].body)[0]


async def test_what_is_replayed_can_be_chosen(store: EventStore, vhost: str) -> None:
    """By category, by stream, by types, and by a range with both its ends, also where they lie inside a batch."""
    for n in range(3):
        await append(store, f"order-{n}", "Placed", "Paid", "Placed")
        await append(store, f"user-{n}", "Placed")
    every = [(e.position, e.stream, e.type) for e in await store.read_all_streams_forward()]
    chosen: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [p for p, _, _ in every]),
        ({"category": "order"}, [p for p, s, _ in every if s.startswith("order-")]),
        ({"category": "ord"}, []),
        ({"stream": "order-1"}, [p for p, s, _ in every if s == "order-1"]),
        ({"stream": "order-1", "types": ["Paid"]}, [p for p, s, t in every if s == "order-1" and t == "Paid"]),
        ({"types": ["Paid", "No"]}, [p for p, _, t in every if t == "Paid"]),
        ({"category": "order", "types": ["Placed"]}, [p for p, s, t in every if s[0] == "o" and t == "Placed"]),
        *(({"start": p, "end": q}, [r for r, _, _ in every if p <= r <= q]) for p, q in pairs([e[0] for e in every])),
        *(
            ({"stream": "order-1", "start": p, "end": q}, [r for r, s, _ in every if p <= r <= q and s == "order-1"])
            for p, q in pairs([e[0] for e in every if e[1] == "order-1"])
        ),
        ({"start": every[-1][0] + 1}, []),
        ({"start": 0, "end": 0}, []),
    ]
    async with queue(vhost) as channel:
        for arguments, expected in chosen:
            replay = Replay(store, vhost, QUEUE, **arguments)
            await replay.run()
            messages = await received(channel)
            assert positions(messages) == expected, arguments
            assert (replay.events, replay.messages) == (len(expected), len(messages))
            for message in messages:
                inside = positions([message])
                assert (message.headers["first_position"], message.headers["last_position"]) == (inside[0], inside[-1])


def pairs(found: Sequence[int]) -> list[tuple[int, int]]:
    """Every range between two of them."""
    return [(p, q) for p in found for q in found if p <= q]


@pytest.mark.parametrize("choice", [{}, {"category": "c"}, {"stream": "c-1"}, {"types": ["E"]}], ids=str)
async def test_a_replay_goes_page_by_page_and_keeps_the_borders(
    store: EventStore, vhost: str, choice: dict[str, Any]
) -> None:
    """P4, P8: more events than a page holds, in appends that do not fit pages: none is lost where one page ends, and a
    batch has the borders that it has for the relay."""
    expected: list[tuple[int, int]] = []
    while sum(last - first + 1 for first, last in expected) < 2 * PAGE_EVENTS:
        appended = await store.append_to_stream("c-1", ANY_VERSION, [EventData("E", 1) for _ in range(333)])
        expected.append((appended.first_position, appended.last_position))
        await append(store, "d-1", "F")
    async with queue(vhost) as channel:
        await Replay(store, vhost, QUEUE, **choice).run()
        messages = [m for m in await received(channel) if m.headers["stream"] == "c-1"]
    assert [(m.headers["first_position"], m.headers["last_position"]) for m in messages] == expected


async def test_a_stream_is_replayed_with_what_is_linked_into_it(
    store: EventStore, database: str, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte what the relay sent to the two exchanges, in the order of the stream's versions, page by page; a
    range counts in positions of the links."""
    monkeypatch.setattr("trunkline_relay.replay.PAGE_EVENTS", 7)
    async with plain(vhost, "list.#", links=["list-1"]) as live, relay_running(database, vhost):
        for n in range(5):
            await append(store, f"order-{n}", *["Placed"] * 3)
            await append(store, "list-1", *["Own"] * (n % 3))
            orders = await store.read_stream_forward(f"order-{n}")
            linked = await store.link_to_stream("list-1", ANY_VERSION, orders)
            await append(store, "other-1", "Own")
        count = 15 + 0 + 1 + 2 + 0 + 1
        await live.until(count)
    sent = sorted(live.messages, key=lambda message: int(str(message.headers["first_position"])))
    async with queue(vhost) as channel:
        await Replay(store, vhost, QUEUE, stream="list-1").run()
        again = await received(channel)
        await Replay(store, vhost, QUEUE, stream="list-1", start=linked.first_position + 1).run()
        last = await received(channel)
    assert [told(message) for message in again] == [told(message) for message in sent]
    versions: list[int] = []
    for message in again:
        headers: Any = message.headers
        versions += range(headers["first_version"], headers["last_version"] + 1)
    assert versions == list(range(1, count + 1))
    assert [(m.headers["first_position"], m.headers["linked"]) for m in last] == [(linked.first_position + 1, True)]


class Counting(EventStore):
    """A store that counts the rows that are read of one stream."""

    rows = 0

    async def fetch(self, query: str, *args: object) -> list[Any]:
        found = await super().fetch(query, *args)
        if query in (self.sql["replay_stream"], self.sql["replay_links"]):
            self.rows += len(found)
        return found


async def test_a_replay_of_a_stream_reads_it_from_where_it_starts(database: str, vhost: str) -> None:
    """It reads from the block of the position on, and nothing before it, both of its own events and of links into
    it."""
    async with Counting(database) as store, queue(vhost) as channel:
        for _ in range(50):
            await append(store, "a-1", *["E"] * 10)
            await append(store, "other-1", "E")
        linked = await store.link_to_stream("a-1", ANY_VERSION, await store.read_stream_forward("other-1"))
        own = (await store.read_stream_forward("a-1", start=495, count=1))[0].position
        for start, expected in ((linked.first_position + 49, [50, 1]), (own, [60, 56]), (0, [550, 550])):
            store.rows = 0
            await Replay(store, vhost, QUEUE, stream="a-1", start=start).run()
            assert [store.rows, len(positions(await received(channel)))] == expected


@pytest.mark.parametrize("choice", [{}, {"category": "order"}, {"stream": "order-1"}, {"types": ("B", "A")}], ids=str)
async def test_a_replay_has_a_chain_of_its_own(store: EventStore, vhost: str, choice: dict[str, Any]) -> None:
    """Each message names the one before it in this replay, the chosen feed and the end; the first names the start, and
    the last is marked. So the consumer notices any message that is taken out."""
    for n in range(4):
        await append(store, f"order-{n % 2}", "A", "B", "C")
        await append(store, f"user-{n}", "B")
    start, end = (await store.read_stream_forward("order-0"))[1].position, await store.safe_position()
    async with queue(vhost) as channel:
        replay = Replay(store, vhost, QUEUE, start=start, **choice)
        await replay.run()
        headers: list[Any] = [message.headers for message in await received(channel)]
    assert len(headers) > 1
    previous = start - 1
    for each in headers:
        assert each["previous_in_replay"] == previous
        previous = each["last_position"]
    assert {(each["replay_id"], each["replay_end"]) for each in headers} == {(replay.id, end)}
    of = choice.get("stream") or ("$category-order" if "category" in choice else "$all")
    assert {each["replay_of"] for each in headers} == {of}
    assert [each.get("replay_types") for each in headers] == [["A", "B"] if "types" in choice else None] * len(headers)
    assert [n for n, each in enumerate(headers) if each.get("replay_first")] == [0]
    assert [n for n, each in enumerate(headers) if each.get("replay_last")] == [len(headers) - 1]


async def test_a_purge_meanwhile_is_no_success(store: EventStore, vhost: str) -> None:
    """If confirmed messages are not in the queue, the replay fails with the counts, and a new one begins at the
    start."""
    for n in range(1000):
        await append(store, f"a-{n % 50}", "E")
    async with queue(vhost) as channel:
        replay = Replay(store, vhost, QUEUE, window=4)
        running = asyncio.create_task(replay.run())
        while replay.messages < 20:
            await asyncio.sleep(0)  # it goes on meanwhile
        await (await channel.get_queue(QUEUE)).purge()
        with pytest.raises(MessagesLost) as lost:
            await running
        assert (lost.value.queue, lost.value.sent) == (QUEUE, 1000)
        assert 0 < lost.value.found <= 980
        assert replay.position == -1


async def test_a_replay_to_a_queue_that_is_not_there_is_refused(store: EventStore, vhost: str) -> None:
    """P9: a typed error before anything is sent, and no queue is made; so for a stream that does not exist, and for
    arguments that contradict each other."""
    await append(store, "a-1", "E")
    with pytest.raises(QueueNotFound) as refused:
        await Replay(store, vhost, "missing").run()
    assert refused.value.queue == "missing"
    async with queue(vhost) as channel:
        with pytest.raises(StreamNotFound):
            await Replay(store, vhost, QUEUE, stream="b-1").run()
        for arguments in ({"start": -1}, {"end": -1}, {"window": 0}, {"category": "a", "stream": "a-1"}):
            with pytest.raises(InvalidArgument):
                Replay(store, vhost, QUEUE, **arguments)
        assert await received(channel) == []
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.declare_queue("missing", passive=True)


async def test_a_replay_to_a_broker_that_is_away_is_an_error(store: EventStore) -> None:
    """Typed, and at once: a person waits for it."""
    await append(store, "a-1", "E")
    with pytest.raises(BrokerUnavailable):
        await Replay(store, "amqp://guest:guest@127.0.0.1:1/", QUEUE).run()


async def test_a_full_queue_stops_a_replay_which_then_goes_on(store: EventStore, vhost: str) -> None:
    """What is above `position` is unknown, what is up to it is in the queue: going on behind it leaves no hole."""
    every = [p for n in range(60) for p in await append(store, f"a-{n}", "E")]
    arrived: list[int] = []
    reasons: list[str] = []
    async with queue(vhost, **{"x-max-length": 7, "x-overflow": "reject-publish"}) as channel:
        start = 0
        while True:
            replay = Replay(store, vhost, QUEUE, start=start, window=5)
            try:
                await replay.run()
                break
            except BrokerUnavailable as error:
                reasons.append(str(error))
            finally:
                arrived += positions(await received(channel))
            assert set(arrived) >= {position for position in every if position <= replay.position}
            assert replay.position + 1 > start, "it makes progress"
            start = replay.position + 1
    assert reasons
    assert all("make room in it" in reason for reason in reasons), reasons
    assert list(dict.fromkeys(arrived)) == every


async def test_a_replay_goes_on_after_a_cut_connection(store: EventStore, vhost: str) -> None:
    """Cut in the middle: a typed error, and the second part begins where the first was confirmed."""
    every = [p for n in range(400) for p in await append(store, f"a-{n}", "E")]
    async with queue(vhost) as channel, Proxy(vhost) as proxy:
        replay = Replay(store, proxy.url, QUEUE, window=4)
        running = asyncio.create_task(replay.run())
        while replay.events < 20:
            await asyncio.sleep(0)  # it goes on meanwhile
        await proxy.cut()
        with pytest.raises(BrokerUnavailable):
            await running
        assert 20 <= replay.events < len(every)
        arrived = await confirmed(channel, every.index(replay.position) + 1)
        rest = Replay(store, vhost, QUEUE, start=replay.position + 1)
        await rest.run()
        arrived += positions(await received(channel))
    assert replay.events + rest.events == len(every)
    assert list(dict.fromkeys(arrived)) == every


async def confirmed(channel: AbstractChannel, count: int) -> list[int]:
    """Positions of what has arrived, which is at least what was confirmed."""
    arrived = positions(await received(channel))
    assert len(arrived) >= count
    return arrived


async def test_a_broker_that_is_silent_stops_a_replay(store: EventStore, vhost: str) -> None:
    """P8: nobody waits for ever: after its patience it ends with what is known."""
    every = [p for n in range(300) for p in await append(store, f"a-{n}", "E")]
    async with queue(vhost), Proxy(vhost) as proxy:
        replay = Replay(store, proxy.url, QUEUE, window=4, patience=2)
        running = asyncio.create_task(replay.run())
        while replay.events < 20:
            await asyncio.sleep(0)  # it goes on meanwhile
        proxy.stall()
        with pytest.raises(BrokerUnavailable, match="2 s"):
            await running
        proxy.resume()
        assert every[0] <= replay.position < every[-1]


async def test_a_queue_that_is_deleted_meanwhile_stops_a_replay(store: EventStore, vhost: str) -> None:
    """A message that no queue takes is no success."""
    for n in range(2000):
        await append(store, f"a-{n % 50}", "E")
    async with queue(vhost) as channel:
        replay = Replay(store, vhost, QUEUE, window=4)
        running = asyncio.create_task(replay.run())
        while replay.events < 20:
            await asyncio.sleep(0)  # it goes on meanwhile
        await channel.queue_delete(QUEUE)
        with pytest.raises(QueueNotFound):
            await running


async def test_a_cancelled_replay_leaves_nothing_running(store: EventStore, vhost: str) -> None:
    """Its messages in flight are forgotten, its position stands, its connection is closed."""
    for n in range(200):
        await append(store, f"a-{n % 50}", "E")
    async with queue(vhost):
        replay = Replay(store, vhost, QUEUE, window=4)
        running = asyncio.create_task(replay.run())
        while replay.events < 5:
            await asyncio.sleep(0)  # it goes on meanwhile
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("replay ")]
    assert replay.position >= 0
