"""Packages of the host's own distribution, unpacked in the cache: without root, and without a trace on the host."""

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from trunkline_ops.servers.cache import cached, run
from trunkline_ops.servers.ways import Unavailable


def unpacked(name: str, package: str, finish: Callable[[Path], None] = lambda _: None) -> Path:
    """The folder of the cache that holds a package, and what the host lacks of its dependencies, as / would.

    `name` is the folder's, without the release; `finish` is called once, when all is unpacked.

    Raises:
        Unavailable: the host has no apt, or it failed.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Unavailable(f"it takes {tool}, of Debian or a descendant")
    release = platform.freedesktop_os_release()

    def make(folder: Path) -> None:
        _unpack(package, folder)
        finish(folder)

    return cached(f"{name}-{release['ID']}-{release.get('VERSION_ID', 'rolling')}-{platform.machine()}", make)


def _unpack(package: str, folder: Path) -> None:
    """Apt keeps a private state for that. These are packages of the host's own release: they fit its libraries."""
    packages = folder / "packages"
    for each in ("lists/partial", "archives/partial"):
        (packages / each).mkdir(parents=True)
    apt_get = [
        *("apt-get", "--quiet", "--yes"),
        *("-o", f"Dir::State::lists={packages / 'lists'}"),
        *("-o", f"Dir::Cache={packages}"),
        *("-o", "Debug::NoLocking=1"),  # the host's own apt may be at work, and its locks are root's
        *("-o", "APT::Sandbox::User=root"),  # apt's own user could not write here
    ]
    run(*apt_get, "update")
    run(*apt_get, "install", "--download-only", "--no-install-recommends", package)
    for archive in (packages / "archives").glob("*.deb"):
        run("dpkg-deb", "--extract", str(archive), str(folder))
    shutil.rmtree(packages)
