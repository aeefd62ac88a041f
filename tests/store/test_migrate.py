"""Migrations: a store that grew up is the same as a new one, and keeps what it has."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tests.store.first_release import make_first_release
from trunkline_store import (
    EventData,
    EventStore,
    InvalidArgument,
    MigrationPending,
    NotInitialised,
    SchemaTooNew,
    StoreNotReady,
    WrongExpectedVersion,
    migrate,
)
from trunkline_store.migrate import DataType, Migration
from trunkline_store.rights import literal

CATALOG = """
    WITH here AS (SELECT oid FROM pg_namespace WHERE nspname = 'eventstore')
    SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE oid = (TABLE here)
    UNION ALL
    SELECT 'relation', relname, concat_ws(' ', relkind, relpersistence, reloptions, relacl, relrowsecurity)
        FROM pg_class WHERE relnamespace = (TABLE here)
    UNION ALL
    SELECT 'column', c.relname || '.' || attname,
           concat_ws(' ', format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull, attidentity,
                     attgenerated, attstorage, pg_get_expr(adbin, adrelid))
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid
        LEFT JOIN pg_attrdef AS d ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = (TABLE here) AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint', concat_ws(' ', conrelid::regclass, contypid::regtype, conname),
           concat_ws(' ', pg_get_constraintdef(oid), convalidated)
        FROM pg_constraint WHERE connamespace = (TABLE here)
    UNION ALL
    SELECT 'index', indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid)
        FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid WHERE relnamespace = (TABLE here)
    UNION ALL
    SELECT 'trigger', tgrelid::regclass || ' ' || tgname, concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = tgrelid WHERE relnamespace = (TABLE here)
    UNION ALL
    SELECT 'sequence', seqrelid::regclass::text,
           concat_ws(' ', seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle)
        FROM pg_sequence JOIN pg_class AS c ON c.oid = seqrelid WHERE relnamespace = (TABLE here)
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(p.oid), proacl)
        FROM pg_proc AS p WHERE pronamespace = (TABLE here)
    UNION ALL
    SELECT 'type', typname, concat_ws(' ', typtype, typnotnull, typdefault)
        FROM pg_type WHERE typnamespace = (TABLE here)
    ORDER BY 1, 2, 3"""


async def catalog(connection: asyncpg.Connection) -> list[tuple[str, ...]]:
    """All that makes a schema: tables, columns, constraints, indexes, triggers, sequences, functions, privileges."""
    return [tuple(row) for row in await connection.fetch(CATALOG)]


async def versions(connection: asyncpg.Connection) -> list[int]:
    """What is recorded as applied."""
    rows = await connection.fetch("SELECT version FROM eventstore.schema_migrations ORDER BY version")
    return [row["version"] for row in rows]


def known(monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """As if this code knew further migrations; returns the version of the first of them."""
    real = migrate.migrations()
    added = [Migration(number, f"later_{number}", sql) for number, sql in enumerate(more, real[-1].version + 1)]
    monkeypatch.setattr(migrate, "migrations", lambda: (*real, *added))
    return real[-1].version + 1


ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database that has no store yet."""
    connection = await asyncpg.connect(database)
    await migrate.drop(connection)
    yield connection
    await connection.close()


# --- fresh and migrated


@pytest.mark.parametrize("data_type", ["json", "jsonb", "bytea"])
async def test_a_migrated_schema_is_the_same_as_a_fresh_one(
    connection: asyncpg.Connection, data_type: DataType
) -> None:
    """Whatever the catalog knows of them, with every type of data; the one had events in it when it was migrated."""
    await migrate.initialise(connection, data_type=data_type)
    fresh = await catalog(connection)
    await migrate.drop(connection)
    await make_first_release(connection, data_type)
    assert await catalog(connection) != fresh
    assert await migrate.migrate(connection) == [each.version for each in migrate.migrations()[1:]]
    assert await catalog(connection) == fresh


HOSTILE = {
    "standard_conforming_strings": "off",
    "check_function_bodies": "off",
    "default_table_access_method": "other_heap",
    "default_transaction_isolation": "serializable",
    "quote_all_identifiers": "on",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "bytea_output": "escape",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "client_min_messages": "error",
    "default_toast_compression": "pglz",
}


async def test_the_settings_of_a_session_do_not_change_what_is_made(
    connection: asyncpg.Connection, database: str
) -> None:
    """A store that two starters make and migrate at once under unusual settings has the same catalog and tables, and
    takes and refuses the same names. The sessions keep their settings."""
    await migrate.initialise(connection)
    usual = await catalog(connection)
    await migrate.drop(connection)
    await connection.execute("CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler")
    starters = [await asyncpg.connect(database, server_settings=HOSTILE) for _ in range(2)]
    assert sorted(await asyncio.gather(*map(migrate.initialise, starters))) == [False, True]
    assert await catalog(connection) == usual
    kinds = await connection.fetch(
        "SELECT DISTINCT amname FROM pg_class AS c JOIN pg_am AS a ON a.oid = relam "
        "WHERE relnamespace = 'eventstore'::regnamespace AND relkind = 'r'"
    )
    assert [row["amname"] for row in kinds] == ["heap"]
    async with starters[0].transaction():
        await migrate.reset(starters[0])
        for name, value in HOSTILE.items():
            assert await starters[0].fetchval("SELECT current_setting($1)", name) == value
    assert await catalog(connection) == usual
    for name, taken in (("s", True), ("$x", False), (" ", False), ("ss", True), ("a\x7f", False)):
        for session in (connection, starters[1]):
            assert await takes(session, name) is taken, name
    for session in starters:
        await session.close()


async def takes(connection: asyncpg.Connection, name: str) -> bool:
    """Return True if a stream can have this name."""
    try:
        return bool(await connection.fetchval("SELECT $1::text::eventstore.stream_name", name) == name)
    except asyncpg.CheckViolationError:
        return False


def test_no_literal_of_our_sql_holds_a_backslash() -> None:
    """The meaning of a backslash depends on standard_conforming_strings."""
    texts = {file: file.read_text() for package in ("store", "ops") for file in (ROOT / package).rglob("*.sql")}
    assert len(texts) > 8
    for file, text in texts.items():
        assert "\\" not in re.sub("--.*", "", text), file


@pytest.mark.parametrize("setting", ["on", "off"])
async def test_a_literal_is_the_text_whatever_is_in_it(connection: asyncpg.Connection, setting: str) -> None:
    """Names of databases and logins may hold quotes and backslashes."""
    await connection.execute(f"SET standard_conforming_strings = {setting}")
    for text in ("a", "a'b", "a\\b", "\\'", "\\\\", "'; SELECT 1 --", "\\'; SELECT 1 --", "E'"):
        assert await connection.fetchval(f"SELECT {literal(text)}") == text


@pytest.mark.parametrize(
    "change",
    [
        "ALTER FUNCTION eventstore.append_v1 RESET jit",
        "CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "ALTER SEQUENCE eventstore.blocks CACHE 2",
        "ALTER TABLE eventstore.events ALTER type DROP NOT NULL",
        "ALTER TABLE eventstore.events DISABLE TRIGGER ALL",
        "ALTER DOMAIN eventstore.label DROP CONSTRAINT label_check",
        "ALTER TABLE eventstore.subscriptions DROP CONSTRAINT subscriptions_name_check",
        "ALTER TABLE eventstore.leases ADD x int",
        "ALTER TABLE eventstore.store ALTER batch_count SET DEFAULT 5",
        "ALTER TABLE eventstore.streams RESET (fillfactor)",
        "DROP INDEX eventstore.events_category",
        "GRANT EXECUTE ON FUNCTION eventstore.hard_delete_v1 TO PUBLIC",
        "GRANT SELECT ON eventstore.events TO PUBLIC",
        "GRANT USAGE ON SCHEMA eventstore TO PUBLIC",
    ],
)
async def test_the_comparison_would_notice(store: EventStore, change: str) -> None:
    """The control: one small difference of each kind, and the catalog is not the same."""
    async with store.transaction() as connection:
        before = await connection.fetch(CATALOG)
        await connection.execute(change)
        assert await connection.fetch(CATALOG) != before


async def test_events_and_checkpoints_outlive_a_migration(connection: asyncpg.Connection, database: str) -> None:
    """Old events are read as they were, positions and versions go on above them, an old append is recognised when it
    comes again, and a subscription goes on at its checkpoint."""
    await make_first_release(connection)
    rows = await connection.fetch("SELECT position, event_id FROM eventstore.events ORDER BY position")
    checkpoint = await connection.fetchval("SELECT checkpoint FROM eventstore.subscriptions")
    store_id = await connection.fetchval("SELECT store_id FROM eventstore.store")
    await migrate.migrate(connection)
    async with EventStore(database) as store:
        assert store.store_id == store_id
        events = await store.read_all_streams_forward()
        assert [(e.position, e.event_id) for e in events] == [(row["position"], row["event_id"]) for row in rows]
        assert [e.data for e in events] == [{"n": n} for n in range(1, 11)]
        assert [e.data["n"] for e in await store.read_stream_forward("order-1")] == [1, 4, 7, 10]
        again = EventData("Old", {"n": 1}, {"n": 1}, id=events[0].event_id)
        assert (await store.append_to_stream("order-1", 0, [again])).first_position in {e.position for e in events}
        with pytest.raises(WrongExpectedVersion):
            await store.append_to_stream("order-1", 3, [EventData("New", 1)])
        appended = await store.append_to_stream("order-1", 4, [EventData("New", 1)])
        assert appended.first_position > events[-1].position
        await store.link_to_stream("links-1", 0, [events[0]])
        subscription = await store.subscriptions.get("projection")
        assert (subscription.checkpoint, subscription.epoch) == (checkpoint, 3)
        assert subscription.behind == 6
        assert await store.fetchval(store.sql["see_relay"], "relay") == events[-1].position


# --- starting, twice, at once, and not at all


async def test_of_starters_at_once_one_makes_the_store(connection: asyncpg.Connection, database: str) -> None:
    """All succeed, one says that it made it, and each migration is applied once."""
    starters = [await asyncpg.connect(database) for _ in range(4)]
    made = await asyncio.gather(*map(migrate.initialise, starters))
    assert sorted(made) == [False, False, False, True]
    assert await versions(connection) == [each.version for each in migrate.migrations()]
    store_id = await connection.fetchval("SELECT store_id FROM eventstore.store")
    assert not await migrate.initialise(connection)
    assert await connection.fetchval("SELECT store_id FROM eventstore.store") == store_id
    await asyncio.gather(*(starter.close() for starter in starters))


async def test_of_starters_at_once_each_migration_is_applied_by_one(
    connection: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All succeed; what they applied, taken together, is what was pending."""
    await make_first_release(connection)
    known(monkeypatch, "CREATE TABLE @schema@.once (x int)", "ALTER TABLE @schema@.once ADD y int")
    starters = [await asyncpg.connect(database) for _ in range(4)]
    applied = await asyncio.gather(*map(migrate.migrate, starters))
    assert sorted(version for each in applied for version in each) == [
        each.version for each in migrate.migrations()[1:]
    ]
    assert await migrate.migrate(connection) == []
    await asyncio.gather(*(starter.close() for starter in starters))


async def test_a_newer_schema_is_left_alone(connection: asyncpg.Connection, database: str) -> None:
    """Whatever this code would do to it is refused, and says what to do; its migrations can still be listed."""
    await migrate.initialise(connection)
    await connection.execute("INSERT INTO eventstore.schema_migrations VALUES (9999, 'later')")
    before = await catalog(connection)
    for refused in (migrate.migrate, migrate.initialise, migrate.reset):
        with pytest.raises(SchemaTooNew, match="upgrade trunkline") as caught:
            await refused(connection)
        assert (caught.value.found, caught.value.needed) == (9999, migrate.latest())
    with pytest.raises(SchemaTooNew):
        await EventStore(database).open()
    assert await catalog(connection) == before
    last = (await migrate.status(connection))[-1]
    assert (last.version, last.name, last.state) == (9999, "later", "unknown")


async def test_a_migration_that_fails_leaves_nothing_behind(
    connection: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before it stay, each in its own transaction; of it nothing does; made good, it is applied."""
    await migrate.initialise(connection)
    with monkeypatch.context() as faulty:
        number = known(faulty, "CREATE TABLE @schema@.good (x int)", "CREATE TABLE @schema@.bad (x int); SELECT 1/0")
        with pytest.raises(
            StoreNotReady, match=rf"migration {number + 1} \(later_{number + 1}\) failed.*division by zero"
        ):
            await migrate.migrate(connection)
        assert await versions(connection) == [each.version for each in migrate.migrations()[:-1]]
        tables = {name for kind, name, _ in await catalog(connection) if kind == "relation"}
        assert "good" in tables
        assert "bad" not in tables
        assert [each.state for each in await migrate.status(connection)][-2:] == ["applied", "pending"]
        with pytest.raises(MigrationPending, match="trunkline migrate"):
            await EventStore(database).open()
    known(monkeypatch, "CREATE TABLE @schema@.good (x int)", "CREATE TABLE @schema@.bad (x int)")
    assert await migrate.migrate(connection) == [number + 1]
    async with EventStore(database) as store:
        await store.append_to_stream("a-1", 0, [EventData("E", 1)])


async def test_a_store_is_made_whole_or_not_at_all(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first migration fails there is no schema either."""
    with monkeypatch.context() as faulty:
        faulty.setattr(migrate, "migrations", lambda: (Migration(1, "bad", "CREATE TABLE @schema@.x (); SELECT 1/0"),))
        with pytest.raises(StoreNotReady, match="division by zero"):
            await migrate.initialise(connection)
    assert await connection.fetchval("SELECT to_regnamespace('eventstore')") is None
    for needs_a_store in (migrate.migrate, migrate.status, migrate.reset):
        with pytest.raises(NotInitialised, match=r"run `trunkline create`$"):
            await needs_a_store(connection)
        with pytest.raises(NotInitialised, match=r"run `trunkline create --schema shop`$"):
            await needs_a_store(connection, "shop")
    assert not await migrate.drop(connection)


async def test_the_status_says_what_is_applied_since_when_and_what_is_pending(connection: asyncpg.Connection) -> None:
    """By version, with names; the same list before and after."""
    await make_first_release(connection)
    before = await migrate.status(connection)
    assert [(each.version, each.name, each.state) for each in before[:2]] == [
        (1, "store", "applied"),
        (2, "streams", "pending"),
    ]
    assert [each.migrated_at is None for each in before] == [each.state == "pending" for each in before]
    await migrate.migrate(connection)
    after = await migrate.status(connection)
    assert {each.state for each in after} == {"applied"}
    times = [each.migrated_at for each in after if each.migrated_at]
    assert times == sorted(times)
    assert len(times) == len(after)
    assert after[0] == before[0]


# --- beginning anew


async def test_a_reset_store_is_a_new_one_that_keeps_data_as_before(
    connection: asyncpg.Connection, database: str
) -> None:
    """No event, subscription or position is left; data type, content type and the batches' caps are; its history is
    another one, so that followers notice."""
    await migrate.initialise(connection, data_type="bytea", content_type="application/json")
    await connection.execute("UPDATE eventstore.store SET batch_count = 7, batch_bytes = 2048")
    fresh = await catalog(connection)
    async with EventStore(database) as store:
        first = await store.append_to_stream("a-1", 0, [EventData("E", 1)])
        await store.fetchval(store.sql["create_subscription"], "s", "$all", 0)
        history = store.history
    await migrate.reset(connection)
    assert await catalog(connection) == fresh
    async with EventStore(database) as store:
        assert await store.read_all_streams_forward() == []
        assert await store.subscriptions.list() == []
        assert store.history != history
        assert (store.batch_count, store.batch_bytes) == (7, 2048)
        assert (await store.append_to_stream("a-1", 0, [EventData("E", 1, id=UUID(int=1))])) == first
    with pytest.raises(InvalidArgument, match="bytea"):
        await migrate.initialise(connection, data_type="json")


async def test_a_reset_that_fails_changes_nothing(connection: asyncpg.Connection, database: str) -> None:
    """Old and new store are exchanged in one transaction: also where something else stands in the schema."""
    await migrate.initialise(connection)
    async with EventStore(database) as store:
        await store.append_to_stream("a-1", 0, [EventData("E", 1)])
    await connection.execute("CREATE VIEW eventstore.mine AS SELECT count(*) FROM eventstore.events")
    with pytest.raises(InvalidArgument, match="mine"):
        await migrate.reset(connection)
    assert await connection.fetchval("SELECT count FROM eventstore.mine") == 1
