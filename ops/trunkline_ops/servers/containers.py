"""A server in a container of this program's own, by testcontainers: where a Docker engine answers on this machine.

`POSTGRES_IMAGE` and `RABBITMQ_IMAGE` name other images than the official ones, as for docker-compose.yml.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from trunkline_ops.servers.ports import HOST
from trunkline_ops.servers.ways import ServerError, Unavailable

_ADDRESS: Final = "unix:///var/run/docker.sock"
_STOP_SECONDS: Final = 15
_LOG_LINES: Final = 30

# Testcontainers' own reaper is another image to pull, and wants the engine's socket. A pipe tells the same: it is
# closed when this program is gone, however it went.
_REAPER: Final = """
import sys, docker
sys.stdin.read()
docker.from_env().containers.get(sys.argv[1]).remove(force=True, v=True)
"""


class Image(NamedTuple):
    """An image that the engine has."""

    name: str


def ways_to(image: str, *embedded: Callable[[], Path]) -> Sequence[Callable[[], Path | Image]]:
    """The ways to a server, in the order in which they are tried.

    `TRUNKLINE_SERVERS` says `docker` or `embedded`. Without it, a container comes first where the engine has the image
    already; it is pulled where no other way is open. Raises `Unavailable` where the variable says something else.
    """

    def at_hand() -> Image:
        """A container of an image that the Docker engine has."""
        if _in_container():
            raise Unavailable(
                "this program is in a container itself, and may not reach others: TRUNKLINE_SERVERS=docker"
            )
        return _found(image)

    def pulled() -> Image:
        """A container of an image that the Docker engine pulls."""
        return _pulled(image)

    match os.environ.get("TRUNKLINE_SERVERS") or None:
        case None:
            return [at_hand, *embedded, pulled]
        case "docker":
            return [pulled]
        case "embedded":
            return embedded
        case asked:
            raise Unavailable(f"TRUNKLINE_SERVERS={asked}: use docker or embedded, or leave it out")


def _in_container() -> bool:
    return Path("/.dockerenv").exists()


def _found(name: str) -> Image:
    with _engine_answering() as engine:
        if name not in {tag for image in engine.images.list() for tag in image.tags}:
            raise Unavailable(f"it has no {name}")
    return Image(name)


def _pulled(name: str) -> Image:
    try:
        return _found(name)
    except Unavailable:
        with _engine_answering() as engine:
            print(f"servers: pulling the image {name}", file=sys.stderr, flush=True)  # it can take minutes
            engine.images.pull(name)
    return Image(name)


@contextmanager
def _engine_answering() -> Iterator[Any]:
    try:
        import docker
        from testcontainers.core.docker_client import DockerClient, get_docker_host
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is missing: install trunkline[testing]") from error
    address = urlsplit(get_docker_host() or _ADDRESS)
    if address.scheme != "unix":
        raise Unavailable("the Docker engine is another machine's")
    with closing(socket.socket(socket.AF_UNIX)) as probe:  # docker-py would leave its own one open
        try:
            probe.connect(address.path)
        except OSError as error:
            raise Unavailable(f"no Docker engine answers at {address.path} ({error.strerror})") from error
    try:
        with closing(DockerClient().client) as engine:
            yield engine
    except (docker.errors.DockerException, OSError) as error:
        raise Unavailable(f"the Docker engine says: {error}") from error


class Container:
    """One container, with all that `Server` does to it. Every method blocks until it is done.

    They raise `ServerError` with the engine's words.
    """

    def __init__(self, image: Image, ports: Mapping[int, int], files: Mapping[str, str] | None = None) -> None:
        """ports: of the container, and of the loopback interface. files: what is in the container before it starts."""
        self._image = image
        self._ports = ports
        self._files = files or {}
        self._container: Any = None
        self._engine: Any = None
        self._reaper: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Makes the container and starts it; or starts it again, as it was made."""
        if self._container is None:
            self._make(command, environment)
        elif self.is_running():
            raise ServerError("it is running already")
        else:
            self._do("start")

    def run(self, command: list[str], environment: dict[str, str]) -> str:
        """Runs a command in the container to its end, and returns what it printed."""
        done = self._do("exec_run", command, environment=environment)
        if done.exit_code != 0:
            raise ServerError(f"{command[0]} ended with {done.exit_code}: {done.output.decode(errors='replace')}")
        return str(done.output.decode(errors="replace"))

    def is_running(self) -> bool:
        """False when the server has ended, by itself or not."""
        self._do("reload")
        return self._container.status in ("running", "paused")

    def log(self) -> str:
        """The end of what the server printed."""
        return str(self._do("logs", tail=_LOG_LINES).decode(errors="replace"))

    def stop(self) -> None:
        """Ends the server in good order, or by force where that takes longer than 15 seconds."""
        self.resume()
        self._do("stop", timeout=_STOP_SECONDS)

    def kill(self) -> None:
        """Ends the server with SIGKILL."""
        self.resume()  # a frozen process cannot die
        self._do("kill")
        self._do("wait")

    def pause(self) -> None:
        """Freezes the server's processes."""
        self._do("pause")

    def resume(self) -> None:
        """Lets a paused server go on."""
        self._do("reload")
        if self._container.status == "paused":
            self._do("unpause")

    def close(self) -> None:
        """Removes the container with all that is in it."""
        if self._reaper is not None:
            self._reaper.communicate()
        if self._engine is not None:
            self._engine.close()

    def _make(self, command: list[str], environment: dict[str, str]) -> None:
        import docker
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        testcontainers_config.ryuk_disabled = True
        made = DockerContainer(self._image.name).with_kwargs(network="bridge").with_envs(**environment)
        made.with_command(command)
        self._engine = made.get_docker_client().client
        for inner, outer in self._ports.items():
            made.ports[f"{inner}/tcp"] = (HOST, outer)  # type: ignore[assignment]  # as docker-py takes it
        for path, text in self._files.items():
            made.with_copy_into_container(text.encode(), path, 0o644)
        try:
            made.start()
        except (docker.errors.DockerException, OSError) as error:
            raise ServerError(f"the container of {self._image.name} did not start: {error}") from error
        finally:
            self._container = made._container
            if self._container is not None:
                self._reaper = subprocess.Popen(
                    [sys.executable, "-c", _REAPER, self._container.id],
                    stdin=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C reaches the program only
                )

    def _do(self, what: str, *arguments: object, **more: object) -> Any:
        import docker

        try:
            return getattr(self._container, what)(*arguments, **more)
        except (docker.errors.DockerException, OSError) as error:
            raise ServerError(f"{what}: {error}") from error
