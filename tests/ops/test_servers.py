"""The servers that the demo and the tests run on."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest

from trunkline_ops.servers import (
    PostgresServer,
    Server,
    ServerError,
    Unavailable,
    postgres_server,
    rabbitmq_server,
)
from trunkline_ops.servers.cache import cached
from trunkline_ops.servers.guard import Guard
from trunkline_ops.servers.guard_process import descendants
from trunkline_ops.servers.packages import has_own_loader, start_with_own_loader
from trunkline_ops.servers.pgbouncer import pgbouncer_server
from trunkline_ops.servers.ports import HOST, reserved_ports
from trunkline_ops.servers.postgres import _own_server, programs_of_wheel
from trunkline_ops.servers.rabbitmq import home_of, unpacked_home
from trunkline_ops.servers.ways import first_open


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in containers have tests of their own."""
    monkeypatch.setenv("TRUNKLINE_SERVERS", "embedded")


PROGRAM = """
import json, signal, sys
from contextlib import ExitStack
from trunkline_ops.servers import postgres_server, rabbitmq_server

with ExitStack() as servers:
    for start in {"postgres": [postgres_server], "both": [postgres_server, rabbitmq_server]}[sys.argv[1]]:
        server = servers.enter_context(start(private=True))
        print(json.dumps(str(server._guard.folder)), flush=True)
    try:
        print("ready", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print(server.answers(), flush=True)
"""


def open_files(process: int) -> Iterator[str]:
    """What the descriptors of a process lead to, such as `socket:[12345]`."""
    with contextlib.suppress(FileNotFoundError, PermissionError):  # it has ended; or it is a zombie
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                yield str(entry.readlink())


def listening(server: Server) -> set[str]:
    """The addresses on which the processes of a server accept connections."""
    assert isinstance(server._guard, Guard)
    sockets = {file for process in descendants(server._guard._process.pid) for file in open_files(process)}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:  # proc_net_tcp(5)
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address = fields[1].partition(":")[0]
                words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(word.to_bytes(4, sys.byteorder) for word in words)))
    return found


def elsewhere(dsn: str, database: str) -> str:
    """The same server's other database."""
    return urlsplit(dsn)._replace(path=f"/{database}").geturl()


def is_gone(process: int) -> bool:
    """Whether a process has ended; one that only waits for its parent to notice has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(processes: list[int], folders: list[Path]) -> None:
    """Fails after 20 seconds."""
    give_up = time.monotonic() + 20
    while not (all(map(is_gone, processes)) and not any(folder.exists() for folder in folders)):
        assert time.monotonic() < give_up, (processes, folders)
        time.sleep(0.05)  # between looks: nobody tells when another's child is gone


class Program:
    """A program with servers of its own, that waits to be interrupted or killed."""

    def __init__(self, servers: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, servers], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.folders = []
        for line in self.process.stdout:
            if line == "ready\n":
                break
            self.folders.append(Path(json.loads(line)))
        self.below = descendants(self.process.pid)

    def rest_of_output(self) -> str:
        """What it prints until it ends, and is waited for."""
        return self.process.communicate(timeout=20)[0]


async def fetchval(server: PostgresServer, query: str) -> object:
    """One value, by a connection of its own."""
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_postgres_keeps_what_was_committed_when_it_is_killed() -> None:
    """A killed PostgreSQL comes back where it was, with its data; stopped and started too; paused, it is silent."""
    with postgres_server(private=True, settings={"max_connections": "7"}) as postgres:
        assert await fetchval(postgres, "SHOW max_connections") == "7"
        await fetchval(postgres, "CREATE TABLE kept AS SELECT 1 AS n")
        postgres.kill()
        assert not postgres.answers()
        postgres.start()
        assert await fetchval(postgres, "SELECT n FROM kept") == 1
        postgres.restart()
        assert await fetchval(postgres, "SELECT n FROM kept") == 1
        postgres.pause()
        with pytest.raises(TimeoutError):
            await asyncpg.connect(postgres.dsn, timeout=0.3)
        postgres.resume()
        assert await fetchval(postgres, "SELECT n FROM kept") == 1
        assert listening(postgres) == {HOST}


async def test_postgres_comes_from_the_package_index_where_none_is_installed() -> None:
    """The programs of the wheel serve as installed ones do."""
    with postgres_server(private=True, bin_dir=programs_of_wheel(), settings={"fsync": "off"}) as postgres:
        assert await fetchval(postgres, "SELECT current_setting('server_version_num')::int / 10000") == 18


async def test_rabbitmq_keeps_what_was_confirmed_when_it_is_killed() -> None:
    """A killed RabbitMQ comes back where it was, with its messages; it listens on the loopback interface only."""
    with rabbitmq_server(private=True, settings={"heartbeat": "7"}) as rabbitmq:
        async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("kept", durable=True)
            message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue.name)
        assert {HOST} <= listening(rabbitmq) <= {HOST, "::1"}  # epmd takes both
        assert "{heartbeat,7}" in rabbitmq.ctl("environment")
        rabbitmq.pause()
        with pytest.raises(TimeoutError):
            await aio_pika.connect(rabbitmq.amqp_url, timeout=0.3)
        rabbitmq.resume()
        rabbitmq.ctl("eval", "mnesia:sync_log().")  # a queue declared less than 2 s ago may not be on the disk yet
        rabbitmq.kill()
        assert not rabbitmq.answers()
        rabbitmq.start()
        async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
            channel = await connection.channel()
            received = await (await channel.get_queue("kept")).get()
            assert received.body == b"kept"


async def test_pgbouncer_leads_to_every_database_of_a_server(postgres: PostgresServer) -> None:
    """With the server's own users; on the loopback interface only; started again, it answers on the same port."""
    with pgbouncer_server(postgres, settings={"max_client_conn": "7"}) as pgbouncer:
        for dsn in (pgbouncer.dsn, elsewhere(pgbouncer.dsn, "template1")):
            connection = await asyncpg.connect(dsn, statement_cache_size=0)
            assert await connection.fetchval("SELECT current_database()") == dsn.rpartition("/")[2]
            await connection.close()
        with pytest.raises(asyncpg.PostgresError, match="authentication failed"):
            await asyncpg.connect(pgbouncer.dsn, password="wrong")
        assert listening(pgbouncer) == {HOST}
        pgbouncer.restart()


def test_nothing_is_left_of_a_program_that_was_killed() -> None:
    """After SIGKILL of the program its servers end by themselves, and no process (epmd!) and no folder is left."""
    program = Program("both")
    assert len(program.below) > 10
    assert len(program.folders) == 2
    program.process.kill()
    program.rest_of_output()
    wait_until_gone(program.below, program.folders)


def test_ctrl_c_leaves_a_program_its_servers_until_it_is_done() -> None:
    """Ctrl-C in the terminal interrupts the program and not its servers; when it is done, nothing is left."""
    program = Program("postgres")
    os.killpg(program.process.pid, signal.SIGINT)
    assert program.rest_of_output() == "True\n"  # the server still answered after the interrupt
    assert program.process.returncode == 0
    wait_until_gone(program.below, program.folders)


def test_a_server_of_the_environment_is_used_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs of the environment come first, and what they name cannot be stopped from here."""
    monkeypatch.setenv("TRUNKLINE_DSN", "postgresql://somebody@elsewhere/postgres")
    monkeypatch.setenv("TRUNKLINE_AMQP_URL", "amqp://some%40body:secret@elsewhere/")
    monkeypatch.setenv("TRUNKLINE_MANAGEMENT_URL", "http://elsewhere:15672/")
    with postgres_server() as postgres, rabbitmq_server() as rabbitmq:
        assert postgres.dsn == "postgresql://somebody@elsewhere/postgres"
        assert (rabbitmq.user, rabbitmq.password) == ("some@body", "secret")
        assert rabbitmq.management_url == "http://elsewhere:15672"
        for control in (postgres.kill, postgres.start, rabbitmq.pause, rabbitmq.restart):
            with pytest.raises(ServerError, match="private=True"):
                control()
    monkeypatch.delenv("TRUNKLINE_MANAGEMENT_URL")
    with pytest.raises(Unavailable, match="TRUNKLINE_MANAGEMENT_URL"), rabbitmq_server():
        pass


def test_where_no_way_is_open_the_error_lists_them_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each way is named with the reason why it is closed, and at the end stands what to do."""

    def installed() -> Path:
        """The one that is installed."""
        raise Unavailable("it is not")

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        first_open("RabbitMQ", "install one", installed, unpacked_home)
    assert str(caught.value).splitlines() == [
        "there is no RabbitMQ to be had here:",
        "  - The one that is installed: it is not",
        "  - The distribution's package, unpacked without root: it takes apt-get, of Debian or a descendant",
        "  install one",
    ]


def test_a_version_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A version that no suite has, and one whose suite is not to be had on this system: one line says why; and a
    program that has asked for a version is given no other one, not even that of its environment."""

    def installed() -> Path:
        raise Unavailable("none is installed")

    monkeypatch.setattr("trunkline_ops.servers.rabbitmq.installed_home", installed)
    with pytest.raises(Unavailable, match=r"use 4\.3, 4\.0, 3\.10 or newest"):
        home_of("5.7")
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "arch", "NAME": "Arch Linux"})
    with pytest.raises(Unavailable, match=r"Debian.*Arch Linux"):
        home_of("4.3")
    monkeypatch.setenv("TRUNKLINE_AMQP_URL", "amqp://elsewhere/")
    monkeypatch.setenv("TRUNKLINE_MANAGEMENT_URL", "http://elsewhere:15672/")
    monkeypatch.setenv("TRUNKLINE_RABBITMQ_VERSION", "newest")
    with pytest.raises(Unavailable, match=r"forky: .*; trixie: .*; bookworm: "), rabbitmq_server():
        pass
    done = subprocess.run(
        [sys.executable, "-m", "trunkline_ops.servers", "5.7"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_a_programs_own_c_library_comes_with_it_and_reaches_no_other(tmp_path: Path) -> None:
    """It starts with the loader of its folder, under its own name, by a link too; what it starts itself has the host's,
    and files that are no programs stay as they are."""
    host = next(
        each for pattern in ("/usr/lib", "/lib") for each in Path(pattern).glob("*-linux-gnu*/libc.so.6")
    ).parent
    libraries = tmp_path / "usr" / "lib" / host.name
    programs = tmp_path / "usr" / "lib" / "programs"
    libraries.mkdir(parents=True)
    programs.mkdir()
    for each in (*host.glob("ld-linux*.so.*"), host / "libc.so.6", *host.glob("libtinfo.so.*")):
        shutil.copy(each, libraries)
    shutil.copy("/bin/bash", programs / "shell")
    (programs / "link").symlink_to("shell")
    (programs / "text").write_text("text")
    assert has_own_loader(tmp_path)
    start_with_own_loader(tmp_path, programs)
    moved = tmp_path.rename(tmp_path.with_name("moved"))  # as the cache does when all is made
    for name in ("shell", "link"):
        script = 'grep -c "$1" /proc/$$/maps; sh -c "grep -c $1 /proc/\\$\\$/maps"; echo "$0 $LD_LIBRARY_PATH"'
        program = moved / "usr" / "lib" / "programs" / name
        shown = subprocess.run(
            [program, "-c", script, "own name", f"moved/usr/lib/{host.name}"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.splitlines()
        assert int(shown[0]) > 0
        assert shown[1:] == ["0", "own name "]
    assert (moved / "usr" / "lib" / "programs" / "text").read_text() == "text"
    assert not has_own_loader(programs)


def test_a_server_that_does_not_start_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server said stands in the error, and nothing is left of it."""
    with tempfile.TemporaryDirectory() as own:  # others of this run start servers meanwhile
        Path(own).chmod(0o755)  # the server may be another user's
        monkeypatch.setattr(tempfile, "tempdir", own)
        with (
            pytest.raises(ServerError, match="unrecognized configuration parameter"),
            postgres_server(private=True, settings={"no_such_thing": "1"}),
        ):
            pass
        assert list(Path(own).iterdir()) == []


def test_reserved_ports_are_not_given_twice() -> None:
    """Two who ask at once get different ports, and none that the kernel gives to outgoing connections."""
    lowest_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    with reserved_ports(6) as some, reserved_ports(9) as others:
        assert len({*some, *others}) == 15
        assert max(*some, *others) < lowest_of_kernel


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, in a folder that other accounts can enter too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("TRUNKLINE_CACHE", f"{folder}/cache")
        yield Path(folder, "cache")


def test_the_cache_is_filled_once_by_two_who_want_it_at_once(cache: Path) -> None:
    """The second waits for the first, and finds what the first has made."""
    made = []
    second_asks = threading.Event()

    def make(folder: Path) -> None:
        made.append(folder)
        second_asks.wait(10)
        (folder / "content").touch()

    def ask() -> Path:
        if made:
            second_asks.set()
        return cached("thing", make)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask)
        while not made:
            time.sleep(0.001)  # until the first one is at it
        assert threads.submit(ask).result() == first.result() == cache / "thing"
    assert len(made) == 1
    assert [each.name for each in (cache / "thing").iterdir()] == ["content"]


def test_a_download_is_told_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who waits for minutes at the first start is told for what, and where it will be."""
    for _ in range(2):
        cached("thing", lambda _: None)
    assert capsys.readouterr().err == f"servers: downloading thing, once, into {cache}\n"


def test_the_cache_keeps_nothing_that_is_half_made(cache: Path) -> None:
    """What failed leaves no folder, and is tried again the next time."""

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise Unavailable("the network is gone")

    with pytest.raises(Unavailable):
        cached("thing", fail)
    assert [each.name for each in cache.iterdir()] == ["thing.lock"]
    assert cached("thing", lambda folder: (folder / "whole").touch()).is_dir()


def test_a_standbys_password_is_on_no_command_line() -> None:
    """Every user of the machine can read command lines; the standby is made and streams all the same."""
    with postgres_server(private=True) as primary, tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the servers' account is another one
        programs, seen = Path(folder) / "bin", Path(folder) / "seen"
        programs.mkdir()
        seen.touch()
        seen.chmod(0o666)
        for program in primary.programs.iterdir():
            (programs / program.name).symlink_to(program)
        (programs / "pg_basebackup").unlink()
        (programs / "pg_basebackup").write_text(
            f'#!/bin/sh\necho "$@" >>{seen}\nexec {primary.programs / "pg_basebackup"} "$@"\n'
        )
        (programs / "pg_basebackup").chmod(0o755)
        with _own_server(programs, {}, primary.dsn, "standby") as standby:
            assert asyncio.run(replica(standby.dsn))
        words = seen.read_text()
    assert "--write-recovery-conf" in words
    assert str(urlsplit(primary.dsn).password) not in words


async def replica(dsn: str) -> bool:
    """Return True if the server is a standby."""
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("SELECT pg_is_in_recovery()"))
    finally:
        await connection.close()
