"""A PostgreSQL that crashes, with a store in it, and the moments at which a crash takes most.

A crash loses what was not flushed: a transaction that rolls back flushes nothing, nor does one with
`synchronous_commit = off`, and `nextval` is logged once in 33 draws, or at the first draw after a checkpoint. So a
checkpoint before each loss ensures that the next block is drawn again after the crash. For the same reason, the WAL
writer is slow here, and no other writer runs on a clock. The page cache survives, since the server crashes and not the
machine, so `fsync` can be off.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg

from tests.conftest import POSTGRES_SETTINGS
from trunkline_consumer import Consumer, Options, Subscription
from trunkline_consumer.subscription import State
from trunkline_ops.servers import PostgresServer, postgres_server
from trunkline_ops.servers.postgres import postgres_programs
from trunkline_relay import Relay
from trunkline_store import ANY_VERSION, EventData, EventStore, RecordedEvent, Unavailable
from trunkline_store.migrate import initialise
from trunkline_store.rights import ROLES, Role
from trunkline_store.roles import make_login, make_roles
from trunkline_store.translate import STATEMENT_ERRORS

SETTINGS = {
    **POSTGRES_SETTINGS,
    "wal_writer_delay": "10s",  # the longest there is
    "full_page_writes": "off",  # whole pages would fill pages of the WAL, which the WAL writer flushes
    "wal_level": "minimal",  # else the background writer logs the running transactions every 15 s
    "max_wal_senders": "0",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
}
LONG_LEASE = 60.0
"""Seconds. A renewal is a commit, and flushes all that was logged before it."""
OPTIONS = Options(lease=LONG_LEASE, idle=0.1, checkpoint_threshold=5, checkpoint_after=0.1)
BLOCK = 1024

_LOOKED = """
    SELECT pid, query_start FROM pg_stat_activity
    WHERE application_name = $1 AND query_start > $2 AND state = 'idle'
      AND query ~ 'safe_position_v1|look_v1|same_history_v1'
"""
_APPEND = "SELECT first_position FROM eventstore.append_one_v1($1, -1, $2, $3, '1')"


class Crashing:
    """The server. `dsn` is a superuser's; `hand` is a session for statements that take part in a loss, open until the
    next crash."""

    hand: asyncpg.Connection
    other: asyncpg.Connection

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.dsn = server.dsn
        self._logins: dict[Role, str] = {}

    async def prepare(self) -> None:
        """Make the store, a table `effects`, and logins whose roles have `synchronous_commit = off`."""
        self.hand = self.other = await asyncpg.connect(self.dsn)
        await initialise(self.hand)
        await make_roles(self.hand)
        for role in ROLES:
            login = f"{role}_login"
            await make_login(self.hand, login, role)
            await self.hand.execute(f"ALTER ROLE {login} PASSWORD 'x'; ALTER ROLE {login} SET synchronous_commit = off")
            url = urlsplit(self.dsn)
            self._logins[role] = url._replace(netloc=f"{login}:x@{url.hostname}:{url.port}").geturl()
        await self.hand.execute(
            "CREATE TABLE public.effects (seq bigint GENERATED ALWAYS AS IDENTITY, subscription text, event_id uuid);"
            "GRANT INSERT ON public.effects TO consumer_login"
        )

    def as_role(self, role: Role) -> str:
        """Return the DSN of a login that does not wait for its commits."""
        return self._logins[role]

    async def roll_back(self, count: int = 1) -> int:
        """Draw blocks that nobody will ever see; return the first one's position."""
        await self.hand.execute("CHECKPOINT; BEGIN")
        drawn = [await self._append("Nothing") for _ in range(count)]
        await self.hand.execute("ROLLBACK")
        return drawn[0]

    async def roll_back_to_savepoint(self) -> int:
        """Do what `roll_back` does, in a transaction that stays open."""
        await self.hand.execute("CHECKPOINT; BEGIN; SAVEPOINT before")
        drawn = await self._append("Nothing")
        await self.hand.execute("ROLLBACK TO before")
        return drawn

    async def commit_asynchronously(self, type: str = "Lost", count: int = 1) -> int:
        """Append and commit without waiting, as any login may ask at the end of a transaction. Until the crash, neither
        a checkpoint nor the relay's position is written, since that would flush it. Return the first position."""
        await self.hand.execute("CHECKPOINT")
        other = self.other = await asyncpg.connect(self.dsn)  # it goes with the server
        await self.hand.execute(
            "BEGIN; SELECT FROM eventstore.relays FOR UPDATE; SELECT FROM eventstore.subscriptions FOR UPDATE"
        )
        drawn = []
        for _ in range(count):
            await other.execute("BEGIN")
            drawn.append(await other.fetchval(_APPEND, "s-lost", uuid4(), type))
            await other.execute("SET LOCAL synchronous_commit = off; COMMIT")
        return int(drawn[0])

    async def _append(self, type: str) -> int:
        return int(await self.hand.fetchval(_APPEND, "s-lost", uuid4(), type))

    async def looked(self, *applications: str) -> None:
        """Wait until each of these has asked the store for the safe position, and read up to it, from now on."""
        watch = await asyncpg.connect(self.dsn)
        now = await watch.fetchval("SELECT clock_timestamp()")
        try:
            for application in applications:
                seen: set[tuple[int, object]] = set()
                async with asyncio.timeout(20):
                    while len(seen) < 3:  # the first one may have begun before, and the second may be its page
                        seen |= {tuple(row) for row in await watch.fetch(_LOOKED, application, now)}
                        await asyncio.sleep(0.01)  # between two looks
        finally:
            await watch.close()

    async def kill_session(self) -> None:
        """Kill one of the server's processes, upon which it ends all others and recovers."""
        ended, killer = asyncio.Event(), await asyncpg.connect(self.dsn)
        self.hand.add_termination_listener(lambda _: ended.set())
        with suppress(*STATEMENT_ERRORS):
            await killer.execute("COPY (SELECT 1) TO PROGRAM 'kill -KILL $PPID'")
        async with asyncio.timeout(60):
            await ended.wait()
        await self._back()

    async def kill(self) -> None:
        """Kill the whole server, and start it again."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        await self._back()

    async def _back(self) -> None:
        async with asyncio.timeout(60):
            while True:
                with suppress(*STATEMENT_ERRORS, OSError):
                    self.hand = await asyncpg.connect(self.dsn)
                    return
                await asyncio.sleep(0.02)  # between tries

    @property
    def folder(self) -> Path:
        """Return the server's data folder."""
        return Path(self.server._command[2])

    async def copy(self) -> None:
        """Stop the server for a cold copy of its folder, and start it again."""
        await asyncio.to_thread(self.server.stop)
        await _run("cp", "-a", str(self.folder), f"{self.folder}.cold")
        await asyncio.to_thread(self.server.start)
        await self._back()

    async def put_back(self) -> None:
        """Replace the folder with the cold copy."""
        await asyncio.to_thread(self.server.stop)
        await _run("rm", "-r", str(self.folder))
        await _run("mv", f"{self.folder}.cold", str(self.folder))
        await asyncio.to_thread(self.server.start)
        await self._back()

    async def committed(self) -> list[UUID]:
        """Return the events in their order."""
        return [row[0] for row in await self.hand.fetch("SELECT event_id FROM eventstore.events ORDER BY position")]

    async def effects(self, subscription: str) -> list[UUID]:
        """Return the effects of a subscription's handler, in its order."""
        query = "SELECT event_id FROM public.effects WHERE subscription = $1 ORDER BY seq"
        return [row[0] for row in await self.hand.fetch(query, subscription)]


async def _run(*command: str) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


@asynccontextmanager
async def crashing() -> AsyncIterator[Crashing]:
    """A running server, in a folder of this machine."""
    with postgres_server(private=True, bin_dir=postgres_programs(), settings=SETTINGS) as server:
        crashing = Crashing(server)
        await crashing.prepare()
        try:
            yield crashing
        finally:
            for each in (crashing.hand, crashing.other):
                each.terminate()


@asynccontextmanager
async def relaying(dsn: str, url: str) -> AsyncIterator[Relay]:
    """A leading relay, called "relay" by its server."""
    async with EventStore(dsn, application_name="relay") as store:
        relay = Relay(store, url, lease=LONG_LEASE)
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


class Seen:
    """The events that an iterated subscription received; while `open` is cleared, it holds the next batch back."""

    def __init__(self, subscription: Subscription) -> None:
        self.events: list[RecordedEvent] = []
        self.open = asyncio.Event()
        self.open.set()
        self._subscription = subscription

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        async for batch in self._subscription:
            self.events += batch
            await self.open.wait()
            await batch.ack()

    def has_more_than(self, count: int) -> bool:
        return len(self.events) > count

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def first(self) -> list[UUID]:
        """Return each event once, in the order of its first occurrence."""
        return list(dict.fromkeys(event.event_id for event in self.events))


async def appended(store: EventStore, *types: str) -> list[int]:
    """Append one event at a time, with retries while the server comes back; return the positions."""
    positions: list[int] = []
    for type in types:
        event = EventData(type, 1)
        while True:
            with suppress(Unavailable):
                positions.append((await store.append_to_stream("s-1", ANY_VERSION, [event])).first_position)
                break
            await asyncio.sleep(0.02)  # between tries
    return positions


async def until(fact: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a fact."""
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.01)  # between two looks


@asynccontextmanager
async def following(dsn: str, url: str, *control: str) -> AsyncIterator["Lines"]:
    """Run a program that follows (`tests.whole.following`); its lines are the events that it receives."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.whole.following", dsn, url, *control), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Lines(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Lines:
    """The output lines of a program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self._out = process.stdout

    async def get(self, seconds: float = 30) -> str:
        """Return the next line."""
        async with asyncio.timeout(seconds):
            return (await self._out.readline()).decode().strip()


def without(ids: Sequence[UUID], known: Sequence[UUID]) -> list[UUID]:
    """Return the ids that are known, in their order."""
    there = set(known)
    return [each for each in ids if each in there]


@asynccontextmanager
async def flowing(vhost: str) -> AsyncIterator[tuple[Crashing, EventStore, Seen, Subscription]]:
    """A writer, a relay and one live subscription, whose checkpoint does not move before a batch is acknowledged."""
    async with (
        crashing() as server,
        EventStore(server.as_role("writer")) as writer,
        relaying(server.as_role("relay"), vhost),
        EventStore(server.as_role("consumer"), application_name="subscriber") as store,
        Consumer(store, vhost) as consumer,
        consumer.subscribe_to_all_streams("seen", options=OPTIONS) as subscription,
    ):
        seen = Seen(subscription)
        async with seen.following():
            (first,) = await appended(writer, "First")
            await until(lambda: subscription.checkpoint == first and subscription.state is State.LIVE)
            yield server, writer, seen, subscription
