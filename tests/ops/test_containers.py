"""Servers in containers: the same controls as for those that are this program's own processes."""

import subprocess
import sys
import time
from pathlib import Path

import aio_pika
import asyncpg
import pytest

from tests.ops.engine import docker, needs_engine
from trunkline_ops.servers import PostgresServer, ServerError, Unavailable, postgres_server, rabbitmq_server
from trunkline_ops.servers.containers import Container, Image, ways_to
from trunkline_ops.servers.ways import first_open

PROGRAM = """
from trunkline_ops.servers import postgres_server
with postgres_server(private=True) as server:
    print(server._guard._container.id, flush=True)
    input()
"""
NO_ENGINE = "unix:///nowhere/docker.sock"


async def fetchval(server: PostgresServer, query: str) -> object:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.fixture
def in_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks for containers, and skips where there are none to be had."""
    needs_engine("POSTGRES_IMAGE", "RABBITMQ_IMAGE")
    monkeypatch.setenv("TRUNKLINE_SERVERS", "docker")


def ports_of(container: Container) -> set[str]:
    """The addresses of the host at which a container can be reached."""
    container._do("reload")
    bindings = container._container.attrs["NetworkSettings"]["Ports"].values()
    return {each["HostIp"] for binding in bindings if binding for each in binding}


@pytest.mark.usefixtures("in_docker")
async def test_postgres_in_a_container_keeps_what_was_committed_when_it_is_killed() -> None:
    """Killed, stopped and started it comes back where it was, with its data and settings; paused, it is silent; only
    the loopback interface leads to it; and afterwards it is gone."""
    with postgres_server(private=True, settings={"max_connections": "17"}) as postgres:
        container = postgres._guard
        assert isinstance(container, Container)
        assert await fetchval(postgres, "SHOW max_connections") == "17"
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
        with pytest.raises(ServerError, match="running already"):
            postgres.start()
        assert ports_of(container) == {"127.0.0.1"}
        postgres.pause()  # is no hindrance to its removal
        name = container._container.id
    assert name not in docker("ps", "--all", "--quiet", "--no-trunc")


@pytest.mark.usefixtures("in_docker")
async def test_rabbitmq_in_a_container_keeps_what_was_confirmed_when_it_is_killed() -> None:
    """A killed RabbitMQ comes back where it was, with its messages and settings, and `rabbitmqctl` reaches it."""
    with rabbitmq_server(private=True, settings={"heartbeat": "7"}) as rabbitmq:
        async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("kept", durable=True)
            message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, queue.name)
        assert "{heartbeat,7}" in rabbitmq.ctl("environment")
        with pytest.raises(ServerError, match="no-such-command"):
            rabbitmq.ctl("no-such-command")
        rabbitmq.ctl("eval", "mnesia:sync_log().")  # a queue declared less than 2 s ago may not be on the disk yet
        rabbitmq.pause()
        rabbitmq.kill()
        assert not rabbitmq.answers()
        rabbitmq.start()
        async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
            channel = await connection.channel()
            received = await (await channel.get_queue("kept")).get()
            assert received.body == b"kept"
        assert isinstance(rabbitmq._guard, Container)
        assert ports_of(rabbitmq._guard) == {"127.0.0.1"}


@pytest.mark.usefixtures("in_docker")
def test_no_container_is_left_of_a_program_that_was_killed() -> None:
    """Nobody is left to remove it, and it goes all the same."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        container = process.stdout.readline().decode().strip()
        assert container in docker("ps", "--quiet", "--no-trunc")
        process.kill()
    give_up = time.monotonic() + 60
    while container in docker("ps", "--all", "--quiet", "--no-trunc"):
        assert time.monotonic() < give_up
        time.sleep(0.1)  # between two looks: nobody tells


@pytest.mark.usefixtures("in_docker")
def test_a_container_that_does_not_start_shows_its_log() -> None:
    """What the server said stands in the error."""
    with (
        pytest.raises(ServerError, match="unrecognized configuration parameter"),
        postgres_server(private=True, settings={"no_such_thing": "1"}),
    ):
        pass


def installed() -> Path:
    """The one that is installed."""
    return Path("/there")


def closed() -> Path:
    """The one that is installed."""
    raise Unavailable("it is not")


def test_where_no_engine_answers_the_other_ways_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine the installed server is taken; where a container is asked for, or nothing else is left, the
    error says that no engine answers."""
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    monkeypatch.delenv("TRUNKLINE_SERVERS", raising=False)
    assert first_open("PostgreSQL", "install one", *ways_to("postgres:17", installed)) == Path("/there")
    with pytest.raises(Unavailable, match=r"The one that is installed: it is not\n .* engine pulls: no Docker engine"):
        first_open("PostgreSQL", "install one", *ways_to("postgres:17", closed))
    monkeypatch.setenv("TRUNKLINE_SERVERS", "docker")
    with pytest.raises(Unavailable, match="no Docker engine"):
        first_open("PostgreSQL", "install one", *ways_to("postgres:17", installed))


def test_the_environment_chooses_between_containers_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`embedded` asks no engine; anything else than these two words is refused."""
    monkeypatch.setenv("TRUNKLINE_SERVERS", "embedded")
    assert ways_to("postgres:17", installed) == (installed,)
    monkeypatch.setenv("TRUNKLINE_SERVERS", "podman")
    with pytest.raises(Unavailable, match="TRUNKLINE_SERVERS=podman: use docker or embedded"):
        ways_to("postgres:17", installed)


def test_an_image_at_hand_comes_before_an_installed_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the version that the composition has; one that would have to be pulled comes last."""
    needs_engine("POSTGRES_IMAGE")
    monkeypatch.delenv("TRUNKLINE_SERVERS", raising=False)
    monkeypatch.setattr("trunkline_ops.servers.containers._in_container", lambda: False)
    image = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines()[0]
    assert first_open("PostgreSQL", "install one", *ways_to(image, installed)) == Image(image)
    assert first_open("PostgreSQL", "install one", *ways_to("trunkline-no-such:1", installed)) == Path("/there")


def test_a_program_in_a_container_keeps_to_itself_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loopback interface may be another one than the engine's, so it takes containers only where they are asked
    for."""
    monkeypatch.delenv("TRUNKLINE_SERVERS", raising=False)
    monkeypatch.setattr("trunkline_ops.servers.containers._in_container", lambda: True)
    with pytest.raises(Unavailable, match="TRUNKLINE_SERVERS=docker"):
        ways_to("postgres:17", installed)[0]()
