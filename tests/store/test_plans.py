"""What PostgreSQL makes of the queries: the right index, whatever it knows of the tables."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from trunkline_store import EventStore

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
    "last_feed_position": ((FAR,), {"events": {"events_pkey"}, "links": {"links_pkey"}}),
    "relay_lag": ((FAR, "relay"), {"events": {"events_pkey"}, "links": {"links_pkey"}}),
    "all_info": ((), {"events": {"events_pkey"}}),
    "list_subscriptions": (("s", FAR), {}),
    "previous_in_category": ((["rare"], [FAR]), {"events": {"events_category"}}),
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


async def plan(connection: asyncpg.Connection, query: str, *args: Any) -> dict[str, Any]:
    """The plan that is kept for a query."""

    def literal(value: Any) -> str:
        if isinstance(value, list):
            return f"ARRAY[{','.join(map(literal, value))}]"
        return str(value) if isinstance(value, int) else f"'{value}'"

    await connection.execute(f"PREPARE asked AS {query}")
    values = f"({','.join(map(literal, args))})" if args else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked {values}")
    found: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return found


def asked(name: str) -> list[Any]:
    """A query and its arguments; the history is the last one, where it is asked for."""
    query, (args, _) = EventStore("postgresql://localhost/unused").sql[name], QUERIES[name]
    return [query, *args, *(["history"] if "same_history_v1" in query else [])]


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
    _, expected = QUERIES[name]
    found = await plan(connection, *asked(name))
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


@pytest.mark.parametrize("connection", ["filled"], indirect=True)
@pytest.mark.parametrize("name", ["read_category_forward", "page_category", "replay_category", "previous_in_category"])
async def test_a_category_is_read_by_its_index_when_the_tables_are_known_too(
    connection: asyncpg.Connection, name: str
) -> None:
    """As after autovacuum's ANALYZE; and bounds of the position alone would be another plan, through all events."""
    _, expected = QUERIES[name]
    await connection.execute("ANALYZE eventstore.events, eventstore.streams")
    found = await plan(connection, *asked(name))
    assert indexes(found)["events"] == expected["events"]
    await connection.execute("DEALLOCATE asked")
    bounds = "position >= $1::bigint AND position <= $2::bigint"
    query = f"SELECT data FROM eventstore.events WHERE category = $3 AND {bounds} ORDER BY position LIMIT $4"
    found = await plan(connection, query, 0, FAR, "rare", 1000)
    assert indexes(found)["events"] == {"events_pkey"}
