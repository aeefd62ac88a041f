"""The examples of the READMEs run as they stand."""

import ast
import asyncio
import os
import re
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import CodeType
from typing import Any

import asyncpg
import pytest

from tests.conftest import new_database
from tests.relay.plain import plain
from tests.whole.flow import relay_running
from trunkline_ops.servers import PostgresServer
from trunkline_store import ORIGIN, EventData, EventStore

ROOT = Path(__file__).parents[2]


def blocks(readme: str) -> list[str]:
    """The Python of a README."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / readme).read_text(), re.MULTILINE | re.DOTALL)


def commands(readme: str, section: str) -> list[str]:
    """The indented lines of a section, without their comments."""
    text = (ROOT / readme).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^ {4}(\S.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return [line.partition(" #")[0].strip() for line in lines]


async def run(readme: str, **given: Any) -> dict[str, Any]:
    """Runs the Python blocks of a README one after the other, in one namespace; returns it."""
    names: dict[str, Any] = dict(given)
    for block in blocks(readme):
        code = compile(block, readme, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(code, CodeType)
        result = eval(code, names)
        if result is not None:
            await result
    return names


async def test_the_readme_is_true(database: str, vhost: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of its examples runs by itself: following, appending in a transaction of one's own, and by itself, twice."""
    names: dict[str, Any] = {}
    for block in blocks("README.md")[1:]:
        namespace: dict[str, Any] = {}  # of its own: what one imports, another does not see
        exec(compile(block, "README.md", "exec"), namespace)
        names |= namespace
    for _ in range(2):
        await names["pay"](database, "order-1")
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool, EventStore(database) as store:
        await pool.execute("CREATE TABLE orders (id int, total int)")
        await names["place_order"](store, pool, 42, 12)
        assert (await store.read_stream_forward("order-42"))[0].data == {"total": 12}
    async with relay_running(database, vhost):
        await until_printed(names["follow"], database, vhost, capsys, "order-42 1 OrderPlaced {'total': 12}")


async def test_a_newcomer_has_a_subscription_in_nine_commands(
    postgres: PostgresServer, vhost: str, tmp_path: Path
) -> None:
    """The README's commands, in its order, with its program in a file: the row is there, and the audit agrees."""
    begun = commands("README.md", "See it run")[0].split(" && ")
    servers, create, relay, append, consume, verify = commands("README.md", "Use it")[:6]
    pasted = 2
    assert (len(begun), servers, verify) == (2, "ops/servers", "trunkline verify")
    assert len([*begun, servers, create, relay, append, consume]) + pasted < 10
    (tmp_path / "app.py").write_text(blocks("README.md")[0])
    async with new_database(postgres.dsn, "template1") as dsn, AsyncExitStack() as running:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TRUNKLINE_DSN": dsn,
            "TRUNKLINE_AMQP_URL": vhost,
        }

        async def start(command: str) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_shell(f"exec {command}", env=environment, cwd=tmp_path)

        async def to_its_end(command: str) -> None:
            process = await start(command)
            assert await process.wait() == 0, command

        async def end(process: asyncio.subprocess.Process) -> None:
            process.terminate()
            assert await process.wait() == 0

        await to_its_end(create)
        assert relay.endswith(" &")
        running.push_async_callback(end, await start(relay.removesuffix(" &")))
        await to_its_end(append)
        running.push_async_callback(end, await start(consume))
        connection = await asyncpg.connect(dsn)
        async with asyncio.timeout(60):
            while not await connection.fetchval("SELECT to_regclass('bills') IS NOT NULL"):
                await asyncio.sleep(0.05)  # between two looks
        assert [tuple(row) for row in await connection.fetch("TABLE bills")] == [("order-1", 12)]
        await connection.close()
        await to_its_end(verify)


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
        for example, total in (("project", 1), ("project_by_hand", 2)):
            projecting = asyncio.create_task(names[example](database, vhost))
            async with asyncio.timeout(20):
                while await pool.fetchval("SELECT events FROM totals") != total:
                    await asyncio.sleep(0.01)  # between two looks
            projecting.cancel()
            await asyncio.wait([projecting])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):  # it goes on until somebody ends it
            await names["follow"](database, vhost)


async def test_the_relays_guide_is_true(database: str, vhost: str) -> None:
    """The guide's program publishes until it is told to stop."""
    names = await run("relay/README.md")
    stopped = asyncio.Event()
    async with EventStore(database) as store, plain(vhost, "#") as consumer:
        relaying = asyncio.create_task(names["relay_until"](stopped, database, vhost))
        await store.append_to_stream("order-1", 0, [EventData("OrderPlaced", {})])
        await consumer.until(1)
        stopped.set()
        await asyncio.wait_for(relaying, 20)


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
