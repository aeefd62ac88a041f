"""P6: whatever happens to the broker, the database or the relay in mid-flow, subscribers end complete and in order."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from tests.conftest import POSTGRES_SETTINGS
from tests.whole.flow import LEASE, QUICK, Flow, relay_process
from trunkline_ops.management import Management
from trunkline_ops.servers import PostgresServer, RabbitMQServer, postgres_server, rabbitmq_server
from trunkline_ops.servers.proxy import Proxy
from trunkline_store.migrate import initialise


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQServer]:
    """A broker to be killed."""
    with rabbitmq_server(private=True) as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A database server to be killed."""
    with postgres_server(private=True, settings=POSTGRES_SETTINGS) as server:
        yield server


@pytest_asyncio.fixture
async def own_database(own_postgres: PostgresServer) -> AsyncIterator[str]:
    """A store on the server to be killed."""
    connection = await asyncpg.connect(own_postgres.dsn)
    await connection.execute("CREATE DATABASE flow")
    await connection.close()
    dsn = urlsplit(own_postgres.dsn)._replace(path="/flow").geturl()
    connection = await asyncpg.connect(dsn)
    await initialise(connection)
    await connection.close()
    yield dsn
    connection = await asyncpg.connect(own_postgres.dsn)
    await connection.execute("DROP DATABASE flow WITH (FORCE)")
    await connection.close()


def vhost_of(url: str) -> str:
    """The vhost of an AMQP URL."""
    return urlsplit(url).path.removeprefix("/")


@pytest.mark.every_rabbitmq
async def test_without_a_fault_everything_comes_by_the_queue(database: str, vhost: str) -> None:
    """The chain raises no false alarm: no hole is seen, and once live nothing is read from the store."""
    async with Flow(database, vhost) as flow:
        await flow.until(lambda: flow.subscription.counts.from_queue > 300)
        await flow.finish()
        assert flow.subscription.counts.holes <= 1, "at most the one between catching up and the first message"


async def test_the_broker_is_killed_and_started_again(database: str, own_rabbitmq: RabbitMQServer) -> None:
    """While it is away, the subscriber goes on from the store; when it is back, from the queue."""
    async with Flow(database, own_rabbitmq.amqp_url) as flow:
        await flow.more()
        await asyncio.to_thread(own_rabbitmq.kill)
        await flow.more(200)
        await asyncio.to_thread(own_rabbitmq.start)
        before = flow.subscription.counts.from_queue
        await flow.until(lambda: flow.subscription.counts.from_queue > before + 50)
        await flow.finish()


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_the_database_is_restarted(own_database: str, own_postgres: PostgresServer, vhost: str, how: str) -> None:
    """Crash or clean: writers send again what they are unsure of, subscriber and relay go on by themselves. What was in
    flight at a crash comes again, since the history is another one."""
    async with Flow(own_database, vhost) as flow:
        await flow.more()
        await asyncio.to_thread(getattr(own_postgres, how))
        await asyncio.sleep(1.5 * LEASE)  # longer than all leases: that is the case
        await asyncio.to_thread(own_postgres.start)
        await flow.more()
        committed = await flow.rest()
        assert (list(dict.fromkeys(flow.handled)) if how == "kill" else flow.handled) == committed


async def test_the_relay_is_killed_and_a_standby_takes_over(database: str, vhost: str) -> None:
    """SIGKILL in mid-flow: the standby leads within the lease, and nothing is missing or out of order."""
    leader = await relay_process(database, vhost)
    async with Flow(database, vhost, relay=False) as flow:
        await flow.until(lambda: flow.subscription.counts.from_queue > 100)
        standby = await relay_process(database, vhost)
        os.kill(leader.pid, signal.SIGKILL)
        await leader.wait()
        await flow.more(200)
        before = flow.subscription.counts.from_queue
        await flow.until(lambda: flow.subscription.counts.from_queue > before + 50)
        await flow.finish()
    standby.terminate()
    await standby.wait()


async def test_a_paused_relay_that_was_replaced_records_nothing_more(database: str, vhost: str) -> None:
    """P7: SIGSTOP past the lease, a standby takes over, SIGCONT: the recorded position never moves back."""
    old = await relay_process(database, vhost)
    async with Flow(database, vhost, relay=False) as flow:
        await flow.until(lambda: flow.subscription.counts.from_queue > 50)
        os.kill(old.pid, signal.SIGSTOP)
        new = await relay_process(database, vhost)
        before = flow.subscription.counts.from_queue
        await flow.until(lambda: flow.subscription.counts.from_queue > before + 50)
        os.kill(old.pid, signal.SIGCONT)
        epoch, position = 0, 0
        for _ in range(50):
            row = await flow.store.fetchrow(flow.store.sql["see_relay"], "relay")
            assert row is not None
            assert (row["epoch"], row["position"]) >= (epoch, position)
            epoch, position = row["epoch"], row["position"]
            await flow.more(5)
        await flow.finish()
    for relay in (old, new):
        relay.terminate()
        await relay.wait()


@pytest.mark.parametrize("fault", ["delete", "purge", "vhost", "close"])
async def test_an_operator_at_the_broker_does_no_harm(
    database: str, vhost: str, management: Management, fault: str
) -> None:
    """Queue deleted, queue purged, vhost deleted and made again, connections closed: complete, in order, and live
    from the queue again."""
    name = vhost_of(vhost)
    async with Flow(database, vhost) as flow:
        await flow.until(lambda: flow.subscription.counts.from_queue > 50)
        for _ in range(3):
            match fault:
                case "delete":
                    await management.delete_queue(name, "eventstore.flow")
                case "purge":
                    await management.purge_queue(name, "eventstore.flow")
                case "vhost":
                    await management.delete_vhost(name)
                    await flow.more(50)
                    await management.create_vhost(name)
                case "close":
                    await management.close_connections(name)
            await flow.more()
            before = flow.subscription.counts.from_queue
            await flow.until(lambda: flow.subscription.counts.from_queue > before + 20)  # noqa: B023 - awaited here
        await flow.finish()


@pytest.mark.parametrize("side", ["broker", "database"])
@pytest.mark.parametrize("fault", ["cut", "stall", "refuse"])
async def test_the_network_fails(database: str, vhost: str, side: str, fault: str) -> None:
    """Connections that are cut, that hang, or that are refused for a while, on either side."""
    async with Proxy(vhost if side == "broker" else database) as proxy:
        dsn, url = (database, proxy.url) if side == "broker" else (proxy.url, vhost)
        async with Flow(dsn, url) as flow:
            await flow.more()
            match fault:
                case "cut":
                    await proxy.cut()
                case "stall":
                    proxy.stall()
                    await asyncio.sleep(1.5 * LEASE)  # the outage lasts longer than the leases: that is the case
                    proxy.resume()
                case "refuse":
                    await proxy.refuse()
                    await asyncio.sleep(1.5 * LEASE)  # as above
                    await proxy.accept()
            await flow.more()
            await flow.finish()


async def test_a_queue_that_overflowed_is_healed_from_the_store(database: str, vhost: str) -> None:
    """The queue holds ten messages and drops the oldest: the handler still gets everything, in order."""
    small = msgspec.structs.replace(QUICK, queue_length=10, prefetch=5, buffer_size=2)
    async with Flow(database, vhost, options=small) as flow:
        await flow.until(lambda: flow.subscription.counts.from_queue > 0)
        flow.handling.clear()
        ahead = flow.written + 200
        await flow.until(lambda: flow.written > ahead)
        flow.handling.set()
        await flow.more(300)
        await flow.finish()
        assert flow.subscription.counts.holes > 0, "the queue never overflowed: this shows nothing"
