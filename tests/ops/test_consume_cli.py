"""`trunkline consume`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
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


async def consume(folder: Path, where: str, *options: str) -> asyncio.subprocess.Process:
    """The program, in a folder."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.cli", "consume", where, *options),
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


async def test_it_answers_probes_and_prometheus(
    store: EventStore, database: str, vhost: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    """Alive at once, ready when the database was asked, and with what each subscription does."""
    (tmp_path / "app.py").write_text(_APPLICATION.format(dsn=database, url=vhost))
    process = await consume(tmp_path, "app:consumer", "--listen", str(unused_tcp_port))
    assert process.stdout is not None
    try:
        await store.append_to_stream("a-1", 0, [EventData("E", "first")])
        assert await process.stdout.readline() == b"first\n"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_tcp_port}", trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
            async with asyncio.timeout(60):
                while (ready := await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.1)  # between two looks
                while 'trunkline_consumer_handled_total{store="eventstore",subscription="s"} 1.0' not in (
                    shown := (await client.get("/metrics")).text
                ):
                    await asyncio.sleep(0.1)  # between two looks
            assert ready.json()["consumers"][0]["subscriptions"].keys() == {"s"}
            assert 'trunkline_consumer_behind_events{store="eventstore",subscription="s"}' in shown
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


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
