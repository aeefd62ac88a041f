"""A RabbitMQ of this program's own, or the one of `TRUNKLINE_AMQP_URL` and `TRUNKLINE_MANAGEMENT_URL`.

`TRUNKLINE_RABBITMQ_VERSION` asks for one of its own in a version (4.3), or the `newest` that can be had.
"""

import os
import re
import secrets
import shutil
import socket
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from signal import SIGTERM
from typing import Final
from urllib.parse import unquote, urlsplit

from trunkline_ops.servers.containers import Container, Image, ways_to
from trunkline_ops.servers.guard import Guard, account_for_servers, server_environment
from trunkline_ops.servers.packages import has_own_loader, start_with_own_loader, unpacked, unpacked_from
from trunkline_ops.servers.ports import HOST, reserved_ports
from trunkline_ops.servers.server import Server
from trunkline_ops.servers.ways import Unavailable, first_open

NEWEST: Final = "newest"
_SUITES: Final = {"4.3": "forky", "4.0": "trixie", "3.10": "bookworm"}
"""Which suite of Debian has which version, the newest first."""
_OLDEST = (3, 10)
_USER = "trunkline"
_IMAGE = "rabbitmq:4-management"
_PLUGINS = "[rabbitmq_management,rabbitmq_prometheus].\n"
_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"  # AMQP 0-9-1, 4.2.2
_METHOD_FRAME = b"\x01"  # with which the server's Connection.Start begins


class RabbitMQServer(Server):
    """A running RabbitMQ with the management plugin."""

    def __init__(
        self,
        amqp_url: str,
        management_url: str,
        guard: Guard | Container | None = None,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`amqp_url` carries an administrator's credentials, which are good for the management API too."""
        super().__init__(guard, command, environment)
        self.amqp_url = amqp_url
        self.management_url = management_url
        url = urlsplit(amqp_url)
        self.user = unquote(url.username or "guest")
        self.password = unquote(url.password or "guest")

    def answers(self) -> bool:
        """Whether both AMQP and the management API do."""
        return self._answers_amqp() and self._answers_http()

    def ctl(self, *arguments: str) -> str:
        """Runs `rabbitmqctl` with these arguments on this node, and returns what it printed."""
        rabbitmqctl = Path(self._command[0]).with_name("rabbitmqctl")
        return self._own().run([str(rabbitmqctl), *arguments], self._environment)

    def _answers_amqp(self) -> bool:
        url = urlsplit(self.amqp_url)
        try:
            with socket.create_connection((url.hostname or HOST, url.port or 5672), timeout=5) as client:
                client.sendall(_PROTOCOL_HEADER)
                return client.recv(1) == _METHOD_FRAME
        except OSError:
            return False

    def _answers_http(self) -> bool:
        credentials = b64encode(f"{self.user}:{self.password}".encode()).decode()
        url = urlsplit(self.management_url)
        with closing(HTTPConnection(url.hostname or HOST, url.port, timeout=5)) as client:
            try:
                client.request("GET", "/api/vhosts", headers={"Authorization": f"Basic {credentials}"})
                return client.getresponse().status == HTTPStatus.OK
            except (OSError, HTTPException):
                return False


def rabbitmq_server(
    *,
    settings: Mapping[str, str] | None = None,
    private: bool = False,
    home: Path | None = None,
    password: str | None = None,
) -> AbstractContextManager[RabbitMQServer]:
    """A RabbitMQ >= 3.10 with the plugins for management and Prometheus, until the block is left.

    Args:
        settings: keys of rabbitmq.conf for a server of this program's own, such as `{"heartbeat": "5"}`.
        private: never the environment's server, but one that may be broken.
        home: the folder that holds RabbitMQ's `sbin` and `plugins`; by default that of the version which
            `TRUNKLINE_RABBITMQ_VERSION` names, else a container (`ways_to`), else the newest one that is installed,
            else the distribution's package, unpacked into the cache.
        password: of the administrator `trunkline` of a server of this program's own; a random one by default. With
            `load_definitions` in the settings, these must bring him: RabbitMQ makes no user of its own then.

    Raises:
        Unavailable: there is no way to a RabbitMQ here; the message lists what was tried.
        ServerError: it did not start.
    """
    if home is None and (version := os.environ.get("TRUNKLINE_RABBITMQ_VERSION")):
        home = home_of(version)
    elif not private and (amqp_url := os.environ.get("TRUNKLINE_AMQP_URL")):
        management_url = os.environ.get("TRUNKLINE_MANAGEMENT_URL")
        if not management_url:
            raise Unavailable("TRUNKLINE_AMQP_URL is set: set TRUNKLINE_MANAGEMENT_URL too")
        return nullcontext(RabbitMQServer(amqp_url, management_url.rstrip("/")))
    found = home or first_open(
        "RabbitMQ",
        "install one (Debian, Ubuntu: apt install rabbitmq-server), or name a running one in "
        "TRUNKLINE_AMQP_URL and TRUNKLINE_MANAGEMENT_URL",
        *ways_to(os.environ.get("RABBITMQ_IMAGE") or _IMAGE, installed_home, unpacked_home),
    )
    password = password or secrets.token_urlsafe(18)
    if isinstance(found, Image):
        return _server_in_container(found, settings or {}, password)
    return _own_server(found, settings or {}, password)


@contextmanager
def _server_in_container(image: Image, settings: Mapping[str, str], password: str) -> Iterator[RabbitMQServer]:
    with reserved_ports(2) as [amqp, management]:
        files = {"/etc/rabbitmq/conf.d/90-trunkline.conf": _configuration(settings, password)}
        with closing(Container(image, {5672: amqp, 15672: management}, files)) as container:
            server = RabbitMQServer(
                f"amqp://{_USER}:{password}@{HOST}:{amqp}/",
                f"http://{HOST}:{management}",
                container,
                ["rabbitmq-server"],
            )
            server.start()
            yield server


def _configuration(settings: Mapping[str, str], password: str, **more: str) -> str:
    """The text of a rabbitmq.conf; what this program needs stands above what was asked for."""
    user = {"default_user": _USER, "default_pass": password, "default_user_tags.administrator": "true"}
    return "".join(f"{key} = {value}\n" for key, value in {**settings, **user, **more}.items())


@contextmanager
def _own_server(home: Path, settings: Mapping[str, str], password: str) -> Iterator[RabbitMQServer]:
    account = account_for_servers()
    with reserved_ports(6) as ports, closing(Guard("trunkline-rabbitmq", account, SIGTERM)) as guard:
        amqp, management, prometheus, distribution, epmd, ctl = ports
        addresses = {
            "listeners.tcp.1": f"{HOST}:{amqp}",
            "management.tcp.ip": HOST,
            "management.tcp.port": str(management),
            "prometheus.tcp.ip": HOST,
            "prometheus.tcp.port": str(prometheus),
        }
        guard.write("rabbitmq.conf", _configuration(settings, password, **addresses))
        guard.write("enabled_plugins", _PLUGINS)
        guard.write(".erlang.cookie", secrets.token_hex(16))
        folder = guard.folder
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        environment = server_environment(
            folder,
            **_erlang_beside(home),
            # rabbitmq-server(8), "Environment": whatever is not named here would be shared with other nodes
            RABBITMQ_NODENAME="trunkline@localhost",
            RABBITMQ_DIST_PORT=str(distribution),
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=loopback,
            RABBITMQ_CTL_DIST_PORT_MIN=str(ctl),
            RABBITMQ_CTL_DIST_PORT_MAX=str(ctl),
            RABBITMQ_CTL_ERL_ARGS=loopback,
            ERL_EPMD_PORT=str(epmd),
            ERL_EPMD_ADDRESS=HOST,
            RABBITMQ_CONF_ENV_FILE=str(folder / "none"),
            RABBITMQ_CONFIG_FILE=str(folder / "rabbitmq.conf"),
            RABBITMQ_ADVANCED_CONFIG_FILE=str(folder / "none.config"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(folder / "enabled_plugins"),
            RABBITMQ_PLUGINS_DIR=str(home / "plugins"),
            RABBITMQ_MNESIA_BASE=str(folder / "data"),
            RABBITMQ_LOG_BASE=str(folder / "logs"),
            RABBITMQ_LOGS="-",  # to the guard's log
            RABBITMQ_PID_FILE=str(folder / "pid"),
        )
        server = RabbitMQServer(
            f"amqp://{_USER}:{password}@{HOST}:{amqp}/",
            f"http://{HOST}:{management}",
            guard,
            [str(home / "sbin" / "rabbitmq-server")],
            environment,
        )
        server.start()
        yield server


def installed_home() -> Path:
    """The RabbitMQ that is installed."""
    on_path = shutil.which("rabbitmq-server")
    homes = [
        *([Path(on_path).resolve().parents[1]] if on_path else []),
        *Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"),  # Debian, Ubuntu, the RabbitMQ team's RPMs
        *Path("/opt").glob("rabbitmq*"),
    ]
    versions = {home: _version(home) for home in homes if (home / "sbin" / "rabbitmq-server").exists()}
    newest = max(versions, key=lambda home: versions[home], default=None)
    if newest is None:
        raise Unavailable("neither PATH, /usr/lib/rabbitmq/lib nor /opt leads to one")
    if versions[newest] < _OLDEST:
        raise Unavailable(f"{newest} is older than {_OLDEST[0]}.{_OLDEST[1]}")
    if "PATH" not in _erlang_beside(newest) and not shutil.which("erl"):
        raise Unavailable(f"{newest} needs Erlang, whose erl is not on PATH")
    return newest


def unpacked_home() -> Path:
    """The distribution's package, unpacked without root."""
    return _home_in(unpacked("rabbitmq", "rabbitmq-server", _make_erlang_relocatable))


def home_of(version: str) -> Path:
    """RabbitMQ in a version (`4.3`), or the `newest` that can be had: the installed one where that is it, else the
    package of the suite of Debian that has it, unpacked without root.

    Raises:
        Unavailable: no suite has it, or it cannot be reached.
    """
    with suppress(Unavailable):
        if version == _short(home := installed_home()):
            return home
    if version == NEWEST:
        reasons = []
        for suite in _SUITES.values():
            try:
                return _of_suite(suite)
            except Unavailable as reason:
                reasons.append(f"{suite}: {reason}")
        raise Unavailable("; ".join(reasons))
    if version not in _SUITES:
        raise Unavailable(f"which suite of Debian has it is not known: use {', '.join(_SUITES)} or {NEWEST}")
    home = _of_suite(_SUITES[version])
    if _short(home) != version:
        raise Unavailable(f"Debian's {_SUITES[version]} has RabbitMQ {_short(home)} now, not {version}")
    return home


def version_of(home: Path) -> str:
    """Such as `4.0.5`."""
    return ".".join(map(str, _version(home)))


def _short(home: Path) -> str:
    return ".".join(map(str, _version(home)[:2]))


def _of_suite(suite: str) -> Path:
    def finish(folder: Path) -> None:
        _make_erlang_relocatable(folder)
        start_with_own_loader(folder, folder / "usr" / "lib" / "erlang")

    return _home_in(unpacked_from(suite, "rabbitmq", "rabbitmq-server", finish))


def _home_in(folder: Path) -> Path:
    return max(folder.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"), key=_version)


def _make_erlang_relocatable(folder: Path) -> None:
    """Erlang's start scripts name the folder that it was built for; here they are to take the one they stand in.

    There are two copies: RabbitMQ starts with the one in bin, and starts epmd with the one in erts-*/bin.
    """
    erlang = folder / "usr" / "lib" / "erlang"
    for script in (*erlang.glob("bin/erl"), *erlang.glob("erts-*/bin/erl")):
        here = os.path.relpath(erlang, script.parent)
        relative = f'ROOTDIR=$(cd "$(dirname "$(readlink -f "$0")")/{here}" && pwd)'
        script.write_text(re.sub(r"ROOTDIR=\S*/erlang\b.*", relative, script.read_text()))


def _erlang_beside(home: Path) -> dict[str, str]:
    """PATH and library path for a RabbitMQ that lies, with an Erlang, in a folder laid out as /usr/lib is."""
    lib = Path(os.path.normpath(home / "../../.."))  # of .../usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8
    erlang = lib / "erlang" / "bin"
    if not erlang.is_dir():
        return {}
    found = {"PATH": f"{erlang}:{os.environ.get('PATH', os.defpath)}"}
    if lib != Path("/usr/lib") and not has_own_loader(lib.parents[1]):
        libraries = [*lib.glob("*-linux-gnu*"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        found["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
    return found


def _version(home: Path) -> tuple[int, ...]:
    plugin = next((home / "plugins").glob("rabbit-*"), None)  # rabbit-3.10.8.ez, or the folder rabbit-4.0.5
    numbers = re.match(r"rabbit-(\d+)\.(\d+)\.(\d+)", plugin.name) if plugin else None
    return tuple(int(each) for each in numbers.groups()) if numbers else (0,)
