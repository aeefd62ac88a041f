"""Two versions side by side, while the older one is replaced: relay and SDK of each with those of the other.

The older one is the last released version (a tag such as v0.1.0), or the revision that `TRUNKLINE_PREVIOUS` names.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.whole.flow import committed_positions
from trunkline_store import EventStore

ROOT = Path(__file__).parents[2]
LEASE = 1.0

_MAKE = """
import asyncio, sys, asyncpg
from trunkline_store import migrate
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    await connection.execute("DROP SCHEMA eventstore CASCADE")
    await migrate.initialise(connection)
    await connection.close()
asyncio.run(main())
"""
_RELAY = """
import asyncio, signal, sys
from trunkline_relay import Relay
from trunkline_store import EventStore
async def main():
    async with EventStore(sys.argv[1]) as store:
        relay = Relay(store, sys.argv[2], lease=float(sys.argv[3]))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, relay.stop)
        await relay.run()
asyncio.run(main())
"""
_SUBSCRIBER = """
import asyncio, sys
from trunkline_consumer import Consumer
from trunkline_store import EventStore
async def main():
    async with EventStore(sys.argv[1]) as store, Consumer(store, sys.argv[2]) as consumer:
        async with consumer.subscribe_to_all_streams(
            sys.argv[4], standby=True, lease=float(sys.argv[3]), checkpoint_threshold=1, idle=60
        ) as subscription:
            async for batch in subscription:
                assert len({(event.stream, event.correlation_id) for event in batch}) == 1
                with open(sys.argv[4], "a") as handled:
                    print(*(event.position for event in batch), sep="\\n", file=handled)
                await batch.ack()
asyncio.run(main())
"""
_WRITER = """
import asyncio, sys
from trunkline_store import ANY_VERSION, EventData, EventStore
async def main():
    async with EventStore(sys.argv[1]) as store:
        for number in range(10**9):
            events = [EventData("Counted", number, correlation_id=f"c-{number}") for _ in range(number % 3 + 1)]
            await store.append_to_stream(f"s-{number % 5}", ANY_VERSION, events)
            await asyncio.sleep(0.02)  # the rate of the load
asyncio.run(main())
"""


def previous() -> str:
    """The revision of the older version; skips where there is none."""
    if named := os.environ.get("TRUNKLINE_PREVIOUS"):
        return named
    found = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if found.returncode != 0:
        pytest.skip("no version was released yet: name a revision in TRUNKLINE_PREVIOUS")
    return found.stdout.strip()


@pytest.fixture
def older(tmp_path: Path) -> str:
    """The import path of the older version's four packages."""
    folder = tmp_path / "older"
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", previous(), "store", "relay", "consumer_sdk"], cwd=ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return ":".join(str(folder / each) for each in ("store", "relay", "consumer_sdk"))


class Side:
    """Programs of one version. path: where it is imported from; "" for this one."""

    def __init__(self, folder: Path, path: str, dsn: str, amqp_url: str) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PYTHONPATH": path}
        self._arguments = dsn, amqp_url, str(LEASE)

    async def start(self, program: str, *more: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, *self._arguments, *more), env=self._environment, cwd=self._folder
        )

    @asynccontextmanager
    async def running(self, program: str, *more: str) -> AsyncIterator[None]:
        """Until the block is left; it must not end by itself before."""
        process = await self.start(program, *more)
        try:
            yield
            assert process.returncode is None
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def handled(file: Path) -> list[int]:
    """What a subscriber has handled, in its order."""
    return [int(line) for line in file.read_text().split()] if file.exists() else []


async def more(*files: Path) -> None:
    """Waits until each subscriber has handled fifty more."""
    targets = {file: len(handled(file)) + 50 for file in files}
    async with asyncio.timeout(90):
        while any(len(handled(file)) < target for file, target in targets.items()):
            await asyncio.sleep(0.05)  # between two looks


@pytest.mark.timeout(400)
async def test_versions_are_replaced_one_program_after_the_other(
    older: str, tmp_path: Path, database: str, vhost: str
) -> None:
    """The schema is migrated under the older version's writer, relay and subscriber; then the newer relay carries for
    the older subscriber, the older relay for the newer one; and everything is handled, in order, by both."""
    old, new = Side(tmp_path, older, database, vhost), Side(tmp_path, "", database, vhost)
    first, second = tmp_path / "first", tmp_path / "second"
    assert await (await old.start(_MAKE)).wait() == 0
    async with AsyncExitStack() as newer, AsyncExitStack() as stack:
        async with old.running(_SUBSCRIBER, "first"):
            async with old.running(_RELAY):
                async with old.running(_WRITER):
                    await more(first)
                    migrate = (sys.executable, "-m", "trunkline_ops.cli", "migrate", "--dsn", database)
                    assert await (await asyncio.create_subprocess_exec(*migrate)).wait() == 0
                    await more(first)
                await stack.enter_async_context(new.running(_WRITER))
                await newer.enter_async_context(new.running(_SUBSCRIBER, "second"))
                await more(first, second)
                await newer.enter_async_context(new.running(_RELAY))  # stands by
                await more(first, second)
            await more(first, second)
            await newer.enter_async_context(new.running(_SUBSCRIBER, "first"))  # stands by
        await more(first, second)
        await stack.aclose()
        async with EventStore(database) as store:
            committed = await committed_positions(store)
        for file in (first, second):
            async with asyncio.timeout(90):
                while handled(file)[-1] < committed[-1]:
                    await asyncio.sleep(0.05)  # between two looks
            assert list(dict.fromkeys(handled(file))) == committed, "what came again, had come before"
