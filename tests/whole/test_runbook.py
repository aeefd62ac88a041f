"""The runbook's commands, as they stand in ops/README.md, do what it says."""

import asyncio
import json
import os
import re
import secrets
import shlex
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import asyncpg
import pytest

from tests.relay.plain import append, plain, recorded
from tests.store.first_release import make_first_release
from tests.whole.effects import TABLE, projecting_anew, until_each_event_has_its_effect
from tests.whole.flow import Flow, committed_positions, relay_running
from trunkline_ops.management import Management
from trunkline_ops.servers import RabbitMQServer, rabbitmq_server
from trunkline_relay import Relay
from trunkline_store import EventStore, SubscriptionNotFound

GUIDE = (Path(__file__).parents[2] / "ops" / "README.md").read_text()
RUNBOOK = GUIDE.partition("\n## Runbook\n")[2].partition("\n## ")[0]

pytestmark = pytest.mark.timeout(600)  # several programs are started, one after the other
_SECONDS = 200

_CONSUMER = """
import os
from trunkline_consumer import Consumer
from trunkline_store import EventStore
consumer = Consumer(EventStore(os.environ["TRUNKLINE_DSN"]), os.environ["TRUNKLINE_AMQP_URL"])

on_failure = os.environ.get("ON_FAILURE", "park_key")
@consumer.handler("billing", tx=True, concurrency=4, on_failure=on_failure, attempts=1, lease=1, idle=0.3)
async def bill(batch, tx):
    if batch.stream.startswith("order-"):
        with open("mended") as mended:
            pass
    rows = [(event.position, event.event_id) for event in batch]
    await tx.executemany("INSERT INTO public.effects VALUES ($1, $2)", rows)
"""


def steps(heading: str) -> list[str]:
    """The blocks of commands under a heading of the runbook."""
    section = re.search(rf"^### {heading}\n(.*?)(?=^### |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section, heading
    blocks = re.findall(r"(?:^    .*\n)+", section[1], re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in blocks]


class Desk:
    """Where the one on call sits: a shell with the settings."""

    def __init__(self, folder: Path, dsn: str, amqp_url: str = "") -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        self.variables = {**theirs, "PATH": path, "TRUNKLINE_DSN": dsn, "TRUNKLINE_AMQP_URL": amqp_url}
        self.folder = folder

    async def shell(self, commands: str, *, code: int = 0, **variables: object) -> str:
        """Runs commands to their end, and returns what they print; fails where one ends with another code."""
        process = await self._start(commands, variables)
        output, _ = await process.communicate()
        assert process.returncode == code, f"{commands}:\n{output.decode()}"
        return output.decode()

    @asynccontextmanager
    async def running(self, command: str, **variables: object) -> AsyncIterator[None]:
        """Runs one that does not end by itself."""
        *before, last = command.splitlines()
        process = await self._start("\n".join([*before, f"exec {last}"]), variables)
        try:
            yield
            assert process.returncode is None, command
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()

    async def _start(self, commands: str, variables: dict[str, object]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("bash", "-euc", commands),
            env={**self.variables, **{name: str(value) for name, value in variables.items()}},
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )


@pytest.fixture
async def desk(tmp_path: Path, store: EventStore, database: str, vhost: str) -> Desk:
    """A desk with a fresh store, a fresh vhost, and an application in the folder, whose effects are rows. Four batches
    are handled at once, each in the transaction of its checkpoint."""
    await store.fetch(TABLE)
    (tmp_path / "billing.py").write_text(_CONSUMER)
    return Desk(tmp_path, database, vhost)


async def more(store: EventStore, *streams: str) -> list[int]:
    """Append two events to each of these streams, or to eight."""
    streams = streams or tuple(f"s-{number}" for number in range(8))
    return [position for stream in streams for position in await append(store, stream, "E", "E")]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits for a fact."""
    async with asyncio.timeout(_SECONDS):
        while not await condition():
            await asyncio.sleep(0.05)  # between two looks


def test_every_section_is_tried() -> None:
    """A section of the runbook has a test here, or stands with who has written it."""
    found = re.findall(r"^### (.*)$", RUNBOOK, re.MULTILINE)
    elsewhere = {"Size", "Back up and restore", "Failover"}
    text = Path(__file__).read_text()
    assert [heading for heading in found if heading not in elsewhere and f'steps("{heading}")' not in text] == []


async def test_install(tmp_path: Path, database: str, vhost: str) -> None:
    """The store is there, each login is in its role, nothing is pending, and the relay answers."""
    first, relay = steps("Install")
    tag = secrets.token_hex(4)
    logins = {name: f"{name}_{tag}" for name in ("relay_1", "billing", "shop")}  # they belong to the whole server
    for name, login in logins.items():
        first = first.replace(f"--login {name} ", f"--login {login} ")
    desk = Desk(tmp_path, database, vhost)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("DROP SCHEMA eventstore CASCADE")
        assert "pending" not in await desk.shell(first)
        rows = await connection.fetch(
            "SELECT m.rolname AS login, r.rolname AS role FROM pg_auth_members JOIN pg_roles AS r ON r.oid = roleid "
            "JOIN pg_roles AS m ON m.oid = member WHERE m.rolname = ANY ($1)",
            list(logins.values()),
        )
        assert {row["login"]: row["role"].rpartition(".")[2] for row in rows} == {
            logins["relay_1"]: "relay", logins["billing"]: "consumer", logins["shop"]: "writer",
        }  # fmt: skip
        async with desk.running(relay.replace("9464", "0")), plain(vhost, "#") as consumer:
            async with EventStore(database) as store:
                positions = await append(store, "a-1", "E", "E", "E")
            await consumer.until(3)
            assert consumer.positions == positions
    finally:
        roles = await connection.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname = ANY ($1) OR rolname LIKE current_database() || '.%'",
            list(logins.values()),
        )
        for row in roles:
            await connection.execute(f'DROP OWNED BY "{row["rolname"]}"; DROP ROLE "{row["rolname"]}"')
        await connection.close()


async def test_upgrade(tmp_path: Path, database: str, vhost: str) -> None:
    """A store of the first release is brought up to this one, nothing is pending, and each of its events has one
    effect."""
    (commands,) = steps("Upgrade")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("DROP SCHEMA eventstore CASCADE")
        await make_first_release(connection)
    finally:
        await connection.close()
    desk = Desk(tmp_path, database)
    look, migrate, look_again = commands.splitlines()
    assert "pending" in await desk.shell(look, code=1)
    await desk.shell(migrate)
    assert "pending" not in await desk.shell(look_again)
    async with EventStore(database) as store, projecting_anew(store, vhost):
        assert len(await store.read_all_streams_forward()) == 10
        await until_each_event_has_its_effect(store)


async def test_the_broker_is_replaced(
    desk: Desk, store: EventStore, rabbitmq: RabbitMQServer, management: Management
) -> None:
    """Each event that was committed before, meanwhile and after has one effect; a plain consumer's new queue gets the
    replay that it asks for."""
    commands, replay = steps("Replace the broker")
    export, relay, consume = commands.splitlines()
    positions = await more(store)
    async with desk.running(relay), desk.running(consume):
        await until_each_event_has_its_effect(store)
    positions += await more(store)
    new = f"new-{secrets.token_hex(6)}"
    await management.create_vhost(new)
    url = f"{rabbitmq.amqp_url.rstrip('/')}/{new}"
    async with (
        desk.running(f"{export}\n{relay}", NEW_AMQP_URL=url),
        desk.running(f"{export}\n{consume}", NEW_AMQP_URL=url),
    ):
        positions += await more(store)
        await until_each_event_has_its_effect(store)
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            ledger = await channel.declare_queue("ledger", durable=True)
            await desk.shell(f"{export}\n{replay}", NEW_AMQP_URL=url, POSITION=positions[-6])
            messages = [await ledger.get(no_ack=True) for _ in range(3)]
            sent = [int(event["sequence"]) for message in messages for event in json.loads(message.body)]
            assert sent == positions[-6:]
            assert await ledger.get(fail=False) is None
    await management.delete_vhost(new)


async def test_a_subscription_is_looked_at_moved_and_removed(desk: Desk, store: EventStore) -> None:
    """Its subscription is stopped, following, moved back once its effects from there on were undone, so that each event
    has one effect again, and removed with its queue. Without an answer it is neither moved nor removed."""
    look, reset, delete = steps("A subscription that stands still, or is lost")
    positions = await more(store)
    async with desk.running("trunkline consume billing:consumer"):
        await until_each_event_has_its_effect(store)
        assert "billing  $all  following" in await desk.shell(look)
    assert "8 events come again?" in await desk.shell(reset.removesuffix(" --yes"), code=2, POSITION=positions[7])
    await store.fetch("DELETE FROM public.effects WHERE position > $1", positions[7])
    assert "8 events come again" in await desk.shell(reset, POSITION=positions[7])
    async with desk.running("trunkline consume billing:consumer"):
        await until_each_event_has_its_effect(store)
    assert "billing  $all  stopped" in await desk.shell(look)
    assert "Delete 'billing' with its checkpoint" in await desk.shell(delete.removesuffix(" --yes"), code=2)
    assert await desk.shell(delete) == "billing is deleted\n"
    assert await store.subscriptions.list() == []
    await until_each_event_has_its_effect(store)


async def test_a_poison_event_is_parked_and_handled_later(desk: Desk, store: EventStore) -> None:
    """It is shown with its reason, while the others have their effects. Once the handler is mended, it has its own, and
    so do the batches behind it. A discarded one has none, and no event has two."""
    look, decide, _ = steps("A poison event")
    retry, discard = decide.splitlines()

    async def parked(count: int) -> bool:
        try:
            return len(await store.subscriptions.parked("billing")) == count
        except SubscriptionNotFound:
            return False

    bad = await append(store, "order-42", "E") + await append(store, "order-42", "E")
    await more(store)
    async with desk.running("trunkline consume billing:consumer"):
        await until(lambda: parked(2))
        await until_each_event_has_its_effect(store, but=set(bad))
        shown = await desk.shell(look)
        assert re.search(rf"{bad[0]} +order-42 +1 attempts: FileNotFoundError", shown)
        assert re.search(rf"{bad[1]} +order-42 +waits behind its key", shown)
        (desk.folder / "mended").touch()
        await desk.shell(retry)
        await until_each_event_has_its_effect(store)
        (desk.folder / "mended").unlink()
        (worse,) = await append(store, "order-42", "E")
        await until(lambda: parked(1))
        await desk.shell(discard, POSITION=worse)
        await until(lambda: parked(0))
        (desk.folder / "mended").touch()
        await append(store, "order-42", "E")
        await until_each_event_has_its_effect(store, but={worse})


async def test_a_poison_event_that_halts_is_skipped(desk: Desk, store: EventStore) -> None:
    """Batches of other streams that were finished above it have one effect each, before and after; the skipped one has
    none."""
    *_, skip = steps("A poison event")
    consume = "trunkline consume billing:consumer"
    before = await more(store, "a-1", "a-2")
    bad = await append(store, "order-42", "E")
    after = await more(store)
    halts: dict[str, str] = {"ON_FAILURE": "halt"}
    assert "halted at position" in await desk.shell(consume, code=1, **halts)
    assert "Skip the batch at" in await desk.shell(skip.removesuffix(" --yes"), code=2)
    await desk.shell(skip)
    later = await more(store, "a-1")
    async with desk.running(consume, **halts):
        await until_each_event_has_its_effect(store, but=set(bad))
    assert await committed_positions(store) == before + bad + after + later


async def test_rabbitmqs_disk_is_full_and_has_room_again(database: str) -> None:
    """Meanwhile the relay says that it is blocked, writers go on and the subscription reads the store; afterwards the
    relay goes on, and every event was handled in order, once."""
    (room,) = steps("A full disk")
    program, *arguments = shlex.split(room)
    assert program == "rabbitmqctl"
    with rabbitmq_server(private=True) as broker:
        async with relay_running(database, broker.amqp_url) as relay:
            async with (
                Flow(database, broker.amqp_url, relay=False) as flow,
                projecting_anew(flow.store, broker.amqp_url),
            ):
                await flow.more()
                await asyncio.to_thread(broker.ctl, "set_disk_free_limit", "1000000GB")
                await flow.until(lambda: blocked(relay) == 1)
                await flow.more()
                await asyncio.to_thread(broker.ctl, *arguments)
                await flow.until(lambda: blocked(relay) == 0)
                await flow.more()
                last = (await flow.finish())[-1]
                await recorded(flow.store, last)
                await until_each_event_has_its_effect(flow.store)


def blocked(relay: Relay) -> float | None:
    """What the relay says to Prometheus."""
    return relay.metrics.registry.registry.get_sample_value("trunkline_relay_blocked", {"store": "eventstore"})
