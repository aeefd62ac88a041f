"""What programs log while a server is away."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.ops.test_cli import environment
from trunkline_ops.servers.proxy import Proxy
from trunkline_store import EventStore

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"
Read = Callable[[str, int], Awaitable[list[str]]]
_APPLICATION = """
from trunkline_consumer import Consumer
from trunkline_store import EventStore
consumer = Consumer(EventStore({dsn!r}), {url!r})

@consumer.handler("s")
async def handle(batch):
    pass
"""


@asynccontextmanager
async def running(database: str, folder: Path, *args: str) -> AsyncIterator[Read]:
    """A program; gives a function that reads its log, until so many lines have some text."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.cli", *args),
        cwd=folder,
        env={k: v for k, v in {**os.environ, **environment(database), "PYTHONDONTWRITEBYTECODE": "1"}.items() if v},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stderr is not None
    log = process.stderr

    async def read(text: str, times: int) -> list[str]:
        lines: list[str] = []
        async with asyncio.timeout(60):
            while sum(text in line for line in lines) < times:
                line = (await log.readline()).decode()
                assert line, lines
                lines.append(line)
        return lines

    try:
        yield read
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("program", ["relay", "consume"])
async def test_a_server_that_is_away_is_told_in_our_own_lines_alone(
    program: str, store: EventStore, database: str, tmp_path: Path
) -> None:
    """RabbitMQ, and then PostgreSQL: what its client library logs of the same, an error or a traceback, is left out."""
    async with Proxy(database) as proxy:
        (tmp_path / "app.py").write_text(_APPLICATION.format(dsn=proxy.url, url=NOWHERE))
        args = ["consume", "app:consumer"] if program == "consume" else ["relay", "--amqp-url", NOWHERE]
        async with running(proxy.url, tmp_path, *args) as read:
            lines = await read("RabbitMQ cannot be reached", 1)
            await proxy.refuse()
            await proxy.cut()
            lines += await read("PostgreSQL cannot be reached", 1)
    said = "".join(lines)
    assert "error when creating transport" not in said
    assert "Failed to restore" not in said
    assert "Traceback" not in said
