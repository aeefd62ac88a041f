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

from tests.whole.flow import relay_running
from trunkline_store import EventData

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
