"""The guard of one server: a process that does what it is told over a pipe, until the pipe is closed.

That happens when the program that started it is done, or has failed, or was killed with SIGKILL. Then the
guard ends the server and everything that the server started, and removes its folder. It is run as a file by
itself, with nothing but the standard library, so that it starts in a few milliseconds.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_STOP_SECONDS = 15  # for a server to end by itself, before it is killed
_END_SECONDS = 1  # the same, where nobody needs its data any more (RabbitMQ 3.10 takes 6 s)
_RUN_SECONDS = 120  # for a command, such as initdb


class Refused(Exception):
    """What was asked for cannot be done, or has failed."""


class Guarded:
    """One server and its folder. What can be asked for over the pipe is a method's name and its arguments."""

    def __init__(self, name: str, account: tuple[int, int] | None, stop_signal: int) -> None:
        # TMPDIR may lie in root's home, where the other account cannot go
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/tmp" if account else None))  # noqa: S108
        self._account = account
        self._stop_signal = stop_signal
        self._server: subprocess.Popen[bytes] | None = None
        if account:
            os.chown(self.folder, *account)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        if self._account:
            os.chown(path, *self._account)

    def run(self, command: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            **self._for_server(environment),
            stdout=subprocess.PIPE,
            timeout=_RUN_SECONDS,
            check=False,
        )
        output: str = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise Refused(f"{' '.join(command)} failed with exit code {done.returncode}:\n{output}")
        return output

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        if self.is_running():
            raise Refused("the server is running already")
        self.kill()  # children that a crash of its own left
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(command, **self._for_server(environment), stdout=log)

    def _for_server(self, environment: dict[str, str]) -> dict[str, Any]:
        options: dict[str, Any] = {
            "env": environment,
            "cwd": self.folder,
            "stdin": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
            "umask": 0o077,
        }
        if self._account:
            uid, gid = self._account
            options |= {"user": uid, "group": gid, "extra_groups": []}
        return options

    def is_running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "log").read_bytes()[-4000:].decode(errors="replace")
        return ""

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        if self._server is not None and self.is_running():
            self.resume()
            self._server.send_signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(seconds)
        self.kill()

    def kill(self) -> None:
        # What has lost its parent becomes a child of this process (adopt_orphans). So when no child is left,
        # nothing is; and each round meets what was forked while the last one looked.
        with contextlib.suppress(ChildProcessError):
            while True:
                send(signal.SIGKILL, descendants(os.getpid()))
                os.waitpid(-1, 0)
        self._server = None

    def pause(self) -> None:
        still: set[int] = set()
        while moving := set(descendants(os.getpid())) - still:  # also what was forked meanwhile
            send(signal.SIGSTOP, moving)
            still |= moving

    def resume(self) -> None:
        send(signal.SIGCONT, descendants(os.getpid()))

    def end(self) -> None:
        self.stop(_END_SECONDS)
        remove_shared_memory(self.folder / "data" / "postmaster.pid")
        shutil.rmtree(self.folder, ignore_errors=True)


def descendants(ancestor: int) -> list[int]:
    """All processes below this one, parents first.

    The process group would not do: PostgreSQL's and Erlang's children have groups of their own.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(entry.name))
    found = children.get(ancestor, []).copy()
    for each in found:  # grows as it goes
        found += children.get(each, [])
    return found


def send(number: int, processes: Iterable[int]) -> None:
    """Sends a signal to those of the processes that are still there."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def adopt_orphans() -> None:
    """Makes this process the parent of descendants that lose theirs, as epmd does when it daemonizes."""
    pr_set_child_subreaper = 36  # prctl(2)
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def remove_shared_memory(postmaster_pid: Path) -> None:
    """Removes the System V segment of a PostgreSQL that was killed, as its next start would have done."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        _key, segment = postmaster_pid.read_text().splitlines()[6].split()  # PostgreSQL's pidfile.h
        ctypes.CDLL(None).shmctl(int(segment), 0, None)  # 0 is IPC_RMID


def serve(name: str, account: tuple[int, int] | None, stop_signal: int) -> None:
    """Answers requests, lines of JSON, until there are no more; then ends the server."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: None)  # the end of the pipe ends us; SIG_IGN would be the server's too
    adopt_orphans()
    guarded = Guarded(name, account, stop_signal)
    try:
        answer(True, str(guarded.folder))
        for line in sys.stdin:
            what, *arguments = json.loads(line)
            try:
                result = getattr(guarded, what)(*arguments)
            except (Refused, OSError, subprocess.SubprocessError) as error:
                answer(False, str(error))
            else:
                answer(True, result)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its exit
    finally:
        guarded.end()


def answer(done: bool, result: object) -> None:
    """Says whether the request was done, and its result, or why not."""
    print(json.dumps([done, result]), flush=True)


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
