"""Whatever happens to a subscriber, wherever in its life it stands: its effects are the committed events, in order."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from itertools import product
from typing import Self

import aio_pika
import pytest

from tests.consumer_sdk.tripwire import NAME, POINTS
from tests.whole.flow import LEASE, QUICK, committed_positions, relay_running
from tests.whole.test_faults import vhost_of
from tests.whole.test_relay_matrix import ROOT, paused
from trunkline_consumer import Consumer
from trunkline_ops.management import Management
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import ANY_VERSION, EventData, EventStore, names

FAULTS = (
    *("kill", "pause", "purge", "delete", "vhost", "overflow", "relay"),
    *(f"{what} {side}" for what in ("cut", "stall") for side in ("broker", "database")),
)
KINDS = ("plain", "tx")
CASES = list(product(POINTS, FAULTS, KINDS))
QUEUE = names.queue("eventstore", NAME)
PATIENCE = 150.0
"""Seconds for a fact to come true, on a busy machine."""
AHEAD = 300
"""Events that may wait for their effects: no writer runs away from a subscriber on a busy machine."""


def cases() -> list[tuple[str, str, str]]:
    """All of them, or of each point one, with faults and kinds as different as can be."""
    if os.environ.get("TRUNKLINE_TEST_FULL"):
        return CASES
    faults = random.Random(5).sample(FAULTS, len(FAULTS))
    return [(point, faults[n], KINDS[n % 2]) for n, point in enumerate(POINTS)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("where", "what", "kind"), cases())
async def test_effects_are_the_events_in_order(
    store: EventStore, database: str, vhost: str, management: Management, where: str, what: str, kind: str
) -> None:
    """P2, P4, P5, P6, P7: each event has an effect, the first ones are in order; with `tx`, there is no other one.
    Afterwards the subscriber consumes from its queue again."""
    async with (
        Proxy(database) as to_database,
        Proxy(vhost) as to_broker,
        AsyncExitStack() as relays,
        Scene(store, database, vhost, kind) as scene,
    ):
        await relays.enter_async_context(relay_running(database, vhost))
        await scene.begin()
        length = 10 if what == "overflow" else 100_000
        subscriber = await scene.start(to_database.url, to_broker.url, length, where, str(POINTS[where]))
        if where == "at stop":
            await scene.more()
            subscriber.terminate()
        assert subscriber.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await subscriber.stdout.readline() == b"tripped\n"

        match what.split():
            case ["kill"]:
                subscriber.kill()
                await subscriber.wait()
            case ["pause"]:
                await paused(subscriber)
                await scene.start(database, vhost, length)
                await scene.more()  # the other one has taken over
                await go_on(subscriber)
                subscriber.send_signal(signal.SIGCONT)
            case ["purge"]:
                await management.purge_queue(vhost_of(vhost), QUEUE)
            case ["delete"]:
                await management.delete_queue(vhost_of(vhost), QUEUE)
            case ["vhost"]:
                await management.delete_vhost(vhost_of(vhost))
                await scene.written(50)
                await management.create_vhost(vhost_of(vhost))
            case ["overflow"]:
                await scene.relayed(100)
            case ["relay"]:
                await relays.aclose()
                await go_on(subscriber)
                await scene.written(50)
                if where != "at stop":
                    await scene.more()
                await relays.enter_async_context(relay_running(database, vhost))
            case ["cut", side]:
                await {"broker": to_broker, "database": to_database}[side].cut()
            case ["stall", side]:
                proxy = {"broker": to_broker, "database": to_database}[side]
                proxy.stall()
                await go_on(subscriber)
                await asyncio.sleep(1.5 * LEASE)  # longer than the lease: that is the case
                proxy.resume()

        await go_on(subscriber)
        if where == "at stop" and what != "kill":
            async with asyncio.timeout(PATIENCE):
                assert await subscriber.wait() == 0, "it ends, and well"
        if (where == "at stop" and what != "pause") or what == "kill":  # when it was paused, another one is there
            await scene.start(database, vhost, length)
        await scene.more()
        await scene.consumed()
        committed, effects = await scene.finish()
    if kind == "tx":
        assert effects == committed
    assert list(dict.fromkeys(effects)) == committed


async def go_on(process: asyncio.subprocess.Process) -> None:
    """It does not stand still any more."""
    assert process.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):  # it was killed
        process.stdin.write(b"\n")
        await process.stdin.drain()


class Scene:
    """A writer, and processes of one subscription."""

    def __init__(self, store: EventStore, dsn: str, url: str, kind: str) -> None:
        self._store = store
        self._dsn = dsn
        self._url = url
        self._kind = kind
        self._processes: list[asyncio.subprocess.Process] = []
        self._writing: asyncio.Task[None] | None = None
        self._enough = False
        self._count = self._wanted = 0

    async def __aenter__(self) -> Self:
        await self._store.fetch("CREATE TABLE public.effects (number serial, position bigint, writer integer)")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._enough = True
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._writing is not None:
            await self._writing

    async def begin(self) -> None:
        """The subscription was there before: it has a queue, with messages in it, and something to catch up on."""
        async with Consumer(self._store, self._url) as consumer:
            async with consumer.subscribe_to_all_streams(NAME, options=QUICK):
                await self.consumed()
        self._writing = asyncio.create_task(self._write())
        await self.relayed(60)

    async def start(self, dsn: str, url: str, length: int, *trip: str) -> asyncio.subprocess.Process:
        """Another process."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.consumer_sdk.tripwire", dsn, url, self._kind, str(length), *trip),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        self._processes.append(process)
        return process

    async def _write(self) -> None:
        number = 0
        while not self._enough:
            await asyncio.sleep(0.01)  # the rate of the load
            ahead = self._count - await self._store.fetchval("SELECT count(*) FROM public.effects")
            if ahead > AHEAD and self._count >= self._wanted:
                continue  # a slow subscriber; one that stands still is not waited for, where somebody waits for events
            number += 1
            ids = [f"c-{number}" if n % 3 else None for n in range(number % 4 + 1)]
            events = [EventData("Counted", number, correlation_id=id) for id in ids]
            await self._store.append_to_stream(f"{'ab'[number % 2]}-{number % 5}", ANY_VERSION, events)
            self._count += len(events)

    async def written(self, count: int) -> None:
        """Waits until so many more events are."""
        self._wanted = target = self._count + count
        await until(lambda: self._count >= target)

    async def relayed(self, count: int) -> None:
        """As above, and the relay has recorded them."""
        await self.written(count)
        last = (await self._store.stream_info("$all")).version
        async with asyncio.timeout(PATIENCE):
            while (row := await self._store.fetchrow(self._store.sql["see_relay"], "relay")) is None or row[0] < last:
                await asyncio.sleep(0.02)  # between two looks

    async def more(self) -> None:
        """Waits until some more events have effects, though everything that stands still goes on doing so."""
        last = (await self._store.stream_info("$all")).version
        async with asyncio.timeout(PATIENCE):
            while not await self._store.fetchval("SELECT max(position) >= $1 FROM public.effects", last):
                await asyncio.sleep(0.02)  # between two looks

    async def consumed(self) -> None:
        """Waits until the queue is there, and somebody consumes from it."""
        async with asyncio.timeout(PATIENCE), await aio_pika.connect(self._url) as connection:
            while True:
                with suppress(aio_pika.exceptions.ChannelNotFoundEntity):
                    async with connection.channel() as channel:
                        queue = await channel.declare_queue(QUEUE, passive=True)
                        if queue.declaration_result.consumer_count:
                            return
                await asyncio.sleep(0.02)  # between two looks

    async def finish(self) -> tuple[list[int], list[int]]:
        """Positions of the events and of their effects, as they came, when everything is handled and has ended."""
        self._enough = True
        assert self._writing is not None
        await self._writing
        committed = await committed_positions(self._store)
        await self._store.subscriptions.wait_for(NAME, committed[-1], seconds=PATIENCE)
        running = [process for process in self._processes if process.returncode is None]
        for process in running:
            process.terminate()
        async with asyncio.timeout(PATIENCE):
            assert [await process.wait() for process in running] == [0] * len(running), "they end, and well"
        return committed, [
            row[0] for row in await self._store.fetch("SELECT position FROM public.effects ORDER BY number")
        ]


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not fact():
            await asyncio.sleep(0.02)  # between two looks
