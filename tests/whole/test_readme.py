"""The examples of the READMEs run as they stand."""

import ast
import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import CodeType
from typing import Any

import asyncpg
import pytest

from tests.conftest import new_database
from tests.whole.flow import relay_running
from trunkline_ops.servers import PostgresServer
from trunkline_store import ORIGIN, EventData, EventStore

ROOT = Path(__file__).parents[2]


async def run(readme: str, **given: Any) -> dict[str, Any]:
    """Runs the Python blocks of a README one after the other, in one namespace; returns it."""
    names: dict[str, Any] = dict(given)
    for block in re.findall(r"^```python\n(.*?)^```$", (ROOT / readme).read_text(), re.MULTILINE | re.DOTALL):
        code = compile(block, readme, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(code, CodeType)
        result = eval(code, names)
        if result is not None:
            await result
    return names


async def test_the_readme_is_true(database: str, vhost: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Appending in a transaction of one's own, appending and reading, subscribing, handlers."""
    names = await run("README.md", dsn=database)
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool, names["EventStore"](database) as store:
        await pool.execute("CREATE TABLE orders (id int, total int)")
        await names["place_order"](store, pool, 42, 12)
        assert (await store.read_stream_forward("order-42"))[0].data == {"total": 12}
    async with relay_running(database, vhost):
        await until_printed(names["follow"], database, vhost, capsys, "order-42 1 OrderPlaced {'total': 12}")
    async with (
        asyncpg.create_pool(database, min_size=1, max_size=1) as pool,
        names["EventStore"](database) as store,
        names["Consumer"](store, vhost) as consumer,
    ):
        await pool.execute("CREATE TABLE bills (stream text, type text)")
        names["handlers"](consumer)
        running = asyncio.create_task(consumer.run())
        async with asyncio.timeout(20):
            while ("order-42", "OrderPlaced") not in [tuple(row) for row in await pool.fetch("SELECT * FROM bills")]:
                await asyncio.sleep(0.01)  # between two looks
        running.cancel()
        await asyncio.wait([running])


async def test_the_stores_guide_is_true(database: str) -> None:
    """Every example in it, in its order."""
    await run("store/README.md", dsn=database)


async def test_the_sdks_readme_is_true(database: str, vhost: str) -> None:
    """Its examples follow until they are stopped, and the handler's writes are there."""
    names = await run("consumer_sdk/README.md")
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool, names["EventStore"](database) as store:
        await pool.execute("CREATE TABLE totals (events int); INSERT INTO totals VALUES (0)")
        event = EventData("OrderPlaced", {})
        await store.append_to_stream("order-1", 0, [event])
        projecting = asyncio.create_task(names["project"](database, vhost))
        async with asyncio.timeout(20):
            while await pool.fetchval("SELECT events FROM totals") != 1:
                await asyncio.sleep(0.01)  # between two looks
        projecting.cancel()
        await asyncio.wait([projecting])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):  # it goes on until somebody ends it
            await names["follow"](database, vhost)


async def test_the_sdks_guide_to_web_services_is_true(
    database: str, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lifespan runs the handler, whose write is there when it was waited for, and ends with it."""
    names = await run("consumer_sdk/README.md")
    monkeypatch.setenv("TRUNKLINE_DSN", database)
    monkeypatch.setenv("TRUNKLINE_AMQP_URL", vhost)
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool:
        await pool.execute("CREATE TABLE seen (events int); INSERT INTO seen VALUES (0)")
        async with names["lifespan"](None) as state:
            store = state["store"]
            appended = await store.append_to_stream("order-1", 0, [EventData("OrderPlaced", {})])
            await until_there(store, "orders-seen")
            await store.subscriptions.wait_for("orders-seen", appended.last_position, seconds=30)
            assert await pool.fetchval("SELECT events FROM seen") == 1


async def test_the_sdks_recipe_for_another_database_is_true(
    database: str, postgres: PostgresServer, vhost: str
) -> None:
    """What comes again, after a reset, changes nothing there."""
    names = await run("consumer_sdk/README.md")
    async with (
        new_database(postgres.dsn, "template1") as elsewhere,
        asyncpg.create_pool(elsewhere, min_size=1, max_size=1) as other,
        EventStore(database) as store,
    ):
        await other.execute("CREATE TABLE totals_elsewhere (events int); INSERT INTO totals_elsewhere VALUES (0)")
        await other.execute("CREATE TABLE progress (position bigint); INSERT INTO progress VALUES (0)")
        events = [EventData("OrderPlaced", {}, correlation_id=str(n // 2)) for n in range(5)]
        last = (await store.append_to_stream("order-1", 0, events)).last_position
        projecting = asyncio.create_task(names["project_elsewhere"](store, vhost, other))
        await until_there(store, "totals-elsewhere")
        await store.subscriptions.wait_for("totals-elsewhere", last, seconds=30)
        assert await other.fetchval("SELECT events FROM totals_elsewhere") == 5
        await store.subscriptions.reset("totals-elsewhere", ORIGIN)
        last = (await store.append_to_stream("order-2", 0, [EventData("OrderPlaced", {})])).last_position
        await store.subscriptions.wait_for("totals-elsewhere", last, seconds=30)
        assert await other.fetchval("SELECT events FROM totals_elsewhere") == 6
        projecting.cancel()
        await asyncio.wait([projecting])


async def test_the_sdks_way_to_test_subscribers_is_true(database: str, vhost: str) -> None:
    """No relay runs, and what was appended is counted."""
    names = await run("consumer_sdk/README.md")
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool:
        await pool.execute("CREATE TABLE totals (events int); INSERT INTO totals VALUES (0)")
        await names["orders_are_counted"](database, vhost)
        assert await pool.fetchval("SELECT events FROM totals") == 1


async def until_there(store: EventStore, name: str) -> None:
    """Waits until somebody has subscribed."""
    async with asyncio.timeout(30):
        while name not in [each.name for each in await store.subscriptions.list()]:
            await asyncio.sleep(0.01)  # between two looks


async def until_printed(
    follow: Callable[[str, str], Coroutine[Any, Any, None]],
    dsn: str,
    url: str,
    capsys: pytest.CaptureFixture[str],
    line: str,
) -> None:
    """Runs a subscriber until it has printed a line."""
    task, printed = asyncio.create_task(follow(dsn, url)), ""
    async with asyncio.timeout(20):
        while line not in printed:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)  # between two looks
            printed += capsys.readouterr().out
    task.cancel()
    await asyncio.wait([task])
