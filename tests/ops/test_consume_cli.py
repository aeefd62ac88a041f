"""`trunkline consume`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from trunkline_store import EventData, EventStore

_APPLICATION = """
import asyncio
from trunkline_consumer import Consumer
from trunkline_store import EventStore
consumer = Consumer(EventStore({dsn!r}), {url!r})
empty = Consumer(EventStore({dsn!r}), {url!r})
other = 1

@consumer.handler("s", checkpoint_threshold=1)
async def handle(batch):
    print(batch[0].data, flush=True)
    if batch[0].data == "last":
        await asyncio.sleep(1)  # it is told to stop meanwhile
"""


async def consume(folder: Path, where: str) -> asyncio.subprocess.Process:
    """The program, in a folder."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.cli", "consume", where),
        cwd=folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_handlers_run_until_they_are_told_to_stop(
    store: EventStore, database: str, vhost: str, tmp_path: Path, how: signal.Signals
) -> None:
    """A module of the folder it is started in; the handler that runs comes to its end, and counts; it ends with 0."""
    (tmp_path / "app.py").write_text(_APPLICATION.format(dsn=database, url=vhost))
    process = await consume(tmp_path, "app:consumer")
    assert process.stdout is not None
    await store.append_to_stream("a-1", 0, [EventData("E", "first")])
    last = (await store.append_to_stream("a-1", 1, [EventData("E", "last")])).last_position
    assert [await process.stdout.readline() for _ in range(2)] == [b"first\n", b"last\n"]
    process.send_signal(how)
    assert await process.wait() == 0
    info = await store.subscriptions.get("s")
    assert (info.checkpoint, info.owner) == (last, None)


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ("app", 2, "use module:consumer"),
        ("nothing:consumer", 2, "there is no module 'nothing'"),
        ("app:nothing", 2, "not there"),
        ("app:other", 2, "no Consumer"),
        ("app:empty", 1, "no handlers"),
    ],
)
async def test_what_cannot_be_run_is_said_in_one_line(
    database: str, vhost: str, tmp_path: Path, where: str, code: int, message: str
) -> None:
    """A module, a consumer or handlers that are not there."""
    (tmp_path / "app.py").write_text(_APPLICATION.format(dsn=database, url=vhost))
    process = await consume(tmp_path, where)
    _, error = await process.communicate()
    assert process.returncode == code
    assert message in error.decode()
    assert error.count(b"\n") == 1
