"""A restore gives the same positions to other events: the relay notices, and skips none of them."""

from urllib.parse import urlsplit

import asyncpg

from tests.relay.plain import append, plain, recorded
from tests.whole.flow import committed_positions, relay_running
from tests.whole.test_relay_matrix import until
from trunkline_ops.servers import PostgresServer
from trunkline_store import EventStore


async def test_after_a_restore_nothing_of_the_new_history_is_skipped(
    postgres: PostgresServer, database: str, vhost: str
) -> None:
    """P2: under a running relay the database is replaced by a copy of its past; what is written there has positions
    that were confirmed before, and is published all the same, told apart by its history."""
    name = urlsplit(database).path.removeprefix("/")
    async with EventStore(database) as store:
        await append(store, "a-1", *["E"] * 3)
    admin = await asyncpg.connect(postgres.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name}")
        async with plain(vhost, "#") as consumer, relay_running(database, vhost):
            async with EventStore(database) as store:
                lost = [position for _ in range(20) for position in await append(store, "a-1", "Lost")]
                await recorded(store, lost[-1])
            before = len(consumer.messages)
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)
            async with admin.transaction():  # at no moment is there no database of the name
                await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_lost")
                await admin.execute(f"ALTER DATABASE {name}_backup RENAME TO {name}")
            async with EventStore(database) as store:
                new = [position for _ in range(20) for position in await append(store, "a-1", "New")]
                assert new == lost, "the same positions again: else this shows nothing"
                await until(lambda: len(consumer.messages) > before and consumer.positions[-1] == new[-1])
                await recorded(store, new[-1])
                committed = await committed_positions(store)
        histories = [message.headers["history"] for message in consumer.messages]
        assert len(set(histories)) == 2
        assert histories == sorted(histories, key=histories.index), "nothing of the old one after the new"
        assert consumer.positions[-len(committed) :] == committed
        assert histories[-len(new)] == histories[-1] != histories[0]
    finally:
        for which in ("backup", "lost"):
            await admin.execute(f"DROP DATABASE IF EXISTS {name}_{which} WITH (FORCE)")
        await admin.close()
