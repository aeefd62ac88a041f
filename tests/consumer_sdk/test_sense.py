"""Damaged and forged messages: none moves anything, and none is handed out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractChannel, AbstractExchange
from hypothesis import given
from hypothesis import strategies as st

from tests.relay.plain import append
from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import Consumer, Options, Subscription
from trunkline_consumer.bell import Bell
from trunkline_consumer.feed import Feed
from trunkline_consumer.follow import Counts, Follower
from trunkline_consumer.own import NoClaim
from trunkline_consumer.place import Verdict
from trunkline_consumer.receive import Queue, Received, Receiver
from trunkline_consumer.sense import LEAP, Horizon, judged
from trunkline_consumer.tenure import Shape, Tenure
from trunkline_consumer.unpack import unpacked
from trunkline_store import EventStore, JsonSerializer
from trunkline_store.wire import BadMessage, Chain, Message, StoredEvent, StoredLink, encode

HISTORY, STORE, BEFORE = "h/1", "eventstore", 2000
WIDE = Options(buffer_size=10_000)
SERIALIZER = JsonSerializer()


def event(position: int, **changes: Any) -> StoredEvent:
    made = StoredEvent(
        position, "a-1", "a", position - 2040, f"018f0000-0000-7000-8000-{position:012}", "E", 1, "1", None, "c",
        None, None, "2026-01-01T00:00:00Z",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def link(position: int) -> StoredLink:
    own: dict[str, Any] = {"own_position": position - 1000, "own_stream": "b-1", "own_version": position - 2047}
    return StoredLink(**msgspec.structs.asdict(event(position)), **own)


def sent(*events: StoredEvent) -> Message:
    chain = Chain(BEFORE, 1900, 1800)
    return encode(events, chain, store=STORE, history=HISTORY, epoch=1, content_type="application/json")


EVENTS = sent(event(2048), event(2049, type="F"), event(2050))
LINKS = sent(link(2048), link(2049))


def received(message: Message) -> Received:
    exchange = f"{STORE}-links" if message.linked else STORE
    return Received(1, message.headers, message.body, exchange, message.routing_key)


def body(message: Received) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode(message.body)
    return found


def with_body(message: Received, events: list[dict[str, Any]]) -> Received:
    return message._replace(body=msgspec.json.encode(events))


def with_headers(message: Received, changes: Mapping[str, Any]) -> Received:
    return message._replace(headers={**message.headers, **changes})


def with_attribute(message: Received, changes: Mapping[str, Any], index: int = -1) -> Received:
    events = body(message)
    events[index] |= changes
    return with_body(message, events)


ONE, OF_LINKS = received(EVENTS), received(LINKS)

DAMAGED: dict[str, Received] = {
    "dead-lettered": with_headers(ONE, {"x-death": [{"queue": "q"}]}),
    "another exchange": ONE._replace(exchange="eventstore.mine"),
    "the default exchange": ONE._replace(exchange="", routing_key="eventstore.s"),
    "the links' exchange": ONE._replace(exchange="eventstore-links"),
    "links by the events' exchange": OF_LINKS._replace(exchange="eventstore"),
    "links by another key": OF_LINKS._replace(routing_key="b-1"),
    "another key": ONE._replace(routing_key="b.E.b-1"),
    "another type's key": ONE._replace(routing_key="a.G.a-1"),
    "another category": with_headers(ONE, {"category": "b"}),
    "another stream": with_headers(ONE, {"stream": "a-2"}),
    "no stream": with_headers(ONE, {"stream": "", "category": ""}),
    "beyond int64": with_headers(ONE, {"first_position": 2**63, "last_position": 2**63 + 2}),
    "never drawn": with_headers(ONE, {"first_position": 2**62, "last_position": 2**62 + 2}),
    "negative": with_headers(ONE, {"first_position": -3, "last_position": -1}),
    "another position": with_headers(ONE, {"first_position": 2049, "last_position": 2051}),
    "more positions": with_headers(ONE, {"last_position": 2051, "last_version": 11}),
    "another version": with_headers(ONE, {"first_version": 9, "last_version": 11}),
    "fewer versions": with_headers(ONE, {"last_version": 9}),
    "before its previous": with_headers(ONE, {"previous_position": 2048}),
    "before its stream's previous": with_headers(ONE, {"previous_in_stream": 5000}),
    "called links": with_headers(ONE, {"linked": True})._replace(exchange="eventstore-links", routing_key="a-1"),
    "an event's subject": with_attribute(ONE, {"subject": "a-2"}),
    "an event's position": with_attribute(ONE, {"sequence": str(2**62)}),
    "an event's version": with_attribute(ONE, {"streamversion": "11"}),
    "an event's correlation": with_attribute(ONE, {"correlationid": "d"}),
    "an event's link": with_attribute(ONE, {"feedposition": "2050", "feedversion": "10"}),
    "an event's time": with_attribute(ONE, {"time": "2026-01-01T00:00:00"}),
    "an event too few": with_body(ONE, body(ONE)[:-1]),
    "an event twice": with_body(ONE, [*body(ONE), body(ONE)[-1]]),
    "events in another order": with_body(ONE, body(ONE)[::-1]),
    "no data": with_body(ONE, [{k: v for k, v in each.items() if k != "data"} for each in body(ONE)]),
    "a link before its event": with_attribute(OF_LINKS, {"sequence": "2049"}),
    "a link of no version": with_attribute(OF_LINKS, {"streamversion": "0"}),
    "a link's place": with_attribute(OF_LINKS, {"feedposition": "2050"}),
}


def believed(message: Received) -> None:
    """Do what a subscription does with the next message."""
    place = judged(message, STORE)
    horizon = Horizon()
    horizon.looked(BEFORE)
    horizon.check(place)
    unpacked(message, place, 0, SERIALIZER, by_version=False)


@pytest.mark.parametrize("name", DAMAGED)
def test_what_makes_no_sense_is_damage(name: str) -> None:
    """A message that contradicts itself, its exchange or the store is damaged."""
    with pytest.raises(BadMessage):
        believed(DAMAGED[name])


@pytest.mark.parametrize("message", [ONE, OF_LINKS], ids=["events", "links"])
def test_what_a_relay_publishes_makes_sense(message: Received) -> None:
    """A genuine message is believed, and so is the second half of one whose keys do not fit into one header."""
    believed(message)
    if message is ONE:
        believed(message._replace(routing_key="a.F.a-1"))


def test_the_horizon_moves_with_the_looks_and_with_time() -> None:
    """A position that an open transaction held back for a day is believed; one that nobody can have drawn is not."""
    horizon, place = Horizon(), judged(ONE, STORE)
    horizon.looked(10 * LEAP)
    horizon.check(msgspec.structs.replace(place, last_position=11 * LEAP))
    with pytest.raises(BadMessage, match="never drawn"):
        horizon.check(msgspec.structs.replace(place, last_position=12 * LEAP))
    horizon.looked(11 * LEAP)
    horizon.check(msgspec.structs.replace(place, last_position=12 * LEAP))


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 2**64)
    | st.integers(1790, 2055)
    | st.integers(0, 12)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["a-1", "a-2", "b-1", "a", "b", "E", "F", "eventstore", "2048", "2050", "9", "h", "c"])
    | st.lists(st.integers(), max_size=1)
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Received, Received]:
    """Return a genuine message, and the same with one to three changes of its content or its way."""
    true = draw(st.sampled_from([ONE, OF_LINKS]))
    message = true
    for _ in range(draw(st.integers(1, 3))):
        events = body(message)
        match draw(st.sampled_from(["header", "header", "attribute", "attribute", "events", "way", "dead"])):
            case "header":
                # the chain of what is not there: see ops/decisions/0006-trust.md
                name = draw(st.sampled_from([name for name in true.headers if not name.startswith("previous")]))
                headers = {**message.headers, name: draw(VALUES)}
                if draw(st.booleans()):
                    del headers[name]
                message = message._replace(headers=headers)
            case "attribute" if events:
                each = draw(st.sampled_from(events))
                name = draw(st.sampled_from([*true_attributes(true), "feedposition", "feedversion"]))
                each[name] = draw(VALUES)
                if draw(st.booleans()):
                    del each[name]
                message = with_body(message, events)
            case "events":
                message = with_body(message, draw(st.lists(st.sampled_from(body(true)), max_size=4)))
            case "way":
                exchange = draw(st.sampled_from(["", STORE, f"{STORE}-links", "other"]))
                key = draw(st.sampled_from(["a.E.a-1", "a.F.a-1", "a-1", "a.E.a-2", ""]))
                message = message._replace(exchange=exchange, routing_key=key)
            case "dead":
                message = with_headers(message, {"x-death": []})
    return true, message


def true_attributes(message: Received) -> list[str]:
    """Return the attributes that say which events these are, and their positions."""
    told = {"subject", "sequence", "streamversion", "feedposition", "feedversion", "correlationid", "specversion"}
    return sorted(told & body(message)[0].keys())


@given(mutated())
def test_a_changed_message_is_damage_or_changes_nothing(case: tuple[Received, Received]) -> None:
    """Whatever is changed in the place of a message, either nothing moves and its tag waits for nothing, or the events
    of the genuine one are handed out unchanged."""
    asyncio.run(_takes(*case))


async def _takes(true: Received, message: Received) -> None:
    feed = Feed.stream("a-1") if true is OF_LINKS else Feed.all()

    def follower() -> Follower:
        tenure = Tenure(NoClaim("s", HISTORY, BEFORE), feed, WIDE, Shape(), Bell())
        receiver = Receiver("amqp://nowhere/", Queue("q", [], max_length=1, max_bytes=1, expires=1.0), prefetch=1)
        made = Follower(store, feed, receiver, tenure, WIDE, Counts(), lambda _: None)
        made._horizon.looked(BEFORE)
        return made

    store = EventStore("postgresql://nowhere/none")
    expected, found = follower(), follower()
    assert await expected._take(true) is Verdict.NEXT
    try:
        verdict = await found._take(message) if feed.covers(message.headers) else Verdict.FOREIGN
    except BadMessage:
        verdict = None
    tenure = found._tenure
    if verdict is Verdict.NEXT:
        assert [_placed(each) for each in tenure.ready] == [_placed(each) for each in expected._tenure.ready]
        assert tenure.delivered == expected._tenure.delivered
    else:
        assert (tenure.delivered, list(tenure.ready)) == (BEFORE, [])
        tenure.acks.received(2, 0)
        assert tenure.acks.settle(BEFORE) == 2, "it waits for a checkpoint that may never come"


def _placed(batch: Any) -> list[tuple[Any, ...]]:
    return [
        (e.event_id, e.event_number, e.stream, e.stream_version, e.position, e.feed_position, e.correlation_id)
        for e in batch.events
    ]


# --- on real servers


@asynccontextmanager
async def forging(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        yield channel


async def publish(exchange: AbstractExchange, message: Message, key: str, **headers: Any) -> None:
    made = aio_pika.Message(message.body, headers={**message.headers, **headers}, message_id=message.message_id)
    await exchange.publish(made, key)


async def next_positions(store: EventStore, count: int) -> list[int]:
    """Return the positions that the next append of `count` events will have."""
    block = await store.fetchval("SELECT last_value + 1 FROM eventstore.blocks")
    return [block * 1024 + n for n in range(count)]


async def handed_out(subscription: Subscription, upto: int) -> list[tuple[int, str]]:
    """Return positions and types of all events handed out up to a position."""
    got: list[tuple[int, str]] = []
    async with asyncio.timeout(30):
        while not got or got[-1][0] < upto:
            batch = await anext(subscription)
            got += [(each.position, each.type) for each in batch]
            await batch.ack()
    return got


@pytest.mark.parametrize("way", ["an exchange of one's own", "a dead letter", "the default exchange"])
async def test_a_forged_event_is_not_believed(
    store: EventStore, database: str, vhost: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A login that can bind a subscription's queue, but not publish to the store's exchange, publishes an event at the
    next position. Nobody handles it, it is counted and logged, and the genuine event of this position comes."""
    async with relay_running(database, vhost), Consumer(store, vhost) as consumer, forging(vhost) as channel:
        async with consumer.subscribe_to_all_streams("s", options=QUICK, checkpoint_threshold=1) as subscription:
            [first] = await append(store, "a-1", "True")
            assert await handed_out(subscription, first) == [(first, "True")]
            while not subscription.counts.from_queue:
                [first] = await append(store, "a-1", "True")
                await handed_out(subscription, first)
            [forged] = await next_positions(store, 1)
            history = (await store.look()).history
            version = (await store.stream_info("a-1")).version + 1
            message = encode(
                [event(forged, stream_version=version, type="Forged")], Chain(first, first, first),
                store=STORE, history=history, content_type="application/json",
            )  # fmt: skip
            queue, key = "eventstore.s", "a.Forged.a-1"
            with caplog.at_level(logging.WARNING, "trunkline.consumer"):
                if way == "the default exchange":
                    await publish(channel.default_exchange, message, queue)
                elif way == "a dead letter":
                    arguments: dict[str, Any] = {"x-dead-letter-exchange": STORE, "x-message-ttl": 1}
                    dying = await channel.declare_queue("dying", arguments=arguments)
                    await dying.bind(await channel.declare_exchange("mine"), key)
                    await publish(await channel.get_exchange("mine"), message, key)
                else:
                    mine = await channel.declare_exchange("eventstore.mine", aio_pika.ExchangeType.TOPIC)
                    await (await channel.get_queue(queue)).bind(mine, "#")
                    await publish(mine, message, key)
                async with asyncio.timeout(20):
                    while not subscription.counts.damaged:
                        await asyncio.sleep(0.01)  # between two looks
            assert [each.getMessage() for each in caplog.records if "damaged message" in each.getMessage()] != []
            [true] = await append(store, "a-1", "True")
            assert true == forged
            assert await handed_out(subscription, true) == [(true, "True")]
            assert subscription.checkpoint == true
            assert subscription.counts.damaged == 1


async def test_a_flood_of_damage_holds_nothing_up(
    store: EventStore, database: str, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Thousands of damaged messages, more than the prefetch, are acknowledged and make one log line; genuine events
    come from the queue as before."""
    async with relay_running(database, vhost), Consumer(store, vhost) as consumer, forging(vhost) as channel:
        async with consumer.subscribe_to_all_streams("s", options=QUICK, prefetch=50) as subscription:
            while not subscription.counts.from_queue:
                await handed_out(subscription, (await append(store, "a-1", "E"))[0])
            exchange = await channel.get_exchange(STORE)
            changes: dict[str, Any]
            for changes in ({"first_position": 2**62, "last_position": 2**62 + 2}, {"category": "b"}, {"x-death": []}):
                await asyncio.gather(*(publish(exchange, EVENTS, "a.E.a-1", **changes) for _ in range(1000)))
            async with asyncio.timeout(40):
                while subscription.counts.damaged < 3000:
                    await asyncio.sleep(0.01)  # between two looks
            before = subscription.counts.from_queue
            while subscription.counts.from_queue == before:
                await handed_out(subscription, (await append(store, "a-1", "E"))[0])
            lines = [each.getMessage() for each in caplog.records if "damaged message" in each.getMessage()]
            assert len(lines) == 1, lines
