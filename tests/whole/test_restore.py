"""Back up and restore: the runbook's own commands, while queues are full and everybody runs."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest_asyncio

from tests.relay.plain import plain, recorded
from tests.whole.crashing import crashing, relaying
from tests.whole.effects import TABLE, projecting, projecting_anew, until_each_event_has_its_effect
from tests.whole.flow import QUICK, committed_positions, relay_running
from tests.whole.standbys import Handled, appended, until
from trunkline_consumer import Consumer
from trunkline_ops.servers import PostgresServer
from trunkline_ops.servers.postgres import postgres_programs
from trunkline_store import EventStore

README = Path(__file__).parents[2] / "ops" / "README.md"


async def run(program: str, *arguments: str) -> None:
    """One of PostgreSQL's programs."""
    running = await asyncio.create_subprocess_exec(postgres_programs() / program, *arguments)
    assert await running.wait() == 0


@pytest_asyncio.fixture
async def admin(postgres: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    """A connection to another database of the server."""
    connection = await asyncpg.connect(postgres.dsn)
    yield connection
    await connection.close()


async def test_a_dump_is_restored_under_full_queues(
    admin: asyncpg.Connection, database: str, vhost: str, tmp_path: Path
) -> None:
    """P2, P6: a dump is made while a subscription's queue is full. More is published and handled, and then a fresh
    database with the dump takes the old one's place. Relay and subscription continue by themselves from the dump's
    checkpoint. They skip nothing of the new history, though it reuses positions, and drop queued messages of the old
    one. A projection in the same database has one effect of each existing event, and no other."""
    name, dump = urlsplit(database).path.removeprefix("/"), str(tmp_path / "store.dump")
    small = msgspec.structs.replace(QUICK, prefetch=5, buffer_size=1)
    try:
        async with (
            EventStore(database) as store,
            plain(vhost, "#") as other,
            relay_running(database, vhost),
            projecting_anew(store, vhost),
            Consumer(store, vhost) as consumer,
            consumer.subscribe_to_all_streams("s", options=small) as subscription,
        ):
            handled = Handled(subscription)
            async with handled.handling():
                done = await appended(store, "Done", 5)
                await until(lambda: subscription.checkpoint == done[-1])
                handled.going.clear()
                queued = await appended(store, "Queued", 10)
                await recorded(store, queued[-1])
                await run("pg_dump", "--format=custom", f"--file={dump}", database)

                lost = await appended(store, "Lost", 20)
                handled.going.set()
                await until(lambda: handled.types().count("Lost") > 5)
                handled.going.clear()
                await recorded(store, lost[-1])
                await until(lambda: other.positions[-1] == lost[-1])
                before = len(handled.events)

                await run("createdb", f"--maintenance-db={database}", f"{name}_new")
                await run("pg_restore", "--exit-on-error", f"--dbname={database}_new", dump)
                await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                await admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name
                )
                async with admin.transaction():  # at no moment is there no database of the name
                    await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_old")
                    await admin.execute(f"ALTER DATABASE {name}_new RENAME TO {name}")

                new = await appended(store, "New", 40)
                assert set(new) & set(lost), "no position was given again: this shows nothing"
                handled.going.set()
                await until(lambda: handled.types().count("New") >= len(new))
                await until(lambda: other.positions[-1] == new[-1])
                await recorded(store, new[-1])
                assert await committed_positions(store) == done + queued + new
                await until_each_event_has_its_effect(store)
    finally:
        for which in ("new", "old"):
            await admin.execute(f"DROP DATABASE IF EXISTS {name}_{which} WITH (FORCE)")

    again = [event.position for event in handled.events[before:] if event.type != "Lost"]
    assert again == queued + new, "from the dump's checkpoint on, each once, in order"
    left = handled.types()[before:].count("Lost")
    assert left <= 1 + small.prefetch, "only what had left the queue"
    in_new = [position for message, position in zip(other.messages, other.positions, strict=True)
              if message.headers["history"] == other.messages[-1].headers["history"]]  # fmt: skip
    assert in_new[-len(new) :] == new
    assert set(in_new) <= {*done, *queued, *new}


async def test_a_copy_of_the_files_is_started_as_another_history(vhost: str) -> None:
    """The runbook's command, given before anybody connects to a copy of the data folder, makes it another history.
    Events that were handled behind the copy are gone with their effects. Events that get their positions are published
    and handled, and each has one effect."""
    [command] = re.findall(r'-c "(UPDATE eventstore\.store SET store_id[^"]*)"', README.read_text())
    async with crashing() as server, EventStore(server.dsn) as store, plain(vhost, "#") as other:
        await server.hand.execute(f"DROP TABLE public.effects; {TABLE}")
        async with relaying(server.dsn, vhost), projecting(store, vhost):
            kept = await appended(store, "Kept", 3)
            await until_each_event_has_its_effect(store)
        await server.copy()
        async with relaying(server.dsn, vhost), projecting(store, vhost):
            gone = await appended(store, "Gone", 5)
            await until_each_event_has_its_effect(store)
            await recorded(store, gone[-1])
        await server.put_back()
        await server.hand.execute(command)
        async with relaying(server.dsn, vhost), projecting(store, vhost):
            new = await appended(store, "New", 5)
            assert new == gone, "no position was given again: this shows nothing"
            await until_each_event_has_its_effect(store)
            await recorded(store, new[-1])
        histories = [message.headers["history"] for message in other.messages]
        assert other.positions == kept + gone + new
        assert histories[-1] != histories[0] == histories[len(kept + gone) - 1]
