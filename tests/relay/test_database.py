"""A database that hangs, or cannot be written: the log names why, a stop does not wait for it, and it passes."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.relay.plain import append, recorded
from tests.relay.test_neighbours import gauge, until
from tests.whole.flow import relay_running
from trunkline_ops.servers import PostgresServer
from trunkline_ops.servers.proxy import Proxy
from trunkline_relay import Relay, run
from trunkline_relay.status import UNSEEN_SECONDS, Status
from trunkline_store import EventStore

READ_ONLY = "PostgreSQL is read-only: cannot execute"


@pytest_asyncio.fixture
async def admin(postgres: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    """A connection to another database of the server."""
    connection = await asyncpg.connect(postgres.dsn)
    yield connection
    await connection.close()


async def close_connections(admin: asyncpg.Connection, name: str) -> None:
    await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)


@pytest.mark.parametrize("role", ["leader", "standby"])
async def test_a_stop_is_quick_while_the_database_hangs(
    database: str, vhost: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the relay nor its store waits for a server that answers nothing, beyond what they give it."""
    monkeypatch.setattr(run, "STOP_SECONDS", 0.6)
    monkeypatch.setattr(run, "HAND_OVER_SECONDS", 0.3)
    async with Proxy(database) as proxy, relay_running(database, vhost, lease=60) as other:
        relays_store = EventStore(proxy.url)
        await relays_store.open()
        relay = Relay(relays_store, vhost, lease=60)
        running = asyncio.create_task(relay.run())
        if role == "leader":
            other.stop()
            await asyncio.wait_for(relay.leading.wait(), 20)
        else:
            await until(lambda: relay.status.report()["ready"])
        with capture_logs() as logs:
            proxy.stall()
            await asyncio.sleep(0.3)  # it asks meanwhile, and gets no answer
            began = asyncio.get_running_loop().time()
            relay.stop()
            await asyncio.wait_for(running, 20)
            await relays_store.close(seconds=0.3)
        assert asyncio.get_running_loop().time() - began < 10, "a statement may take 15 s, and its end as long again"
        assert "stopped while PostgreSQL did not answer" in [entry["event"] for entry in logs]


async def test_a_database_that_became_read_only(
    store: EventStore, admin: asyncpg.Connection, database: str, vhost: str
) -> None:
    """The log and `/readyz` name the cause, a metric counts it; when it has gone, the relay publishes by itself, though
    the connections that it had made meanwhile stay read-only for as long as they last."""
    name = urlsplit(database).path.removeprefix("/")
    with capture_logs() as logs:
        async with relay_running(database, vhost) as relay:
            await recorded(store, (await append(store, "a-1", "E"))[-1])
            await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            await close_connections(admin, name)
            await until(lambda: any(READ_ONLY in str(entry.get("error")) for entry in logs))
            await until(lambda: not relay.leading.is_set())
            assert (relay.metrics.registry.registry.get_sample_value(
                "trunkline_relay_database_faults_total", {"store": "eventstore"}) or 0) > 0  # fmt: skip
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            async with EventStore(database) as writer:
                positions = await append(writer, "a-1", "E")
            await recorded(store, positions[-1])
            await gauge(relay, "leader", 1)


def test_a_relay_that_can_never_lead_is_not_ready() -> None:
    """It would be taken for a standby otherwise; as soon as somebody leads, or it does, all is well."""
    now = 100.0
    status = Status("s", clock=lambda: now)
    status.blame("PostgreSQL is read-only")
    status.see(1, 1, 0, 0.0, None)
    assert status.problem is None, "it may pass"
    now += UNSEEN_SECONDS + 1
    status.blame("PostgreSQL is read-only")
    status.see(1, 1, 0, 0.0, None)
    assert status.problem == "cannot lead"
    assert status.report()["cause"] == "PostgreSQL is read-only"
    status.blame(None)
    assert status.problem is None
