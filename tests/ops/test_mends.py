"""The mends that `trunkline doctor` prints, run as they are printed: events and effects are counted before and
after."""

import ast
import asyncio
import json
import re
import shlex
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest
from typer.testing import CliRunner

from tests.ops.printed import commands
from tests.relay.plain import append, plain, recorded
from tests.whole.flow import relay_running
from trunkline_consumer import Batch, Consumer
from trunkline_ops.commands import app
from trunkline_ops.doctor import Finding, broker_checks, examine
from trunkline_ops.doctor.broker_facts import BrokerFacts, Queue
from trunkline_ops.management import Management
from trunkline_ops.servers import RabbitMQServer, rabbitmq_server
from trunkline_ops.settings import Settings
from trunkline_store import ANY_VERSION, EventData, EventStore, SubscriptionHalted, SubscriptionNotFound

DOCTOR = Path(broker_checks.__file__).parent
LEASE = "INSERT INTO eventstore.leases (name, owner, epoch, length, until) VALUES"
RELAYED = "INSERT INTO eventstore.relays (name, position, updated_at) VALUES ('relay', {}, now() - interval '1 hour');"
AHEAD = 1_000_000


@dataclass
class Mend:
    """Damage to a store, whose mend is run. asks: the mend says what it repeats or skips, and does not run without
    --yes. repeats: events may be handled a second time. stays: the mend only shows something."""

    seed: str
    asks: bool = False
    repeats: bool = False
    deletes: bool = False
    stays: bool = False
    patience: float = 3600


@dataclass
class By:
    """The test that plays the mend."""

    test: str


@dataclass
class Hand:
    """A mend that is no command, or touches neither a store nor a queue, and the reason."""

    why: str


MENDS: dict[str, Mend | By | Hand] = {
    # the server
    "postgres-version": Hand("words"),
    "database-replica": Hand("tests/whole/test_failover.py promotes"),
    "durability-off": Hand("a setting of the whole server, which holds the other tests' databases"),
    "isolation-default": Mend("ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"),
    "transactions-not-looked-at": Hand("a right to look"),
    "transaction-holds": By("test_a_session_that_is_ended_loses_what_it_has_not_committed_alone"),
    "transaction-idle": By("test_a_session_that_is_ended_loses_what_it_has_not_committed_alone"),
    "transaction-prepared": By("test_a_prepared_transaction_ends_as_its_manager_says"),
    "session-blocks": By("test_a_session_that_blocks_appends_is_named_and_can_be_ended"),
    "standby-missing": Hand("a setting of the whole server: tests/ops/test_waits.py runs it on one of its own"),
    "connections-exhausted": Hand("words"),
    # the schema
    "schema-missing": By("test_a_missing_store_is_made"),
    "schema-old": Hand("tests/whole/test_runbook.py migrates"),
    "schema-new": Hand("words"),
    "store-row": Hand("words: tests/whole/test_restore.py restores"),
    "store-not-looked-at": Hand("words"),
    "table-missing": Hand("words: tests/whole/test_restore.py restores"),
    "function-missing": Hand("words: tests/whole/test_restore.py restores"),
    "sequence-cache": Mend("ALTER SEQUENCE eventstore.blocks CACHE 10", asks=True, repeats=True),
    "sequence-options": Mend("ALTER SEQUENCE eventstore.blocks INCREMENT 2"),
    "sequence-behind": Mend("SELECT setval('eventstore.blocks', 2)", asks=True, repeats=True),
    "index-missing": Mend("DROP INDEX eventstore.events_category"),
    "index-invalid": Mend(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'eventstore.events_pkey'::regclass"
    ),
    "trigger-missing": Mend("DROP TRIGGER links_are_immutable ON eventstore.links"),
    "trigger-disabled": Mend("ALTER TABLE eventstore.events DISABLE TRIGGER events_are_immutable"),
    # rights
    "roles-none": Hand("a note: rights touch no row; tests/ops/test_doctor.py runs the command"),
    "role-missing": Hand("rights touch no row; tests/ops/test_doctor.py runs the command"),
    "rights-missing": Hand("rights touch no row; tests/ops/test_doctor.py runs the command"),
    "login-settings": Hand("rights touch no row; tests/ops/test_doctor.py runs the command"),
    "row-security-off": Mend("ALTER TABLE eventstore.leases DISABLE ROW LEVEL SECURITY"),
    "search-path-open": Mend("GRANT CREATE ON SCHEMA public TO PUBLIC"),
    "rights-bypass": Mend("GRANT UPDATE ON SEQUENCE eventstore.blocks TO pg_monitor"),
    "rights-public": Mend("GRANT SELECT ON eventstore.events TO PUBLIC"),
    # who is at work
    "lease-orphan": Mend(f"{LEASE} ('subscription 7', gen_random_uuid(), 1, '5 s', '-infinity')"),
    "lease-future": Hand("words"),
    "lease-dead": Mend(
        "UPDATE eventstore.leases SET until = now() - interval '9 s' WHERE name = 'subscription 1'",
        asks=True,
        deletes=True,
    ),
    "relay-none": Hand("starts a program: tests/whole/test_runbook.py does"),
    "relay-absent": Hand("starts a program: tests/whole/test_runbook.py does"),
    "relay-stalled": Hand("words"),
    "relay-blocked": Hand("words"),
    "relay-ahead": By("test_a_relay_beyond_the_end_publishes_all_that_it_has_passed_over"),
    "checkpoint-ahead": Mend(
        f"UPDATE eventstore.subscriptions SET checkpoint = {AHEAD}, finished = '{{}}'", asks=True, repeats=True
    ),
    "subscription-stopped": Mend("SELECT 1", asks=True, deletes=True, patience=0),
    "subscription-stalled": Hand("words"),
    "subscription-halted": By("test_a_halted_subscription_goes_on_without_its_batch"),
    "subscription-parked": Mend(
        "INSERT INTO eventstore.parked (subscription_id, first_position, last_position, stream, attempts) "
        "VALUES (1, 2048, 2048, 'a-1', 3)",
        stays=True,
    ),
    # RabbitMQ
    "broker-not-named": Hand("a setting"),
    "broker-not-looked-at": Hand("a right to look"),
    "broker-unreachable": Hand("words"),
    "management-refuses": Hand("a password, which a person knows"),
    "login-refused": Hand("a password, which a person knows"),
    "rabbitmq-version": Hand("words"),
    "vhost-missing": By("test_what_rabbitmq_lacks_is_made"),
    "publisher": Hand("a note on who may publish, and a right to take back: nothing in the store"),
    "publisher-by-tag": Hand("a note on who may publish, and a tag to take back: nothing in the store"),
    "permissions": By("test_what_rabbitmq_lacks_is_made"),
    "alarm-memory": Hand("words"),
    "alarm-disk": Hand("words: tests/whole/test_runbook.py has an alarm"),
    "node-down": Hand("words"),
    "node-partitioned": Hand("words"),
    "exchange-missing": Hand("starts programs: tests/whole/test_faults.py deletes exchanges"),
    "exchange-kind": Hand("its placeholders are filled in by a person; it says what plain consumers miss"),
    "queue-missing": Hand("words"),
    "queue-arguments": By("test_a_subscriptions_queue_is_only_a_cache"),
    "queue-policy": By("test_a_subscriptions_queue_is_only_a_cache"),
    "binding-missing": By("test_a_subscriptions_queue_is_only_a_cache"),
    "queue-orphan": By("test_a_plain_consumers_queue_is_deleted_only_with_a_word_on_its_messages"),
    "queue-idle": By("test_a_plain_consumers_queue_is_deleted_only_with_a_word_on_its_messages"),
    "queue-down": By("test_a_plain_consumers_queue_is_deleted_only_with_a_word_on_its_messages"),
    "queue-unbounded": By("test_a_limit_drops_no_message_that_is_there"),
    "queue-majority": Hand("words"),
    "queue-too-small": Hand("words"),
    "queue-ttl": Hand("words"),
    "queue-rejects": Hand("words"),
    "consumer-timeout": Hand("words"),
    "delivery-limit": Hand("words"),
    "delivery-limit-default": Hand("words"),
}


def all_codes() -> set[str]:
    """Return the codes of all findings and notes in the doctor's sources."""
    found: set[str] = set()
    for file in DOCTOR.glob("*.py"):
        tree = ast.parse(file.read_text())
        loops = [node.iter for node in ast.walk(tree) if isinstance(node, ast.For)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Finding", "note"):
                given = node.args[0]
                if isinstance(given, ast.Name):  # it is one of those that are gone through
                    found |= {text for loop in loops for text in _constants(loop) if re.fullmatch(r"\w+-\w+", text)}
                else:
                    found |= set(_constants(given))
    return found


def _constants(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_each_finding_has_a_row() -> None:
    """A new finding needs a row that says how its mend is proved, or that it cannot be run; no row belongs to a removed
    finding."""
    assert all_codes() == set(MENDS)
    assert [row.test for row in MENDS.values() if isinstance(row, By) and row.test not in globals()] == []


# --- the store


class Room:
    """A store with a projection of four handlers at once, whose effects are rows, one for each event."""

    def __init__(self, store: EventStore, dsn: str, url: str) -> None:
        self.store = store
        self.dsn = dsn
        self._url = url

    async def begin(self) -> None:
        await self.store.fetch("CREATE TABLE public.effects (position bigint)")
        await self.store.fetch("SELECT nextval('eventstore.blocks') FROM generate_series(1, 12)")  # were rolled back
        await self.more()

    async def more(self) -> None:
        for number in range(8):
            await append(self.store, f"s-{number}", "E", "E")

    async def events(self) -> list[int]:
        return [row[0] for row in await self.store.fetch("SELECT position FROM eventstore.events ORDER BY position")]

    async def effects(self) -> Counter[int]:
        return Counter(row[0] for row in await self.store.fetch("SELECT position FROM public.effects"))

    async def project(self, *, bad: str = "", url: str = "") -> None:
        """Run the projection until all is handled, or until it halts at a stream."""
        async with EventStore(self.dsn) as store, Consumer(store, url or self._url) as consumer:

            @consumer.handler("s", tx=True, concurrency=4, attempts=1, lease=1.0, idle=0.2)
            async def handle(batch: Batch, tx: asyncpg.Connection) -> None:
                if batch.stream == bad:
                    while len(await self.effects()) < len(await self.events()) - len(batch):
                        await asyncio.sleep(0.01)  # between two looks
                    raise ValueError(bad)
                await tx.executemany("INSERT INTO public.effects VALUES ($1)", [(event.position,) for event in batch])

            running = asyncio.create_task(consumer.run())
            try:
                async with asyncio.timeout(60):
                    while not running.done() and await self._left():
                        await asyncio.sleep(0.02)  # between two looks
                if running.done():
                    await running
            finally:
                running.cancel()
                await asyncio.wait([running])

    async def _left(self) -> bool:
        try:
            info = await self.store.subscriptions.get("s")
        except SubscriptionNotFound:
            return True
        return info.owner is None or bool(info.behind) or bool(set(await self.events()) - set(await self.effects()))

    async def doctor(self, code: str, patience: float = 3600, **given: str) -> list[Finding]:
        return [each for each in await examine(self.settings(**given), patience=patience) if each.code == code]

    def settings(self, **given: str) -> Settings:
        return Settings.of(dsn=self.dsn, **given)

    async def run(self, command: str) -> bool:
        """Run a mend; return True if it asked first."""
        if not command.startswith("trunkline "):
            connection = await asyncpg.connect(self.dsn)
            for statement in command.split("; "):  # CONCURRENTLY takes one of its own
                await connection.execute(statement)
            await connection.close()
            return False
        words, asked = [{"NAME": "s"}.get(word, word) for word in shlex.split(command)[1:]], False
        runner = CliRunner(env={"TRUNKLINE_DSN": self.dsn})
        done = await asyncio.to_thread(runner.invoke, app, words)
        if done.exit_code == 2 and "confirm with --yes" in done.output:
            asked = True
            done = await asyncio.to_thread(runner.invoke, app, [*words, "--yes"])
        assert done.exit_code == 0, done.output
        return asked


@pytest.fixture
async def room(store: EventStore, database: str, vhost: str) -> Room:
    """A store with events, all of which are handled."""
    made = Room(store, database, vhost)
    await made.begin()
    await made.project()
    return made


_RUN = {code: mend for code, mend in MENDS.items() if isinstance(mend, Mend)}


@pytest.mark.parametrize("code", _RUN)
async def test_a_mend_loses_no_event_and_no_effect(code: str, room: Room) -> None:
    """Events that were stored before and during the damage are there afterwards, and have their effect once; or, if the
    mend has said so and was confirmed, at least once."""
    mend = _RUN[code]
    connection = await asyncpg.connect(room.dsn)
    await connection.execute(mend.seed.replace("{database}", urlsplit(room.dsn).path.removeprefix("/")))
    await connection.close()
    await room.more()  # while it is broken
    before = await room.events()
    (finding,) = await room.doctor(code, mend.patience)
    assert commands(finding.mend), finding.mend
    asked = [await room.run(command) for command in commands(finding.mend)]
    assert any(asked) == mend.asks
    assert bool(await room.doctor(code)) == mend.stays
    if mend.deletes:
        assert await room.store.subscriptions.list() == []
    else:
        await room.project()
        effects = await room.effects()
        assert set(effects) == set(before)
        assert mend.repeats or set(effects.values()) == {1}
    assert await room.events() == before


async def test_the_sequence_is_never_set_back_by_its_mend(room: Room) -> None:
    """The mend is run again after more appends: no position is given a second time."""
    connection = await asyncpg.connect(room.dsn)
    await connection.execute("SELECT setval('eventstore.blocks', 2)")
    (finding,) = await room.doctor("sequence-behind")
    command = commands(finding.mend)[0]
    await room.run(command)
    await room.more()
    drawn = await connection.fetchval("SELECT last_value FROM eventstore.blocks")
    await room.run(command)
    assert await connection.fetchval("SELECT last_value FROM eventstore.blocks") == drawn
    await connection.close()


async def test_a_missing_store_is_made(room: Room) -> None:
    """The mend first mentions the backup, from which lost events would come."""
    await room.store.fetch("DROP SCHEMA eventstore CASCADE")
    (finding,) = await room.doctor("schema-missing")
    assert "backup" in finding.mend
    for command in commands(finding.mend):
        await room.run(command)
    assert await room.doctor("schema-missing") == []


@pytest.mark.parametrize("code", ["transaction-holds", "transaction-idle"])
async def test_a_session_that_is_ended_loses_what_it_has_not_committed_alone(room: Room, code: str) -> None:
    """The mend says that this is rolled back. If that transaction has already ended, the pasted command ends no
    session."""
    before = await room.events()
    async with EventStore(room.dsn) as other, other.acquire() as holding:
        transaction = holding.transaction()
        await transaction.start()
        if code == "transaction-holds":
            await other.append_to_stream("held-1", ANY_VERSION, [EventData("E", 1)], connection=holding)
        else:
            await holding.execute("SELECT 1")
        (finding,) = await room.doctor(code, 0)
        assert "rolls" in finding.mend
        (command,) = commands(finding.mend)
        await transaction.rollback()
        await room.run(command)
        assert await holding.fetchval("SELECT 1") == 1
        transaction = holding.transaction()
        await transaction.start()
        if code == "transaction-holds":
            await other.append_to_stream("held-1", ANY_VERSION, [EventData("E", 1)], connection=holding)
        else:
            await holding.execute("SELECT 1")
        await room.more()
        (finding,) = await room.doctor(code, 0)
        await room.run(commands(finding.mend)[0])
        assert await room.doctor(code, 0) == []
    await room.project()
    assert len(await room.events()) == len(before) + 16
    assert await room.effects() == Counter(await room.events())


async def test_a_session_that_blocks_appends_is_named_and_can_be_ended(room: Room) -> None:
    """Appends that waited for it are stored then, and each event has one effect."""
    before = await room.events()
    async with EventStore(room.dsn) as other, other.acquire() as holding:
        await holding.execute("BEGIN; LOCK TABLE eventstore.streams IN EXCLUSIVE MODE")
        waiting = asyncio.create_task(room.more())
        async with asyncio.timeout(60):
            while not (found := await room.doctor("session-blocks", 1)):
                await asyncio.sleep(0.05)  # between two looks
        (command,) = commands(found[0].mend)
        await room.run(command)
        await waiting
    await room.project()
    assert len(await room.events()) == len(before) + 16
    assert await room.effects() == Counter(await room.events())


async def test_a_prepared_transaction_ends_as_its_manager_says(room: Room) -> None:
    """The mend names both commands and what each does with the events; the first one keeps them."""
    before, name = await room.events(), f"mend-{urlsplit(room.dsn).path[1:]}"
    connection = await asyncpg.connect(room.dsn)
    await connection.execute("BEGIN")
    await room.store.append_to_stream("prepared-1", ANY_VERSION, [EventData("E", 1)], connection=connection)
    await connection.execute(f"PREPARE TRANSACTION '{name}'")
    await connection.close()
    (finding,) = await room.doctor("transaction-prepared", 0)
    assert f"ROLLBACK PREPARED '{name}' discards it" in finding.mend
    (command,) = commands(finding.mend)
    await room.run(command.partition(" keeps")[0])
    await room.project()
    assert len(await room.events()) == len(before) + 1
    assert await room.effects() == Counter(await room.events())


async def test_a_relay_beyond_the_end_publishes_all_that_it_has_passed_over(room: Room, vhost: str) -> None:
    """Each event that was appended before the mend reaches a plain consumer, and so do later ones."""
    await room.store.fetch(RELAYED.format(AHEAD))
    before = await room.events()
    async with plain(vhost, "#") as consumer:
        (finding,) = await room.doctor("relay-ahead")
        for command in commands(finding.mend):
            await room.run(command)
        assert await room.doctor("relay-ahead") == []
        async with relay_running(room.dsn, vhost):
            (after,) = await append(room.store, "a-1", "E")
            await recorded(room.store, after)
            await consumer.until(len(before) + 1)
        assert sorted(consumer.positions) == [*before, after]


async def test_a_halted_subscription_goes_on_without_its_batch(room: Room) -> None:
    """The batch is shown, then skipped: every other event has its effect once, also those that were finished above
    it."""
    bad = await append(room.store, "bad-1", "E")
    await room.more()
    with pytest.raises(SubscriptionHalted):
        await room.project(bad="bad-1")
    (finding,) = await room.doctor("subscription-halted")
    show, skip = commands(finding.mend)
    assert not await room.run(show)
    assert await room.run(skip)
    assert await room.doctor("subscription-halted") == []
    good = Counter(set(await room.events()) - set(bad))
    assert await room.effects() == good
    await room.store.fetch("INSERT INTO public.effects VALUES ($1)", bad[0])  # nobody else will: it ends the waiting
    await append(room.store, "s-1", "E")
    await room.project(bad="bad-1")
    assert await room.effects() == Counter(await room.events())


# --- the broker


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitMQServer]:
    """A RabbitMQ of the test's own, for rabbitmqctl."""
    with rabbitmq_server(private=True) as server:
        yield server


@asynccontextmanager
async def vhost_on(broker: RabbitMQServer, name: str) -> AsyncIterator[tuple[str, aio_pika.abc.AbstractChannel]]:
    """Make a vhost with the store's exchanges; give its URL, and a channel."""
    async with Management(broker.management_url, broker.user, broker.password) as management:
        await management.create_vhost(name)
    url = urlsplit(broker.amqp_url)._replace(path=f"/{name}").geturl()
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for exchange in ("eventstore", "eventstore.links"):
            await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True)
        yield url, channel


async def found(room: Room, broker: RabbitMQServer, url: str, code: str) -> Finding:
    """Return the findings once the management API knows them, which is seconds late."""
    async with asyncio.timeout(60):
        while not (seen := await room.doctor(code, amqp_url=url, management_url=broker.management_url)):
            await asyncio.sleep(0.2)  # between two looks
    return seen[0]


async def ctl(broker: RabbitMQServer, mend: str) -> None:
    """Run the rabbitmqctl commands of a mend."""
    program, *words = shlex.split(commands(mend[mend.index("rabbitmqctl") :])[0])
    assert program == "rabbitmqctl"
    await asyncio.to_thread(broker.ctl, *words)


@pytest.mark.parametrize("code", ["queue-arguments", "binding-missing", "queue-policy"])
async def test_a_subscriptions_queue_is_only_a_cache(room: Room, broker: RabbitMQServer, code: str) -> None:
    """The queue is deleted with messages in it, or its policy cleared, and its subscription handles each event once."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum", "x-overflow": "drop-head", "x-max-length": 100_000, "x-expires": 604_800_000,
        "x-max-length-bytes": 256 * 1024 * 1024,
    }  # fmt: skip
    async with vhost_on(broker, code) as (url, channel):
        given = {} if code == "queue-arguments" else arguments
        queue = await channel.declare_queue("eventstore.s", durable=True, arguments=given)
        await queue.bind("eventstore", "s.#" if code == "binding-missing" else "#")
        if code == "queue-policy":
            policy = ["set_policy", "short", ".*", '{"max-length": 2}', "--apply-to", "queues"]
            await asyncio.to_thread(broker.ctl, "-p", code, *policy)
        async with relay_running(room.dsn, url):
            await room.more()
            await recorded(room.store, (await room.events())[-1])
        finding = await found(room, broker, url, code)
        await ctl(broker, finding.mend)
        await room.project(url=url)
    assert await room.effects() == Counter(await room.events())


@pytest.mark.parametrize("code", ["queue-orphan", "queue-idle"])
async def test_a_plain_consumers_queue_is_deleted_only_with_a_word_on_its_messages(
    room: Room, broker: RabbitMQServer, code: str
) -> None:
    """The text before the command states the condition: nobody wants the queue's messages. The store keeps all
    events."""
    before = await room.events()
    async with vhost_on(broker, code) as (url, channel):
        name = "eventstore.gone" if code == "queue-orphan" else "plain"
        queue = await channel.declare_queue(name, durable=True, arguments={"x-max-length": 100})
        await queue.bind("eventstore", "#")
        await channel.default_exchange.publish(aio_pika.Message(b"x"), name)
        finding = await found(room, broker, url, code)
        assert "messages in it" in finding.mend.partition("rabbitmqctl")[0]
        await ctl(broker, finding.mend)
    assert await room.events() == before


async def test_a_limit_drops_no_message_that_is_there(room: Room, broker: RabbitMQServer) -> None:
    """The policy drops no message of the queue. For a queue that holds more than the usual limit, the limit is above
    that."""
    async with vhost_on(broker, "unbounded") as (url, channel):
        queue = await channel.declare_queue("plain", durable=True)
        await queue.bind("eventstore", "#")
        for _ in range(20):
            await channel.default_exchange.publish(aio_pika.Message(b"x" * 1000), "plain")
        finding = await found(room, broker, url, "queue-unbounded")
        await ctl(broker, finding.mend)
        async with Management(broker.management_url, broker.user, broker.password) as management:
            async with asyncio.timeout(60):
                while not (await management.queue("unbounded", "plain")).get("policy"):
                    await asyncio.sleep(0.1)  # between two looks
        again = await channel.declare_queue("plain", durable=True)
        assert again.declaration_result.message_count == 20
    full = Queue("plain", "classic", False, "running", {}, "", {}, 300_000, 300_000, 2**30, 0, 0, 0)
    facts = BrokerFacts("4.0.5", "v", True, "u", "u", {}, [full], [], None, [], {}, None, None)
    limits = json.loads(shlex.split(broker_checks._limit(facts, full))[-1])
    assert limits["max-length"] > full.messages
    assert limits["max-length-bytes"] > full.message_bytes


async def test_what_rabbitmq_lacks_is_made(room: Room, broker: RabbitMQServer) -> None:
    """The mends make a vhost, and a user's permissions in it."""
    url = urlsplit(broker.amqp_url)._replace(path="/anew").geturl()
    await ctl(broker, (await found(room, broker, url, "vhost-missing")).mend)
    finding = await found(room, broker, url, "permissions")
    await ctl(broker, finding.mend.partition("; for a")[0])
    async with relay_running(room.dsn, url):
        pass
