"""Roles: each can do its work, and nothing else."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from trunkline_ops.servers import PostgresServer
from trunkline_store import (
    ANY_VERSION,
    NO_STREAM,
    EventData,
    EventStore,
    InvalidArgument,
    MigrationPending,
    NotInitialised,
    PermissionRefused,
    SchemaTooNew,
    Snapshot,
    StoreUnavailable,
    StreamAppend,
    StreamNotFound,
    SubscriptionNotFound,
    Unavailable,
)
from trunkline_store.lease import Lease
from trunkline_store.migrate import drop, initialise, migrate, migrations, reset
from trunkline_store.rights import ROLES, Role, create_sql, grant_sql, login_sql, role_name
from trunkline_store.roles import make_login, make_roles
from trunkline_store.translate import translated

Logins = dict[Role, str]


def event(data: Any = 1) -> EventData:
    """An event."""
    return EventData("E", data)


# --- what each can do


async def test_a_reader_reads_everything(store: EventStore, logins: Logins) -> None:
    """Streams, `$all`, categories, the safe position, snapshots and subscriptions; the store opens for it."""
    await store.append_to_stream("a-1", 0, [event(n) for n in range(3)])
    await store.record_snapshot(Snapshot("a-1", 3, "A", {}))
    async with EventStore(logins["reader"]) as reader:
        assert reader.history == store.history
        assert len(await reader.read_stream_forward("a-1")) == 3
        assert len(await reader.read_stream_backward("a-1")) == 3
        assert len([e async for e in reader.stream_all_forward()]) == 3
        assert len(await reader.read_all_streams_backward()) == 3
        assert len(await reader.read_category_forward("a")) == 3
        assert (await reader.stream_info("a-1")).version == 3
        assert len(await reader.paginate_streams()) == 2
        assert (await reader.read_snapshot("a-1")).version == 3
        assert await reader.subscriptions.list() == []
        await reader.until_safe((await reader.stream_info("$all")).version)


async def test_a_writer_appends_in_every_way(store: EventStore, logins: Logins) -> None:
    """Alone, coalesced, several streams, in a transaction of its own, again; links, deletes, keeps snapshots."""
    async with EventStore(logins["writer"]) as writer:
        await writer.append_to_stream("a-1", NO_STREAM, events := [event(), event()])
        assert (await writer.append_to_stream("a-1", ANY_VERSION, events)).first_version == 1
        await asyncio.gather(*(writer.append_to_stream(f"a-{n % 5}", ANY_VERSION, [event()]) for n in range(30)))
        await writer.append_to_streams([StreamAppend("b-1", 0, [event()]), StreamAppend("b-2", 0, [event()])])
        async with writer.transaction() as connection:
            await writer.append_to_stream("c-1", 0, [event()], connection=connection)
            assert len(await writer.read_stream_forward("c-1", connection=connection)) == 1
        await writer.link_to_stream("links-1", 0, await writer.read_stream_forward("b-1"))
        assert (await writer.read_stream_forward("links-1"))[0].stream == "b-1"
        await writer.delete_stream("b-2", 1)
        await writer.record_snapshot(Snapshot("a-1", 1, "A", {}))
        await writer.record_snapshot(Snapshot("a-1", 2, "A", {}))
        assert (await writer.read_snapshot("a-1")).version == 2
        await writer.delete_snapshot("a-1")
        assert len(await writer.read_all_streams_forward()) == 35
    assert len(await store.read_all_streams_forward()) == 35


async def test_a_relay_leads_and_records(store: EventStore, logins: Logins) -> None:
    """It takes, renews and hands over its lease, reads pages, and moves the confirmed position."""
    last = (await store.append_to_stream("a-1", 0, [event()])).last_position
    async with EventStore(logins["relay"]) as relay:
        lease = await Lease.acquire(relay, "relay", uuid4(), 5)
        assert lease is not None
        await lease.renew()
        assert await relay.fetchval(relay.sql["fence_relay"], "relay", lease.owner, lease.epoch, 0, None) == 0
        safe, history = await relay.look()
        assert len(await relay.fetch(relay.sql["relay_page"], 0, safe, 10, 10**6, 10**6, history)) == 1
        assert len(await relay.fetch(relay.sql["relay_page_barest"], 0, safe, 10, 10**6, history)) == 1
        recorded = "relay", lease.owner, lease.epoch, last, history, last, last, 1
        assert await relay.fetchval(relay.sql["record_relay"], *recorded) == last
        await lease.release()
        assert await Lease.acquire(relay, "relay", uuid4(), 5) is not None


async def test_a_consumer_owns_a_subscription(store: EventStore, logins: Logins) -> None:
    """It makes the row, takes the lease, moves the checkpoint, sees, resets and deletes it."""
    stored = event()
    last = (await store.append_to_stream("a-1", 0, [stored])).last_position
    async with EventStore(logins["consumer"]) as consumer:
        number = await consumer.fetchval(consumer.sql["create_subscription"], "s", "$all", 0)
        lease = await Lease.acquire(consumer, f"subscription {number}", uuid4(), 5)
        assert lease is not None
        assert await consumer.fetchval(consumer.sql["fence_subscription"], number, lease.owner, lease.epoch, None) == 0
        written = number, lease.owner, lease.epoch, last, consumer.history, [last], [stored.id]
        assert await consumer.fetchval(consumer.sql["checkpoint"], *written) == last
        assert (await consumer.subscriptions.get("s")).checkpoint == last
        await consumer.subscriptions.reset("s", 0)
        await consumer.subscriptions.delete("s")
        assert await consumer.subscriptions.list() == []
        assert await consumer.fetchval("SELECT count(*) FROM eventstore.leases") == 0


async def test_an_eraser_removes_streams_for_good(store: EventStore, logins: Logins) -> None:
    """The events, and the links to them."""
    await store.append_to_stream("a-1", 0, [event()])
    await store.link_to_stream("links-1", 0, await store.read_stream_forward("a-1"))
    async with EventStore(logins["eraser"]) as eraser:
        await eraser.delete_stream("a-1", 1, hard=True)
        with pytest.raises(StreamNotFound):
            await eraser.read_stream_forward("a-1")
    assert await store.read_stream_forward("links-1") == []


# --- what nobody, or only one of them, can do

NOBODY: tuple[Role, ...] = ()
ID = "gen_random_uuid()"
RIGHTS: list[tuple[str, tuple[Role, ...]]] = [
    ("SELECT * FROM eventstore.events, eventstore.streams, eventstore.links, eventstore.store", ROLES),
    ("SELECT * FROM eventstore.leases, eventstore.relays, eventstore.subscriptions, eventstore.snapshots", ROLES),
    ("SELECT eventstore.safe_position_v1(), eventstore.history_v1()", ROLES),
    (f"SELECT eventstore.append_v1('b-1', -1, ARRAY[{ID}], ARRAY['E'], ARRAY['1'])", ("writer",)),
    (f"SELECT eventstore.append_one_v1('b-1', -1, {ID}, 'E', '1')", ("writer",)),
    (f"SELECT eventstore.append_many_v1(true, '{{b-1}}', '{{-1}}', '{{1}}', ARRAY[{ID}], '{{E}}', '{{1}}')",
     ("writer",)),
    ("SELECT eventstore.link_v1('b-1', -1, ARRAY(SELECT event_id FROM eventstore.events))", ("writer",)),
    ("SELECT eventstore.delete_v1('a-1', -1)", ("writer",)),
    ("INSERT INTO eventstore.snapshots (source, version, type, data) VALUES ('a', 1, 'A', '1')", ("writer",)),
    ("UPDATE eventstore.snapshots SET version = 2", ("writer",)),
    ("DELETE FROM eventstore.snapshots", ("writer",)),
    ("SELECT eventstore.hard_delete_v1('a-1', -1)", ("eraser",)),
    ("INSERT INTO eventstore.relays (name, position) VALUES ('r', 0)", ("relay",)),
    ("UPDATE eventstore.relays SET position = 0", ("relay",)),
    ("DELETE FROM eventstore.relays", NOBODY),
    (f"INSERT INTO eventstore.leases VALUES ('l', {ID}, 1, '1s', now())", ("relay",)),
    (f"INSERT INTO eventstore.leases VALUES ('subscription 1', {ID}, 1, '1s', now())", ("consumer",)),
    ("UPDATE eventstore.leases SET epoch = epoch + 1", ("relay", "consumer")),
    ("DELETE FROM eventstore.leases", ("consumer",)),
    (f"INSERT INTO eventstore.standbys VALUES ('relay', {ID}, 'host:1')", ("relay",)),
    ("DELETE FROM eventstore.standbys", ("relay",)),
    ("INSERT INTO eventstore.subscriptions (name, feed, checkpoint) VALUES ('s', '$all', 0)", ("consumer",)),
    ("INSERT INTO eventstore.subscriptions OVERRIDING SYSTEM VALUE VALUES (9, 's', '$all', 0)", NOBODY),
    ("UPDATE eventstore.subscriptions SET subscription_id = DEFAULT", NOBODY),
    ("UPDATE eventstore.subscriptions SET name = 's'", NOBODY),
    ("UPDATE eventstore.subscriptions SET created_at = now()", NOBODY),
    ("UPDATE eventstore.subscriptions SET checkpoint = 0", ("consumer",)),
    ("DELETE FROM eventstore.subscriptions", ("consumer",)),
    ("INSERT INTO eventstore.events SELECT * FROM eventstore.events", NOBODY),
    ("UPDATE eventstore.events SET type = 'x'", NOBODY),
    ("DELETE FROM eventstore.events", NOBODY),
    ("INSERT INTO eventstore.streams (stream, category, version, created_at) VALUES ('c', 'c', 0, now())", NOBODY),
    ("UPDATE eventstore.streams SET version = 0", NOBODY),
    ("DELETE FROM eventstore.streams", NOBODY),
    ("INSERT INTO eventstore.links VALUES (1, 1, 1, 1)", NOBODY),
    ("UPDATE eventstore.links SET position = 1", NOBODY),
    ("DELETE FROM eventstore.links", NOBODY),
    ("UPDATE eventstore.store SET store_id = gen_random_uuid()", NOBODY),
    ("TRUNCATE eventstore.incarnation", NOBODY),
    ("DELETE FROM eventstore.incarnation", NOBODY),
    ("SET trunkline.hard_delete = '1'; DELETE FROM eventstore.events", NOBODY),
    ("ALTER TABLE eventstore.leases DISABLE ROW LEVEL SECURITY", NOBODY),
    ("CREATE POLICY p ON eventstore.leases USING (true)", NOBODY),
    ("CREATE FUNCTION pg_temp.f(eventstore.stream_name) RETURNS boolean LANGUAGE sql AS 'SELECT true'", NOBODY),
    ("UPDATE eventstore.schema_migrations SET version = 0", NOBODY),
    *((f"TRUNCATE eventstore.{table}", NOBODY) for table in ("events", "streams", "links", "leases", "subscriptions",
                                                             "relays", "snapshots", "store")),
    ("SELECT setval('eventstore.blocks', 1)", NOBODY),
    ("SELECT nextval('eventstore.blocks')", NOBODY),
    ("SELECT last_value FROM eventstore.blocks", NOBODY),
    ("SELECT eventstore.hold_readers_back()", NOBODY),
    ("SELECT eventstore.refusal(1, 1)", NOBODY),
    ("SELECT eventstore.lock_to_delete('a-1', -1)", NOBODY),
    ("CREATE TABLE eventstore.more (x int)", NOBODY),
    ("ALTER TABLE eventstore.events DISABLE TRIGGER ALL", NOBODY),
    ("CREATE TRIGGER t AFTER INSERT ON eventstore.events EXECUTE FUNCTION eventstore.refuse_change()", NOBODY),
    ("CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql AS ''", NOBODY),
    ("ALTER SEQUENCE eventstore.blocks RESTART", NOBODY),
    ("DROP SCHEMA eventstore CASCADE", NOBODY),
    ("SET session_replication_role = replica", NOBODY),
    ("LOCK TABLE eventstore.events IN ACCESS EXCLUSIVE MODE", NOBODY),
]  # fmt: skip


@pytest.mark.parametrize("public", ["of PostgreSQL 15", "of PostgreSQL 14"])
@pytest.mark.parametrize("role", ROLES)
async def test_a_role_has_its_rights_and_no_others(store: EventStore, logins: Logins, role: Role, public: str) -> None:
    """PostgreSQL refuses every other right of the whole list, which raises `PermissionRefused`, whatever everybody may
    do in `public`."""
    if public == "of PostgreSQL 14":
        await store.fetch("GRANT CREATE ON SCHEMA public TO PUBLIC")
    await store.append_to_stream("a-1", 0, [event()])
    connection = await asyncpg.connect(logins[role])
    refused = []
    for statement, _ in RIGHTS:
        transaction = connection.transaction()
        await transaction.start()
        try:
            with translated("eventstore"):
                await connection.execute(statement)
        except PermissionRefused:
            refused.append(statement)
        finally:
            await transaction.rollback()
    await connection.close()
    assert refused == [statement for statement, roles in RIGHTS if role not in roles]


@pytest_asyncio.fixture
async def narrow(store: EventStore, database: str, logins: Logins) -> AsyncIterator[str]:
    """The DSN of a consumer that may own only `billing` and subscriptions whose names begin with `billing-`."""
    login = f"billing_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(database)
    await make_login(connection, login, "consumer")  # what it may do as one of all is taken from it
    for pattern in ("billing", "billing-*"):
        await make_login(connection, login, "consumer", subscriptions=pattern)
    await connection.execute(f"ALTER ROLE {login} PASSWORD 'secret'")
    url = urlsplit(database)
    yield url._replace(netloc=f"{login}:secret@{url.hostname}:{url.port}").geturl()
    everyone = role_name(await database_of(store), "eventstore", "consumer")
    for role in (login, f"{everyone}.billing", f"{everyone}.billing-*"):
        await connection.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
    await connection.close()


async def lived(store: EventStore, name: str) -> int:
    """Make a subscription that has had an owner, with a parked batch; return its number."""
    number = int(await store.fetchval(store.sql["create_subscription"], name, "$all", 5))
    lease = await Lease.acquire(store, f"subscription {number}", uuid4(), 0.0)
    assert lease is not None
    await store.fetch(store.sql["fence_subscription"], number, lease.owner, lease.epoch, store.history)
    await store.fetch(store.sql["park"], number, 3, 3, "a-1", "a-1", 1, "E", "trace")
    return number


WRITES = (
    "UPDATE eventstore.subscriptions SET checkpoint = 9 WHERE subscription_id = {0}",
    "UPDATE eventstore.subscriptions SET halted = '[1]' WHERE subscription_id = {0}",
    "UPDATE eventstore.leases SET epoch = epoch + 1 WHERE name = 'subscription {0}'",
    "UPDATE eventstore.parked SET wanted = 'discard' WHERE subscription_id = {0}",
    "DELETE FROM eventstore.parked WHERE subscription_id = {0}",
    "DELETE FROM eventstore.leases WHERE name = 'subscription {0}'",
    "DELETE FROM eventstore.subscriptions WHERE subscription_id = {0}",
)
RELAYS = (
    "UPDATE eventstore.leases SET epoch = epoch + 1 WHERE name = 'relay'",
    "DELETE FROM eventstore.leases WHERE name = 'relay'",
)


async def done(dsn: str, statements: Iterable[str]) -> list[str]:
    """Return the statements that can change a row; each runs in a transaction that is rolled back."""
    connection, changed = await asyncpg.connect(dsn), []
    for statement in statements:
        transaction = connection.transaction()
        await transaction.start()
        with suppress(asyncpg.InsufficientPrivilegeError):
            if not (await connection.execute(statement)).endswith(" 0"):
                changed.append(statement)
        await transaction.rollback()
    await connection.close()
    return changed


async def test_a_consumer_writes_the_rows_that_are_its_own(
    store: EventStore, database: str, logins: Logins, narrow: str
) -> None:
    """A consumer writes the rows of all subscriptions, or of the granted ones, and never the relay's lease; the relay
    writes no subscription's lease. The store's owner can run every statement, so none of them is empty."""
    numbers = {name: await lived(store, name) for name in ("billing", "billing-2", "billings", "shop")}
    assert await Lease.acquire(store, "relay", uuid4(), 5) is not None
    for name, number in numbers.items():
        statements = [statement.format(number) for statement in WRITES]
        assert await done(database, statements) == statements
        assert await done(logins["consumer"], statements) == statements
        assert await done(narrow, statements) == (statements if name in ("billing", "billing-2") else [])
        for role in ("reader", "writer", "eraser", "relay"):
            assert await done(logins[role], statements) == []
    assert await done(database, RELAYS) == list(RELAYS)
    assert await done(logins["relay"], RELAYS) == [RELAYS[0]]
    for dsn in (logins["consumer"], narrow, logins["reader"], logins["writer"], logins["eraser"]):
        assert await done(dsn, RELAYS) == []

    made = "INSERT INTO eventstore.subscriptions (name, feed, checkpoint) VALUES ('{}', '$all', 0)"
    lease = "INSERT INTO eventstore.leases VALUES ('{}', gen_random_uuid(), 1, '1s', now())"
    await store.fetch(f"DELETE FROM eventstore.leases WHERE name = 'subscription {numbers['billing']}'")
    allowed = [made.format("billing-3"), lease.format(f"subscription {numbers['billing']}")]
    refused = [
        made.format("shop-2"),
        lease.format("relay-2"),
        lease.format("subscription x"),
        lease.format("subscription 99999999999999999999"),
        lease.format("subscription 7777"),
        f"UPDATE eventstore.subscriptions SET name = 'shop-3' WHERE subscription_id = {numbers['billing']}",
        f"UPDATE eventstore.parked SET subscription_id = 7 WHERE subscription_id = {numbers['billing']}",
    ]
    assert await done(narrow, [*allowed, *refused]) == allowed


async def test_nothing_is_left_for_the_subscription_that_another_makes_next(store: EventStore, narrow: str) -> None:
    """A consumer of some names chooses no number: its lease and parked batches would be the next subscription's."""
    before = await lived(store, "shop")
    chosen = "INSERT INTO eventstore.subscriptions (subscription_id, name, feed, checkpoint) OVERRIDING SYSTEM VALUE"
    connection = await asyncpg.connect(narrow)
    for statement in (
        f"{chosen} VALUES ({before + 1}, 'billing-1', '$all', 0)",
        f"INSERT INTO eventstore.leases VALUES ('subscription {before + 1}', gen_random_uuid(), 1, '1s', now())",
        f"INSERT INTO eventstore.parked VALUES ({before + 1}, 1024, 1024, 'a-1', NULL, 1, 'E', 'trace', 'retry')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()
    number = await store.fetchval(store.sql["create_subscription"], "shop-2", "$all", 0)
    assert number == before + 1
    assert await store.fetchval(f"SELECT count(*) FROM eventstore.leases WHERE name = 'subscription {number}'") == 0
    assert await store.subscriptions.parked("shop-2") == []


@pytest.mark.parametrize(
    "written",
    [
        "UPDATE eventstore.subscriptions SET updated_at = '294276-12-31'",
        "UPDATE eventstore.subscriptions SET updated_at = 'infinity'",
        "UPDATE eventstore.subscriptions SET halted = to_json(repeat('x', 2000000))",
        "UPDATE eventstore.leases SET process = repeat('x', 2000)",
        "INSERT INTO eventstore.subscriptions (name, feed, checkpoint) VALUES (E'billing-\\n', '$all', 0)",
        "INSERT INTO eventstore.subscriptions (name, feed, checkpoint) VALUES ('billing-3', repeat('x', 2000), 0)",
    ],
)
async def test_what_one_consumer_writes_can_be_listed_by_all(store: EventStore, narrow: str, written: str) -> None:
    """No time that Python lacks, nothing huge, no control characters: one row of one would end everybody's list."""
    await lived(store, "shop")
    connection = await asyncpg.connect(narrow)
    async with EventStore(narrow) as theirs:
        await lived(theirs, "billing-2")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(written)
    await connection.close()
    assert [each.name for each in await store.subscriptions.list()] == ["billing-2", "shop"]


async def test_a_consumer_of_some_has_the_rights_of_one_of_all(store: EventStore, narrow: str) -> None:
    """No statement of a consumer lacks a right; only the rows differ."""
    everyone = role_name(await database_of(store), "eventstore", "consumer")
    given: dict[str, set[tuple[str, ...]]] = {}
    for what, role, privilege in await rights(store):
        given.setdefault(role.strip('"'), set()).add((what, privilege))
    assert len(given[everyone]) > 10
    assert given[everyone] == given[f"{everyone}.billing"] == given[f"{everyone}.billing-*"]


async def test_what_is_anothers_is_said_to_be(store: EventStore, logins: Logins, narrow: str) -> None:
    """Each method that changes a subscription raises `PermissionRefused` without the right, and not
    `SubscriptionNotFound`; every role can read the subscription."""
    number = await lived(store, "shop")
    before = await store.subscriptions.get("shop")
    for dsn in (narrow, logins["reader"]):
        async with EventStore(dsn) as other:
            assert await other.subscriptions.get("shop") == before
            for refused in (
                lambda: other.subscriptions.delete("shop"),
                lambda: other.subscriptions.reset("shop", 0),
                lambda: other.subscriptions.retry("shop"),
                lambda: other.subscriptions.discard("shop"),
                lambda: other.fetch(other.sql["create_subscription"], "shop", "$all", 0),
                lambda: Lease.acquire(other, f"subscription {number}", uuid4(), 5),
            ):
                with pytest.raises(PermissionRefused):
                    await refused()
    async with EventStore(narrow) as other:
        await other.subscriptions.delete("nothing")
        with pytest.raises(SubscriptionNotFound):
            await other.subscriptions.reset("nothing", 0)
        await lived(other, "billing-9")
        assert await other.subscriptions.retry("billing-9") == 1
        assert await other.subscriptions.reset("billing-9", 0) == 1
        await other.subscriptions.delete("billing-9")
    assert (await store.subscriptions.list()) == [before]


@pytest.mark.parametrize("pattern", ["", "*x", "a*b", "a\0", "x" * 60])
def test_a_bad_pattern_is_refused(pattern: str) -> None:
    """The pattern is refused before anything runs. It is a part of the group's name, whose length PostgreSQL limits."""
    with pytest.raises(InvalidArgument, match="subscriptions"):
        login_sql("app", "eventstore", "bill", "consumer", pattern)
    with pytest.raises(InvalidArgument, match="owns no subscriptions"):
        login_sql("app", "eventstore", "bill", "writer", "billing-*")


async def test_every_function_of_the_interface_is_somebodys_and_no_other_is(store: EventStore, logins: Logins) -> None:
    """Those with a version in their name are granted; the helpers behind them, and PUBLIC, to nobody."""
    rows = await store.fetch("""
        SELECT p.proname, array_agg(a.grantee::regrole::text) FILTER (WHERE a.grantee <> p.proowner) AS grantees
        FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'eventstore'::regnamespace GROUP BY p.oid, p.proname""")
    functions = {row["proname"]: row["grantees"] for row in rows}
    assert len(functions) == await store.fetchval(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace"
    )
    assert {name for name, grantees in functions.items() if grantees} == {
        name for name in functions if name.rpartition("_v")[2].isdigit()
    }
    assert all("-" not in (grantees or ()) for grantees in functions.values())


async def test_refusals_are_one_typed_error_and_change_nothing(store: EventStore, logins: Logins) -> None:
    """P9: through the store's own methods too; it is not `Unavailable`, so that nobody waits for it to heal."""
    first = event()
    await store.append_to_stream("a-1", 0, [first])
    async with EventStore(logins["reader"]) as reader, EventStore(logins["writer"]) as writer:
        for refused in (
            lambda: reader.append_to_stream("a-1", ANY_VERSION, [event()]),
            lambda: asyncio.gather(*(reader.append_to_stream(f"a-{n}", ANY_VERSION, [event()]) for n in range(5))),
            lambda: reader.append_to_streams([StreamAppend("b-1", 0, [event()])]),
            lambda: reader.link_to_stream("links-1", 0, [first.id]),
            lambda: reader.delete_stream("a-1", 1),
            lambda: reader.record_snapshot(Snapshot("a-1", 1, "A", {})),
            lambda: reader.subscriptions.reset("s", 0),
            lambda: writer.delete_stream("a-1", 1, hard=True),
            lambda: writer.fetchval(writer.sql["create_subscription"], "s", "$all", 0),
            lambda: writer.fetchval(writer.sql["checkpoint"], 1, uuid4(), 1, 1, writer.history, [], []),
            lambda: writer.fetchval(writer.sql["acquire_lease"], "relay", uuid4(), timedelta(seconds=1), "host:1"),
        ):
            with pytest.raises(PermissionRefused, match=r"permission denied for .*trunkline roles"):
                await refused()
    assert not issubclass(PermissionRefused, Unavailable)
    assert [e.event_id for e in await store.read_all_streams_forward()] == [first.id]


async def test_a_login_without_a_role_can_do_nothing(store: EventStore, logins: Logins) -> None:
    """Not even open the store; what it lacks is named."""
    login = urlsplit(logins["reader"]).username
    await store.fetchval(f'REVOKE "{role_name(await database_of(store), "eventstore", "reader")}" FROM {login}')
    with pytest.raises(PermissionRefused, match="schema eventstore"):
        await EventStore(logins["reader"]).open()


async def database_of(store: EventStore) -> str:
    """The name of its database."""
    return str(await store.fetchval("SELECT current_database()"))


ADVISORY = """
    DO $$ DECLARE f regprocedure; BEGIN
        FOR f IN SELECT oid FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^pg_(try_)?advisory_(xact_)?lock'
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', f, (
                SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'eventstore'));
        END LOOP;
    END $$"""


async def test_advisory_locks_can_be_the_owners_alone(store: EventStore, database: str, logins: Logins) -> None:
    """What the guide gives to run as a superuser: no login takes such a lock, and all append as before."""
    owner = f"owner_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(database)
    await drop(connection)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"CREATE ROLE {owner} CREATEROLE; GRANT ALL ON DATABASE {name} TO {owner}")
    try:
        await connection.execute(f"SET ROLE {owner}")
        await initialise(connection, "eventstore")
        await connection.execute("RESET ROLE")
        await make_roles(connection)
        assert dedent(ADVISORY).strip() in (Path(__file__).parents[2] / "store" / "README.md").read_text()
        await connection.execute(ADVISORY)
        await connection.execute(f"SET ROLE {owner}")
        await make_roles(connection)
        for dsn in logins.values():
            other = await asyncpg.connect(dsn)
            for lock in ("pg_advisory_lock(1)", "pg_try_advisory_xact_lock_shared(1, 1)"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await other.execute(f"SELECT {lock}")
            await other.close()
        async with EventStore(logins["writer"]) as writer:
            await writer.append_to_stream("a-1", NO_STREAM, [event()])
            await writer.append_to_streams([StreamAppend("b-1", 0, [event()]), StreamAppend("b-2", 0, [event()])])
            assert len(await writer.read_all_streams_forward()) == 3
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}")
        await connection.close()


async def test_policies_that_a_member_took_away_are_made_again(store: EventStore, database: str, narrow: str) -> None:
    """PostgreSQL lets each member of a group do that, to all of its members; the guide says what to run."""
    group = f"{role_name(await database_of(store), 'eventstore', 'consumer')}.billing"
    connection, owner = await asyncpg.connect(narrow), await asyncpg.connect(database)
    await connection.execute(f'DROP OWNED BY "{group}"')
    made = "INSERT INTO eventstore.subscriptions (name, feed, checkpoint) VALUES ('billing', '$all', 0)"
    assert await done(narrow, [made]) == []
    await make_roles(owner)
    assert await done(narrow, [made]) == [made]
    await connection.close()
    await owner.close()


# --- the functions do what they do with the owner's rights

TRAPS = """
    CREATE FUNCTION public.spring() RETURNS void LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'a trap, with the rights of %', current_user; END $$;
    CREATE FUNCTION public.trap(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT public.spring(); SELECT true';
    CREATE FUNCTION public.trap(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT public.spring(); SELECT true';
    CREATE FUNCTION public.trap(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT public.spring(); SELECT true';
    CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.trap);
    CREATE OPERATOR public.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.trap);
    CREATE OPERATOR public.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = public.trap);
    CREATE FUNCTION public.nextval(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT public.spring(); SELECT 7::bigint';
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS 'SELECT public.spring(); SELECT pg_catalog.now()';
    CREATE FUNCTION public.split_part(text, text, int) RETURNS text LANGUAGE sql
        AS 'SELECT public.spring(); SELECT ''x''';
    CREATE FUNCTION public.array_position(text[], text) RETURNS int LANGUAGE sql AS 'SELECT public.spring(); SELECT 1';
    CREATE FUNCTION public.octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT public.spring(); SELECT 1';
    CREATE FUNCTION public.current_setting(text, boolean) RETURNS text LANGUAGE sql
        AS 'SELECT public.spring(); SELECT ''x''';
    CREATE DOMAIN public.json AS text CHECK (false);
    CREATE DOMAIN public.uuid AS text CHECK (false);
    CREATE TEMP TABLE pg_locks AS SELECT 'advisory' AS locktype, 0::oid AS classid, 0::oid AS objid, 2 AS objsubid,
        0::oid AS database;
    CREATE TEMP TABLE pg_database AS SELECT 0::oid AS oid, current_database() AS datname;
    CREATE TEMP TABLE events AS SELECT position, event_id, stream_id FROM eventstore.events;
    CREATE TEMP TABLE streams AS SELECT stream_id, version FROM eventstore.streams;
    CREATE TEMP TABLE store AS TABLE eventstore.store;
"""


async def test_the_functions_cannot_be_led_astray(store: EventStore, logins: Logins) -> None:
    """Whatever a writer puts into public and into its temporary schema, first in its search path, no function of the
    store meets it; the control, a function as they are but without a search path of its own, does."""
    await store.fetchval("GRANT CREATE ON SCHEMA public TO PUBLIC")
    await store.fetchval(
        "CREATE FUNCTION eventstore.naive() RETURNS timestamptz LANGUAGE plpgsql SECURITY DEFINER "
        "AS $$ BEGIN RETURN clock_timestamp(); END $$"
    )
    roles = [urlsplit(logins[role]).username for role in ROLES]
    connection = await asyncpg.connect(logins["writer"])
    await connection.execute(TRAPS)
    await connection.execute("SET search_path = public, pg_temp, pg_catalog")
    with pytest.raises(asyncpg.RaiseError, match="a trap, with the rights of") as caught:
        await connection.fetchval("SELECT eventstore.naive()")
    assert not any(str(role) in str(caught.value) for role in roles), "the trap had the owner's rights"

    one = "ARRAY[$1::pg_catalog.uuid], ARRAY['E'], ARRAY['1']"
    for n in range(3):
        for call in (
            f"append_v1('a-1', -1, {one})",
            "append_one_v1('a-1', -1, $1::pg_catalog.uuid, 'E', '1')",
            f"append_many_v1(true, ARRAY['b-1', 'b-2'], ARRAY[-1, -1], ARRAY[1, 0], {one})",
            f"append_many_v1(false, ARRAY['c-1'], ARRAY[-1], ARRAY[1], {one})",
        ):
            assert await connection.fetchval(f"SELECT status FROM eventstore.{call}", uuid4()) == "appended"
        first = await connection.fetchval("SELECT event_id FROM eventstore.events ORDER BY position LIMIT 1")
        link = f"SELECT status FROM eventstore.link_v1('links-{n}', -1, ARRAY[$1::pg_catalog.uuid])"
        assert await connection.fetchval(link, first) == "appended"
        assert await connection.fetchval(f"SELECT status FROM eventstore.delete_v1('links-{n}', -1)") == "deleted"
    assert await connection.fetchval("SELECT eventstore.history_v1()") == store.history
    safe = await connection.fetchval("SELECT eventstore.safe_position_v1()")
    assert safe == await store.safe_position()
    writer = urlsplit(logins["writer"]).username
    await store.fetchval(f"GRANT EXECUTE ON FUNCTION eventstore.hard_delete_v1 TO {writer}")
    assert await connection.fetchval("SELECT status FROM eventstore.hard_delete_v1('a-1', -1)") == "deleted"
    await connection.close()
    assert len(await store.read_all_streams_forward()) == 6


async def test_every_function_with_the_owners_rights_has_a_search_path_of_its_own(store: EventStore) -> None:
    """pg_temp last, where it hides nothing; those without the owner's rights are only called by the others."""
    rows = await store.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace AND prosecdef"
    )
    assert [row["proname"] for row in rows if "search_path=pg_catalog, pg_temp" not in (row["proconfig"] or ())] == []
    assert len(rows) >= 7


# --- how they come about


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_name_holds_database_and_store(role: Role) -> None:
    """No two stores of a cluster share one; long ones are cut to what PostgreSQL keeps, and still differ."""
    assert role_name("app", "eventstore", role) == f"app.eventstore.{role}"
    assert role_name("a.b", "c", role) != role_name("a", "b", role)
    long = [role_name(database, "s" * 48, role) for database in ("d" * 63, "d" * 62, "ü" * 31)]
    assert len(set(long)) == 3
    assert all(len(name.encode()) <= 63 for name in long)


@pytest.mark.parametrize("login", ["", "x" * 64, "a\0b", "pg_bill", "public", "none"])
def test_a_bad_login_is_refused(login: str) -> None:
    """P9: before anything is run."""
    with pytest.raises(InvalidArgument, match="login"):
        login_sql("app", "eventstore", login, "writer")
    with pytest.raises(InvalidArgument, match="role"):
        login_sql("app", "eventstore", "bill", "admin")  # type: ignore[arg-type]


async def test_names_are_quoted(database: str) -> None:
    """Whatever a database or a login is called, the SQL is that of one name."""
    tag = secrets.token_hex(4)
    connection = await asyncpg.connect(database)
    for name in (f"{tag}'; SELECT 1/0; --", f'{tag}"$$ü@schema@%s', f"pg_{tag}"):
        made = connection.transaction()  # roles are the cluster's: these are not to stay
        await made.start()
        await connection.execute(create_sql(name, "eventstore"))
        await connection.execute(grant_sql(name, "eventstore"))
        await make_roles(connection)
        login = name.removeprefix("pg_")
        await make_login(connection, login, "relay")
        count = "SELECT count(*) FROM pg_roles WHERE rolname = ANY ($1::text[])"
        assert await connection.fetchval(count, [login, *(role_name(name, "eventstore", role) for role in ROLES)]) == 6
        await made.rollback()
    await connection.close()


async def test_made_again_they_are_what_they_were(store: EventStore, database: str, logins: Logins) -> None:
    """Also where somebody granted more meanwhile, or two make them at once."""
    before = await rights(store)
    writer = role_name(await database_of(store), "eventstore", "writer")
    await store.fetchval(f'GRANT INSERT ON eventstore.events TO "{writer}"')
    assert await rights(store) != before

    connections = [await asyncpg.connect(database) for _ in range(3)]
    await asyncio.gather(*map(make_roles, connections))
    await asyncio.gather(*(connection.close() for connection in connections))
    assert await rights(store) == before


async def rights(store: EventStore) -> list[tuple[str, ...]]:
    """Who may do what with the schema's tables and functions."""
    rows = await store.fetch("""
        SELECT c.oid::regclass::text, a.grantee::regrole::text, a.privilege_type
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.relnamespace = 'eventstore'::regnamespace
        UNION ALL
        SELECT c.oid::regclass || '.' || t.attname, a.grantee::regrole::text, a.privilege_type
        FROM pg_class AS c JOIN pg_attribute AS t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) AS a
        WHERE c.relnamespace = 'eventstore'::regnamespace
        UNION ALL
        SELECT p.proname, a.grantee::regrole::text, a.privilege_type
        FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'eventstore'::regnamespace ORDER BY 1, 2, 3""")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("what", ["migrate", "reset", "drop and init"])
async def test_a_schema_that_is_made_anew_keeps_its_roles(
    database: str, logins: Logins, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Where roles were made, what a migration brings is granted with it: nobody is locked out."""
    connection = await asyncpg.connect(database)
    async with EventStore(database) as store:
        before = await rights(store)
        if what == "migrate":
            await drop(connection)
            with monkeypatch.context() as first_release:
                first_release.setattr("trunkline_store.migrate.migrations", lambda: migrations()[:1])
                first_release.setattr("trunkline_store.migrate._grant_again", nothing)
                await initialise(connection)
            assert await rights(store) != before
            await migrate(connection)
        elif what == "reset":
            await reset(connection)
        else:
            await drop(connection)
            await initialise(connection)
        assert await rights(store) == before
    await connection.close()
    async with EventStore(logins["writer"]) as writer:
        await writer.append_to_stream("a-1", 0, [event()])


async def nothing(*_: object) -> None:
    """The first release's functions are not those that are granted now."""


async def test_roles_fit_the_schema_of_this_code(database: str) -> None:
    """Of an older or a newer schema nothing is granted, and nothing taken away."""
    connection = await asyncpg.connect(database)
    await connection.execute("INSERT INTO eventstore.schema_migrations VALUES (9999, 'later')")
    with pytest.raises(SchemaTooNew):
        await make_roles(connection)
    await connection.execute("DELETE FROM eventstore.schema_migrations WHERE version > 1")
    with pytest.raises(MigrationPending, match="trunkline migrate"):
        await make_roles(connection)
    with pytest.raises(NotInitialised):
        await make_roles(connection, "other")
    await connection.close()


async def test_a_store_needs_no_superuser(postgres: PostgresServer) -> None:
    """A plain owner of the database, who may create roles, does all of it: makes the store, its roles, a login; the
    history tells the same as a superuser's."""
    tag = secrets.token_hex(6)
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f"CREATE ROLE owner_{tag} LOGIN CREATEROLE PASSWORD '{tag}'")
    await admin.execute(f"CREATE DATABASE test_{tag} OWNER owner_{tag}")
    url = urlsplit(postgres.dsn)._replace(path=f"/test_{tag}")
    dsn = url._replace(netloc=f"owner_{tag}:{tag}@{url.hostname}:{url.port}").geturl()
    owner = await asyncpg.connect(dsn)
    assert await initialise(owner)
    names = await make_roles(owner)
    await make_login(owner, f"writer_{tag}", "writer")
    await owner.execute(f"ALTER ROLE writer_{tag} PASSWORD '{tag}'")
    async with EventStore(dsn) as store, EventStore(dsn.replace("//owner_", "//writer_")) as writer:
        await writer.append_to_stream("a-1", 0, [event()])
        assert len(await writer.read_all_streams_forward()) == 1
        assert store.history == writer.history
        _store, system, *_, timeline = store.history.split("/")
        assert system == str(await admin.fetchval("SELECT system_identifier FROM pg_control_system()"))
        assert timeline != "-"
        with pytest.raises(PermissionRefused):
            await writer.delete_stream("a-1", 1, hard=True)
        await store.delete_stream("a-1", 1, hard=True)
    await reset(owner)
    await owner.close()
    await admin.execute(f"DROP DATABASE test_{tag} WITH (FORCE)")
    for name in (f"writer_{tag}", *names.values(), f"owner_{tag}"):
        await admin.execute(f'DROP ROLE "{name}"')
    await admin.close()


# --- logins


async def test_a_logins_settings_count_from_its_log_in(store: EventStore, logins: Logins) -> None:
    """Each has those that end an abandoned transaction, the relay also those that end a statement; the control, a
    setting of the group, does not reach its members."""
    group = role_name(await database_of(store), "eventstore", "relay")
    await store.fetchval(f"""ALTER ROLE "{group}" SET work_mem = '77MB'""")
    seen = {}
    for role in ROLES:
        connection = await asyncpg.connect(logins[role])
        seen[role] = [
            await connection.fetchval(f"SHOW {setting}")
            for setting in (
                *("idle_in_transaction_session_timeout", "tcp_keepalives_idle", "tcp_keepalives_interval"),
                *("tcp_keepalives_count", "tcp_user_timeout", "statement_timeout", "lock_timeout", "work_mem"),
            )
        ]
        await connection.close()
    default = await store.fetchval("SHOW work_mem")
    common = ["1min", "30", "10", "3", "60000"]
    assert default != "77MB"
    assert seen == {role: [*common, *(["1min", "15s"] if role == "relay" else ["0", "0"]), default] for role in ROLES}


async def test_a_forgotten_transaction_does_not_hold_readers_back_for_ever(store: EventStore, logins: Logins) -> None:
    """The server ends it after the login's time (shortened here), and what it had appended is gone."""
    name = urlsplit(logins["writer"]).username
    await store.fetchval(f"ALTER ROLE {name} IN DATABASE {await database_of(store)} "
                         "SET idle_in_transaction_session_timeout = '200ms'")  # fmt: skip

    async def forget() -> None:
        async with EventStore(logins["writer"]) as writer, writer.transaction() as connection:
            await writer.append_to_stream("a-1", 0, [event()], connection=connection)
            appended = await store.append_to_stream("b-1", 0, [event()])
            await store.until_safe(appended.last_position)

    with pytest.raises(StoreUnavailable, match="connection is closed"):
        await forget()
    assert [e.stream for e in await store.read_all_streams_forward()] == ["b-1"]


async def test_only_a_relay_sees_since_when_a_transaction_is_open(store: EventStore, logins: Logins) -> None:
    """It is a member of pg_read_all_stats where that could be granted; the others see who, and not since when."""
    async with store.transaction() as connection:
        await store.append_to_stream("a-1", 0, [event()], connection=connection)
        pid = connection.get_server_pid()
        for role in ROLES:
            other = await asyncpg.connect(logins[role])
            since = await other.fetchval("SELECT xact_start FROM pg_stat_activity WHERE pid = $1", pid)
            assert (since is not None) is (role == "relay")
            await other.close()
