"""A PostgreSQL of this program's own, or the one that `TRUNKLINE_DSN` names."""

import asyncio
import os
import platform
import pwd
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from signal import SIGINT
from urllib.parse import unquote, urlsplit

import asyncpg

from trunkline_ops.servers.cache import cached, run
from trunkline_ops.servers.containers import Container, Image, ways_to
from trunkline_ops.servers.guard import Guard, account_for_servers, server_environment
from trunkline_ops.servers.ports import HOST, reserved_ports
from trunkline_ops.servers.server import Server
from trunkline_ops.servers.ways import Unavailable, first_open

_OLDEST = 14
_USER = "trunkline"
_IMAGE = "postgres:17"
_WHEEL = Path(__file__).with_name("postgres_wheel.txt")


class PostgresServer(Server):
    """A running PostgreSQL."""

    def __init__(
        self,
        dsn: str,
        guard: Guard | Container | None = None,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`dsn` is a superuser's where the server is this program's own."""
        super().__init__(guard, command, environment)
        self.dsn = dsn

    def answers(self) -> bool:
        """Whether a client can connect."""

        async def connect() -> None:
            await (await asyncpg.connect(self.dsn, timeout=5)).close()

        try:
            with ThreadPoolExecutor(1) as thread:  # whoever calls may have an event loop of its own
                thread.submit(asyncio.run, connect()).result()
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
            return False
        return True

    @property
    def programs(self) -> Path:
        """The folder of PostgreSQL's programs that a server of this program's own was started with."""
        self._own()
        return Path(self._command[0]).parent

    def run(self, program: str, *arguments: str) -> str:
        """Runs one of them, such as `pg_dump`, as the server's account, and returns what it printed."""
        return self._own().run([str(self.programs / program), *arguments], self._environment)


def postgres_server(
    *,
    settings: Mapping[str, str] | None = None,
    private: bool = False,
    bin_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> AbstractContextManager[PostgresServer]:
    """A PostgreSQL >= 14 until the block is left.

    Args:
        settings: parameters of postgresql.conf for a server of this program's own: `{"fsync": "off"}`.
        private: never the environment's server, but one that may be broken.
        bin_dir: the folder of PostgreSQL's programs; by default a container (`ways_to`), else the newest ones that
            are installed, else those of a wheel from the package index.
        environment: environment variables for a private server, such as `LANGUAGE`.

    Raises:
        Unavailable: there is no way to a PostgreSQL here; the message lists what was tried.
        ServerError: it did not start.
    """
    if not private and (dsn := os.environ.get("TRUNKLINE_DSN")):
        return nullcontext(PostgresServer(dsn))
    found = bin_dir or first_open(
        "PostgreSQL",
        "install one (Debian, Ubuntu: apt install postgresql), or name a running one in TRUNKLINE_DSN",
        *ways_to(os.environ.get("POSTGRES_IMAGE") or _IMAGE, installed_programs, programs_of_wheel),
    )
    if isinstance(found, Image):
        return _server_in_container(found, settings or {}, environment or {})
    return _own_server(found, settings or {}, environment=environment or {})


def standby_of(
    primary: PostgresServer, *, name: str = "standby", settings: Mapping[str, str] | None = None
) -> AbstractContextManager[PostgresServer]:
    """A hot standby that streams from a server of this program's own, until the block is left.

    Args:
        primary: it must be running; its users and passwords are the standby's.
        name: under which the primary knows it, as in its `synchronous_standby_names`.
        settings: as of `postgres_server`; what bounds connections and the like must not be below the primary's.

    Raises:
        ServerError: the copy could not be made, or the standby did not start.
    """
    return _own_server(primary.programs, settings or {}, primary.dsn, name)


@contextmanager
def _server_in_container(
    image: Image, settings: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[PostgresServer]:
    with reserved_ports(1) as [port], closing(Container(image, {5432: port})) as container:
        password = secrets.token_urlsafe(18)
        server = PostgresServer(
            f"postgresql://{_USER}:{password}@{HOST}:{port}/postgres",
            container,
            ["postgres", *(word for key, value in settings.items() for word in ("-c", f"{key}={value}"))],
            {**environment, "POSTGRES_USER": _USER, "POSTGRES_PASSWORD": password},
        )
        server.start()
        yield server


@contextmanager
def _own_server(
    programs: Path,
    settings: Mapping[str, str],
    primary: str = "",
    name: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[PostgresServer]:
    account = account_for_servers()
    _check_name_of_account()
    with reserved_ports(1) as [port], closing(Guard("trunkline-postgres", account, SIGINT)) as guard:
        data = str(guard.folder / "data")
        variables = server_environment(guard.folder, **(environment or {}))
        if primary:
            user = urlsplit(primary).netloc.rpartition("@")[0]
            login, _, secret = user.partition(":")
            without = (
                urlsplit(primary)._replace(netloc=f"{login}@{urlsplit(primary).netloc.rpartition('@')[2]}").geturl()
            )
            guard.run(
                [
                    *(str(programs / "pg_basebackup"), "--pgdata", data, "--write-recovery-conf"),
                    *("--dbname", f"{without}?application_name={name}", "--checkpoint", "fast", "--no-sync"),
                ],
                {**variables, "PGPASSWORD": unquote(secret)},  # all users can read a command line
            )
        else:
            password = secrets.token_urlsafe(18)
            user = f"{_USER}:{password}"
            guard.run(
                [
                    *(str(programs / "initdb"), "--pgdata", data, "--username", _USER, "--auth", "scram-sha-256"),
                    *("--pwfile", str(guard.write("password", password))),
                    *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
                ],
                variables,
            )
        all_settings = {
            **settings,
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",  # a socket's path has at most 107 bytes; TMPDIR may be longer
            "dynamic_shared_memory_type": "mmap",  # in the data folder; /dev/shm would keep it after SIGKILL
        }
        server = PostgresServer(
            f"postgresql://{user}@{HOST}:{port}/postgres",
            guard,
            [
                str(programs / "postgres"),
                "-D",
                data,
                *(f"--{key}={value}" for key, value in all_settings.items()),
            ],
            variables,
        )
        server.start()
        yield server


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs: the newest ones that are installed, else those of the wheel."""
    return first_open(
        "PostgreSQL",
        "install one (Debian, Ubuntu: apt install postgresql), or name a running one in TRUNKLINE_DSN",
        installed_programs,
        programs_of_wheel,
    )


def installed_programs() -> Path:
    """The PostgreSQL that is installed."""
    folders = [
        *_printed_by("pg_config", "--bindir"),
        *(Path(found).resolve().parent for found in [shutil.which("postgres")] if found),
        *Path("/usr/lib/postgresql").glob("*/bin"),  # Debian, Ubuntu
        *Path("/usr").glob("pgsql-*/bin"),  # the PostgreSQL project's RPMs
    ]
    versions = {folder: _version(folder) for folder in folders if (folder / "initdb").exists()}
    newest = max(versions, key=lambda folder: versions[folder], default=None)
    if newest is None:
        raise Unavailable("neither pg_config, PATH, /usr/lib/postgresql nor /usr/pgsql-* leads to an initdb")
    if versions[newest] < _OLDEST:
        raise Unavailable(f"{newest} has version {versions[newest]}, and it takes {_OLDEST}")
    return newest


def programs_of_wheel() -> Path:
    """A PostgreSQL in a wheel from the package index."""
    requirement = re.search(r"^\S+==\S+", _WHEEL.read_text(), re.MULTILINE)
    assert requirement
    folder = cached(f"{requirement[0]}-{platform.machine()}", _install_wheel)
    return max(folder.glob("*/pginstall*/bin"), key=_version)


def _install_wheel(folder: Path) -> None:
    what = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(_WHEEL), "--target", str(folder)]
    failures = []
    for installer in (
        [sys.executable, "-m", "pip", "--disable-pip-version-check"],
        [sys.executable, "-m", "uv", "--system-certs", "pip"],
        ["uv", "--system-certs", "pip"],
    ):
        try:
            run(*installer, "install", "--quiet", *what)
        except Unavailable as reason:
            failures.append(str(reason))
        else:
            return
    raise Unavailable("; ".join(failures))


def _version(bin_dir: Path) -> int:
    printed = subprocess.run([bin_dir / "postgres", "--version"], check=False, capture_output=True, text=True)
    number = re.search(r"\) (\d+)", printed.stdout)  # postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    return int(number[1]) if number else 0


def _printed_by(*command: str) -> list[Path]:
    try:
        return [Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())]
    except (OSError, subprocess.CalledProcessError):
        return []


def _check_name_of_account() -> None:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise Unavailable(
            f"PostgreSQL does not run for a user id without a name ({error}): add one to /etc/passwd, "
            "or name a running PostgreSQL in TRUNKLINE_DSN"
        ) from error
