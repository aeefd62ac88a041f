"""The SQL interface, called as programs call it that are not this one."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.whole.test_readme import ROOT, run
from trunkline_store import ANY_VERSION, EventData, EventStore

Names = dict[str, Any]

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, total int, state text)"
INTERFACE = """
ahead_v1(_feed text, _checkpoint bigint, _finished int8multirange, _upto bigint, _most integer, OUT events bigint, \
OUT since timestamp with time zone) record
append_many_v1(_together boolean, _streams text[], _expected bigint[], _counts integer[], _ids uuid[], _types text[], \
_data text[], _metadata text[] DEFAULT NULL::text[], _correlation_ids text[] DEFAULT NULL::text[], \
_causation_ids text[] DEFAULT NULL::text[], _traceparents text[] DEFAULT NULL::text[], \
_created_at timestamp with time zone[] DEFAULT NULL::timestamp with time zone[]) TABLE(status text, actual bigint, \
first_version bigint, last_version bigint, first_position bigint, last_position bigint, duplicate uuid)
append_one_v1(_stream text, _expected bigint, _id uuid, _type text, _data text, _metadata text DEFAULT NULL::text, \
_correlation_id text DEFAULT NULL::text, _causation_id text DEFAULT NULL::text, _traceparent text DEFAULT NULL::text, \
_created_at timestamp with time zone DEFAULT NULL::timestamp with time zone, OUT status text, OUT actual bigint, \
OUT first_version bigint, OUT last_version bigint, OUT first_position bigint, OUT last_position bigint, \
OUT duplicate uuid) record
append_v1(_stream text, _expected bigint, _ids uuid[], _types text[], _data text[], \
_metadata text[] DEFAULT NULL::text[], _correlation_ids text[] DEFAULT NULL::text[], \
_causation_ids text[] DEFAULT NULL::text[], _traceparents text[] DEFAULT NULL::text[], \
_created_at timestamp with time zone[] DEFAULT NULL::timestamp with time zone[], OUT status text, OUT actual bigint, \
OUT first_version bigint, OUT last_version bigint, OUT first_position bigint, OUT last_position bigint, \
OUT duplicate uuid) record
compare_history_v1(_expected text) boolean
delete_v1(_stream text, _expected bigint, OUT status text, OUT actual bigint) record
durable_v1() boolean
first_since_v1(_time timestamp with time zone) bigint
hard_delete_v1(_stream text, _expected bigint, OUT status text, OUT actual bigint) record
history_v1() text
holds_v1(_feed_positions bigint[], _ids uuid[]) boolean
link_v1(_stream text, _expected bigint, _ids uuid[], OUT status text, OUT actual bigint, OUT first_version bigint, \
OUT last_version bigint, OUT first_position bigint, OUT last_position bigint, OUT duplicate uuid) record
look_v1(_seen text, _follow boolean, OUT safe bigint, OUT history text) record
safe_position_v1() bigint
same_history_v1(_expected text) boolean
settled_v1(_checkpoint bigint, _finished int8multirange, _more int8multirange, OUT checkpoint bigint, \
OUT finished int8multirange) record
version_above_v1(_stream_id bigint, _position bigint) bigint
""".strip()


async def test_the_interface_is_this(store: EventStore) -> None:
    """Names, types, order and defaults of every parameter, and the answers: a change breaks somebody's program, and
    belongs into a function with another version."""
    rows = await store.fetch("""
        SELECT proname || '(' || pg_get_function_arguments(oid) || ') ' || pg_get_function_result(oid) AS signature
        FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace AND proname ~ '_v[0-9]+$'
        ORDER BY proname COLLATE "C" """)
    assert "\n".join(row["signature"] for row in rows) == INTERFACE


# --- the README's recipes, as they stand


@pytest.fixture
def recipes(database: str) -> Names:
    """What the guide defines."""
    return asyncio.run(run("store/README.md", dsn=database))


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """An application's, with its own table."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(ORDERS)
        yield connection


def events(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Stream, version, type and data of all events, in their order."""
    return connection.execute(
        "SELECT stream, stream_version, type, data FROM eventstore.events JOIN eventstore.streams USING (stream_id) "
        "ORDER BY position"
    ).fetchall()


def states(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    """The application's rows."""
    return connection.execute("SELECT id, state FROM orders ORDER BY id").fetchall()


def test_psycopg_writes_row_and_event_together(recipes: Names, connection: psycopg.Connection) -> None:
    """Both or neither; the same call again changes nothing; a refusal rolls the row back."""
    place_order, refused = recipes["place_order"], recipes["Refused"]
    event_id = uuid4()
    for _ in range(2):
        place_order(connection, 1, 12, event_id)
    assert events(connection) == [("order-1", 1, "OrderPlaced", {"total": 12})]
    assert states(connection) == [(1, "placed")]
    connection.execute("DELETE FROM orders")
    with pytest.raises(refused, match="wrong_expected_version"):
        place_order(connection, 1, 12, uuid4())
    with pytest.raises(refused, match="duplicate_event"):
        place_order(connection, 2, 12, event_id)
    assert states(connection) == []
    assert len(events(connection)) == 1


def test_psycopg_decides_again_after_a_conflict(recipes: Names, connection: psycopg.Connection) -> None:
    """In the same transaction, with the stream locked; where the decision is another one, nothing is changed."""
    recipes["place_order"](connection, 1, 12, uuid4())
    with connection.transaction():
        recipes["append"](connection, "order-1", 1, uuid4(), "NoteAdded", {})
    recipes["pay_order"](connection, 1, 1, uuid4())  # it saw version 1, and the note is version 2
    assert [event[1:3] for event in events(connection)] == [(1, "OrderPlaced"), (2, "NoteAdded"), (3, "OrderPaid")]
    assert states(connection) == [(1, "paid")]
    with pytest.raises(recipes["Refused"], match="at version 3"):
        recipes["pay_order"](connection, 1, 2, uuid4())
    assert len(events(connection)) == 3


def test_after_a_refusal_nobody_comes_between(recipes: Names, connection: psycopg.Connection, database: str) -> None:
    """The stream is locked by the refused append, until the transaction ends."""
    recipes["place_order"](connection, 1, 12, uuid4())
    with psycopg.connect(database, autocommit=True) as other, connection.transaction():
        with pytest.raises(recipes["Refused"]) as caught:
            recipes["append"](connection, "order-1", 7, uuid4(), "OrderPaid", {})
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            recipes["append"](other, "order-1", -1, uuid4(), "OrderPaid", {})
        recipes["append"](connection, "order-1", caught.value.actual, uuid4(), "OrderPaid", {})
    assert len(events(connection)) == 2


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sqlalchemy_appends_in_its_session(database: str, driver: str) -> None:
    """With either of its async drivers: rows and events together, and a conflict is an answer."""
    recipes = await run("store/README.md", dsn=database)
    url = database.replace("postgresql://", f"postgresql+{driver}://")
    engine = create_async_engine(url)
    application = await asyncpg.connect(database)
    await application.execute(ORDERS)
    await application.execute("INSERT INTO orders VALUES (1, 12, 'paid')")
    async with EventStore(database) as store:
        await store.append_to_stream("order-1", 0, [EventData("OrderPlaced", {})])
        ids = [uuid4(), uuid4()]
        for seen, ids_, shipped in ((7, ids, False), (1, ids, True), (1, ids, True), (1, [uuid4(), uuid4()], False)):
            async with AsyncSession(engine) as session:
                assert await recipes["ship_order"](session, 1, seen, ids_, "request 9") is shipped
        stored = await store.read_stream_forward("order-1")
        assert [(e.type, e.correlation_id) for e in stored] == [
            ("OrderPlaced", None),
            ("OrderPacked", "request 9"),
            ("OrderShipped", "request 9"),
        ]
        async with AsyncSession(engine) as session:
            with pytest.raises(recipes["Refused"], match="duplicate_event"):
                await recipes["ship_order"](session, 2, 0, ids, "request 9")
    assert await application.fetchval("SELECT state FROM orders") == "shipped"
    await application.close()
    await engine.dispose()


@pytest.fixture
def django_connections(database: str) -> Iterator[None]:
    """Django, configured with the test's database."""
    import django  # type: ignore[import-untyped]
    from django import conf, db

    if not conf.settings.configured:
        conf.settings.configure(LOGGING_CONFIG=None)
        django.setup()
    url = urlsplit(database)
    db.connections.settings = db.connections.configure_settings(
        {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": url.path.removeprefix("/"),
                "USER": unquote(url.username or ""),
                "PASSWORD": unquote(url.password or ""),
                "HOST": url.hostname,
                "PORT": url.port,
            }
        }
    )
    yield
    db.connections.close_all()
    del db.connections["default"]


@pytest.mark.usefixtures("django_connections")
def test_django_appends_in_atomic(recipes: Names, connection: psycopg.Connection) -> None:
    """On Django's connection, in its transaction; a refusal rolls all of it back."""
    connection.execute("INSERT INTO orders VALUES (1, 12, 'placed'), (2, 13, 'placed')")
    with connection.transaction():
        recipes["append"](connection, "order-1", 0, uuid4(), "OrderPlaced", {})
    recipes["cancel_order"](1, "changed my mind")
    with pytest.raises(recipes["Refused"], match="stream_not_found"):
        recipes["cancel_order"](2, "there is no such stream")
    assert states(connection) == [(1, "cancelled"), (2, "placed")]
    assert events(connection)[-1] == ("order-1", 2, "OrderCancelled", {"why": "changed my mind"})


# --- what it takes, and what it answers

ONE, NEW = UUID(int=1), UUID(int=2)
STATUSES: list[tuple[str, str]] = [
    ("append_v1('a-1', -1, ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])", "appended"),
    ("append_v1('a-1', 0, ARRAY[%(one)s], ARRAY['E'], ARRAY['1'])", "appended"),
    ("append_v1('a-1', 0, ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])", "wrong_expected_version"),
    ("append_v1('a-1', -2, ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])", "stream_exists"),
    ("append_v1('b-1', -3, ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])", "stream_not_found"),
    ("append_v1('gone-1', -1, ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])", "stream_deleted"),
    ("append_v1('b-1', -1, ARRAY[%(one)s], ARRAY['E'], ARRAY['1'])", "duplicate_event"),
    ("append_one_v1('a-1', -1, %(new)s, 'E', '1')", "appended"),
    ("append_one_v1('a-1', 1, %(new)s, 'E', '1')", "appended"),
    ("append_one_v1('new-1', 0, %(new)s, 'E', '1')", "appended"),
    ("append_one_v1('a-1', 1, %(one)s, 'E', '1')", "appended"),
    ("append_one_v1('a-1', 0, %(one)s, 'E', '1')", "appended"),
    ("append_one_v1('a-1', 0, %(new)s, 'E', '1')", "wrong_expected_version"),
    ("append_one_v1('a-1', 2, %(new)s, 'E', '1')", "wrong_expected_version"),
    ("append_one_v1('a-1', -2, %(new)s, 'E', '1')", "stream_exists"),
    ("append_one_v1('b-1', -3, %(new)s, 'E', '1')", "stream_not_found"),
    ("append_one_v1('gone-1', -1, %(new)s, 'E', '1')", "stream_deleted"),
    ("append_one_v1('b-1', -1, %(one)s, 'E', '1')", "duplicate_event"),
    ("append_one_v1('a-1', -1, %(one)s, 'E', '2')", "duplicate_event"),
    ("append_many_v1(true, ARRAY['a-1'], ARRAY[0], ARRAY[1], ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])",
     "wrong_expected_version"),
    ("append_many_v1(false, ARRAY['held-1'], ARRAY[-1], ARRAY[1], ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])", "busy"),
    ("link_v1('l-1', -1, ARRAY[%(one)s])", "appended"),
    ("link_v1('l-1', -1, ARRAY[%(one)s, %(new)s])", "event_not_found"),
]  # fmt: skip


def test_the_statuses_are_those_of_the_guide(database: str, store: EventStore) -> None:
    """Each is answered, and none that is not documented; only what was appended leaves anything."""

    async def prepare() -> None:
        async with EventStore(database) as store:
            await store.append_to_stream("a-1", 0, [EventData("E", 1, id=ONE)])
            await store.append_to_stream("held-1", 0, [EventData("E", 1)])
            await store.append_to_stream("gone-1", 0, [EventData("E", 1)])
            await store.delete_stream("gone-1", 1)

    asyncio.run(prepare())
    values = {"one": ONE, "new": NEW}
    with psycopg.connect(database) as holder, psycopg.connect(database) as connection:
        holder.execute("SELECT * FROM eventstore.streams WHERE stream = 'held-1' FOR UPDATE")
        before = events(connection)
        for call, status in STATUSES:
            row = connection.execute(f"SELECT status FROM eventstore.{call}", values).fetchone()
            assert row == (status,), call
            if status != "appended":
                assert events(connection) == before
            connection.rollback()
    documented = re.findall(r"^\| `([a-z_]+)` \| ", (ROOT / "store" / "README.md").read_text(), re.MULTILINE)
    assert {status for _, status in STATUSES} <= set(documented)
    sql = "".join(file.read_text() for file in (ROOT / "store" / "trunkline_store" / "sql" / "migrations").iterdir())
    answered = set(re.findall(r"'((?:wrong|stream|event|duplicate)_[a-z_]+)'", sql)) | {"appended", "busy"}
    assert answered - {"stream_version"} <= set(documented)


TWO = "ARRAY[%(new)s, %(one)s], ARRAY['E', 'E'], ARRAY['1', '1']"
ERRORS: list[tuple[str, type[psycopg.Error]]] = [
    ("append_v1('a-1', -1, ARRAY[%(new)s, %(new)s], ARRAY['E', 'E'], ARRAY['1', '1'])",
     psycopg.errors.UniqueViolation),
    ("append_v1('$x', -1, ARRAY[%(new)s], ARRAY['E'], ARRAY['1'])", psycopg.errors.CheckViolation),
    ("append_one_v1('$x', -1, %(new)s, 'E', '1')", psycopg.errors.CheckViolation),
    ("append_one_v1('a-1', -1, %(new)s, '', '1')", psycopg.errors.CheckViolation),
    ("append_one_v1('a-1', -1, %(new)s, 'E', '{')", psycopg.errors.InvalidTextRepresentation),
    ("append_one_v1('a-1', -1, NULL, 'E', '1')", psycopg.errors.NotNullViolation),
    ("append_v1('a-1', -1, ARRAY[%(new)s], ARRAY[''], ARRAY['1'])", psycopg.errors.CheckViolation),
    ("append_v1('a-1', -1, ARRAY[%(new)s], ARRAY['E'], ARRAY['{'])", psycopg.errors.InvalidTextRepresentation),
    ("append_v1('a-1', -1, ARRAY[%(new)s], ARRAY['E'], ARRAY['1'], ARRAY['{'])",
     psycopg.errors.InvalidTextRepresentation),
    ("append_v1('a-1', -1, ARRAY[%(new)s], ARRAY['E', 'E'], ARRAY['1'])", psycopg.errors.NotNullViolation),
    ("append_v1('a-1', -1, ARRAY[%(new)s, %(one)s], ARRAY['E'], ARRAY['1'])", psycopg.errors.NotNullViolation),
    *((f"append_many_v1({together}, ARRAY['a-1', 'b-1'], ARRAY[-1, -1], ARRAY[{counts}], {TWO})",
       psycopg.errors.InvalidParameterValue)
      for together in ("true", "false") for counts in ("1, 0", "2, 1", "3, -1", "1, 1, 0")),
    *((f"append_many_v1({together}, ARRAY['a-1', 'a-1'], ARRAY[-1, -1], ARRAY[1, 1], {TWO})", psycopg.IntegrityError)
      for together in ("true", "false")),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error"), ERRORS, ids=range(len(ERRORS)))
def test_bad_input_is_an_error_and_changes_nothing(call: str, error: type[psycopg.Error], database: str) -> None:
    """P9, for those who call the functions themselves: names, JSON, lists and counts that do not fit."""
    with psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(error):
            connection.execute(f"SELECT * FROM eventstore.{call}", {"new": NEW, "one": ONE})
        assert events(connection) == []
        assert connection.execute("SELECT count(*) FROM eventstore.streams").fetchone() == (0,)


async def test_what_sql_appends_is_read_as_what_the_library_appends(store: EventStore) -> None:
    """The same events, by both ways: the category is found, what was left out is none."""
    data = [{"n": 1}, {"n": 2}]
    for stream in ("order-1", "order"):
        await store.fetch(
            "SELECT * FROM eventstore.append_v1($1, 0, $2, $3, $4)",
            f"{stream}-sql",
            [uuid4(), uuid4()],
            ["E", "E"],
            [json.dumps(each, separators=(",", ":")) for each in data],
        )
        await store.append_to_stream(f"{stream}-py", 0, [EventData("E", each) for each in data])
    found = await store.read_category_forward("order")
    assert len(found) == 8
    facts = [[(e.type, e.data, e.metadata, e.correlation_id, e.causation_id, e.size) for e in found[n : n + 2]]
             for n in range(0, 8, 2)]  # fmt: skip
    assert facts[0] == facts[1] == facts[2] == facts[3]


async def test_no_call_is_compiled(store: EventStore) -> None:
    """With PostgreSQL's defaults a plan that has to scan what is not to be scanned looks so dear that it is compiled at
    each call, which takes fifty times as long as the append: nobody who calls by SQL has to know that."""
    rows = await store.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace AND prosecdef"
    )
    dear = [row["proname"] for row in rows if "enable_seqscan=off" in row["proconfig"]]
    assert {"append_v1", "append_many_v1", "link_v1"} <= set(dear)
    assert [row["proname"] for row in rows if row["proname"] in dear and "jit=off" not in row["proconfig"]] == []


async def test_all_is_followed_with_sql_alone(store: EventStore, database: str) -> None:
    """The safe position in a statement of its own, then the events up to it: an append that is open is not passed."""
    follow = "SELECT position FROM eventstore.events WHERE position > $1 AND position <= $2 ORDER BY position"
    connection = await asyncpg.connect(database)
    async with store.transaction() as held:
        first = await store.append_to_stream("a-1", 0, [EventData("E", 1)], connection=held)
        second = await store.append_to_stream("b-1", ANY_VERSION, [EventData("E", 1)])
        safe = await connection.fetchval("SELECT eventstore.safe_position_v1()")
        assert await connection.fetch(follow, 0, safe) == []
    safe = await connection.fetchval("SELECT eventstore.safe_position_v1()")
    rows = await connection.fetch(follow, 0, safe)
    assert [row["position"] for row in rows] == [first.first_position, second.first_position]
    await connection.close()
