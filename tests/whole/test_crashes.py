"""PostgreSQL crashes at the worst moments; no committed event is skipped, and effects are the events."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from tests.whole.crashing import BLOCK, OPTIONS, Crashing, Seen, appended, crashing, relaying, until, without
from trunkline_consumer import Batch, Consumer, by_stream
from trunkline_consumer.subscription import State
from trunkline_store import EventStore

pytestmark = pytest.mark.timeout(300)  # a server of one's own starts and recovers here

FULL = "TRUNKLINE_TEST_FULL" in os.environ
CRASHES = 50 if FULL else 6
SEED = 4
LOSSES = ("rolled back", "savepoint", "asynchronous", "none")

_EFFECT = "INSERT INTO public.effects (subscription, event_id) SELECT $1, unnest($2::uuid[])"


class Everybody:
    """A writer, a relay and subscriptions of every kind at one store, as logins that do not wait for their commits."""

    def __init__(self, server: Crashing, writer: EventStore, seen: Seen, queued: Seen) -> None:
        self.server = server
        self.writer = writer
        self.seen = seen
        self.queued = queued
        """Its messages wait in the queue while it is held back."""

    async def settled(self) -> None:
        """Waits until each subscription has handled each event. Raises `AssertionError` where one does not."""
        committed = await self.server.committed()

        async def done() -> dict[str, int]:
            left = {name: len(committed) - len(await self.server.effects(name)) for name in ("tx", "concurrent")}
            for name, each in (("seen", self.seen), ("queued", self.queued)):
                left[name] = len({*committed} - {*each.first})
            return {name: count for name, count in left.items() if count}

        for _ in range(400):
            if not (left := await done()):
                return
            await asyncio.sleep(0.05)  # between two looks
        raise AssertionError(f"not handled: {left}")


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

        @consumer.handler(
            "concurrent", tx=True, concurrency=4, partition_by=by_stream, attempts=1000, options=OPTIONS
        )
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
    """P2, P5: the server is killed, or one of its processes, right after appends that were rolled back, rolled back to a
    savepoint, or committed asynchronously and seen; subscriptions and relay have looked meanwhile, messages wait in a
    queue, and nobody's role waits for its commits. The numbers that were lost are given to new events; all of these are
    handled by each subscription, and effects are events, each once and in order."""
    chance, again = random.Random(SEED), 0
    async with everybody(vhost) as all:
        server = all.server
        for number in range(CRASHES):
            await all.settled()
            loss = LOSSES[number % len(LOSSES)]
            if number % 3 == 0:
                all.queued.open.clear()
                await appended(all.writer, *["Queued"] * 8)
            drawn = 0
            match loss:
                case "rolled back":
                    drawn = await server.roll_back(chance.randint(1, 3))
                    await server.looked("subscriber", "relay")
                case "savepoint":
                    drawn = await server.roll_back_to_savepoint()
                    await server.looked("subscriber", "relay")
                case "asynchronous":
                    before = all.seen.types.count("Lost")
                    drawn = await server.commit_asynchronously(count=chance.randint(1, 3))
                    await until(lambda: all.seen.types.count("Lost") > before)
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
