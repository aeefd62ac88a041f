"""What PostgreSQL makes of the queries: the right index, whatever it knows of the tables."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, get_args

import asyncpg
import pytest
import pytest_asyncio

from trunkline_store import EventStore
from trunkline_store.streams import SortBy, SortDir, page_query

FAR = 2**40

EVENTS = """
    INSERT INTO eventstore.events
        (position, stream_id, stream_version, created_at, event_id, size, category, type, data)
    SELECT n * 1024, 1 + n % 500, 1 + n / 500, now(), md5(n::text)::uuid, 20,
           CASE n % 500 WHEN 0 THEN 'rare' ELSE 's' END, 'E', '{}'
    FROM generate_series(1, 30000) AS n"""
STREAMS = """
    INSERT INTO eventstore.streams (stream_id, stream, category, version, created_at) OVERRIDING SYSTEM VALUE
    SELECT n, CASE n WHEN 1 THEN 'rare-1' ELSE 's-' || n END, CASE n WHEN 1 THEN 'rare' ELSE 's' END, 60, now()
    FROM generate_series(1, 600) AS n"""
LINKS = """
    INSERT INTO eventstore.links (feed_position, stream_id, stream_version, position)
    SELECT (40000 + n) * 1024, 501 + n % 50, 1 + n / 50, n * 1024 FROM generate_series(1, 10000) AS n"""

ALL = {"events": {"events_pkey"}, "streams": {"streams_pkey"}}
CATEGORY = {"events": {"events_category"}, "streams": {"streams_pkey"}}
STREAM = {
    "events": {"events_stream_version"},
    "streams": {"streams_stream_key"},
    "links": {"links_stream_version"},
}
LINKED = {
    "events": {"events_stream_version", "events_pkey"},
    "streams": {"streams_stream_key", "streams_pkey"},
    "links": {"links_stream_version"},
}
QUERIES: dict[str, tuple[tuple[Any, ...], dict[str, set[str]]]] = {
    "read_stream_forward": (("s-7", 0, 1000), STREAM),
    "read_stream_backward": (("s-7", FAR, 1000), STREAM),
    "read_linked_stream_forward": (("s-507", 0, 1000), LINKED),
    "read_linked_stream_backward": (("s-507", FAR, 1000), LINKED),
    "stream_fits_forward": (("s-507", 0, 1000, FAR), LINKED | {"streams": {"streams_stream_key"}}),
    "stream_fits_backward": (("s-507", FAR, 1000, FAR), LINKED | {"streams": {"streams_stream_key"}}),
    "stream_state": (("s-7",), {"streams": {"streams_stream_key"}, "links": {"links_stream_version"}}),
    "stream_info": (("s-7",), {"streams": {"streams_stream_key"}}),
    "stream_names": (([1, 2, 3],), {"streams": {"streams_pkey"}}),
    "read_all_forward": ((0, FAR, 1000, FAR), ALL),
    "read_all_backward": ((FAR, FAR, 1000, FAR), ALL),
    "read_category_forward": ((0, FAR, 1000, FAR, "rare"), CATEGORY),
    "page_all": ((0, FAR, 1000, 8192), {"events": {"events_pkey"}}),
    "page_category": ((0, FAR, 1000, 8192, "rare"), {"events": {"events_category"}}),
    "relay_page": ((0, FAR, 500, 262144, 262144), {**ALL, "links": {"links_pkey"}}),
    "relay_page_barest": ((0, FAR, 500, 2097), {"events": {"events_pkey"}, "links": {"links_pkey"}}),
    "relay_links": (
        (0, FAR, 500, 262144, 262144),
        {"links": {"links_pkey"}, "events": {"events_pkey"}, "streams": {"streams_pkey"}},
    ),
    "replay_category": ((0, FAR, 500, 262144, 262144, "rare"), CATEGORY),
    "replay_stream": (
        (0, FAR, 500, 262144, 262144, "s-7"),
        {"events": {"events_stream_version"}, "streams": {"streams_pkey", "streams_stream_key"}},
    ),
    "replay_links": (
        (0, FAR, 500, 262144, 262144, "s-7"),
        {
            "links": {"links_stream_version"},
            "events": {"events_pkey"},
            "streams": {"streams_pkey", "streams_stream_key"},
        },
    ),
    "traceparents": (([1, 2, 3],), {"events": {"events_pkey"}}),
    "last_position": ((FAR,), {"events": {"events_pkey"}}),
    "position_before": (("2020-01-01Z", FAR), {"events": {"events_pkey"}}),
    "last_feed_position": ((FAR,), {"events": {"events_pkey"}, "links": {"links_pkey"}}),
    "relay_lag": ((FAR, "relay"), {"events": {"events_pkey"}, "links": {"links_pkey"}}),
    "all_info": ((), {"events": {"events_pkey"}}),
    "list_subscriptions": (("s", FAR), {}),
    "previous_in_category": ((["rare"], [FAR]), {"events": {"events_category"}}),
    "version_above": (("s-7", 50), {"streams": {"streams_stream_key"}}),
    "previous_in_stream": (
        (["s-7"], [50]),
        {"events": {"events_stream_version"}, "links": {"links_stream_version"}, "streams": {"streams_stream_key"}},
    ),
}


@pytest_asyncio.fixture(params=["empty", "filled"])
async def connection(database: str, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection]:
    """To a store of which PostgreSQL has no statistics, either because it was just made, or because nobody has looked
    since it was filled. Plans are made without the values that are asked for."""
    connection = await asyncpg.connect(database)
    for table in ("events", "streams", "links"):
        await connection.execute(f"ALTER TABLE eventstore.{table} SET (autovacuum_enabled = off)")
    if request.param == "filled":
        for rows in (STREAMS, EVENTS, LINKS):
            await connection.execute(rows)
    assert await connection.fetchval("SELECT count(*) FROM pg_stats WHERE schemaname = 'eventstore'") == 0
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    yield connection
    await connection.close()


async def plan(connection: asyncpg.Connection, query: str, *args: Any, options: str = "COSTS") -> dict[str, Any]:
    """Return the plan of a query, custom or generic as `plan_cache_mode` says. With the option ANALYZE it is
    executed."""

    def literal(value: Any) -> str:
        if isinstance(value, list):
            return f"ARRAY[{','.join(map(literal, value))}]"
        return "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'"

    if "same_history_v1" in query:
        args = *args, None  # one session: its history cannot change
    await connection.execute(f"PREPARE asked AS {query}")
    values = f"({','.join(map(literal, args))})" if args else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON, {options}) EXECUTE asked {values}")
    found: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return found


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's node, and all below it."""
    yield node
    for child in node.get("Plans", []):
        yield from nodes(child)


def indexes(found: dict[str, Any]) -> dict[str, set[str]]:
    """By which index each of the tables that grow is read; other ways stand there by their names."""
    used: dict[str, set[str]] = {}
    for node in nodes(found):
        if node.get("Relation Name") in ("events", "streams", "links"):
            used.setdefault(node["Relation Name"], set()).add(node.get("Index Name", node["Node Type"]))
    return used


@pytest.mark.parametrize("name", QUERIES)
async def test_a_read_uses_its_index_whatever_is_known_of_the_tables(connection: asyncpg.Connection, name: str) -> None:
    """Each table is read by an index that leads straight to the rows, by nothing else, and no feed is sorted: its order
    is the index's. Only linked events that are mixed with a stream's own are sorted, and subscriptions by name."""
    args, expected = QUERIES[name]
    found = await plan(connection, EventStore("postgresql://localhost/unused").sql[name], *args)
    used = indexes(found)
    assert used.keys() == expected.keys()
    assert all(used[table] <= expected[table] for table in used), used
    sorts = [node for node in nodes(found) if "Sort" in node["Node Type"]]
    assert len(sorts) <= ("linked" in name or name == "list_subscriptions")


async def test_the_comparison_would_notice(connection: asyncpg.Connection) -> None:
    """The control: a query that cannot use an index, and one that has to sort, are seen as such."""
    scan = await plan(connection, "SELECT FROM eventstore.events WHERE size = $1", 20)
    assert indexes(scan) == {"events": {"Seq Scan"}}
    await connection.execute("DEALLOCATE asked")
    ordered = await plan(connection, "SELECT FROM eventstore.events WHERE size = $1 ORDER BY created_at", 20)
    assert any("Sort" in node["Node Type"] for node in nodes(ordered))


def category_read(name: str, category: str, position: int) -> tuple[str, tuple[Any, ...]]:
    """Return one of the statements that read a category, and its arguments for ten events from a position on."""
    if name == "ahead_v1":
        return AHEAD, (f"$category-{category}", position, "{}", FAR, 10)
    args: dict[str, tuple[Any, ...]] = {
        "read_category_forward": (position, FAR, 10, FAR, category),
        "page_category": (position, FAR, 10, 8192, category),
        "replay_category": (position, FAR, 10, FAR, 262144, category),
        "previous_in_category": ([category], [position]),
    }
    return EventStore("postgresql://localhost/unused").sql[name], args[name]


AHEAD = "SELECT * FROM eventstore.ahead_v1($1, $2, $3, $4, $5)"
CATEGORY_READS = ["read_category_forward", "page_category", "replay_category", "previous_in_category", "ahead_v1"]
EARLY, LATE = 300 * 1024, 28_500 * 1024
A_PAGE = 90  # blocks: ten events, and their streams, each by way of an index


@pytest.mark.parametrize("connection", ["filled"], indirect=True)
@pytest.mark.parametrize("name", CATEGORY_READS)
async def test_a_category_is_read_from_a_position_and_not_up_to_it(connection: asyncpg.Connection, name: str) -> None:
    """Ten events are read between two bounds of the category's index, at the cost of a page. This holds for a category
    of nearly all events and of one in 500, early and late, with custom and generic plans, with and without ANALYZE of
    the tables."""
    for analyzed, plans, category, position in product(
        (False, True),
        ("force_custom_plan", "force_generic_plan"),
        ("s", "rare"),
        (EARLY, LATE),
    ):
        if analyzed:
            await connection.execute("ANALYZE eventstore.events, eventstore.streams")
        await connection.execute(f"SET plan_cache_mode = {plans}")
        query, args = category_read(name, category, position)
        for _ in range(2):  # the first one reads the catalog as well
            found = await plan(connection, query, *args, options="ANALYZE, BUFFERS")
            await connection.execute("DEALLOCATE asked")
        case = analyzed, plans, category, position
        assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] <= A_PAGE, case
        assert found["Actual Rows"] > 0, case
        if name != "ahead_v1":  # a function's plan is not shown
            [scan] = [node for node in nodes(found) if node.get("Relation Name") == "events"]
            assert scan["Index Name"] == "events_category", case
            assert scan["Index Cond"].count('ROW(category, "position")') == 2, case
            assert "Filter" not in scan, case
            assert not [node for node in nodes(found) if "Sort" in node["Node Type"]], case


@pytest.mark.parametrize("connection", ["filled"], indirect=True)
@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_time_is_found_without_reading_what_is_before_or_after(
    connection: asyncpg.Connection, analyzed: bool
) -> None:
    """Finding the first event of a time, early, late or beyond the end, costs two ranges of the index of times (128
    blocks each), with custom and generic plans."""
    await connection.execute("""
        INSERT INTO eventstore.events
            (position, stream_id, stream_version, created_at, event_id, size, category, type, data)
        SELECT n * 1024, 1, 1000 + n, '2100-01-01Z'::timestamptz + n * interval '1 s', md5(n::text)::uuid, 20, 's', 'E',
               '{}'
        FROM generate_series(100001, 200000) AS n;
        SELECT brin_summarize_new_values('eventstore.events_created_at')""")
    if analyzed:
        await connection.execute("ANALYZE eventstore.events, eventstore.streams")
    query = EventStore("postgresql://localhost/unused").sql["position_before"]
    for plans, second in product(("force_custom_plan", "force_generic_plan"), (100_500, 150_000, 199_900, 300_000)):
        await connection.execute(f"SET plan_cache_mode = {plans}")
        when = f"{datetime(2100, 1, 1, tzinfo=UTC) + timedelta(seconds=second)}"
        for _ in range(2):  # the first one reads the catalog as well
            found = await plan(connection, query, when, FAR, options="ANALYZE, BUFFERS")
            await connection.execute("DEALLOCATE asked")
        assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 400, (plans, second)
        assert (
            await connection.fetchval(query, datetime.fromisoformat(when), FAR, None) == min(second - 1, 200_000) * 1024
        )


MANY_STREAMS = """
    INSERT INTO eventstore.streams (stream_id, stream, category, version, created_at, deleted_at)
        OVERRIDING SYSTEM VALUE
    SELECT n, c || '-' || n, c, 1, now(), CASE n % 1000 WHEN 7 THEN now() END
    FROM (SELECT n, CASE n % 500 WHEN 0 THEN 'seldom' ELSE 'usual' END AS c FROM generate_series(1001, 40000) AS n) AS x
"""


@pytest.mark.parametrize("connection", ["filled"], indirect=True)
async def test_a_page_of_streams_costs_a_page(connection: asyncpg.Connection) -> None:
    """Ten of 40,000 streams cost the blocks of ten: by age or name, both ways, of nearly all or of few, early and late,
    with custom and generic plans. For categories, at most 10,000 streams are read."""
    await connection.execute(MANY_STREAMS)
    await connection.execute("ANALYZE eventstore.events, eventstore.streams")
    sql = EventStore("postgresql://localhost/unused").sql
    pages: list[tuple[str, list[Any], int]] = [(sql["categories"], ["a", 10], 5000)]
    for sort_by, sort_dir, category, deleted, number in product(
        get_args(SortBy), get_args(SortDir), (None, "usual", "seldom"), (None, True), (2000, 39_000)
    ):
        if (deleted and category == "seldom") or (category and sort_by == "stream_id"):
            continue  # there are none, or no such order
        after = number if sort_by == "stream_id" else f"{category or 'usual'}-{number}"
        query, args = page_query(
            sql["paginate_streams"],
            10,
            after=after,
            search="",
            sort_by=sort_by,
            sort_dir=sort_dir,
            category=category,
            deleted=deleted,
        )
        pages.append((query, args, 200 if deleted else A_PAGE))
    for plans, (query, args, most) in product(("force_custom_plan", "force_generic_plan"), pages):
        await connection.execute(f"SET plan_cache_mode = {plans}")
        for _ in range(2):  # the first one reads the catalog as well
            found = await plan(connection, query, *args, options="ANALYZE, BUFFERS")
            await connection.execute("DEALLOCATE asked")
        assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] <= most, (plans, query, args)
        assert found["Actual Rows"] > 0, (plans, query, args)
        scans = [node for node in nodes(found) if node.get("Relation Name") == "streams"]
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) < 11_000, (plans, query, args)


@pytest.mark.parametrize("connection", ["filled"], indirect=True)
async def test_an_equality_beside_the_bounds_would_cost_the_position(connection: asyncpg.Connection) -> None:
    """The control: with `category =` beside the bounds, and the order of positions, a late page costs far more
    blocks."""
    await connection.execute("ANALYZE eventstore.events, eventstore.streams")
    query = """SELECT data FROM eventstore.events WHERE category = $3 AND (category, position) >= ($3, $1)
                   AND (category, position) <= ($3, $2) ORDER BY position LIMIT $4"""
    for plans in ("force_custom_plan", "force_generic_plan"):
        await connection.execute(f"SET plan_cache_mode = {plans}")
        found = await plan(connection, query, LATE, FAR, "s", 10, options="ANALYZE, BUFFERS")
        await connection.execute("DEALLOCATE asked")
        assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] > A_PAGE, plans
