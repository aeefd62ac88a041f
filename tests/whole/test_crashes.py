"""PostgreSQL crashes at the worst moments: no committed event is skipped, and the effects match the events."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.relay.plain import recorded
from tests.whole.crashing import (
    BLOCK,
    OPTIONS,
    Crashing,
    Seen,
    appended,
    crashing,
    flowing,
    following,
    relaying,
    until,
    without,
)
from trunkline_consumer import Batch, Consumer, by_stream
from trunkline_consumer.subscription import State
from trunkline_store import ANY_VERSION, EventData, EventStore, StreamAppend, Unavailable

pytestmark = pytest.mark.timeout(300)  # a server of one's own starts and recovers here

FULL = "TRUNKLINE_TEST_FULL" in os.environ
COSTLY = pytest.mark.skipif(not FULL, reason="it starts servers of its own: ops/test --full")
CRASHES = 50 if FULL else 4
SEED = 4
LOSSES = ("rolled back", "savepoint", "asynchronous", "none")

_EFFECT = "INSERT INTO public.effects (subscription, event_id) SELECT $1, unnest($2::uuid[])"
_BEHIND = """
    SELECT array_agg(name) FROM (SELECT name, checkpoint FROM eventstore.subscriptions WHERE name = ANY ($1)
                                 UNION ALL SELECT name, position FROM eventstore.relays) AS each
    WHERE checkpoint < (SELECT max(position) FROM eventstore.events)
"""


class Everybody:
    """A writer, a relay and subscriptions of every kind at one store, as logins that do not wait for their commits."""

    def __init__(self, server: Crashing, writer: EventStore, seen: Seen, queued: Seen) -> None:
        self.server = server
        self.writer = writer
        self.seen = seen
        self.queued = queued
        """Its messages wait in the queue while it is held back."""

    async def settled(self) -> None:
        """Waits until each subscription has handled each event, but for one that is held back, and nothing is left to
        be written down. Raises `AssertionError` where that does not come."""
        committed = await self.server.committed()
        seen = [("seen", self.seen)] + [("queued", self.queued)] * self.queued.open.is_set()
        for _ in range(400):
            left = {name: len(committed) - len(await self.server.effects(name)) for name in ("tx", "concurrent")}
            left |= {name: len({*committed} - {*each.first}) for name, each in seen}
            behind = await self.server.hand.fetchval(_BEHIND, [*left])
            if not any(left.values()) and not behind:
                return
            await asyncio.sleep(0.05)  # between two looks
        raise AssertionError(f"not handled: {left}, not written down: {behind}")


@asynccontextmanager
async def everybody(vhost: str) -> AsyncIterator[Everybody]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(crashing())
        writer = await stack.enter_async_context(EventStore(server.as_role("writer")))
        await stack.enter_async_context(relaying(server.as_role("relay"), vhost))
        store = await stack.enter_async_context(EventStore(server.as_role("consumer"), application_name="subscriber"))
        consumer = await stack.enter_async_context(Consumer(store, vhost))

        @consumer.handler("tx", tx=True, attempts=1000, options=OPTIONS)
        async def in_order(batch: Batch, tx: Any) -> None:
            await tx.execute(_EFFECT, "tx", [event.event_id for event in batch])

        @consumer.handler("concurrent", tx=True, concurrency=4, partition_by=by_stream, attempts=1000, options=OPTIONS)
        async def at_once(batch: Batch, tx: Any) -> None:
            await tx.execute(_EFFECT, "concurrent", [event.event_id for event in batch])

        small = msgspec.structs.replace(OPTIONS, prefetch=4, buffer_size=1)
        subscriptions = [
            await stack.enter_async_context(consumer.subscribe_to_all_streams(name, options=options))
            for name, options in (("seen", OPTIONS), ("queued", small))
        ]
        running = asyncio.create_task(consumer.run())
        stack.callback(running.cancel)
        seen, queued = map(Seen, subscriptions)
        await stack.enter_async_context(seen.following())
        await stack.enter_async_context(queued.following())
        await appended(writer, "First")
        await until(lambda: len(consumer.subscriptions) == 4)
        await until(lambda: all(each.state is State.LIVE for each in consumer.subscriptions))
        yield Everybody(server, writer, seen, queued)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_each_committed_event_is_handled_whenever_the_server_crashes(vhost: str) -> None:
    """P2, P5: the server, or one of its processes, is killed right after appends that were rolled back (whole or to a
    savepoint), or committed asynchronously and seen. Subscriptions and relay have looked meanwhile, messages are
    queued, and no role waits for its commits. New events get the lost positions: each subscription handles all of
    these, and each event has one effect, in order."""
    chance, again = random.Random(SEED), 0
    async with everybody(vhost) as all:
        server = all.server
        for number in range(CRASHES):
            await all.settled()
            loss = LOSSES[number % len(LOSSES)]
            if number % 3 == 0:
                all.queued.open.clear()
                await appended(all.writer, *["Queued"] * 8)
                await all.settled()
            drawn = 0
            match loss:
                case "rolled back":
                    drawn = await server.roll_back(chance.randint(1, 3))
                    await server.looked("subscriber", "relay")
                case "savepoint":
                    drawn = await server.roll_back_to_savepoint()
                    await server.looked("subscriber", "relay")
                case "asynchronous":
                    before = len(all.seen.events)
                    drawn = await server.commit_asynchronously(count=chance.randint(1, 3))
                    await until(partial(all.seen.has_more_than, before))
                case _:
                    await appended(all.writer, "Just committed")
            await (server.kill if chance.random() < 0.3 else server.kill_session)()
            first, *_ = await appended(all.writer, *["New"] * chance.randint(1, 4))
            again += first // BLOCK == drawn // BLOCK
            all.queued.open.set()
        await all.settled()
        committed = await server.committed()
        assert await server.effects("tx") == committed
        assert sorted(await server.effects("concurrent")) == sorted(committed)
        assert without(all.seen.first, committed) == committed
        assert without(all.queued.first, committed) == committed
        losses = sum(LOSSES[number % len(LOSSES)] != "none" for number in range(CRASHES))
        assert again >= losses / 2, "hardly a number was given again: this shows nothing"


async def lost_in_flight(vhost: str, without: str = "SELECT") -> None:
    """Crash while an event that was committed asynchronously is being handled. Another event gets its position, and one
    more follows, before anything is acknowledged. `without` is SQL that takes a guard out."""
    async with flowing(vhost) as (server, writer, seen, subscription):
        await server.hand.execute(without)
        seen.open.clear()
        drawn = await server.commit_asynchronously()
        await until(lambda: "Lost" in seen.types)
        await server.kill_session()
        new = await appended(writer, "New", "Newer")
        assert new[0] == drawn, "no position was given again: this shows nothing"
        await recorded(writer, new[-1])
        await server.looked("subscriber")
        seen.open.set()
        await until(lambda: subscription.checkpoint >= new[-1])
        assert list(dict.fromkeys(seen.types)) == ["First", "Lost", "New", "Newer"]


async def put_back(vhost: str, without: str = "SELECT") -> None:
    """Restore a cold copy of the server's folder while everybody runs: a handled event is gone, and another event gets
    its position. No crash reveals it."""
    async with flowing(vhost) as (server, writer, seen, subscription):
        await server.hand.execute(without)
        await server.copy()
        gone = await appended(writer, "Gone")
        await until(lambda: subscription.checkpoint == gone[0])
        await server.put_back()
        new = await appended(writer, "New", "Newer")
        assert new[0] == gone[0], "no position was given again: this shows nothing"
        await until(lambda: subscription.checkpoint >= new[-1])
        assert seen.types[-2:] == ["New", "Newer"], "from the copy's checkpoint on, when it is noticed"


async def put_back_after_looking(vhost: str, *without: str) -> None:
    """Do what `put_back` does, but nothing is gone except a number that a rolled-back append had drawn, which a
    subscriber has read past. `without` names a control of `following`."""
    async with (
        crashing() as server,
        EventStore(server.as_role("writer")) as writer,
        relaying(server.as_role("relay"), vhost),
        following(server.as_role("consumer"), vhost, *without) as lines,
    ):
        first = await appended(writer, "First")
        assert await lines.get() == f"First {first[0]}"
        await recorded(writer, first[0])
        await server.copy()
        drawn = await server.roll_back()
        await server.looked("following", "relay")
        await server.put_back()
        new = await appended(writer, "New", "Newer")
        assert new[0] == drawn, "no position was given again: this shows nothing"
        assert await lines.get() == f"New {new[0]}"
        assert await lines.get() == f"Newer {new[1]}"


class Programs(NamedTuple):
    """Stores of logins that do not wait for their commits."""

    writer: EventStore
    eraser: EventStore
    owner: EventStore
    linked: EventData


async def in_transaction(programs: Programs) -> None:
    async with programs.writer.transaction() as connection:
        await programs.writer.append_to_stream("new", ANY_VERSION, [EventData("T", 1)], connection=connection)


async def together(programs: Programs) -> None:
    parts = [StreamAppend(name, ANY_VERSION, [EventData("T", 1)]) for name in ("new", "other")]
    await programs.writer.append_to_streams(parts)


async def at_once(programs: Programs) -> None:
    one = [programs.writer.append_to_stream(f"new-{n}", ANY_VERSION, [EventData("T", 1)]) for n in range(5)]
    await asyncio.gather(*one)


_LAST = "SELECT max(position) FROM eventstore.events"
ACTS: dict[str, tuple[Callable[[Programs], Awaitable[object]], str]] = {
    "append": (lambda p: p.writer.append_to_stream("new", ANY_VERSION, [EventData("T", 1)]), _LAST),
    "link": (
        lambda p: p.writer.link_to_stream("new", ANY_VERSION, [p.linked.id]),
        "SELECT max(feed_position) FROM eventstore.links",
    ),
    "delete": (
        lambda p: p.writer.delete_stream("to-delete", ANY_VERSION),
        "SELECT deleted_at FROM eventstore.streams WHERE stream = 'to-delete'",
    ),
    "several": (lambda p: p.writer.append_to_stream("new", ANY_VERSION, [EventData("T", n) for n in range(3)]), _LAST),
    "at once": (at_once, _LAST),
    "together": (together, _LAST),
    "in a transaction": (in_transaction, _LAST),
    "erase": (
        lambda p: p.eraser.delete_stream("to-erase", ANY_VERSION, hard=True),
        "SELECT count(*) FROM eventstore.streams WHERE stream = 'to-erase'",
    ),
    "reset": (
        lambda p: p.owner.subscriptions.reset("s", 0),
        "SELECT checkpoint FROM eventstore.subscriptions",
    ),
}
"""Operations, each with a question whose answer it changes."""


async def undone_by_crashes(*acts: str, without: str = "SELECT") -> list[str]:
    """Run these operations, with a crash right after each; return those that a crash has undone."""
    undone: list[str] = []
    async with (
        crashing() as server,
        EventStore(server.as_role("writer")) as writer,
        EventStore(server.as_role("eraser")) as eraser,
        EventStore(server.as_role("consumer")) as owner,
    ):
        programs = Programs(writer, eraser, owner, EventData("Linked", 1))
        async with EventStore(server.dsn) as store:  # whose commits wait
            for stream in ("to-erase", "to-delete"):
                await store.append_to_stream(stream, ANY_VERSION, [EventData("T", 1)])
            await store.append_to_stream("source", ANY_VERSION, [programs.linked])
        row = "INSERT INTO eventstore.subscriptions (name, feed, checkpoint) VALUES ('s', '$all', 9)"
        await server.hand.execute(row)
        await server.hand.execute(without)
        for name in acts:
            act, question = ACTS[name]
            before = await server.hand.fetchval(question)
            await settled(act, programs)
            await server.kill_session()
            if await server.hand.fetchval(question) == before:
                undone.append(name)
    return undone


async def settled(act: Callable[[Programs], Awaitable[object]], programs: Programs) -> None:
    """Run an operation, with retries while the server comes back."""
    while True:
        with suppress(Unavailable):
            await act(programs)
            return
        await asyncio.sleep(0.02)  # between tries


async def test_a_position_that_was_seen_and_is_given_again(vhost: str) -> None:
    """P2: a crash takes an event that a subscription is handling; the event that gets its position is handled as well,
    and the checkpoint does not pass it."""
    await lost_in_flight(vhost)


async def test_a_cold_copy_that_is_put_back(vhost: str) -> None:
    """P2: a copy of a stopped server's folder takes its place: an event that was handled is gone, and the one that gets
    its position is handled as well."""
    await put_back(vhost)


@COSTLY
async def test_a_cold_copy_that_is_put_back_after_a_look(vhost: str) -> None:
    """P2: a copy of a stopped server's folder takes its place: the event that gets a position which a subscription had
    read past, and no event had, is handled."""
    await put_back_after_looking(vhost)


async def test_what_has_returned_outlives_a_crash() -> None:
    """P1: appends, links, deletions and resets are there after a crash right after them, though the login's role does
    not wait for its commits. Among them are the first appends of a new store, whose numbers are not drawn again."""
    assert await undone_by_crashes(*(ACTS if FULL else list(ACTS)[:3])) == []


_NO_WAIT = """
    DO $do$ DECLARE _text text; BEGIN
        FOR _text IN SELECT pg_get_functiondef(oid) FROM pg_proc
                     WHERE pronamespace = 'eventstore'::regnamespace AND prosrc LIKE '%''local''%' LOOP
            EXECUTE replace(_text, $$'local'$$, $$'off'$$);
        END LOOP;
    END $do$
"""
_SURVIVES = "ALTER TABLE eventstore.incarnation SET LOGGED"
_HOLDS_ALL = """
    CREATE OR REPLACE FUNCTION eventstore.holds_v1(_feed_positions bigint[], _ids uuid[]) RETURNS boolean
    LANGUAGE sql STABLE AS 'SELECT true'
"""


@COSTLY
async def test_without_the_incarnation_a_position_is_passed_over(vhost: str) -> None:
    """A control: where a crash leaves the incarnation as it is, the event that gets a position which was seen is
    skipped."""
    with pytest.raises(AssertionError, match="'Newer' != 'New'"):
        await lost_in_flight(vhost, _SURVIVES)


@COSTLY
async def test_without_the_anchor_a_copy_is_believed(vhost: str) -> None:
    """A control: where a checkpoint does not prove the events that it stands on, the event that gets the position of
    one that is gone is skipped."""
    with pytest.raises(AssertionError, match="'Gone' != 'New'"):
        await put_back(vhost, _HOLDS_ALL)


@COSTLY
async def test_a_subscription_that_remembers_the_safe_position(vhost: str) -> None:
    """A control: where a look counts as having seen everything up to the safe position, an event that gets a position
    below it is skipped."""
    with pytest.raises(AssertionError, match="Newer"):
        await put_back_after_looking(vhost, "seen")


@COSTLY
async def test_what_does_not_wait_for_its_commit_can_be_undone() -> None:
    """A control: where nothing makes commits wait, a crash undoes what has returned, unless a page of the log was just
    full."""
    assert await undone_by_crashes(*["append"] * 4, without=_NO_WAIT)
