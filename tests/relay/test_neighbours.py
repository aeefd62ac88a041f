"""A broker that wants nothing of a relay any more: the log names why, and when that has gone, the relay goes on."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

import aio_pika
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.relay.plain import append, plain, recorded
from tests.whole.flow import relay_running
from trunkline_ops.servers import RabbitMQServer, rabbitmq_server
from trunkline_ops.servers.proxy import Proxy
from trunkline_relay import Relay
from trunkline_store import EventStore

FAULTS = {
    "password": "refuses us: ACCESS_REFUSED - Login was refused",
    "vhost": "does not exist",
    "permission": "access to exchange 'eventstore'",  # of 4.x: "configure access to exchange …"
    "exchange": "refuses us: PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'eventstore'",
}


class Broker:
    """A broker to be turned against one user of it, in a vhost of his."""

    def __init__(self, server: RabbitMQServer) -> None:
        self._server = server
        self.user = self.vhost = f"relay-{secrets.token_hex(6)}"
        self._address = urlsplit(server.amqp_url)
        host = f"{self._address.hostname}:{self._address.port}"
        self.url = f"amqp://{self.user}:right@{host}/{self.vhost}"

    async def ctl(self, *arguments: str) -> None:
        await asyncio.to_thread(self._server.ctl, *arguments)

    async def make(self) -> None:
        await self.ctl("add_user", self.user, "right")
        await self.make_vhost()

    async def make_vhost(self) -> None:
        await self.ctl("add_vhost", self.vhost)
        await self.ctl("set_permissions", "-p", self.vhost, self.user, ".*", ".*", ".*")
        await self.ctl("set_permissions", "-p", self.vhost, self._server.user, ".*", ".*", ".*")

    async def turn(self, fault: str) -> None:
        """Against the user; his connections are closed, so that he finds out."""
        match fault:
            case "password":
                await self.ctl("change_password", self.user, "wrong")
            case "vhost":
                await self.ctl("delete_vhost", self.vhost)
                return
            case "permission":
                await self.ctl("set_permissions", "-p", self.vhost, self.user, "", "", "")
            case "exchange":
                await self._exchange("direct")
        await self.ctl("close_all_user_connections", self.user, "test")

    async def turn_back(self, fault: str) -> None:
        match fault:
            case "password":
                await self.ctl("change_password", self.user, "right")
            case "vhost":
                await self.make_vhost()
            case "permission":
                await self.ctl("set_permissions", "-p", self.vhost, self.user, ".*", ".*", ".*")
            case "exchange":
                await self._exchange(None)

    async def process_of(self, queue: str, what: str) -> None:
        """Has a queue's process stand still (suspend), or go on (resume): https://www.erlang.org/doc/man/sys."""
        name = f'rabbit_misc:r(<<"{self.vhost}">>, queue, <<"{queue}">>)'
        await self.ctl("eval", f"{{ok, Q}} = rabbit_amqqueue:lookup({name}), sys:{what}(amqqueue:get_pid(Q)).")

    async def _exchange(self, type: str | None) -> None:
        """The store's exchange, deleted, and made anew of another type."""
        url = self._address._replace(path=f"/{self.vhost}").geturl()
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            await channel.exchange_delete("eventstore")
            if type is not None:
                await channel.declare_exchange("eventstore", type, durable=True)


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQServer]:
    """A broker with controls."""
    with rabbitmq_server(private=True) as server:
        yield server


@pytest_asyncio.fixture
async def broker(own_rabbitmq: RabbitMQServer) -> AsyncIterator[Broker]:
    """With a user and a vhost of the test's own."""
    broker = Broker(own_rabbitmq)
    await broker.make()
    yield broker


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_broker_that_turns_against_a_running_relay(
    store: EventStore, database: str, broker: Broker, fault: str
) -> None:
    """Password changed, vhost deleted, permission taken, an exchange of another type: the log names the cause, the
    relay lives on without it, and publishes by itself when it has gone."""
    with capture_logs() as logs:
        async with relay_running(database, broker.url):
            await recorded(store, (await append(store, "a-1", "E"))[-1])
            await broker.turn(fault)
            positions = await append(store, "a-1", "E")

            await until(lambda: any(FAULTS[fault] in str(entry.get("error")) for entry in logs))
            assert "right" not in str(logs), "a password is nobody's business"
            await broker.turn_back(fault)
            await recorded(store, positions[-1])


async def test_an_alarm_blocks_the_relay_and_nothing_is_given_up(
    store: EventStore, database: str, own_rabbitmq: RabbitMQServer, broker: Broker
) -> None:
    """P8, P9: out of memory, the broker takes nothing: the metric says so, appends go on, and long after patience has
    run out the relay goes on with all of it."""
    async with relay_running(database, broker.url, patience=0.5) as relay:
        positions = await append(store, "a-1", "E")
        await recorded(store, positions[-1])
        await broker.ctl("set_vm_memory_high_watermark", "0.000001")
        try:
            positions += await append(store, "a-1", "E")
            await gauge(relay, "blocked", 1)
            positions += await append(store, "a-1", "E")
            await asyncio.sleep(3)  # the outage lasts longer than patience does, and than an answer may take
            await gauge(relay, "position", positions[0])
        finally:
            await broker.ctl("set_vm_memory_high_watermark", "0.6")
        await recorded(store, positions[-1])
        await gauge(relay, "blocked", 0)
        await gauge(relay, "skipped_total", 0)


async def test_a_broker_that_is_away_for_long(
    store: EventStore, database: str, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, and again while the relay runs: after any number of tries in vain, on a clock that was shortened,
    it goes on by itself with all that was appended meanwhile; the metrics tell of each."""
    monkeypatch.setattr("trunkline_store.outage.PAUSE_SECONDS", (0.001, 0.01))
    positions: list[int] = []
    async with plain(vhost, "#") as other, Proxy(vhost) as proxy:
        await proxy.refuse()
        async with relay_running(database, proxy.url) as relay:
            for outage in (1, 2):
                positions += await append(store, "a-1", "E")
                await until(lambda: relay.metrics.broker_faults._value.get() >= 20 * outage)  # noqa: B023 - awaited here
                positions += await append(store, "a-1", "E")
                await proxy.accept()
                await recorded(store, positions[-1])
                await proxy.refuse()
        assert list(dict.fromkeys(other.positions)) == positions


async def test_a_queue_that_never_confirms(store: EventStore, database: str, broker: Broker) -> None:
    """P9: the process of one queue stands still, and so do the confirms of all that is routed to it. After patience the
    relay goes on past it, names it, and counts; a queue beside it has every event, and what is published to others
    meanwhile is confirmed."""
    async with await aio_pika.connect(broker.url) as connection, connection.channel() as channel:
        await channel.declare_exchange("eventstore", "topic", durable=True)
        mute = await channel.declare_queue("mute", durable=True)
        await mute.bind("eventstore", "mute.#")
        with capture_logs() as logs:
            async with plain(broker.url, "#") as other, relay_running(database, broker.url, patience=1) as relay:
                positions = await append(store, "a-1", "E")
                await recorded(store, positions[-1])
                await broker.process_of("mute", "suspend")
                try:
                    positions += await append(store, "mute-1", "Lost", "Lost")
                    positions += await append(store, "a-1", "E")
                    await recorded(store, positions[-1])
                    positions += await append(store, "a-1", "E")
                    await recorded(store, positions[-1])
                finally:
                    await broker.process_of("mute", "resume")
                await other.until(len(positions))
                assert relay.metrics.skipped._value.get() == 1
        assert list(dict.fromkeys(other.positions)) == positions
        given_up = [entry for entry in logs if entry["event"] == "message given up"]
        assert [(entry["why"], entry["routing_key"]) for entry in given_up] == [("never confirmed", "mute.Lost.mute-1")]


async def test_whether_a_leader_has_rabbitmq_is_told(database: str, vhost: str) -> None:
    """A leader says 1 while it publishes, and 0 while RabbitMQ is away, which is no alarm; then 1 again."""
    async with Proxy(vhost) as proxy, relay_running(database, proxy.url) as relay:
        await gauge(relay, "connected", 1)
        await proxy.refuse()
        await proxy.cut()
        await gauge(relay, "connected", 0)
        await gauge(relay, "leader", 1)
        await gauge(relay, "blocked", 0)
        await proxy.accept()
        await gauge(relay, "connected", 1)


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not fact():
            await asyncio.sleep(0.01)  # between two looks


async def gauge(relay: Relay, name: str, value: float) -> None:
    """Waits until the metric has it."""
    registry = relay.metrics.registry.registry
    await until(lambda: registry.get_sample_value(f"trunkline_relay_{name}", {"store": "eventstore"}) == value)
