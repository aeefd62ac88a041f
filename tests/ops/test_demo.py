import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from trunkline_ops.demo.audit import Figures, audit
from trunkline_ops.demo.command import as_table
from trunkline_ops.demo.rooms import TABLES, fresh_rooms
from trunkline_ops.management import Management
from trunkline_ops.servers import PostgresServer, RabbitMQServer
from trunkline_store import ANY_VERSION, EventData, EventStore

Process = asyncio.subprocess.Process


@pytest.fixture
def environment(postgres: PostgresServer, rabbitmq: RabbitMQServer) -> dict[str, str]:
    """The demo's environment: it is to use the servers of this run."""
    return os.environ | {
        "TRUNKLINE_DSN": postgres.dsn,
        "TRUNKLINE_AMQP_URL": rabbitmq.amqp_url,
        "TRUNKLINE_MANAGEMENT_URL": rabbitmq.management_url,
    }


@asynccontextmanager
async def demo(*arguments: str, environment: dict[str, str]) -> AsyncIterator[Process]:
    """A demo that runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.demo", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def writing(process: Process) -> tuple[str, dict[int, str]]:
    """Waits until writers write. Returns the name of the demo's database and vhost, and the command lines of the
    processes that it has started."""
    assert process.stderr is not None
    name = ""
    async for line in process.stderr:
        if found := re.search(rb"vhost (\w+)", line):
            name = found[1].decode()
        if b"writers append" in line:
            break
    return name, children_of(process.pid)


def children_of(pid: int) -> dict[int, str]:
    """The command lines of a process's children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ") for child in children}


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


async def end(processes: dict[int, str]) -> None:
    """Waits until all of these have ended."""
    async with asyncio.timeout(20):
        while any(is_there(pid) for pid in processes):
            await asyncio.sleep(0.05)  # between two looks


async def rooms(environment: dict[str, str], rabbitmq: RabbitMQServer) -> set[str]:
    """All databases and vhosts."""
    connection = await asyncpg.connect(environment["TRUNKLINE_DSN"])
    try:
        names = {row[0] for row in await connection.fetch("SELECT datname FROM pg_database")}
    finally:
        await connection.close()
    async with httpx.AsyncClient(auth=(rabbitmq.user, rabbitmq.password), trust_env=False) as client:
        vhosts = (await client.get(f"{rabbitmq.management_url}/api/vhosts")).json()
    return names | {vhost["name"] for vhost in vhosts}


async def test_the_demo_loses_nothing_and_says_so(environment: dict[str, str], rabbitmq: RabbitMQServer) -> None:
    """Everything that was committed is confirmed and handled, in order, although a queue is deleted; the last line of
    the output says it, and nothing stays behind on servers that are not the demo's own."""
    async with demo("--seconds", "4", "--json", environment=environment) as process:
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    figures: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert set(figures) == set(Figures._fields)
    assert figures["committed"] == figures["confirmed"] == figures["handled"] > 500
    assert figures["lost"] == figures["out_of_order"] == 0
    assert figures["healed_from_store"] > 0
    assert figures["append_p50_ms"] < figures["end_to_end_p50_ms"] < figures["end_to_end_p99_ms"]
    assert b"queue of subscriber 1 is deleted" in err
    name = re.search(r"vhost (\w+)", err.decode())
    assert name is not None
    assert name[1] not in await rooms(environment, rabbitmq)


async def test_the_database_goes_where_the_vhost_does_not(
    environment: dict[str, str], postgres: PostgresServer, rabbitmq: RabbitMQServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be removed is told, and the other of the two is removed all the same."""
    async with fresh_rooms(postgres, rabbitmq, keep=False) as made:
        await made.management.delete_vhost(made.name)  # so that it cannot be done again
    assert made.name not in await rooms(environment, rabbitmq)
    assert f"vhost {made.name} could not be removed" in capsys.readouterr().err


async def test_ctrl_c_ends_the_demo_and_all_that_it_started(
    environment: dict[str, str], rabbitmq: RabbitMQServer
) -> None:
    """It ends with 130, without a traceback, and cleans up."""
    async with demo("--seconds", "60", environment=environment) as process:
        name, children = await writing(process)
        assert name in await rooms(environment, rabbitmq)
        assert sum("trunkline_ops.demo" in command for command in children.values()) == 4, children
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err
    await end(children)
    assert name not in await rooms(environment, rabbitmq)


async def test_a_demo_that_is_killed_leaves_no_process(environment: dict[str, str], management: Management) -> None:
    """Nobody is left to end its programs, so they do it themselves."""
    async with demo("--seconds", "60", "--json", environment=environment) as process:
        name, children = await writing(process)
        process.kill()
        await process.communicate()
    await end(children)
    await remove(name, environment, management)


async def test_a_demo_that_is_kept_says_how_to_go_on_and_ends_when_it_is_told(
    environment: dict[str, str], management: Management
) -> None:
    """Its last lines, pasted into a shell, lead the command to its store; SIGTERM ends it with 143, and not a word."""
    async with demo("--seconds", "1", "--keep", environment=environment) as process:
        name, children = await writing(process)
        assert process.stderr is not None
        pasted = b""
        async for line in process.stderr:
            if line.startswith((b". ", b"export ")):
                pasted += line
            if line.startswith(b"  user "):
                break
        shell = await asyncio.create_subprocess_exec(
            *("sh", "-c", f"{pasted.decode()}trunkline status --json"),
            env={"PATH": os.defpath},
            stdout=asyncio.subprocess.PIPE,
        )
        status, _ = await shell.communicate()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert {each["name"] for each in json.loads(status)["subscriptions"]} == {"subscriber_1", "subscriber_2"}
    assert json.loads(status)["broker"]["problem"] is None
    assert pasted.count(f"/{name}".encode()) == 2
    assert process.returncode == 143
    assert err == b""
    await end(children)
    await remove(name, environment, management)


def test_conflicts_do_not_look_like_a_fault() -> None:
    """The demo's table says that they are wanted; in its JSON the name stays."""
    table = as_table({"lost": 0, "conflicts": 3})
    assert list(table.columns[0].cells) == ["lost", "conflicts (wanted)"]
    assert "conflicts" in Figures._fields


async def remove(name: str, environment: dict[str, str], management: Management) -> None:
    """Servers that are not the demo's own keep its database and vhost, where it is kept or killed."""
    await management.delete_vhost(name)
    connection = await asyncpg.connect(environment["TRUNKLINE_DSN"])
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


async def test_a_relay_that_dies_fails_the_demo(environment: dict[str, str]) -> None:
    """The demo ends with 1, and says who died of what."""
    async with demo("--seconds", "60", "--json", environment=environment) as process:
        _, children = await writing(process)
        relay = next(pid for pid, command in children.items() if "trunkline_ops.cli relay" in command)
        os.kill(relay, signal.SIGKILL)
        out, err = await process.communicate()
    assert process.returncode == 1
    assert b"demo: relay ended with exit code -9" in err
    assert out == b""
    await end(children)


async def test_a_mistake_on_the_command_line_is_told_in_one_line(environment: dict[str, str]) -> None:
    """It ends with 2, before any server is started."""
    async with demo("--seconds", "0", environment=environment) as process:
        out, err = await process.communicate()
    assert process.returncode == 2
    assert out == b""
    assert err.startswith(b"demo: ")
    assert err.count(b"\n") == 1


async def _audited(connection: asyncpg.Connection, acknowledged: int = 6) -> Figures:
    return await audit(connection, acknowledged=acknowledged, conflicts=0, healed=0, append_ms=[1.0, 2.0], seconds=2)


_HANDLED_AGAIN = """
    INSERT INTO demo.subscriber_2 (position, stream, stream_version, latency_ms)
    SELECT position, stream, stream_version, 1 FROM demo.subscriber_2
"""
_SWAPPED = """
    UPDATE demo.subscriber_1 AS s SET position = e.position, stream_version = e.stream_version
    FROM demo.subscriber_1 AS e WHERE (s.seq, e.seq) IN ((2, 3), (3, 2))
"""


@pytest.mark.parametrize(
    ("fault", "lost", "out_of_order", "duplicates"),
    [
        ("SELECT", 0, 0, 0),
        ("DELETE FROM demo.subscriber_2 WHERE stream = 'b' AND stream_version = 3", 1, 0, 0),
        ("DELETE FROM demo.subscriber_1 WHERE stream = 'a' AND stream_version = 1", 1, 1, 0),
        ("UPDATE eventstore.relays SET position = position - 1", 1, 0, 0),
        ("UPDATE demo.subscriber_1 SET position = position + 7 WHERE seq = 6", 1, 0, 0),
        (_HANDLED_AGAIN, 0, 0, 6),
        (_SWAPPED, 0, 2, 0),
    ],
)
async def test_the_audit_finds_what_is_wrong(
    database: str, fault: str, lost: int, out_of_order: int, duplicates: int
) -> None:
    """Of a run where all is well it says so; each fault that is made in the tables, it counts."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(TABLES)
        async with EventStore(database) as store:
            for stream in ("a", "b"):
                for _ in range(3):
                    await store.append_to_stream(stream, ANY_VERSION, [EventData("T", None)])
        await connection.execute(
            "INSERT INTO eventstore.relays (name, position) SELECT 'relay', max(position) FROM eventstore.events"
        )
        for table in ("subscriber_1", "subscriber_2"):
            await connection.execute(
                f"INSERT INTO demo.{table} (position, stream, stream_version, latency_ms) "
                "SELECT position, stream, stream_version, position FROM eventstore.events JOIN eventstore.streams "
                "USING (stream_id) ORDER BY position"
            )
        await connection.execute(fault)
        figures = await _audited(connection)
        assert (figures.lost, figures.out_of_order, figures.duplicates) == (lost, out_of_order, duplicates)
        assert (figures.fault is None) == (lost == out_of_order == 0)
        assert figures.committed == 6
        assert figures.confirmed == 6 - ("relays" in fault)
        assert figures.handled == 6 - lost + ("relays" in fault)
    finally:
        await connection.close()


async def test_the_audit_believes_the_writers(database: str) -> None:
    """An event that a writer was told is committed, and that is not there, is lost."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(TABLES)
        figures = await _audited(connection, acknowledged=2)
        assert figures.lost == 2
        assert figures.end_to_end_p50_ms is None
    finally:
        await connection.close()
