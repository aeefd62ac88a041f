"""An attacker may create objects in a schema of our search path; none of them is ever run by us.

PostgreSQL looks operators, functions, types and catalogues up along the search path, and takes the best match: an
operator of `public` for exactly (integer, interval) wins over PostgreSQL's own for (double precision, interval). Its
function runs with the rights of the login that runs the statement.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import Consumer
from trunkline_ops.commands import app
from trunkline_store import ANY_VERSION, EventData, EventStore, Snapshot, StreamAppend
from trunkline_store.connections import LEND, make_ours
from trunkline_store.migrate import DataType, initialise
from trunkline_store.overview import overview
from trunkline_store.queries import for_store, parts_of
from trunkline_store.rights import Role
from trunkline_store.streams import page_query

DATA_TYPES: Final[tuple[DataType, ...]] = ("json", "jsonb", "bytea")


def statements() -> Iterator[tuple[str, str]]:
    """Return all statements of ours, for each type of data, each in the stores of the test."""
    for data_type in DATA_TYPES:
        for package, file in (
            ("trunkline_store", "sql/queries.sql"),
            ("trunkline_ops", "doctor/facts.sql"),
            ("trunkline_ops", "verify/queries.sql"),
            ("trunkline_ops", "transfer/queries.sql"),
        ):
            for name, text in parts_of((files(package) / file).read_text()).items():
                for number, filled in enumerate(pages_of(text) if "@where@" in text else [text]):
                    yield f"{data_type} {file} {name} {number}", for_store(filled, f"in_{data_type}", data_type)


def pages_of(text: str) -> Iterator[str]:
    """Return the statements that `paginate_streams` makes."""
    for category, deleted, after in product((None, "a"), (None, False, True), (None, "a-1")):
        yield page_query(
            text, 9, after=after, search="a", sort_by="stream", sort_dir="asc", category=category, deleted=deleted
        )[0]
    yield page_query(text, 9, after=7, search="", sort_by="stream_id", sort_dir="desc", category=None, deleted=None)[0]


STATEMENTS: Final = dict(statements())
TYPES: Final = (
    "text", "name", '"char"', "smallint", "integer", "bigint", "numeric", "float4", "float8", "boolean", "uuid",
    "timestamptz", "interval", "json", "jsonb", "oid", "regclass", "regnamespace", "int8range", "int8multirange",
    "text[]", "bigint[]",
)  # fmt: skip
OPERATORS: Final = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "||", "&", "@>", "->>")

TRAPS: Final = """
    CREATE FUNCTION public.spring() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'a trap, with the rights of %', current_user; END $$;
    GRANT EXECUTE ON FUNCTION public.spring TO PUBLIC;
"""


def trap(name: str, arguments: str, returns: str) -> str:
    """Return SQL for a function of the attacker's that names the role it runs as."""
    return (
        f"CREATE FUNCTION public.{name}({arguments}) RETURNS {returns} LANGUAGE sql "
        f"AS 'SELECT public.spring(); SELECT NULL::{returns.removeprefix('SETOF ')}';"
    )


def operators() -> str:
    """Make all operators for all pairs of types, except those that PostgreSQL has itself, which it finds first."""
    returned = {"+": 0, "-": 0, "*": 1, "/": 0, "||": 0, "&": 0}
    made = []
    for number, (operator, left, right) in enumerate(product(OPERATORS, TYPES, TYPES)):
        result = (left, right)[returned[operator]] if operator in returned else "boolean"
        made.append(trap(f"trap_{number}", f"{left}, {right}", result))
        operands = f"LEFTARG = {left}, RIGHTARG = {right}"
        made.append(f"CREATE OPERATOR public.{operator} ({operands}, FUNCTION = public.trap_{number});")
    return "\n".join(made)


FUNCTIONS: Final = "\n".join(
    trap("unnest", f"{one}[]", f"SETOF {one}") for one in TYPES if not one.endswith("]")
) + "\n".join(
    trap(name, argument, "bigint") for argument in TYPES
    for name in ("count", "upper", "to_regclass", "pg_sequence_last_value", "octet_length")
)  # fmt: skip


@pytest_asyncio.fixture
async def attacker(store: EventStore, logins: dict[Role, str]) -> AsyncIterator[asyncpg.Connection]:
    """A reader of a database that lets everybody create in `public`, as PostgreSQL 14 does, with the reader's traps
    set."""
    await store.fetch("GRANT CREATE ON SCHEMA public TO PUBLIC")
    connection = await asyncpg.connect(logins["reader"])
    await connection.execute(TRAPS + operators() + FUNCTIONS)
    yield connection
    await connection.close()


async def test_no_statement_refers_to_what_is_not_ours(attacker: asyncpg.Connection, database: str) -> None:
    """Our statements keep their meaning, whatever is in the search path behind `pg_catalog`, PostgreSQL's default; the
    control's meaning changes."""
    connection = await asyncpg.connect(database)
    for data_type in DATA_TYPES:
        await initialise(connection, f"in_{data_type}", data_type=data_type)
    meant = {}
    for name, statement in {**STATEMENTS, "control": "SELECT 2 * length FROM eventstore.leases"}.items():
        if other := await foreign(connection, statement):
            meant[name] = other
    await connection.close()
    assert meant == {"control": ["public.*(integer,interval)"]}


def test_the_traps_cover_all_operators_that_statements_use() -> None:
    """With an operator that has no trap, the test above would prove nothing."""
    texts = (re.sub(r"--.*|'[^']*'|@\w+@", "", statement) for statement in STATEMENTS.values())
    assert {each for text in texts for each in re.findall(r"[-+*/<>=~!#%^&|?@]+", text)} <= {*OPERATORS, "=>"}


async def foreign(connection: asyncpg.Connection, statement: str) -> list[str]:
    """Return the operators and functions of `public` that a statement uses: a function with a body of standard SQL
    depends on each of them."""
    made = connection.transaction()
    await made.start()
    try:
        await connection.execute(f"PREPARE p AS {statement}")
        types = await connection.fetchval("SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'p'")
        await connection.execute(
            f"CREATE FUNCTION pg_temp.f({', '.join(types)}) RETURNS void LANGUAGE sql BEGIN ATOMIC {statement}\n; END"
        )
        await connection.execute("DEALLOCATE p; SET LOCAL search_path = pg_catalog, pg_temp")
        rows = await connection.fetch("""
            SELECT d.refobjid::regoperator::text AS found
            FROM pg_depend AS d JOIN pg_operator AS o ON o.oid = d.refobjid
            WHERE d.objid = 'pg_temp.f'::regproc AND d.refclassid = 'pg_operator'::regclass
              AND o.oprnamespace = 'public'::regnamespace
            UNION
            SELECT d.refobjid::regprocedure::text FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.refobjid
            WHERE d.objid = 'pg_temp.f'::regproc AND d.refclassid = 'pg_proc'::regclass
              AND p.pronamespace IN ('public'::regnamespace, pg_my_temp_schema())""")
        return [row["found"] for row in rows]
    finally:
        await made.rollback()


async def test_nobody_else_can_make_anything_that_takes_a_domain_of_the_store(
    store: EventStore, attacker: asyncpg.Connection
) -> None:
    """An operator with exactly the type of a stream's name would win over PostgreSQL's own for text."""
    domains = await store.fetch(
        "SELECT oid::regtype::text AS name FROM pg_type "
        "WHERE typnamespace = 'eventstore'::regnamespace AND typtype = 'd'"
    )
    assert len(domains) >= 5
    for domain in domains:
        for each in (domain["name"], f"{domain['name']}[]"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="for type"):
                await attacker.execute(trap("trap", each, "boolean"))


@pytest.mark.parametrize("how", ["its own pool", "a pool of the application's"])
async def test_a_store_runs_nothing_of_others(database: str, attacker: asyncpg.Connection, how: str) -> None:
    """Appends, reads, links, deletions and snapshots run with the rights of a superuser and spring no trap; the control
    springs one."""
    pool = await asyncpg.create_pool(database, min_size=1, init=knows_arrays)
    with pytest.raises(asyncpg.RaiseError, match="a trap, with the rights of trunkline"):
        await pool.fetch("SELECT 2 * length FROM (SELECT interval '1 s' AS length) AS l")
    event = EventData("E", {"n": 1})
    async with EventStore(database if how == "its own pool" else pool) as store:
        await store.append_to_stream("a-1", 0, [event])
        await asyncio.gather(*(store.append_to_stream(f"a-{n}", ANY_VERSION, [EventData("E", n)]) for n in range(20)))
        await store.append_to_streams([StreamAppend("b-1", 0, [EventData("E", 1)]), StreamAppend("b-2", 0, [])])
        await store.link_to_stream("links-1", 0, [event.id])
        async with store.transaction() as connection:
            await store.append_to_stream("c-1", 0, [EventData("E", 1)], connection=connection)
            await store.read_stream_forward("c-1", connection=connection)
            await store.read_all_streams_forward(connection=connection)
        assert len([e async for e in store.stream_all_forward()]) == 23
        assert len([e async for e in store.stream_all_backward()]) == 23
        assert len([e async for e in store.stream_category_forward("a")]) == 21
        assert len([e async for e in store.stream_forward("links-1")]) == 1
        assert len([e async for e in store.stream_backward("a-1")]) == 2
        assert len(await store.paginate_streams(category="a", search="1", status="created")) == 11
        assert len(await store.categories()) == 4
        await store.stream_info("$all")
        await store.record_snapshot(Snapshot("a-1", 1, "A", {}))
        await store.read_snapshot("a-1")
        await store.delete_snapshot("a-1")
        await overview(store)
        await store.delete_stream("b-1", ANY_VERSION)
        await store.delete_stream("a-1", ANY_VERSION, hard=True)
    await pool.close()


async def knows_arrays(connection: asyncpg.Connection) -> None:
    """Let asyncpg look array types up before the session has the attacker's path: that query would spring a trap
    first."""
    await make_ours(connection)
    await connection.execute(LEND)


async def test_a_session_is_ours_until_it_is_lent(database: str, logins: dict[Role, str]) -> None:
    """In the application's transactions, names have the application's meaning, whatever its path. Its settings, its
    role included, are gone afterwards."""
    name = urlsplit(database).path.removeprefix("/")
    writer = str(urlsplit(logins["writer"]).username)
    connection = await asyncpg.connect(database)
    await connection.execute(f"ALTER DATABASE {name} SET search_path = app, public")
    await connection.close()
    seen = "SELECT current_setting('search_path'), current_user::text, pg_backend_pid()"
    async with EventStore(database, pool_size=1) as store:
        path, login, pid = (await store.fetch(seen))[0]
        assert path == "pg_catalog, pg_temp"
        for setting in ("SET search_path = elsewhere", f"SET ROLE {writer}", f"SET SESSION AUTHORIZATION {writer}"):
            async with store.transaction() as lent:
                assert tuple((await lent.fetch(seen))[0]) == ("app, public", login, pid)
                await lent.execute(setting)
            assert tuple((await store.fetch(seen))[0]) == (path, login, pid)


COMMANDS: Final = """
    append a-1 E {}
    read a-1
    read
    streams
    streams --categories
    status
    doctor
    verify
    migrate
    migrations
    roles
    roles --login LOGIN --as relay
    export FILE
    import FILE
    subscriptions list
    subscriptions show s
    subscriptions parked s
    subscriptions retry s
    subscriptions discard s --yes
    subscriptions reset s --to 0 --yes
    subscriptions delete s --yes
    reset --yes
    drop --yes
    init
"""


async def test_no_command_runs_anything_of_others(
    database: str, store: EventStore, attacker: asyncpg.Connection, tmp_path: Path
) -> None:
    """Each command that takes a database runs as a superuser, and springs no trap."""
    row = await store.fetchrow(store.sql["create_subscription"], "s", "$all", 0)
    assert row is not None
    await store.fetch(store.sql["park"], row[0], 1, 1, "a-1", "a-1", 1, "E", "t")
    runner = CliRunner(env={"TRUNKLINE_DSN": database, "TRUNKLINE_AMQP_URL": None, "TRUNKLINE_MANAGEMENT_URL": None})
    login = f"relay_{secrets.token_hex(4)}"
    said = {}
    for line in COMMANDS.strip().splitlines():
        command = line.replace("FILE", str(tmp_path / "events")).replace("LOGIN", login).split()
        result = await asyncio.to_thread(runner.invoke, app, command)
        if "a trap" in result.output or "a trap" in repr(result.exception) or result.exit_code not in (0, 1):
            said[line] = result.output, result.exception
    assert said == {}
    assert (await asyncio.to_thread(runner.invoke, app, ["read"])).exit_code == 0
    await store.fetch(f"DROP OWNED BY {login}")
    await store.fetch(f"DROP ROLE {login}")


async def test_relay_and_subscriptions_run_nothing_of_others(
    database: str, attacker: asyncpg.Connection, vhost: str
) -> None:
    """No trap is sprung from the append to the checkpoint, with a transaction of the handler."""
    async with (
        EventStore(database) as store,
        relay_running(database, vhost),
        Consumer(store, vhost) as consumer,
        consumer.subscribe_to_all_streams("s", options=QUICK) as subscription,
        asyncio.timeout(30),
    ):
        last = 0
        for n in range(20):
            last = (await store.append_to_stream(f"a-{n % 3}", ANY_VERSION, [EventData("E", n)])).last_position
        async for batch in subscription:
            async with batch.transaction() as connection:
                assert await connection.fetchval("SELECT current_setting('search_path')") == '"$user", public'
            if batch[-1].position == last:
                break
        while (await store.subscriptions.get("s")).checkpoint < last:
            await asyncio.sleep(0.01)  # between two looks
        assert "relay" in [lease["name"] for lease in await store.fetch("SELECT name FROM eventstore.leases")]
