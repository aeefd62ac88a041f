"""Whatever happens to a relay, wherever it stands: a plain consumer gets all that was committed, in order."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractIncomingMessage

from tests.relay.plain import Plain, plain, recorded
from tests.relay.tripwire import POINTS
from tests.whole.flow import LEASE, committed_positions, relay_running
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import ANY_VERSION, EventData, EventStore

ROOT = Path(__file__).parents[2]
DURING_RECORD = "during record"
FAULTS = (
    "kill",
    "pause",
    "refuse",
    *(f"{what} {side}" for what in ("cut", "stall") for side in ("broker", "database")),
)
CASES = list(product((*POINTS, DURING_RECORD), FAULTS))
CHAINS = {"all": "previous_position", "category": "previous_in_category", "stream": "previous_in_stream"}
DELIVERY = {"delivery_tag", "consumer_tag", "redelivered"}
_LOCK = 4711
_GATE = f"""
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock_shared({_LOCK}); RETURN new; END';
CREATE TRIGGER gate BEFORE UPDATE ON eventstore.relays FOR EACH ROW WHEN (old.position < new.position)
    EXECUTE FUNCTION gate();
"""
_WAITING = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {_LOCK} AND NOT granted"


def cases() -> list[tuple[str, str]]:
    """All of them, or of each point one, with faults as different as can be."""
    if os.environ.get("TRUNKLINE_TEST_FULL"):
        return CASES
    faults = random.Random(4).sample(FAULTS, len(FAULTS))
    return list(zip((*POINTS, DURING_RECORD), faults, strict=False))


@pytest.mark.parametrize(("where", "what"), cases())
async def test_a_plain_consumer_gets_all_of_it_in_order(
    store: EventStore, database: str, vhost: str, where: str, what: str
) -> None:
    """P2, P6, P7: the union of what arrives is what was committed, first arrivals are in order, a repeat is the same
    but for the epoch; by each chain a consumer sees no hole, and would see each one that there could be."""
    async with (
        plain(vhost, "#") as consumer,
        Proxy(database) as to_database,
        Proxy(vhost) as to_broker,
        writing(store) as written,
    ):
        async with (
            standing(database, to_database.url, to_broker.url, where, what) as (relay, go_on),
            AsyncExitStack() as stack,
        ):
            match what.split():
                case ["kill"]:
                    relay.kill()
                    await relay.wait()
                    await go_on()
                    await stack.enter_async_context(relay_running(database, vhost))
                case ["pause"]:
                    await paused(relay)
                    await go_on()
                    await stack.enter_async_context(relay_running(database, vhost))
                    relay.send_signal(signal.SIGCONT)
                case ["refuse"]:
                    async with full_queue(vhost):
                        await go_on()
                        await until(lambda: len(set(consumer.positions)) < len(consumer.positions))
                case ["cut", side]:
                    await {"broker": to_broker, "database": to_database}[side].cut()
                    await go_on()
                case ["stall", side]:
                    proxy = {"broker": to_broker, "database": to_database}[side]
                    proxy.stall()
                    await go_on()
                    await asyncio.sleep(1.5 * LEASE)  # longer than the lease: that is the case
                    proxy.resume()
            ahead = len(consumer.positions) + 50
            await until(lambda: len(consumer.positions) >= ahead)
            await written()
            committed = await committed_positions(store)
            await until(lambda: len(set(consumer.positions)) >= len(committed))
            await recorded(store, committed[-1])
    judge(consumer, committed)


def judge(consumer: Plain, committed: Sequence[int]) -> None:
    """What arrived, against what was committed."""
    assert list(dict.fromkeys(consumer.positions)) == committed, "all of it, and first arrivals in order"
    first: dict[str | None, dict[str, Any]] = {}
    for message in consumer.messages:
        said = content(message)
        assert first.setdefault(message.message_id, said) == said, "a repeat is the same but for the epoch"
    for chain, previous in CHAINS.items():
        feeds = {None} if chain == "all" else {message.headers[chain] for message in consumer.messages}
        for feed in feeds:
            messages = [m for m in consumer.messages if feed is None or m.headers[chain] == feed]
            assert holes(messages, previous) == [], "no false alarm"
            once = list(dict.fromkeys(m.message_id for m in messages))
            for lost, following in pairwise(once):
                seen = [m for m in messages if m.message_id != lost]
                assert following in holes(seen, previous), "what is lost is missed by whoever sees the next one"


def content(message: AbstractIncomingMessage) -> dict[str, Any]:
    """All that a message says, but for its epoch and its delivery."""
    told: dict[str, Any] = {**message.info(), "body": message.body}
    told["headers"] = {name: value for name, value in message.headers.items() if name != "relay_epoch"}
    return {name: value for name, value in told.items() if name not in DELIVERY}


def holes(messages: Sequence[AbstractIncomingMessage], previous: str) -> list[str | None]:
    """The ids of the messages before which something is missing, as a consumer finds out by one comparison."""
    found, last = [], 0
    for message in messages:
        headers: Any = message.headers
        if headers["last_position"] > last:  # else it is a repeat
            if headers[previous] > last:
                found.append(message.message_id)
            last = headers["last_position"]
    return found


@asynccontextmanager
async def writing(store: EventStore) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Appends to streams of two categories, some of one batch and some of several; what is given stops it."""
    enough = asyncio.Event()

    async def write() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            ids = [f"c-{number}" if n % 3 else None for n in range(number % 4 + 1)]
            events = [EventData(f"E{n % 2}", number, correlation_id=id) for n, id in enumerate(ids)]
            await store.append_to_stream(f"{'ab'[number % 2]}-{number % 5}", ANY_VERSION, events)
            await asyncio.sleep(0.005)  # the rate of the load

    running = asyncio.create_task(write())

    async def written() -> None:
        enough.set()
        await running

    try:
        yield written
    finally:
        await written()


@asynccontextmanager
async def standing(
    database: str, dsn: str, url: str, where: str, what: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Callable[[], Awaitable[None]]]]:
    """A relay of its own process that stands still at the point, and what lets it go on."""
    times = random.Random(f"{where} {what}").randint(2, 4)
    async with gate(database) as (connection, waits):
        if where == DURING_RECORD:
            await connection.execute(_GATE)
        relay = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.relay.tripwire", dsn, url, str(LEASE), where, str(times),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        assert relay.stdin is not None
        assert relay.stdout is not None
        stdin = relay.stdin

        async def go_on() -> None:
            await connection.execute("SELECT pg_advisory_unlock_all()")
            with suppress(BrokenPipeError, ConnectionResetError):  # it was killed
                stdin.write(b"\n")
                await stdin.drain()

        try:
            async with asyncio.timeout(40):
                if where == DURING_RECORD:
                    await waits()
                else:
                    assert await relay.stdout.readline() == b"tripped\n"
            yield relay, go_on
        finally:
            with suppress(ProcessLookupError):
                relay.kill()
            await relay.wait()


@asynccontextmanager
async def gate(database: str) -> AsyncIterator[tuple[Any, Callable[[], Awaitable[None]]]]:
    """A connection that holds the lock of the gate, and a wait for somebody who stands there."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)

        async def waits() -> None:
            while not await connection.fetchval(_WAITING):
                await asyncio.sleep(0.01)  # between two looks

        yield connection, waits
    finally:
        await connection.close()


@asynccontextmanager
async def full_queue(url: str) -> AsyncIterator[None]:
    """A queue that is bound to all, and refuses all."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(
            "full", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await channel.default_exchange.publish(aio_pika.Message(b""), "full")
        await queue.bind("eventstore", "#")
        yield
        await queue.delete(if_unused=False, if_empty=False)


async def paused(process: asyncio.subprocess.Process) -> None:
    """Stops it, and waits until the kernel has."""
    process.send_signal(signal.SIGSTOP)
    status = Path(f"/proc/{process.pid}/stat")
    await until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not fact():
            await asyncio.sleep(0.02)  # between two looks
