"""What was downloaded and unpacked once is kept, complete or not at all."""

import fcntl
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from trunkline_ops.servers.ways import Unavailable


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `make(folder)` fills it where it is not there yet.

    It is made under another name and then renamed, so that it is never seen half full; of two programs that
    want it at once, the second waits for the first. The cache is `TRUNKLINE_CACHE`; else for root
    /var/cache/trunkline, since root's servers run as somebody else, who must get there; else `trunkline` in
    `XDG_CACHE_HOME` (by default ~/.cache).

    Raises:
        Unavailable: there is no folder for it, or `make` says so.
    """
    cache = _cache_folder()
    wanted = cache / name
    if wanted.exists():
        return wanted
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wanted.exists():
            return wanted
        print(f"servers: downloading {name}, once, into {cache}", file=sys.stderr, flush=True)  # it can take minutes
        part = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
        try:
            make(part)
            part.chmod(0o755)
            part.rename(wanted)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return wanted


def run(*command: str) -> None:
    """Runs a command that downloads or unpacks something; where it fails, its words are the reason.

    Raises:
        Unavailable: it failed, or there is no such command.
    """
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, umask=0o022)
    except OSError as error:
        raise Unavailable(str(error)) from error
    if done.returncode != 0:
        raise Unavailable(f"`{shlex.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")


def _cache_folder() -> Path:
    root = os.geteuid() == 0
    try:
        if named := os.environ.get("TRUNKLINE_CACHE"):
            cache = Path(named).absolute()
        elif root:
            cache = Path("/var/cache/trunkline")
        else:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "trunkline")
        if not cache.exists():
            cache.mkdir(parents=True)
            cache.chmod(0o755)
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"no folder to keep it in ({error}); name one in TRUNKLINE_CACHE") from error
    closed = [each for each in (cache, *cache.parents) if not each.stat().st_mode & stat.S_IXOTH]
    if root and closed:
        raise Unavailable(
            f"root's servers run as somebody else, who cannot enter {closed[0]}: name another folder in TRUNKLINE_CACHE"
        )
    return cache
