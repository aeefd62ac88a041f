"""A PgBouncer of this program's own, in transaction mode, before a PostgreSQL."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGTERM
from urllib.parse import unquote, urlsplit

from trunkline_ops.servers.guard import Guard, account_for_servers, server_environment
from trunkline_ops.servers.packages import unpacked
from trunkline_ops.servers.ports import HOST, reserved_ports
from trunkline_ops.servers.postgres import PostgresServer
from trunkline_ops.servers.ways import Unavailable, first_open


class PgBouncerServer(PostgresServer):
    """A running PgBouncer: to its clients, a PostgreSQL. Its DSN leads to the same database and user."""


@contextmanager
def pgbouncer_server(
    postgres: PostgresServer, *, settings: Mapping[str, str] | None = None
) -> Iterator[PgBouncerServer]:
    """A PgBouncer until the block is left; every database of the server can be reached through it.

    Args:
        postgres: whose user and password PgBouncer takes, from its clients and for its servers.
        settings: keys of pgbouncer.ini's main section, such as `{"default_pool_size": "5"}`.

    Raises:
        Unavailable: there is no way to a PgBouncer here; the message lists what was tried.
        ServerError: it did not start.
    """
    program = first_open(
        "PgBouncer", "install one (Debian, Ubuntu: apt install pgbouncer)", installed_program, unpacked_program
    )
    url = urlsplit(postgres.dsn)
    user, password = unquote(url.username or ""), unquote(url.password or "")
    account = account_for_servers()
    with reserved_ports(1) as [port], closing(Guard("trunkline-pgbouncer", account, SIGTERM)) as guard:
        all_settings = {
            **(settings or {}),
            "pool_mode": "transaction",
            "listen_addr": HOST,
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(guard.write("users", f"{_quoted(user)} {_quoted(password)}\n")),
        }
        lines = [
            "[databases]",
            f"* = host={url.hostname} port={url.port or 5432}",
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in all_settings.items()),
        ]
        server = PgBouncerServer(
            url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@{HOST}:{port}").geturl(),
            guard,
            [str(program), str(guard.write("pgbouncer.ini", "\n".join(lines) + "\n"))],
            server_environment(guard.folder, **_libraries_beside(program)),
        )
        server.start()
        yield server


def installed_program() -> Path:
    """The PgBouncer that is installed."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable("it is neither on PATH nor in an sbin")
    return Path(found)


def unpacked_program() -> Path:
    """The distribution's package, unpacked without root."""
    return unpacked("pgbouncer", "pgbouncer") / "usr" / "sbin" / "pgbouncer"


def _libraries_beside(program: Path) -> dict[str, str]:
    """The library path for a PgBouncer that lies, with its libraries, in a folder laid out as / is."""
    root = program.parents[2]
    if root == Path("/"):
        return {}
    libraries = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    return {"LD_LIBRARY_PATH": ":".join(map(str, [*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]))}


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
