"""The definitions that RabbitMQ imports: they are enough for a relay, a consumer and monitoring, and for no more."""

import asyncio
import fcntl
import json
import re
import secrets
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel, AbstractQueue
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource
from typer.testing import CliRunner

from tests.relay.plain import append
from tests.whole.flow import relay_running
from trunkline_consumer import Consumer
from trunkline_ops.commands import app
from trunkline_ops.definitions import Login, definitions, hashed, logins
from trunkline_ops.management import Management
from trunkline_ops.servers import RabbitMQServer, rabbitmq_server
from trunkline_store import EventStore

GUIDE = (Path(__file__).parents[2] / "ops" / "README.md").read_text()
CONFIGURATION = dict(re.findall(r"^    (definitions\.\S+) = (.*)$", GUIDE, re.MULTILINE))
KEPT = Path(__file__).parents[2] / "ops" / "rabbitmq" / "definitions.json"


def test_the_file_in_the_repository_is_what_the_command_prints() -> None:
    """Without passwords, so that nobody can log in with what everybody can read."""
    result = CliRunner().invoke(app, ["definitions"], env={"TRUNKLINE_SCHEMA": ""})
    assert result.exit_code == 0
    assert result.stdout == KEPT.read_text()
    assert {user["password_hash"] for user in json.loads(KEPT.read_text())["users"]} == {""}


def test_a_hash_is_as_rabbitmq_makes_it() -> None:
    """The example of its documentation; with a salt of its own, each is another one."""
    assert hashed("test12", bytes.fromhex("908DC60A")) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    assert hashed("x") != hashed("x")


def test_passwords_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    """What is missing is made; what is there stays, and its hash is what is printed; bad files are told in one line."""
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    (folder / "shop-relay").write_text("mine\n")
    result = CliRunner().invoke(app, ["definitions", "--passwords", str(folder), "--schema", "shop", "--vhost", "a b"])
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    assert {user["name"] for user in made["users"]} == {"shop-relay", "shop-consumer", "shop-monitoring"}
    users = ("relay", "consumer", "monitoring")
    texts = {user: (folder / f"shop-{user}").read_text().strip() for user in users}
    assert texts["relay"] == "mine"
    assert len(set(texts.values())) == 3
    assert stat.S_IMODE((folder / "shop-consumer").stat().st_mode) == 0o600
    assert not any(text in result.stdout for text in texts.values())
    CliRunner().invoke(app, ["definitions", "--passwords", str(folder), "--schema", "other"])
    others = {(folder / f"other-{user}").read_text().strip() for user in users}
    assert len(others | set(texts.values())) == 6, "stores do not share passwords"
    (folder / "eventstore-monitoring").write_text("\n")
    for arguments in (
        ["--passwords", str(folder)],
        ["--passwords", str(folder / "shop-relay")],
        ["--passwords", str(folder), "--schema", "shop", "--subscription", "a/b"],
        ["--subscription", " "],
        ["--vhost", " "],
    ):
        result = CliRunner().invoke(app, ["definitions", *arguments])
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_each_subscription_can_have_a_login_of_its_own(tmp_path: Path) -> None:
    """Then no login serves all subscriptions; the folder has the password of each."""
    arguments = ["definitions", "--passwords", str(tmp_path), "--subscription", "billing", "--subscription", "a b"]
    result = CliRunner().invoke(app, arguments, env={"TRUNKLINE_SCHEMA": ""})
    assert result.exit_code == 0
    users = {user["name"] for user in json.loads(result.stdout)["users"]}
    assert {"eventstore-consumer-billing", "eventstore-relay", "eventstore-monitoring"} < users
    assert "eventstore-consumer" not in users
    assert {file.name for file in tmp_path.iterdir()} == users


SUBSCRIPTIONS = ("billing", "shipping")
EVERY = [*logins("eventstore"), *(Login("eventstore", "consumer", each) for each in SUBSCRIPTIONS)]


class Users:
    """Those of one store, in a vhost of a real broker, with their URLs."""

    def __init__(self, vhost: str, passwords: dict[str, str]) -> None:
        self.vhost = urlsplit(vhost).path.removeprefix("/")
        self.passwords = passwords
        self._url = vhost

    def url(self, user: str) -> str:
        url = urlsplit(self._url)
        name = f"eventstore-{user}"
        return url._replace(netloc=f"{name}:{self.passwords[name]}@{url.hostname}:{url.port}").geturl()


@pytest.fixture
def users(vhost: str, rabbitmq: RabbitMQServer) -> Iterator[Users]:
    """Imported into the vhost of the test. The users are the broker's, whatever the vhost: so one test has them at a
    time, and they are removed at its end."""
    passwords = {login.name: secrets.token_urlsafe(12) for login in EVERY}
    users = Users(vhost, passwords)
    hashes = {name: hashed(password) for name, password in passwords.items()}
    login = (rabbitmq.user, rabbitmq.password)
    base = f"{rabbitmq.management_url}/api/"
    lock = Path(tempfile.gettempdir(), f"trunkline-users-{urlsplit(base).port}.lock")
    with lock.open("w") as file, httpx.Client(base_url=base, auth=login, trust_env=False, timeout=30) as api:
        fcntl.flock(file, fcntl.LOCK_EX)
        for chosen in ((), SUBSCRIPTIONS):
            made = definitions("eventstore", users.vhost, hashes, chosen)
            api.post("definitions", json=made).raise_for_status()
        yield users
        for each in EVERY:
            api.delete(f"users/{each.name}").raise_for_status()


async def test_relay_and_consumer_do_their_work_as_these_users(
    store: EventStore, database: str, users: Users, management: Management
) -> None:
    """An event goes through: the relay publishes, a subscription and a transient one get it from their queues; the
    names that RabbitMQ's UI shows say whose connection, queue and consumer it is."""
    async with relay_running(database, users.url("relay")), Consumer(store, users.url("consumer")) as consumer:
        async with consumer.subscribe_to_category("order", "billing") as named, consumer.subscribe() as transient:
            [position] = await append(store, "order-1", "OrderPlaced")
            for subscription in (named, transient):
                async with asyncio.timeout(30):
                    async for batch in subscription:
                        assert [event.position for event in batch] == [position]
                        await batch.ack()
                        break
            await _said(management, users.vhost)
        await consumer.delete_category_subscription("order", "billing")
        assert await management.queues(users.vhost) == []


async def _said(management: Management, vhost: str) -> None:
    """What the management API, which is some seconds late, says of the vhost's connections and consumers."""
    async with asyncio.timeout(40):
        while True:
            connections = await management.connections(vhost)
            names = sorted(str(each.get("user_provided_name", "")) for each in connections)
            if len(names) == 3 and all(names):
                break
            await asyncio.sleep(0.2)  # between two looks
    assert [name.rsplit(" (", 1)[0].split("-")[0] for name in names] == [
        "eventstore relay", "eventstore.billing subscription", "eventstore.transient",
    ]  # fmt: skip
    assert {each["client_properties"]["product"] for each in connections} == {"Trunkline"}
    assert {each["name"] for each in await management.queues(vhost)} >= {"eventstore.billing"}


@pytest.mark.parametrize(
    ("user", "allowed", "refused"),
    [
        ("relay", ["eventstore", "eventstore-links"], ["eventstore.billing", "eventstores", "amq.topic"]),
        ("consumer", ["eventstore.billing", ""], ["eventstore", "eventstore-links", "eventstores.x", "other"]),
        ("consumer-billing", ["eventstore.billing", ""], ["eventstore", "eventstore.shipping", "eventstore.billing2"]),
        ("monitoring", [], ["eventstore", "eventstore.billing", ""]),
    ],
)
async def test_they_may_do_nothing_else(users: Users, user: str, allowed: list[str], refused: list[str]) -> None:
    """A relay declares its exchanges and no other thing, a consumer its queues and no exchange; monitoring nothing."""

    async def may_declare(name: str) -> bool:
        async with await aio_pika.connect(users.url(user)) as connection:
            channel = await connection.channel()
            try:
                if user == "relay" or name == "eventstore-links":
                    await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
                else:
                    await channel.declare_queue(name or None, exclusive=not name, durable=bool(name))
            except ChannelAccessRefused:
                return False
            return True

    assert [name for name in [*allowed, *refused] if await may_declare(name)] == allowed


async def test_a_consumer_cannot_publish_and_a_relay_cannot_read(users: Users) -> None:
    """Neither can do the other's work, should its password get into the wrong hands."""
    async with await aio_pika.connect(users.url("consumer")) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("eventstore", ensure=False)
        with pytest.raises(ChannelAccessRefused):
            await exchange.publish(aio_pika.Message(b""), "x")
        await (await connection.channel()).declare_queue("eventstore.billing", durable=True)
    async with await aio_pika.connect(users.url("relay")) as connection:
        channel = await connection.channel()
        with pytest.raises(ChannelAccessRefused):
            await (await channel.get_queue("eventstore.billing", ensure=False)).get()


Attack = Callable[[AbstractChannel, str], Awaitable[object]]
MANY: Final = ".".join(["#"] * 20)
"""A key that costs a broker before 4.3 75 ms for each message; 4.3 itself refuses it."""


async def _bind(channel: AbstractChannel, queue: str, exchange: str, key: str = "#") -> None:
    await (await channel.get_queue(queue, ensure=False)).bind(exchange, key)


async def _bind_mine(channel: AbstractChannel, exchange: str, key: str) -> None:
    mine = await channel.declare_queue("eventstore.billing", durable=True)
    await _bind(channel, mine.name, exchange, key)


async def _bind_to_mine(channel: AbstractChannel, _: str) -> None:
    mine = await channel.declare_exchange("eventstore.billing", aio_pika.ExchangeType.TOPIC)
    await _bind(channel, "eventstore.shipping", mine.name)


async def _publish(channel: AbstractChannel, exchange: str, key: str) -> None:
    await (await channel.get_exchange(exchange, ensure=False)).publish(aio_pika.Message(b""), key)


async def _into(channel: AbstractChannel, exchange: str) -> None:
    mine = await channel.declare_exchange("eventstore.billing", aio_pika.ExchangeType.TOPIC)
    await (await channel.get_exchange(exchange, ensure=False)).bind(mine, "#")


async def _from(channel: AbstractChannel, exchange: str, key: str) -> None:
    mine = await channel.declare_exchange("eventstore.billing", aio_pika.ExchangeType.TOPIC)
    await mine.bind(exchange, key)


async def _queue(channel: AbstractChannel, name: str) -> AbstractQueue:
    return await channel.get_queue(name, ensure=False)


async def _then(asked: Awaitable[AbstractQueue], use: Callable[[AbstractQueue], Awaitable[object]]) -> None:
    await use(await asked)


ATTACKS: dict[str, Attack] = {
    "an exchange of one's own": lambda c, _: c.declare_exchange("eventstore.mine"),
    "an exchange called as a server's queue": lambda c, _: c.declare_exchange("amq.gen-mine"),
    "the store's exchange, declared": lambda c, _: c.declare_exchange("eventstore", "topic", durable=True),
    "the store's exchange, deleted": lambda c, _: c.exchange_delete("eventstore"),
    "another's queue, declared": lambda c, _: c.declare_queue("eventstore.shipping", durable=True),
    "another's queue, bound": lambda c, _: _bind(c, "eventstore.shipping", "eventstore"),
    "another's queue, bound to one's own exchange": _bind_to_mine,
    "another's queue, read": lambda c, _: _then(_queue(c, "eventstore.shipping"), lambda queue: queue.get(fail=False)),
    "another's queue, purged": lambda c, _: _then(_queue(c, "eventstore.shipping"), lambda queue: queue.purge()),
    "another's queue, deleted": lambda c, _: c.queue_delete("eventstore.shipping"),
    "a transient subscription's queue, bound": lambda c, transient: _bind(c, transient, "eventstore"),
    "published to the store's exchange": lambda c, _: _publish(c, "eventstore", "a.E.a-1"),
    "published to the links' exchange": lambda c, _: _publish(c, "eventstore-links", "a-1"),
    "published to a queue": lambda c, _: c.default_exchange.publish(aio_pika.Message(b""), "eventstore.shipping"),
    "from one's own exchange into the store's": lambda c, _: _into(c, "eventstore"),
    "a key that is dear to route": lambda c, _: _bind_mine(c, "eventstore", MANY),
    "a key that is dear to route, of links": lambda c, _: _bind_mine(c, "eventstore-links", MANY),
    "a key that is dear to route, to an exchange": lambda c, _: _from(c, "eventstore", MANY),
    "by an alternate exchange": lambda c, _: c.declare_exchange(
        "eventstore.billing", arguments={"alternate-exchange": "eventstore"}
    ),
    "by dead letters": lambda c, _: c.declare_queue(
        "eventstore.billing", arguments={"x-dead-letter-exchange": "eventstore"}
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_subscriptions_login_reaches_no_other_subscription(users: Users, vhost: str, attack: str) -> None:
    """It can neither read, bind, purge nor delete another one's queue, nor send anything to it through any exchange."""
    async with await aio_pika.connect(vhost) as admin, await aio_pika.connect(users.url("consumer-billing")) as mine:
        theirs = await admin.channel()
        await theirs.declare_queue("eventstore.shipping", durable=True)
        transient = (await theirs.declare_queue(exclusive=True)).name
        channel = await mine.channel(publisher_confirms=True)
        with pytest.raises((ChannelAccessRefused, ChannelLockedResource)):
            await ATTACKS[attack](channel, transient)


@pytest.mark.parametrize("user", ["consumer", "consumer-billing"])
async def test_a_consumer_may_bind_by_each_key_that_the_guide_has(users: Users, user: str) -> None:
    """It may bind keys with one wildcard of many words, and keys with none."""
    async with await aio_pika.connect(users.url(user)) as connection:
        channel = await connection.channel()
        for key in ("#", "order.#", "order.*.order-42", "*.OrderPlaced.*", "a%23b.*.a%23b-1", "#.order-42"):
            await _bind_mine(channel, "eventstore", key)
        await _bind_mine(channel, "eventstore-links", "order-42")


async def test_a_subscription_works_with_a_login_of_its_own(store: EventStore, database: str, users: Users) -> None:
    """Events come from its queue, and so do those of a transient subscription."""
    async with (
        relay_running(database, users.url("relay")),
        Consumer(store, users.url("consumer-billing")) as consumer,
        consumer.subscribe_to_category("order", "billing") as named,
        consumer.subscribe() as transient,
    ):
        for subscription in (named, transient):
            async with asyncio.timeout(30):
                while not subscription.counts.from_queue:
                    await append(store, "order-1", "OrderPlaced")
                    await (await anext(subscription)).ack()


async def test_monitoring_sees_all_and_changes_nothing(users: Users, rabbitmq: RabbitMQServer) -> None:
    """Its login lists queues and connections by the management API, and is refused when it would change something."""
    login = ("eventstore-monitoring", users.passwords["eventstore-monitoring"])
    base, vhost = f"{rabbitmq.management_url}/api/", quote(users.vhost, safe="")

    async def status(method: str, path: str, body: object = None) -> int:
        # whom it refuses before it has read the body, RabbitMQ hangs up on: each question has its own connection
        async with httpx.AsyncClient(base_url=base, auth=login, trust_env=False, timeout=30) as api:
            return (await api.request(method, path, json=body)).status_code

    for path in ("overview", "nodes", "connections", "channels"):
        assert await status("GET", path) == 200
    for method, path, body in [
        ("PUT", f"queues/{vhost}/x", {}),
        ("DELETE", f"exchanges/{vhost}/eventstore", None),
        ("PUT", "users/x", {"password": "x", "tags": ""}),
        ("POST", "definitions", {}),
    ]:
        assert await status(method, path, body) in (401, 403, 404)


def test_rabbitmq_imports_them_when_it_starts() -> None:
    """With the guide's configuration, vhost, exchanges and users are there at the first connection, and the next start
    does not undo a changed password."""
    password = secrets.token_urlsafe(12)
    made: dict[str, Any] = definitions("eventstore", "trunkline", {"eventstore-relay": hashed(password)})
    made["users"].append(
        {**made["users"][0], "name": "trunkline", "password_hash": hashed(password), "tags": ["administrator"]}
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        file = Path(folder, "definitions.json")
        file.write_text(json.dumps(made))
        Path(folder).chmod(0o755)
        settings = {**CONFIGURATION, "definitions.local.path": str(file)}
        with rabbitmq_server(private=True, settings=settings, password=password) as server:
            login = (server.user, server.password)
            with httpx.Client(base_url=f"{server.management_url}/api/", auth=login, trust_env=False) as api:
                found = api.get("exchanges/trunkline").raise_for_status().json()
                assert {"eventstore", "eventstore-links"} <= {each["name"] for each in found}
                names = {login.name for login in logins("eventstore")}
                assert {each["name"] for each in api.get("users").json()} == {"trunkline"} | names
            asyncio.run(_connects(server, "relay", password))
            with pytest.raises(aio_pika.exceptions.ProbableAuthenticationError):
                asyncio.run(_connects(server, "consumer", ""))
            given = secrets.token_urlsafe(12)
            server.ctl("change_password", "eventstore-consumer", given)
            server.restart()
            asyncio.run(_connects(server, "consumer", given))


async def _connects(server: RabbitMQServer, user: str, password: str) -> None:
    url = urlsplit(server.amqp_url)
    login = f"eventstore-{user}:{password}"
    address = url._replace(netloc=f"{login}@{url.hostname}:{url.port}", path="/trunkline")
    async with await aio_pika.connect(address.geturl()):
        pass
