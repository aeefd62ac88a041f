"""docker-compose.yml, from the first start to the last trace of it, where a Docker engine answers."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.ops.engine import docker, needs_engine
from tests.whole.flow import Flow
from trunkline_ops.servers.ports import HOST, reserved_ports

ROOT = Path(__file__).parents[2]
SERVICES = ("postgres", "rabbitmq", "relay")

pytestmark = pytest.mark.timeout(900)  # an image is built, and servers are started several times


class Composition:
    """The services, up and healthy."""

    def __init__(self, project: str, ports: list[int]) -> None:
        self.project = project
        postgres, amqp, management, relay = ports
        self.dsn = f"postgresql://trunkline:geheim@{HOST}:{postgres}/trunkline"
        self.amqp_url = f"amqp://trunkline:geheim@{HOST}:{amqp}/"
        self.management_url = f"http://{HOST}:{management}"
        self.relay_url = f"http://{HOST}:{relay}"
        self._environment = {
            "POSTGRES_PASSWORD": "geheim",
            "RABBITMQ_PASSWORD": "geheim",
            "POSTGRES_PORT": str(postgres),
            "AMQP_PORT": str(amqp),
            "MANAGEMENT_PORT": str(management),
            "RELAY_PORT": str(relay),
        }

    def compose(self, *arguments: str) -> str:
        """Runs `docker compose` on this composition."""
        return docker(
            "compose",
            *("--project-name", self.project, "--project-directory", str(ROOT), "--progress", "quiet", *arguments),
            environment=self._environment,
        )

    def up(self) -> None:
        self.compose("up", "--wait", "--quiet-pull")

    def traces(self) -> dict[str, list[str]]:
        """What the engine has of it."""
        mine = f"label=com.docker.compose.project={self.project}"
        return {
            "containers": docker("ps", "--all", "--quiet", "--filter", mine).split(),
            "volumes": docker("volume", "ls", "--quiet", "--filter", mine).split(),
            "networks": docker("network", "ls", "--quiet", "--filter", mine).split(),
            "images": docker("image", "ls", "--quiet", "--filter", mine).split(),
        }

    def health(self) -> dict[str, str]:
        """What each container says of itself."""
        lines = self.compose("ps", "--all", "--format", "{{.Service}} {{.Health}}").splitlines()
        return dict(line.split() for line in lines if line.strip())

    async def published(self, position: int) -> None:
        """Waits until the relay has confirmed everything up to a position."""
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(60):
            while (await client.get(f"{self.relay_url}/readyz")).json()["stores"][0]["position"] < position:
                await asyncio.sleep(0.1)  # between two looks


@contextmanager
def composed() -> Iterator[Composition]:
    needs_engine("POSTGRES_IMAGE", "RABBITMQ_IMAGE", "PYTHON_IMAGE", compose=True)
    with reserved_ports(4) as ports:
        composition = Composition(f"trunkline-test-{secrets.token_hex(4)}", ports)
        try:
            composition.up()
            yield composition
        finally:
            composition.compose("down", "--volumes", "--rmi", "local", "--timeout", "30")


def test_the_composition_comes_up_healthy_carries_the_demo_and_goes_without_a_trace() -> None:
    """All services are healthy, the demo on them loses nothing, and `down` leaves no container, volume or network."""
    with composed() as composition:
        assert composition.health() == dict.fromkeys(SERVICES, "healthy")
        assert composition.traces()["volumes"]
        done = subprocess.run(
            [sys.executable, "-m", "trunkline_ops.demo", "--seconds", "4", "--json"],
            env={
                **os.environ,
                "TRUNKLINE_DSN": composition.dsn,
                "TRUNKLINE_AMQP_URL": composition.amqp_url,
                "TRUNKLINE_MANAGEMENT_URL": composition.management_url,
            },
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout.splitlines()[-1])
        assert figures["committed"] == figures["handled"] > 0
        assert figures["lost"] == figures["out_of_order"] == 0
    assert composition.traces() == {"containers": [], "volumes": [], "networks": [], "images": []}


async def test_every_service_can_be_restarted_and_killed_and_nothing_is_lost() -> None:
    """While a writer writes and a subscriber follows, each service is restarted, and then killed and brought up again:
    what was committed is handled, in order, each event once, and all of it is published."""
    with composed() as composition:
        async with Flow(composition.dsn, composition.amqp_url, relay=False) as flow:
            await flow.more()
            for service in SERVICES:
                await asyncio.to_thread(composition.compose, "restart", service)
                await flow.more()
                await asyncio.to_thread(composition.compose, "kill", service)
                await asyncio.to_thread(composition.up)
                await flow.more()
            committed = await flow.finish()
            await composition.published(committed[-1])
        assert composition.health() == dict.fromkeys(SERVICES, "healthy")


def test_the_relays_image_runs_as_nobody_and_writes_nothing() -> None:
    """It has no root, no pip, and a file system that it cannot write to; and it says which version it is."""
    with composed() as composition:
        assert composition.compose("exec", "relay", "id", "-u").strip() == "65534"
        with pytest.raises(AssertionError, match=r"[Rr]ead-only|[Pp]ermission"):
            composition.compose("exec", "relay", "touch", "/venv/x")
        with pytest.raises(AssertionError, match="No module named pip"):
            composition.compose("exec", "relay", "python", "-m", "pip")
        assert composition.compose("exec", "relay", "trunkline", "--version").startswith("trunkline ")
