"""Runs a server under a small process, which cleans up when this program is gone (`guard_process`)."""

import contextlib
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

from trunkline_ops.servers import guard_process
from trunkline_ops.servers.ways import ServerError, Unavailable


class Account(NamedTuple):
    """Whom a server runs as."""

    uid: int
    gid: int


def account_for_servers() -> Account | None:
    """Whom servers run as: for root somebody else, since PostgreSQL refuses root; None is oneself."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise Unavailable("root's servers run as postgres or nobody, and /etc/passwd has neither")


def server_environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a server: little of the program's, lest PGPORT or RABBITMQ_NODENAME reach it."""
    passed_on = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)} | passed_on | more


class Guard:
    """The program's end of the pipe. Every method blocks until the guard has done it.

    They raise `ServerError` with the guard's or the command's own words.
    """

    def __init__(self, name: str, account: Account | None, stop_signal: Signals) -> None:
        """A guard with a new folder whose name begins with `name`, and no server yet.

        With an `account`, which only root can give, folder and server are that account's. `stop_signal` asks
        this kind of server to end in good order.
        """
        if sys.platform != "linux":  # prctl, /proc
            raise Unavailable("servers of one's own take Linux: name running ones in TRUNKLINE_...")
        self._process = subprocess.Popen(
            # -I: what lies around in the working directory or in PYTHONPATH is none of the guard's business
            [sys.executable, "-I", guard_process.__file__, json.dumps([name, account, stop_signal])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the program only, which winds up with its servers there
        )
        self.folder = Path(self._answer())

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the folder, which only the server's account can read."""
        self._ask("write", name, text)
        return self.folder / name

    def run(self, command: list[str], environment: dict[str, str]) -> str:
        """Runs a command as the server's account to its end, and returns what it printed."""
        return str(self._ask("run", command, environment))

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Starts the server; what it prints goes to `log` in the folder."""
        self._ask("start", command, environment)

    def is_running(self) -> bool:
        """False when the server has ended, by itself or not."""
        return bool(self._ask("is_running"))

    def log(self) -> str:
        """The end of what the server printed."""
        return str(self._ask("log"))

    def stop(self) -> None:
        """Ends the server in good order, or by force where that takes longer than 15 seconds."""
        self._ask("stop")

    def kill(self) -> None:
        """Ends the server, and all that it started, with SIGKILL."""
        self._ask("kill")

    def pause(self) -> None:
        """Stands the server's processes still with SIGSTOP."""
        self._ask("pause")

    def resume(self) -> None:
        """Lets a paused server go on."""
        self._ask("resume")

    def close(self) -> None:
        """Ends the server and the guard; the folder is gone."""
        self._process.communicate()

    def _ask(self, what: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerError(f"the guard of a server ended with exit code {self._process.wait()}")
        done, answer = json.loads(line)
        if not done:
            raise ServerError(answer)
        return answer
