"""Exactly once in effect, while owners are killed and paused: the effects are the events."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Self

import pytest

from tests.whole.flow import committed_positions, relay_running
from trunkline_store import ANY_VERSION, EventData, EventStore

_PROJECTOR = """
import asyncio, os, sys
from trunkline_consumer import Consumer, by_stream
from trunkline_ops.soak.controls import without_checkpoint_guard
from trunkline_store import EventStore
async def main(dsn, url, guarded):
    async with EventStore(dsn) as store, Consumer(store, url) as consumer:
        if guarded == "no":
            without_checkpoint_guard(store)
        @consumer.handler("effects", tx=True, concurrency=3, partition_by=by_stream, attempts=100, wait_max=0.5,
                          lease=1.0, idle=0.3, transaction_idle=5.0)
        async def project(batch, tx):
            rows = [(event.position, os.getpid()) for event in batch]
            await tx.executemany("INSERT INTO public.effects (position, writer) VALUES ($1, $2)", rows)
            await asyncio.sleep(0.01)  # most signals find it here
        await consumer.run()
asyncio.run(main(*sys.argv[1:]))
"""
_SEEDS = range(8 if os.environ.get("TRUNKLINE_TEST_FULL") else 1)


class Projection:
    """Two programs with one handler, one of which has the subscription; and writers."""

    def __init__(self, store: EventStore, dsn: str, url: str, *, guarded: bool) -> None:
        self._store = store
        self._command = (sys.executable, "-c", _PROJECTOR, dsn, url, "yes" if guarded else "no")
        self._programs: dict[int, asyncio.subprocess.Process] = {}
        self._writers: list[asyncio.Task[None]] = []
        self._writing = True

    async def __aenter__(self) -> Self:
        await self._store.fetch("CREATE TABLE public.effects (number serial, position bigint, writer integer)")
        self._writers = [asyncio.create_task(self._write(name)) for name in "ab"]
        for _ in range(2):
            await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writing = False
        for program in self._programs.values():
            with suppress(ProcessLookupError):
                program.kill()
            await program.wait()
        await asyncio.gather(*self._writers)

    async def _start(self) -> None:
        program = await asyncio.create_subprocess_exec(*self._command)
        self._programs[program.pid] = program

    async def _write(self, name: str) -> None:
        number = 0
        while self._writing:
            number += 1
            events = [EventData("Counted", number, correlation_id=f"{name}{number}") for _ in range(number % 3 + 1)]
            await self._store.append_to_stream(f"{name}-{number % 4}", ANY_VERSION, events)
            await asyncio.sleep(0.01)  # the rate of the load

    async def owner(self, *, but: int = 0, after: int = 0) -> int:
        """Waits until a program other than `but` has written another effect, above the number `after`."""
        query = "SELECT writer FROM public.effects WHERE number > $1 AND writer <> $2 ORDER BY number DESC LIMIT 1"
        async with asyncio.timeout(60):
            while (found := await self._store.fetchval(query, after, but)) is None:
                for program in self._programs.values():
                    assert program.returncode is None, "a program has ended by itself"
                await asyncio.sleep(0.02)  # between two looks
        return int(found)

    async def written(self) -> int:
        """The number of the last effect."""
        return int(await self._store.fetchval("SELECT coalesce(max(number), 0) FROM public.effects"))

    async def kill(self) -> None:
        """The owner; another one is started in its place."""
        owner = self._programs.pop(await self.owner(after=await self.written()))
        owner.kill()
        await owner.wait()
        await self._start()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """The owner is, until the other one has taken over."""
        owner = await self.owner(after=await self.written())
        os.kill(owner, signal.SIGSTOP)
        try:
            await self.owner(but=owner, after=await self.written())
            yield
        finally:
            os.kill(owner, signal.SIGCONT)

    async def finish(self) -> tuple[list[int], list[int]]:
        """Waits until all is handled; returns the positions of the events, and those of the effects."""
        self._writing = False
        await asyncio.gather(*self._writers)
        committed = await committed_positions(self._store)
        await self._store.subscriptions.wait_for("effects", committed[-1], seconds=90)
        return committed, await self.effects()

    async def effects(self) -> list[int]:
        """By position."""
        return [row[0] for row in await self._store.fetch("SELECT position FROM public.effects ORDER BY position")]

    async def until(self, fact: Callable[[Counter[int]], bool], *, looks: int) -> bool:
        """Whether it came true of the effects, in so many looks."""
        for _ in range(looks):
            if fact(Counter(await self.effects())):
                return True
            await asyncio.sleep(0.05)  # between two looks
        return False


@pytest.mark.parametrize("seed", _SEEDS)
async def test_effects_equal_events_whatever_becomes_of_their_owners(
    store: EventStore, database: str, vhost: str, seed: int
) -> None:
    """P5: owners that are killed, or paused past their lease, at any moment: each event has one effect, no other."""
    random = Random(seed)
    faults = ["kill", "pause", "kill", "pause"]
    random.shuffle(faults)
    async with relay_running(database, vhost), Projection(store, database, vhost, guarded=True) as projection:
        for fault in faults:
            await projection.owner()
            await asyncio.sleep(random.uniform(0, 0.3))  # at any moment
            if fault == "kill":
                await projection.kill()
            else:
                async with projection.paused():
                    await asyncio.sleep(random.uniform(0, 0.3))  # as above
        committed, effects = await projection.finish()
        assert effects == committed


async def test_without_the_guard_a_paused_owner_does_it_twice(store: EventStore, database: str, vhost: str) -> None:
    """The control: the same programs, whose last statement checks neither owner, epoch nor place: effects come twice.
    If they did not, the test above would show nothing."""
    async with relay_running(database, vhost), Projection(store, database, vhost, guarded=False) as projection:
        for _ in range(10):
            async with projection.paused():
                pass
            if await projection.until(lambda effects: max(effects.values()) > 1, looks=40):
                return
    raise AssertionError("every event had one effect although nothing guards it")
