"""`trunkline doctor`: each seeded defect is found, by its name, and nothing on a healthy system."""

import asyncio
import json
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import ChannelAccessRefused
from typer.testing import CliRunner

from tests.ops.printed import commands
from tests.ops.test_cli import environment
from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import Consumer
from trunkline_ops import management
from trunkline_ops.commands import app
from trunkline_ops.definitions import definitions
from trunkline_ops.doctor import Finding, database_facts
from trunkline_ops.doctor import examine as examined
from trunkline_ops.doctor.broker_checks import broker_findings
from trunkline_ops.doctor.broker_facts import Binding, BrokerFacts, Connection, Exchange, Node, Permission, Queue
from trunkline_ops.doctor.promised import Key, promise, rights
from trunkline_ops.management import Management
from trunkline_ops.servers import PostgresServer, RabbitMQServer, postgres_server
from trunkline_ops.settings import Settings
from trunkline_store import ANY_VERSION, EventData, EventStore
from trunkline_store.lease import Lease
from trunkline_store.migrate import initialise, latest
from trunkline_store.overview import Overview
from trunkline_store.presence import client_properties
from trunkline_store.queries import for_store
from trunkline_store.rights import Role
from trunkline_store.roles import make_roles

NOISE = {"durability-off"}
"""The tests' PostgreSQL runs without fsync, which the doctor tells, as it should."""


@pytest.fixture(autouse=True)
def nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test says: nothing of whoever runs it."""
    for name in environment(None):
        if name.startswith("TRUNKLINE_"):
            monkeypatch.delenv(name, raising=False)


async def examine(settings: Settings, patience: float = 15.0) -> list[Finding]:
    """As the command asks by itself."""
    return await examined(settings, patience=patience)


def codes(found: list[Finding]) -> set[str]:
    """Of all findings, without notes."""
    return {each.code for each in found if each.level == "finding"} - NOISE


async def until(look: Callable[[], Awaitable[list[Finding]]], expected: set[str]) -> list[Finding]:
    """The findings, once they are these: RabbitMQ's management API is seconds behind."""
    found: list[Finding] = []
    for _ in range(200):
        found = await look()
        if codes(found) == expected:
            return found
        await asyncio.sleep(0.1)  # between two looks
    raise AssertionError(f"{expected} never came, but {found}")


async def until_said(settings: Settings, code: str, said: str) -> list[Finding]:
    """Those of this code, once they say so: the management API is seconds behind."""
    async with asyncio.timeout(60):
        while True:
            found = [each for each in await examine(settings) if each.code == code]
            if found and all(said in each.problem for each in found):
                return found
            await asyncio.sleep(0.2)  # between two looks


# --- healthy


async def acknowledged(message: AbstractIncomingMessage) -> None:
    await message.ack()


async def test_nothing_is_found_on_a_healthy_system(rabbitmq: RabbitMQServer, vhost: str) -> None:
    """A store with its roles, on a server that keeps what it is given; a relay that leads; subscriptions of all three
    kinds that are followed, one that was left and is done; a bounded queue of a plain consumer."""
    with postgres_server(private=True) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        await initialise(connection)
        await make_roles(connection)
        await connection.execute('CREATE ROLE shop LOGIN; GRANT "postgres.eventstore.writer" TO shop')
        await connection.close()
        runner = CliRunner(env=environment(postgres.dsn))
        made = await asyncio.to_thread(runner.invoke, app, ["roles", "--login", "shop", "--as", "writer"])
        assert made.exit_code == 0, made.output
        settings = Settings.of(dsn=postgres.dsn, amqp_url=vhost, management_url=rabbitmq.management_url)
        async with EventStore(postgres.dsn) as store, relay_running(postgres.dsn, vhost, lease=5.0):
            async with await aio_pika.connect(vhost) as amqp, amqp.channel() as channel:
                queue = await channel.declare_queue(
                    "plain",
                    durable=True,
                    arguments={"x-queue-type": "quorum", "x-max-length": 1000, "x-dead-letter-exchange": "dead"},
                )
                await channel.declare_exchange("eventstore", aio_pika.ExchangeType.TOPIC, durable=True)
                await queue.bind("eventstore", "#")
                await queue.consume(acknowledged)
                async with (
                    Consumer(store, vhost) as consumer,
                    consumer.subscribe_to_all_streams("all", options=QUICK) as everything,
                    consumer.subscribe_to_category("category", "order", options=QUICK),
                    consumer.subscribe_to_stream("stream", "order-1", options=QUICK),
                ):
                    async with consumer.subscribe_to_stream("left", "none-1", options=QUICK):
                        pass
                    last = await store.append_to_stream("user-1", ANY_VERSION, [EventData("E", n) for n in range(20)])
                    async for batch in everything:
                        await batch.ack()
                        if batch[-1].position == last.last_position:
                            break
                    await store.subscriptions.wait_for("all", last.last_position)
                    found = await until(lambda: examine(settings), set())
                    assert codes(found) == set()
                    # administrators are the broker's: another test may have made one
                    assert {each.code for each in found} <= {"delivery-limit-default", "publisher-by-tag"}
        await asyncio.to_thread(postgres.stop)


async def test_without_a_management_url_it_says_what_it_did_not_look_at(database: str) -> None:
    """The database alone is examined; RabbitMQ is a note, and no finding."""
    found = await examine(Settings.of(dsn=database))
    assert codes(found) == set()
    assert {each.code for each in found if each.level == "note"} >= {"broker-not-named", "roles-none"}


async def test_what_is_promised_is_read_from_the_sql(database: str) -> None:
    """Tables, functions, indexes, keys and triggers are those of a fresh store, and none is overlooked. And the
    rights of the roles."""
    promised = promise()
    connection = await asyncpg.connect(database)
    sql = {name: for_store(text, "eventstore", "json") for name, text in database_facts._FACTS.items()}
    relations = await connection.fetch(sql["relations"])
    keys = {Key(row["table"], row["kind"], tuple(row["columns"])) for row in await connection.fetch(sql["keys"])}
    functions = {row["name"] for row in await connection.fetch(sql["functions"])}
    triggers = {row["name"] for row in await connection.fetch(sql["triggers"])}
    await connection.close()
    assert promised.tables == {row["name"] for row in relations if row["kind"] == "table"}
    assert {*promised.indexes, *promised.keys.values()} == {row["name"] for row in relations if row["kind"] == "index"}
    assert set(promised.keys) == keys
    assert promised.functions == functions
    assert set(promised.triggers) == triggers
    assert ("writer", "EXECUTE", "function", "append_v1", "") in rights()
    assert ("relay", "UPDATE", "table", "leases", "") in rights()
    assert ("reader", "SELECT", "table", "standbys", "") in rights()
    assert {
        ("relay", "EXECUTE", "function", "durable_v1", ""),
        ("consumer", "EXECUTE", "function", "durable_v1", ""),
    } <= rights()
    assert not any(right.name == "events" and right.privilege != "SELECT" for right in rights())


# --- the database

EVENTS = [EventData("E", n) for n in range(3)]
LEASE = "INSERT INTO eventstore.leases (name, owner, epoch, length, until) VALUES"
SUBSCRIBED = "INSERT INTO eventstore.subscriptions (name, feed, checkpoint) VALUES ('s', '$all', {});"
NONE_LEFT = SUBSCRIBED.format("(SELECT max(position) FROM eventstore.events)")
RELAYED = "INSERT INTO eventstore.relays (name, position, updated_at) VALUES ('relay', {}, now() - interval '1 hour');"


@dataclass
class Seed:
    """What is done to a store with a few events, and what is to be found then, alone or with others."""

    code: str
    sql: str
    also: frozenset[str] = frozenset()
    patience: float = 3600


UNSEEN = frozenset({"store-not-looked-at"})

DATABASE = [
    Seed("schema-missing", "DROP SCHEMA eventstore CASCADE"),
    Seed("schema-old", f"DELETE FROM eventstore.schema_migrations WHERE version = {latest()}"),
    Seed("schema-new", "INSERT INTO eventstore.schema_migrations (version, name) VALUES (1000000, 'later')"),
    Seed("sequence-cache", "ALTER SEQUENCE eventstore.blocks CACHE 10", also=UNSEEN),
    Seed("sequence-options", "ALTER SEQUENCE eventstore.blocks INCREMENT 2"),
    Seed("sequence-options", "ALTER SEQUENCE eventstore.blocks CYCLE"),
    Seed("sequence-behind", "SELECT setval('eventstore.blocks', 1)"),
    Seed("sequence-behind", "ALTER SEQUENCE eventstore.blocks RESTART"),
    Seed("sequence-behind", "ALTER SEQUENCE eventstore.blocks RESTART WITH 7"),
    Seed("store-row", "SET session_replication_role = replica; DELETE FROM eventstore.store", also=UNSEEN),
    Seed("table-missing", "DROP TABLE eventstore.snapshots"),
    Seed("function-missing", "DROP FUNCTION eventstore.delete_v1"),
    Seed("index-missing", "DROP INDEX eventstore.events_category"),
    Seed("index-missing", "ALTER TABLE eventstore.events DROP CONSTRAINT events_event_id"),
    Seed("index-missing", "ALTER TABLE eventstore.events DROP CONSTRAINT events_pkey"),
    Seed("index-missing", "ALTER TABLE eventstore.streams DROP CONSTRAINT streams_stream_key"),
    Seed("index-missing", "ALTER TABLE eventstore.parked DROP CONSTRAINT parked_pkey"),
    Seed("table-missing", "DROP TABLE eventstore.standbys"),
    Seed("index-invalid", "CREATE INDEX events_category_ccnew ON eventstore.events (category, position); "
         "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'eventstore.events_category_ccnew'::regclass"),
    Seed("index-invalid", "UPDATE pg_index SET indisvalid = false "
         "WHERE indexrelid = 'eventstore.events_pkey'::regclass"),
    Seed("index-invalid", "UPDATE pg_index SET indisvalid = false "
         "WHERE indexrelid = 'eventstore.events_created_at'::regclass"),
    Seed("trigger-missing", "DROP TRIGGER links_are_immutable ON eventstore.links"),
    Seed("trigger-disabled", "ALTER TABLE eventstore.events DISABLE TRIGGER events_are_immutable"),
    Seed("row-security-off", "ALTER TABLE eventstore.leases DISABLE ROW LEVEL SECURITY"),
    Seed("isolation-default", "ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"),
    Seed("search-path-open", "GRANT CREATE ON SCHEMA public TO PUBLIC"),
    Seed("rights-public", "GRANT EXECUTE ON FUNCTION eventstore.hard_delete_v1 TO PUBLIC"),
    Seed("rights-public", "GRANT SELECT ON eventstore.events TO PUBLIC"),
    Seed("rights-public", "GRANT USAGE ON SEQUENCE eventstore.blocks TO PUBLIC"),
    Seed("rights-bypass", "GRANT UPDATE ON SEQUENCE eventstore.blocks TO pg_monitor"),
    Seed("lease-dead", f"{RELAYED.format(0)} {LEASE} ('relay', gen_random_uuid(), 1, '5 s', now() - interval '9 s')"),
    Seed("lease-dead", f"{NONE_LEFT} {LEASE} ('subscription 1', gen_random_uuid(), 1, '5 s', now() - interval '9 s')"),
    Seed("lease-future",
         f"{NONE_LEFT} {LEASE} ('subscription 1', gen_random_uuid(), 1, '5 s', now() + interval '1 h')"),
    Seed("lease-orphan", f"{LEASE} ('subscription 7', gen_random_uuid(), 1, '5 s', '-infinity')"),
    Seed("relay-absent", RELAYED.format(0)),
    Seed("relay-stalled", f"{RELAYED.format(0)} {LEASE} ('relay', gen_random_uuid(), 1, '1 h', now() + interval '1 h')",
         patience=0),
    Seed("relay-ahead", RELAYED.format(1_000_000)),
    Seed("checkpoint-ahead", SUBSCRIBED.format(1_000_000)),
    Seed("relay-ahead", f"ALTER SEQUENCE eventstore.blocks RESTART; {RELAYED.format(1_000_000)}",
         also=frozenset({"sequence-behind"})),
    Seed("checkpoint-ahead", f"ALTER SEQUENCE eventstore.blocks RESTART; {SUBSCRIBED.format(1_000_000)}",
         also=frozenset({"sequence-behind"})),
    Seed("subscription-stopped", SUBSCRIBED.format(0), patience=0),
    Seed("subscription-stalled", f"{SUBSCRIBED.format(0)} {LEASE} "
         "('subscription 1', gen_random_uuid(), 1, '1 h', now() + interval '1 h')", patience=0),
    Seed("subscription-halted",
         f"""{SUBSCRIBED.format(0)} UPDATE eventstore.subscriptions SET halted = '{{"error": 1}}'"""),
    Seed("subscription-parked", f"{NONE_LEFT} INSERT INTO eventstore.parked "
         "(subscription_id, first_position, last_position, stream, attempts) VALUES (1, 2048, 2050, 'a-1', 3)"),
]  # fmt: skip


@pytest.mark.parametrize("seed", DATABASE, ids=[f"{n} {seed.code}" for n, seed in enumerate(DATABASE)])
async def test_a_defect_of_the_database_is_found(seed: Seed, database: str) -> None:
    """By its name, with what it means and what mends it, and nothing is found beside it that is not there."""
    async with EventStore(database) as store:
        await store.append_to_stream("a-1", ANY_VERSION, EVENTS)
    connection = await asyncpg.connect(database)
    assert codes(await examine(Settings.of(dsn=database), patience=3600)) == set()
    await connection.execute(seed.sql.replace("{database}", urlsplit(database).path.removeprefix("/")))
    await connection.close()
    found = await examine(Settings.of(dsn=database), patience=seed.patience)
    assert codes(found) == {seed.code} | seed.also
    assert all(each.subject and each.problem and each.means and each.mend for each in found if each.level == "finding")


@pytest.mark.parametrize("seed", [each for each in DATABASE if each.code in (
    "sequence-cache", "sequence-options", "sequence-behind", "index-missing", "index-invalid", "trigger-missing",
    "trigger-disabled", "isolation-default", "search-path-open", "rights-public",
    "row-security-off", "rights-bypass", "lease-orphan", "checkpoint-ahead",
) and each.also <= UNSEEN], ids=lambda seed: seed.code)  # fmt: skip
async def test_what_is_said_to_mend_a_defect_mends_it(seed: Seed, database: str) -> None:
    """The SQL, or the command of trunkline, run as it stands."""
    async with EventStore(database) as store:
        await store.append_to_stream("a-1", ANY_VERSION, EVENTS)
    settings = Settings.of(dsn=database)
    connection = await asyncpg.connect(database)
    await connection.execute(seed.sql.replace("{database}", urlsplit(database).path.removeprefix("/")))
    (finding,) = [each for each in await examine(settings, patience=3600) if each.code == seed.code]
    mend = commands(finding.mend)[0]
    if mend.startswith("trunkline "):
        runner = CliRunner(env=environment(database))
        done = await asyncio.to_thread(runner.invoke, app, [*shlex.split(mend)[1:], "--yes"])
        assert done.exit_code == 0, done.output
    else:
        for statement in mend.split("; "):  # CONCURRENTLY takes one of its own
            await connection.execute(statement)
    await connection.close()
    assert codes(await examine(settings, patience=3600)) == set()


async def test_a_subscription_that_gets_on_is_no_finding(database: str) -> None:
    """Its checkpoint was written just now, and old events are ahead; or long ago, and what is ahead has just come."""
    connection = await asyncpg.connect(database)
    await connection.execute(SUBSCRIBED.format(0))
    await connection.execute(f"{LEASE} ('subscription 1', gen_random_uuid(), 1, '1 h', now() + interval '1 h')")
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    async with EventStore(database) as store:
        await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1, created_at=hour_ago)])
        assert codes(await examine(Settings.of(dsn=database))) == set()
        await connection.execute("UPDATE eventstore.subscriptions SET updated_at = $1", hour_ago)
        assert codes(await examine(Settings.of(dsn=database))) == {"subscription-stalled"}
        done = "UPDATE eventstore.subscriptions SET checkpoint = (SELECT max(position) FROM eventstore.events)"
        await connection.execute(done)
        await store.append_to_stream("a-1", ANY_VERSION, EVENTS)
        assert codes(await examine(Settings.of(dsn=database))) == set()
    await connection.close()


async def test_a_subscription_that_has_just_stopped_is_no_finding(database: str) -> None:
    """As on a developer's machine, or while a program is started again: before its patience is over."""
    connection = await asyncpg.connect(database)
    await connection.execute(SUBSCRIBED.format(0))
    async with EventStore(database) as store:
        await store.append_to_stream("a-1", ANY_VERSION, EVENTS[:1])
        assert codes(await examine(Settings.of(dsn=database), patience=60)) == set()
        found = await examine(Settings.of(dsn=database), patience=0)
    (stopped,) = [each for each in found if each.code == "subscription-stopped"]
    assert stopped.problem.startswith("nobody follows it, and 1 event waits since ")
    await connection.close()


ROLES: list[tuple[str, str]] = [
    ("role-missing", "DROP OWNED BY {eraser}; DROP ROLE {eraser}"),
    ("rights-missing", "REVOKE SELECT ON eventstore.events FROM {reader}"),
    ("rights-missing", "REVOKE EXECUTE ON FUNCTION eventstore.append_v1 FROM {writer}"),
    ("rights-missing", "REVOKE USAGE ON SCHEMA eventstore FROM {reader}"),
    ("rights-bypass", "GRANT INSERT ON eventstore.events TO {writer}"),
    ("login-settings", "ALTER ROLE {login} IN DATABASE {database} RESET ALL"),
]


@pytest.mark.parametrize(("code", "statements"), ROLES, ids=[f"{n} {code}" for n, (code, _) in enumerate(ROLES)])
async def test_a_defect_of_the_roles_is_found_and_mended(
    code: str, statements: str, database: str, logins: Mapping[Role, str]
) -> None:
    """`trunkline roles` is what mends each of them."""
    name = urlsplit(database).path.removeprefix("/")
    login = urlsplit(logins["writer"]).username
    groups = {role: f'"{name}.eventstore.{role}"' for role in logins}
    connection = await asyncpg.connect(database)
    settings = Settings.of(dsn=database)
    assert codes(await examine(settings)) == set()
    await connection.execute(statements.format(database=name, login=login, **groups))
    found = await examine(settings)
    assert codes(found) == {code}
    (mend,) = [each.mend for each in found if each.code == code]
    runner = CliRunner(env=environment(database))
    assert (await asyncio.to_thread(runner.invoke, app, shlex.split(mend)[1:])).exit_code == 0
    if code == "role-missing":  # and its login again a member, whom the fixture removes
        await connection.execute(f'GRANT {groups["eraser"]} TO "{urlsplit(logins["eraser"]).username}"')
        mend = f"trunkline roles --login {urlsplit(logins['eraser']).username} --as eraser"
        assert (await asyncio.to_thread(runner.invoke, app, shlex.split(mend)[1:])).exit_code == 0
    assert codes(await examine(settings)) == set()
    await connection.close()


async def test_open_transactions_are_found(store: EventStore, database: str) -> None:
    """One that has appended; one that is idle; one that is prepared. Those that are young are no finding, nor is one
    that works."""
    settings = Settings.of(dsn=database)
    name = f"doctor-{secrets.token_hex(6)}"
    async with store.transaction() as holding:
        await store.append_to_stream("a-1", ANY_VERSION, EVENTS, connection=holding)
        assert codes(await examine(settings, patience=3600)) == set()
        found = await examine(settings, patience=0)
        assert codes(found) == {"transaction-holds"}
        assert str(holding.get_server_pid()) in found[0].mend or str(holding.get_server_pid()) in found[1].mend
    async with store.transaction() as idle:
        await idle.execute("SELECT 1")
        assert codes(await examine(settings, patience=0)) == {"transaction-idle"}
    async with store.acquire() as connection:
        await connection.execute(f"BEGIN; PREPARE TRANSACTION '{name}'")
        try:
            assert codes(await examine(settings, patience=0)) == {"transaction-prepared"}
        finally:
            await connection.execute(f"ROLLBACK PREPARED '{name}'")
    assert codes(await examine(settings, patience=0)) == set()


async def test_the_stores_owner_is_told_who_holds_the_line(database: str) -> None:
    """Though he may not see how long others' transactions are open: a young writer, or one whom nothing waits for, is
    no finding; one behind whom events have waited for too long is."""
    login = f"owner_{secrets.token_hex(6)}"
    admin, url = await asyncpg.connect(database), urlsplit(database)
    await admin.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{login}'")
    await admin.execute(f'GRANT CREATE ON DATABASE "{url.path[1:]}" TO {login}')
    try:
        owners = url._replace(netloc=f"{login}:{login}@{url.hostname}:{url.port}").geturl()
        connection = await asyncpg.connect(owners)
        await initialise(connection, "owned")
        await connection.close()
        settings = Settings.of(dsn=owners, store="owned")
        async with EventStore(database, schema="owned") as store, store.transaction() as holding:
            await store.append_to_stream("a-1", ANY_VERSION, EVENTS, connection=holding)
            assert codes(await examine(settings, patience=0)) == set()
            await store.append_to_stream("b-1", ANY_VERSION, [EventData("E", 1)])
            assert codes(await examine(settings, patience=3600)) == set()
            found = await examine(settings, patience=0)
            assert codes(found) == {"transaction-holds"}
            assert f"pg_terminate_backend({holding.get_server_pid()})" in found[0].mend + found[1].mend
            assert "transactions-not-looked-at" in {each.code for each in found}
    finally:
        await admin.execute(f"DROP OWNED BY {login} CASCADE; DROP ROLE {login}")
        await admin.close()


EVIL = ["$(touch pwned) `x` 'y'", "-x"]


def words_of(mend: str) -> list[str]:
    """What bash makes of its command."""
    functions = """trunkline() { printf '%s\\0' "$@"; }; rabbitmqctl() { trunkline "$@"; }"""
    script = f"{functions}; {commands(mend)[0]}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tempfile.gettempdir())
    assert ran.stderr == ""
    return ran.stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", EVIL)
async def test_a_mend_is_of_its_subscription_in_its_store_however_it_is_called(name: str, database: str) -> None:
    """A shell takes the name as it is; the one of the same name in another store stays."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "order")
    async with EventStore(database) as store, EventStore(database, schema="order") as other:
        for each in (store, other):
            await each.append_to_stream("a-1", ANY_VERSION, EVENTS)
            await each.fetch(each.sql["create_subscription"], name, "$all", 0)
        settings = Settings.of(dsn=database, store="order")
        seeds = {
            "subscription-stopped": "SELECT 1",
            "subscription-halted": """UPDATE "order".subscriptions SET halted = '{"error": 1}'""",
            "checkpoint-ahead": 'UPDATE "order".subscriptions SET halted = NULL, checkpoint = 1000000',
            "subscription-parked": 'UPDATE "order".subscriptions SET checkpoint = (SELECT max(position) FROM '
            '"order".events); INSERT INTO "order".parked (subscription_id, first_position, last_position, stream, '
            "attempts) VALUES (1, 2048, 2050, 'a-1', 3)",
            "lease-dead": 'DELETE FROM "order".parked; INSERT INTO "order".leases (name, owner, epoch, length, until) '
            "VALUES ('subscription 1', gen_random_uuid(), 1, '5 s', now() - interval '9 s')",
        }
        for code, sql in seeds.items():
            await connection.execute(sql)
            found = await examine(settings, patience=0 if code == "subscription-stopped" else 3600)
            assert codes(found) == {code}
            (mend,) = [each.mend for each in found if each.code == code]
            words = words_of(mend)
            assert words[:1] == ["subscriptions"]
            assert words[2:4] == ["--schema", "order"]
            assert words[-1] == name
        confirmed = [*words[:2], "--yes", *words[2:]]
        done = await asyncio.to_thread(CliRunner(env=environment(database)).invoke, app, confirmed)
        assert done.exit_code == 0, done.output
        assert [each.name for each in await store.subscriptions.list()] == [name]
        assert await other.subscriptions.list() == []
    await connection.close()


async def test_a_mend_in_sql_is_of_its_store_and_quoted(database: str) -> None:
    """A store may be called like a word of SQL, and a row like anything."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "order")
    settings = Settings.of(dsn=database, store="order")
    for sql in (
        """INSERT INTO "order".leases VALUES ($$subscription a'b$$, gen_random_uuid(), 1, '5 s', '-infinity')""",
        'ALTER SEQUENCE "order".blocks CACHE 5',
        'ALTER SEQUENCE "order".blocks RESTART',
        'ALTER TABLE "order".links DROP CONSTRAINT links_once',
        'ALTER TABLE "order".events DISABLE TRIGGER events_are_immutable',
        'GRANT UPDATE ON SEQUENCE "order".blocks TO pg_monitor',
    ):
        await connection.execute(sql)
        (finding,) = [
            each for each in await examine(settings) if each.level == "finding" and each.code not in NOISE | UNSEEN
        ]
        for statement in commands(finding.mend)[0].split("; "):
            await connection.execute(statement)
        assert codes(await examine(settings)) == set()
    await connection.close()


async def test_a_reader_may_ask(database: str, logins: Mapping[Role, str]) -> None:
    """What he may not see is a note; nothing is found that is not there."""
    found = await examine(Settings.of(dsn=logins["reader"]))
    assert codes(found) == set()
    assert "transactions-not-looked-at" in {each.code for each in found}


# --- RabbitMQ

SUBSCRIPTIONS_QUEUE = {
    "x-queue-type": "quorum",
    "x-overflow": "drop-head",
    "x-max-length": 100,
    "x-max-length-bytes": 16 * 1024 * 1024,
    "x-expires": 600_000,
}
BOUNDED = {"x-max-length": 100, "x-max-length-bytes": 16 * 1024 * 1024}
QUORUM = {**BOUNDED, "x-queue-type": "quorum", "x-dead-letter-exchange": "dead"}


@asynccontextmanager
async def broker(url: str) -> AsyncIterator[Any]:
    """A channel, with the store's exchanges declared."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for name in ("eventstore", "eventstore-links"):
            await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
        yield channel


def settings_of(database: str, vhost: str, rabbitmq: RabbitMQServer) -> Settings:
    return Settings.of(dsn=database, amqp_url=vhost, management_url=rabbitmq.management_url)


PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("queue-unbounded", {}),
    ("queue-rejects", {**BOUNDED, "x-overflow": "reject-publish"}),
    ("delivery-limit", {**BOUNDED, "x-queue-type": "quorum", "x-delivery-limit": 5}),
    ("queue-ttl", {**BOUNDED, "x-message-ttl": 60_000}),
    ("queue-too-small", {"x-max-length-bytes": 1000}),
    ("consumer-timeout", {**QUORUM, "x-consumer-timeout": 5000}),
]


@pytest.mark.parametrize(("code", "arguments"), PLAIN, ids=[code for code, _ in PLAIN])
async def test_a_trap_of_a_plain_consumers_queue_is_found(
    code: str, arguments: dict[str, Any], database: str, vhost: str, rabbitmq: RabbitMQServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On whatever page of the answer it is; and nothing is said of one that is declared as the guide says."""
    monkeypatch.setattr(management, "_PAGE", 1)
    async with broker(vhost) as channel:
        for name, given in (("a good one", BOUNDED), ("bad", arguments), ("better", QUORUM)):
            queue = await channel.declare_queue(name, durable=True, arguments=given)
            await queue.bind("eventstore", "order.#")
        found = await until(lambda: examine(settings_of(database, vhost, rabbitmq)), {code})
        assert all("'bad'" in each.subject for each in found if each.code == code)


async def test_a_queue_that_nobody_consumes_is_found(database: str, vhost: str, rabbitmq: RabbitMQServer) -> None:
    """Once messages wait in it."""
    async with broker(vhost) as channel:
        queue = await channel.declare_queue("plain", durable=True, arguments=BOUNDED)
        await queue.bind("eventstore", "#")
        exchange = await channel.get_exchange("eventstore")
        await exchange.publish(aio_pika.Message(b"x"), "order.Placed.order-1")
        (idle,) = await until_said(settings_of(database, vhost, rabbitmq), "queue-idle", "")
        assert idle.problem == "1 message waits, and nobody consumes it"


OWN: list[tuple[str, dict[str, Any], str]] = [
    ("queue-arguments", {}, "#"),
    ("queue-arguments", {**SUBSCRIPTIONS_QUEUE, "x-overflow": "reject-publish"}, "#"),
    ("binding-missing", SUBSCRIPTIONS_QUEUE, "order.#"),
]


@pytest.mark.parametrize(("code", "arguments", "key"), OWN, ids=["classic", "rejects", "binding"])
async def test_a_defect_of_a_subscriptions_queue_is_found(
    code: str, arguments: dict[str, Any], key: str, store: EventStore, database: str, vhost: str,
    rabbitmq: RabbitMQServer,
) -> None:  # fmt: skip
    """Another kind, other arguments, another binding than its owner's."""
    await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
    async with broker(vhost) as channel:
        queue = await channel.declare_queue("eventstore.s", durable=True, arguments=arguments)
        await queue.bind("eventstore", key)
        await until(lambda: examine(settings_of(database, vhost, rabbitmq)), {code})


async def test_queues_and_subscriptions_that_do_not_match_are_found(
    store: EventStore, database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """A queue without its subscription, which may be another store's, and a subscription that is followed without its
    queue."""
    settings = settings_of(database, vhost, rabbitmq)
    async with broker(vhost) as channel:
        queue = await channel.declare_queue("eventstore.gone", durable=True, arguments=SUBSCRIPTIONS_QUEUE)
        await queue.bind("eventstore", "#")
        (orphan,) = await until_said(settings, "queue-orphan", "nobody consumes it")
        assert orphan.level == "note"  # its expiry sees to it
        assert (
            "nothing is to be done; if no store of the same name, in another database, uses this vhost" in orphan.mend
        )
        consuming = await queue.consume(acknowledged)
        (orphan,) = await until_said(settings, "queue-orphan", "somebody consumes it")
        assert orphan.level == "finding"
        assert "delete_queue" not in orphan.mend  # it is another store's
        await queue.cancel(consuming)
        await channel.queue_delete("eventstore.gone")
        await channel.declare_queue("eventstore.stays", durable=True, arguments=BOUNDED)
        (orphan,) = await until_said(settings, "queue-orphan", "nobody consumes it")
        assert orphan.level == "finding"
        assert "if no store of the same name, in another database, uses this vhost, and nobody" in orphan.mend
        await channel.queue_delete("eventstore.stays")
    row = await store.fetchrow(store.sql["create_subscription"], "s", "$all", 0)
    assert row is not None
    lease = await Lease.acquire(store, f"subscription {row['subscription_id']}", uuid4(), 600)
    assert lease is not None
    await until(lambda: examine(settings), {"queue-missing"})
    await lease.release()
    await until(lambda: examine(settings), set())


async def test_a_policy_that_meddles_is_found(
    store: EventStore, database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """One that shortens a subscription's queue."""
    await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
    async with broker(vhost) as channel:
        queue = await channel.declare_queue("eventstore.s", durable=True, arguments=SUBSCRIPTIONS_QUEUE)
        await queue.bind("eventstore", "#")
        await put(rabbitmq, f"policies/{urlsplit(vhost).path[1:]}/short",
                  {"pattern": ".*", "definition": {"max-length": 5}, "apply-to": "queues"})  # fmt: skip
        found = await until(lambda: examine(settings_of(database, vhost, rabbitmq)), {"queue-policy"})
        assert any("'short'" in each.problem for each in found)


async def put(rabbitmq: RabbitMQServer, path: str, body: dict[str, Any]) -> None:
    async with httpx.AsyncClient(auth=(rabbitmq.user, rabbitmq.password), trust_env=False) as client:
        (await client.put(f"{rabbitmq.management_url}/api/{path}", json=body)).raise_for_status()


async def test_an_exchange_of_another_kind_is_found(database: str, vhost: str, rabbitmq: RabbitMQServer) -> None:
    """The relay could not declare it."""
    async with await aio_pika.connect(vhost) as connection, connection.channel() as channel:
        await channel.declare_exchange("eventstore", aio_pika.ExchangeType.DIRECT, durable=True)
        await until(lambda: examine(settings_of(database, vhost, rabbitmq)), {"exchange-kind"})


async def test_an_exchange_that_was_deleted_under_the_relay_is_found(
    database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """While it leads, and has nothing to publish, it does not see that."""
    async with relay_running(database, vhost, lease=5.0), await aio_pika.connect(vhost) as connection:
        await until(lambda: examine(settings_of(database, vhost, rabbitmq)), set())  # it has declared them
        async with connection.channel() as channel:
            await channel.exchange_delete("eventstore-links")
        await until(lambda: examine(settings_of(database, vhost, rabbitmq)), {"exchange-missing"})


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        (None, {"permissions"}),
        (("^eventstore$", "^$", ".*"), {"permissions"}),
        ((r"^eventstore(-links)?$", r"^eventstore(-links)?$", "^$"), set()),
        ((r"^eventstore\.", r"^eventstore\.", r"^eventstore(\.|$)"), set()),
    ],
    ids=["none", "too few", "a relay's", "a consumer's"],
)
async def test_a_user_who_may_not_is_found(
    permissions: tuple[str, str, str] | None, expected: set[str], database: str, vhost: str, rabbitmq: RabbitMQServer,
    management: Management,
) -> None:  # fmt: skip
    """The user of the AMQP URL must be able to relay or to consume; with what the mend says it can."""
    user, url = f"u-{secrets.token_hex(6)}", urlsplit(vhost)
    await put(rabbitmq, f"users/{user}", {"password": "x", "tags": ""})
    try:
        if permissions is not None:
            names = dict(zip(("configure", "write", "read"), permissions, strict=True))
            await put(rabbitmq, f"permissions/{url.path[1:]}/{user}", names)
        api = urlsplit(rabbitmq.management_url)
        settings = Settings.of(
            dsn=database,
            amqp_url=url._replace(netloc=f"{user}:x@{url.hostname}:{url.port}").geturl(),
            management_url=api._replace(netloc=f"{rabbitmq.user}:{rabbitmq.password}@{api.netloc}").geturl(),
        )
        await until(lambda: examine(settings), expected)
    finally:
        await management._do("DELETE", "users", user)


async def test_rights_that_are_said_to_mend_are_those_of_the_definitions(
    database: str, vhost: str, rabbitmq: RabbitMQServer, management: Management
) -> None:
    """For a relay, and for a consumer, transient subscriptions among his: in one place, so that they are the same."""
    user, url = f"u-{secrets.token_hex(6)}", urlsplit(vhost)
    await put(rabbitmq, f"users/{user}", {"password": "x", "tags": ""})
    try:
        await put(rabbitmq, f"permissions/{url.path[1:]}/{user}", {"configure": "", "write": "", "read": ""})
        netloc = f"{user}:x@{url.hostname}:{url.port}"
        api = urlsplit(rabbitmq.management_url)
        settings = Settings.of(
            dsn=database,
            amqp_url=url._replace(netloc=netloc).geturl(),
            management_url=api._replace(netloc=f"{rabbitmq.user}:{rabbitmq.password}@{api.netloc}").geturl(),
        )
        found = await until(lambda: examine(settings), {"permissions"})
        (mend,) = [each.mend for each in found if each.code == "permissions"]
        for kind, part in zip(("relay", "consumer"), mend.split("; "), strict=True):
            assert part.startswith(f"for a {kind}: ")
            given = definitions("eventstore", url.path[1:], {})["permissions"]
            (wanted,) = [each for each in given if each["user"] == f"eventstore-{kind}"]
            patterns = {name: wanted[name] for name in ("configure", "write", "read")}
            assert words_of(part) == ["-p", url.path[1:], "set_permissions", user, *patterns.values()]
            await put(rabbitmq, f"permissions/{url.path[1:]}/{user}", patterns)
            await until(lambda: examine(settings), set())
    finally:
        await management._do("DELETE", "users", user)


async def test_whoever_else_may_publish_to_the_stores_exchange_is_named(
    database: str, vhost: str, rabbitmq: RabbitMQServer, management: Management
) -> None:
    """A login is named for a permission in this vhost, unless a topic permission allows no key; the mend leaves it its
    other write permissions. An administrator, who can grant any right, is a note."""
    users, url = [f"u-{secrets.token_hex(6)}" for _ in range(3)], urlsplit(vhost)
    limited, other, boss = users
    settings = settings_of(database, vhost, rabbitmq)
    async with broker(vhost):
        pass
    try:
        for user in users:
            await put(rabbitmq, f"users/{user}", {"password": "x", "tags": "administrator" if user == boss else ""})
            await put(rabbitmq, f"permissions/{url.path[1:]}/{user}", {"configure": "", "write": ".*", "read": ""})
        for exchange in ("eventstore", "eventstore-links"):
            limits = {"exchange": exchange, "write": "^$", "read": ".*"}
            await put(rabbitmq, f"topic-permissions/{url.path[1:]}/{limited}", limits)
        found = await until(lambda: examine(settings), {"publisher"})
        (finding,) = [each for each in found if each.code == "publisher"]
        assert finding.subject == f"user {other!r}"
        assert [boss in each.subject for each in found if each.code == "publisher-by-tag"] == [True]
        *_, name, configure, write, read = words_of(finding.mend)
        assert name == other
        given = {"configure": configure, "write": write, "read": read}
        await put(rabbitmq, f"permissions/{url.path[1:]}/{other}", given)
        await until(lambda: examine(settings), set())
        login = url._replace(netloc=f"{other}:x@{url.hostname}:{url.port}").geturl()
        async with await aio_pika.connect(login) as connection, connection.channel() as channel:
            await channel.default_exchange.publish(aio_pika.Message(b""), "nowhere", mandatory=False)
            with pytest.raises(ChannelAccessRefused):
                await (await channel.get_exchange("eventstore", ensure=False)).publish(aio_pika.Message(b""), "k")
    finally:
        for user in users:
            await management._do("DELETE", "users", user)


async def test_a_queue_with_a_policy_is_given_its_limit_there(
    database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """One that has none gets one; a second one could switch off what the first sets."""
    async with broker(vhost) as channel:
        queue = await channel.declare_queue("plain", durable=True)
        await queue.bind("eventstore", "#")
        settings = settings_of(database, vhost, rabbitmq)
        found = await until(lambda: examine(settings), {"queue-unbounded"})
        (mend,) = [each.mend for each in found if each.code == "queue-unbounded"]
        *_, pattern, limits = words_of(mend)
        definition = {"dead-letter-exchange": "dead"}
        policy = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        await put(rabbitmq, f"policies/{urlsplit(vhost).path[1:]}/mine", policy)

        async def told() -> list[Finding]:
            return [each for each in await examine(settings) if "'mine'" in each.mend]

        (finding,) = await until(told, {"queue-unbounded"})
        assert "set_policy" not in finding.mend
        await put(rabbitmq, f"policies/{urlsplit(vhost).path[1:]}/mine",
                  policy | {"definition": definition | json.loads(limits)})  # fmt: skip
        await until(lambda: examine(settings), set())


async def test_a_monitoring_user_may_ask(database: str, vhost: str, rabbitmq: RabbitMQServer,
                                         management: Management) -> None:  # fmt: skip
    """What is told to administrators only is a note."""
    user, url = f"u-{secrets.token_hex(6)}", urlsplit(vhost)
    await put(rabbitmq, f"users/{user}", {"password": "x", "tags": "monitoring"})
    try:
        await put(rabbitmq, f"permissions/{url.path[1:]}/{user}", {"configure": "", "write": "", "read": ""})
        api = urlsplit(rabbitmq.management_url)
        settings = Settings.of(
            dsn=database, amqp_url=vhost, management_url=api._replace(netloc=f"{user}:x@{api.netloc}").geturl()
        )
        found = await examine(settings)
        assert codes(found) == set()
        assert "broker-not-looked-at" in {each.code for each in found}
    finally:
        await management._do("DELETE", "users", user)


async def test_a_vhost_that_is_not_there_is_found(database: str, vhost: str, rabbitmq: RabbitMQServer) -> None:
    """As after a broker that was made anew."""
    elsewhere = urlsplit(vhost)._replace(path="/never-made").geturl()
    assert codes(await examine(settings_of(database, elsewhere, rabbitmq))) == {"vhost-missing"}


async def test_a_broker_that_is_away_is_found(database: str, postgres: PostgresServer) -> None:
    """It is one more finding: the database was examined all the same. What answers and is no RabbitMQ is one, too."""
    connection = await asyncpg.connect(database)
    await connection.execute("DROP INDEX eventstore.events_category")
    await connection.close()
    both = {"broker-unreachable", "index-missing"}
    away = Settings.of(dsn=database, management_url="http://ann:geheim@127.0.0.1:1")
    found = await examine(away)
    assert codes(found) == both
    assert "geheim" not in str(found)
    port = urlsplit(postgres.dsn).port
    assert codes(await examine(Settings.of(dsn=database, management_url=f"http://127.0.0.1:{port}"))) == both


# --- what takes a cluster, or a broken one: as facts

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RELAY = client_properties("eventstore relay")["connection_name"]
PERMISSIONS = [Permission("relay", ".*", ".*", ".*")]


def facts(**changed: Any) -> BrokerFacts:
    """Of a good broker, but for what is given."""
    given: dict[str, Any] = {
        "version": "4.0.5",
        "vhost": "v",
        "there": True,
        "asks": "relay",
        "user": "relay",
        "exchanges": {name: Exchange("topic", True, False) for name in ("eventstore", "eventstore-links")},
        "queues": [],
        "bindings": [],
        "permissions": PERMISSIONS,
        "topic_permissions": [],
        "tags": {},
        "connections": [Connection(RELAY, "running")],
        "nodes": [Node("rabbit@a", True, False, False, [])],
    }
    return BrokerFacts(**{**given, **changed})


def also(user: str, write: str, *tags: str) -> dict[str, Any]:
    """Return the facts of another user with this write permission."""
    return {"permissions": [*PERMISSIONS, Permission(user, "", write, "")], "tags": {user: list(tags)}}


def queue(**changed: Any) -> Queue:
    given: dict[str, Any] = {"name": "eventstore.s", "kind": "quorum", "exclusive": False}
    given |= {"state": "running", "arguments": SUBSCRIPTIONS_QUEUE, "policy": "", "policy_sets": {}}
    given |= {"messages": 0, "ready": 0, "message_bytes": 0, "consumers": 1, "members": 3, "online": 3}
    return Queue(**{**given, **changed})


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({}, set()),
        ({"version": "3.9.1"}, {"rabbitmq-version"}),
        ({"nodes": [Node("rabbit@a", True, True, False, [])]}, {"alarm-memory"}),
        ({"nodes": [Node("rabbit@a", True, False, True, [])]}, {"alarm-disk"}),
        ({"nodes": [Node("rabbit@a", False, False, False, [])]}, {"node-down"}),
        ({"nodes": [Node("rabbit@a", True, False, False, ["rabbit@b"])]}, {"node-partitioned"}),
        ({"connections": [Connection(RELAY, "blocked")]}, {"relay-blocked"}),
        (also("other", "^eventstore-links$"), {"publisher"}),
        (also("other", "("), {"publisher"}),
        (also("other", ".*", "policymaker"), {"publisher"}),
        (also("other", ".*", "administrator"), set()),
        (also("other", r"^eventstore\."), set()),
        (also("eventstore-relay", ".*"), set()),
        ({"connections": [Connection("other relay (host:1)", "blocked")]}, set()),
        ({"queues": [queue(state="down")]}, {"queue-down"}),
        ({"queues": [queue(online=1)]}, {"queue-majority"}),
        ({"queues": [queue(online=2)]}, set()),
        ({"queues": [queue(exclusive=True, state="down")]}, set()),
    ],
)  # fmt: skip
def test_what_takes_a_cluster_is_found_in_its_facts(broken: dict[str, Any], expected: set[str]) -> None:
    """Alarms, nodes, majorities."""
    found = list(broker_findings(facts(**broken), "eventstore", None, 262144))
    assert codes(found) == expected
    assert all(each.means and each.mend for each in found if each.level == "finding")


@pytest.mark.parametrize("name", EVIL)
def test_a_name_of_rabbitmq_cannot_leave_its_mend(name: str) -> None:
    """Queues, policies, users and vhosts are words for a shell, whatever is in them."""
    plain = {"name": name, "kind": "classic", "arguments": {}}
    broken: list[tuple[dict[str, Any], str, list[str]]] = [
        ({"there": False}, "vhost-missing", ["add_vhost"]),
        ({"permissions": None}, "broker-not-looked-at", ["set_user_tags"]),
        ({"permissions": []}, "permissions", []),
        ({"queues": [queue(**plain)]}, "queue-unbounded", []),
        ({"queues": [queue(**plain, state="down")]}, "queue-down", ["-p", name, "delete_queue"]),
        ({"queues": [queue(**plain, ready=1, consumers=0)]}, "queue-idle", ["-p", name, "delete_queue"]),
        ({"queues": [queue(name=f"eventstore.{name}", consumers=0)]}, "queue-orphan", ["-p", name, "delete_queue"]),
        ({"queues": [queue(name=f"eventstore.{name}")]}, "queue-orphan", ["-p", name, "list_consumers"]),
    ]
    names = {"vhost": name, "user": name, "asks": name, "bindings": [Binding("eventstore", name, "#")]}
    seen = Overview(NOW, "eventstore", 1, "h", "json", "application/json", NOW, 0, 0, 0, None, 0, 0, 0, None, [])
    for changed, code, beginning in broken:
        findings = broker_findings(facts(**{**names, **changed}), "eventstore", seen, 262144)
        (mend,) = [each.mend for each in findings if each.code == code]
        words = words_of(mend)
        assert words[: len(beginning)] == beginning
        assert any(word.endswith(name) for word in words)


# --- the command


async def test_the_command_says_it_and_fails_with_1(store: EventStore, database: str) -> None:
    """For people, paragraphs; for programs, one object for each finding. Without findings it is 0."""
    runner = CliRunner(env=environment(database))

    async def run(*args: str) -> tuple[int, str]:
        result = await asyncio.to_thread(runner.invoke, app, ["doctor", *args], catch_exceptions=False)
        assert result.stderr == ""
        return result.exit_code, result.stdout

    await store.fetch("DROP INDEX eventstore.events_category")
    code, shown = await run()
    assert code == 1
    assert "index eventstore.events_category: it is not there  [index-missing]" in shown
    assert 'mend   CREATE INDEX CONCURRENTLY events_category ON "eventstore".events (category, position)' in shown
    code, shown = await run("--json")
    assert code == 1
    objects = [json.loads(line) for line in shown.splitlines()]
    assert [each["code"] for each in objects if each["level"] == "finding"] == ["durability-off", "index-missing"]
    assert all(each.keys() == set(Finding._fields) for each in objects)
