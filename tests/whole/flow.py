"""The whole way under load, in one test: a writer, a relay, a subscriber; and the question whether all arrived."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Self

from trunkline_consumer import ORIGIN, Consumer, Options, Start, Subscription
from trunkline_relay import Relay
from trunkline_store import ANY_VERSION, EventData, EventStore, Unavailable

LEASE = 1.0
QUICK = Options(lease=LEASE, idle=0.3, checkpoint_threshold=20, checkpoint_after=0.1)

_RELAY = """
import asyncio, sys, structlog, logging
from trunkline_relay import Relay
from trunkline_store import EventStore
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
async def main():
    async with EventStore(sys.argv[1]) as store:
        await Relay(store, sys.argv[2], lease=float(sys.argv[3])).run()
asyncio.run(main())
"""


class Flow:
    """async with Flow(dsn, amqp_url) as flow: a fault, then `await flow.finish()`."""

    def __init__(
        self, dsn: str, amqp_url: str, *, relay: bool = True, options: Options = QUICK, start: Start | int = ORIGIN
    ) -> None:
        self.handled: list[int] = []
        self.handling = asyncio.Event()
        """Cleared, the handler stands still."""
        self.handling.set()
        self.written = 0
        self._dsn = dsn
        self._url = amqp_url
        self._relay = relay
        self._options = options
        self._start = start
        self._writing = True
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.subscription: Subscription
        self.store: EventStore

    async def __aenter__(self) -> Self:
        self.store = await self._stack.enter_async_context(EventStore(self._dsn))
        if self._relay:
            await self._stack.enter_async_context(relay_running(self._dsn, self._url))
        consumer = await self._stack.enter_async_context(Consumer(self.store, self._url))
        self.subscription = await self._stack.enter_async_context(
            consumer.subscribe_to_all_streams("flow", start_from=self._start, options=self._options)
        )
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._handle())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _write(self) -> None:
        number = 0
        while self._writing:
            number += 1
            events = [EventData("Counted", number, correlation_id=f"c-{number}") for _ in range(number % 4 + 1)]
            while True:
                with suppress(Unavailable):
                    await self.store.append_to_stream(f"s-{number % 7}", ANY_VERSION, events)
                    self.written += len(events)
                    break
                await asyncio.sleep(0.05)  # between tries, while the database is away
            await asyncio.sleep(0.003)  # the rate of the load

    async def _handle(self) -> None:
        async for batch in self.subscription:
            assert len({(event.stream, event.correlation_id) for event in batch}) == 1, "P4"
            await self.handling.wait()
            self.handled += [event.position for event in batch]
            await batch.ack()

    async def more(self, count: int = 100) -> None:
        """Waits until so many more events are handled."""
        target = len(self.handled) + count
        await self.until(lambda: len(self.handled) >= target)

    async def until(self, condition: Callable[[], bool], seconds: float = 40) -> None:
        """Waits for a fact; a subscriber or writer that failed fails the test."""
        async with asyncio.timeout(seconds):
            while not condition():
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)  # between two looks

    async def finish(self) -> list[int]:
        """Stops the writer, waits for the rest, and claims: handled is what was committed, in order, each once."""
        committed = await self.rest()
        assert self.handled == committed
        return committed

    async def rest(self) -> list[int]:
        """Stops the writer, and waits until the last of what it committed is handled. Returns all of it."""
        self._writing = False
        await self._tasks[0]
        committed = await committed_positions(self.store)
        await self.until(lambda: len(self.handled) >= len(committed) and self.handled[-1] >= committed[-1])
        return committed


async def committed_positions(store: EventStore) -> list[int]:
    """From the table itself."""
    async with store.acquire() as connection:
        rows = await connection.fetch("SELECT position FROM eventstore.events ORDER BY position")
    return [row["position"] for row in rows]


@asynccontextmanager
async def relay_running(dsn: str, url: str, *, lease: float = LEASE, patience: float = 2.0) -> AsyncIterator[Relay]:
    """A relay in this process, leading."""
    async with EventStore(dsn) as store:
        relay = Relay(store, url, lease=lease, patience=patience)
        running = asyncio.create_task(relay.run())
        try:
            async with asyncio.timeout(20):
                await relay.leading.wait()
            yield relay
        finally:
            relay.stop()
            with suppress(Unavailable):
                async with asyncio.timeout(10):
                    await running


async def relay_process(dsn: str, url: str, *, lease: float = LEASE) -> asyncio.subprocess.Process:
    """A relay in a process of its own, to be killed."""
    return await asyncio.create_subprocess_exec(sys.executable, "-c", _RELAY, dsn, url, str(lease))
