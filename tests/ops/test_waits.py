"""`trunkline doctor` while appends wait: it names the sessions for which they wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.ops.printed import commands
from trunkline_ops.connect import connected
from trunkline_ops.doctor import Finding, examine
from trunkline_ops.doctor.broker_checks import broker_findings
from trunkline_ops.doctor.broker_facts import Binding, BrokerFacts, Exchange, Queue
from trunkline_ops.servers import RabbitMQServer, postgres_server
from trunkline_ops.settings import Settings
from trunkline_store import ANY_VERSION, EventData, EventStore, StoreUnavailable, Unavailable
from trunkline_store.migrate import initialise


@asynccontextmanager
async def appending(store: EventStore, stream: str = "a-1") -> AsyncIterator[asyncio.Task[object]]:
    """An append that waits until the end of the block."""
    task = asyncio.ensure_future(store.append_to_stream(stream, ANY_VERSION, [EventData("E", 1)]))
    try:
        yield task
    finally:
        with suppress(Unavailable):
            await task


async def found(dsn: str, code: str) -> list[Finding]:
    """Return the findings of this code once there are any: an append that has just begun does not wait yet."""
    async with asyncio.timeout(60):
        while True:
            every = await examine(Settings.of(dsn=dsn), patience=15)
            if of_code := [each for each in every if each.code == code]:
                assert not {"transaction-idle", "transaction-holds"} & {each.code for each in every}
                return of_code


HOLDS = {
    "a table, by a statement at work": "LOCK TABLE eventstore.streams; SELECT pg_sleep(60)",
    "the events, which are looked at": "LOCK TABLE eventstore.events; SELECT pg_sleep(60)",
    "all names of streams": "SELECT pg_advisory_xact_lock('eventstore.streams'::regclass::oid::integer, n) "
    "FROM generate_series(0, 1023) AS n; SELECT pg_sleep(60)",
    "the row of a stream": "UPDATE eventstore.streams SET version = version WHERE stream = 'a-1'; SELECT pg_sleep(60)",
}


@pytest.mark.parametrize("what", HOLDS)
async def test_a_session_for_which_appends_wait_is_named(what: str, store: EventStore, database: str) -> None:
    """It is named by process and application, though it is active and no transaction is old or idle."""
    await store.append_to_stream("a-1", 0, [EventData("E", 1)])
    connection = await asyncpg.connect(database, server_settings={"application_name": "reports"})
    pid = connection.get_server_pid()
    holding = asyncio.create_task(connection.execute(f"BEGIN; {HOLDS[what]}"))
    try:
        async with asyncio.timeout(20):
            while (
                await store.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = $1", pid
                )
                == 0
            ):
                await asyncio.sleep(0.02)  # between two looks
        async with appending(store, "new-1" if "names" in what else "a-1"):
            (blocks,) = await found(database, "session-blocks")
            assert f"process {pid} (reports, " in blocks.subject
            assert f"pid = {pid} " in blocks.mend
            holding.cancel()
            await asyncio.wait([holding])
            await connection.close()
    finally:
        connection.terminate()


async def test_a_synchronous_standby_that_is_away_is_found_and_its_mend_lets_appends_go_on() -> None:
    """The mend says what is given up; afterwards, the append that waited is stored."""
    with postgres_server(private=True) as server:
        connection = await asyncpg.connect(server.dsn)
        await initialise(connection)
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        await connection.execute("SELECT pg_reload_conf()")
        async with EventStore(server.dsn, timeout=60) as store, appending(store) as append:
            (missing,) = await found(server.dsn, "standby-missing")
            assert "is lost with this server" in missing.mend
            (command,) = commands(missing.mend)
            for statement in command.split("; "):
                await connection.execute(statement)
            await append
            assert len(await store.read_all_streams_forward()) == 1
        await connection.close()


async def test_used_up_connections_are_found_with_who_has_them() -> None:
    """A superuser learns it over a reserved connection; any other login is told what to do."""
    settings = {"max_connections": "12", "superuser_reserved_connections": "4"}
    with postgres_server(private=True, settings=settings) as server:
        connection = await asyncpg.connect(server.dsn)
        await initialise(connection)
        await connection.execute("CREATE ROLE shop LOGIN PASSWORD 'shop'")
        url = urlsplit(server.dsn)
        theirs = url._replace(netloc=f"shop:shop@{url.hostname}:{url.port}").geturl()
        held = []
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                held.append(await asyncpg.connect(theirs, server_settings={"application_name": "shop"}))
        (exhausted,) = await found(server.dsn, "connections-exhausted")
        assert f"{len(held)} by 'shop' (shop)" in exhausted.problem
        with pytest.raises(StoreUnavailable) as refused:
            async with connected(Settings.of(dsn=theirs), "doctor"):
                pass
        assert any("trunkline doctor" in each for each in refused.value.__notes__)
        for each in (*held, connection):
            await each.close()


async def test_a_databases_own_limit_is_found(database: str) -> None:
    """A database's limit is reported like the server's."""
    name = urlsplit(database).path[1:]
    connection = await asyncpg.connect(database)
    await connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 1")
    (exhausted,) = await found(database, "connections-exhausted")
    assert exhausted.subject == f"database '{name}'"
    await connection.close()


RIGHTS = {
    "GRANT EXECUTE ON FUNCTION eventstore.append_v1 TO pg_monitor": "EXECUTE on function eventstore.append_v1",
    "GRANT UPDATE (checkpoint, owner) ON eventstore.subscriptions TO pg_monitor": "UPDATE (checkpoint, owner) on table",
    "GRANT UPDATE ON eventstore.subscriptions TO pg_monitor": "UPDATE on table eventstore.subscriptions",
    "GRANT UPDATE ON eventstore.relays TO pg_monitor": "UPDATE on table eventstore.relays",
    "GRANT INSERT (data) ON eventstore.events TO pg_monitor": "INSERT (data) on table eventstore.events",
}


@pytest.mark.parametrize("grant", RIGHTS)
async def test_a_right_beside_the_stores_roles_is_found_and_taken_back(grant: str, database: str) -> None:
    """This covers rights on functions, on columns, and on the tables and the sequence that keep positions."""
    connection = await asyncpg.connect(database)
    await connection.execute(grant)
    (bypass,) = await found(database, "rights-bypass")
    assert RIGHTS[grant] in bypass.problem
    await connection.execute(commands(bypass.mend)[0])
    assert "rights-bypass" not in {each.code for each in await examine(Settings.of(dsn=database), patience=15)}
    await connection.close()


def test_a_subscriptions_queue_is_not_offered_for_deletion_while_nobody_knows_whose_it_is() -> None:
    """With an old schema, for example, the store cannot list its subscriptions. A plain consumer's queue is
    examined."""
    queues = [
        Queue(name, "quorum", False, "running", {}, "", {}, 5, 5, 100, 0, 1, 1) for name in ("eventstore.s", "plain")
    ]
    bindings = [Binding("eventstore", each.name, "#") for each in queues]
    exchanges = {name: Exchange("topic", True, False) for name in ("eventstore", "eventstore.links")}
    facts = BrokerFacts("4.0.5", "v", True, "u", "u", exchanges, queues, bindings, None, [], {}, None, None)
    said = [each for each in broker_findings(facts, "eventstore", None, 0) if "queue" in each.subject]
    assert {each.subject for each in said} == {"queue 'plain', a plain consumer's"}


async def test_a_password_that_was_changed_is_what_is_found(
    database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """For the user of the AMQP URL and the user of the management URL, the mend is about the password."""
    amqp, api = urlsplit(vhost), urlsplit(rabbitmq.management_url)
    old = amqp._replace(netloc=f"{rabbitmq.user}:geheim@{amqp.hostname}:{amqp.port}").geturl()
    good = api._replace(netloc=f"{rabbitmq.user}:{rabbitmq.password}@{api.netloc}").geturl()
    every = await examine(Settings.of(dsn=database, amqp_url=old, management_url=good), patience=15)
    (refused,) = [each for each in every if each.code == "login-refused"]
    assert f"rabbitmqctl change_password {rabbitmq.user}" in refused.mend
    every = await examine(Settings.of(dsn=database, amqp_url=old, management_url=rabbitmq.management_url), patience=15)
    assert {"login-refused", "management-refuses"} <= {each.code for each in every}
    assert "start it" not in "".join(each.mend for each in every)
    assert "geheim" not in str(every)
    async with httpx.AsyncClient(auth=(rabbitmq.user, rabbitmq.password), trust_env=False) as client:
        (await client.get(f"{rabbitmq.management_url}/api/whoami")).raise_for_status()
