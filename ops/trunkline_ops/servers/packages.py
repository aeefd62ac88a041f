"""Debian's packages, unpacked in the cache: without root, and without a trace on the host."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from trunkline_ops.servers.cache import cached, run
from trunkline_ops.servers.ways import Unavailable

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES: Final = ("usr/lib/*-linux-gnu*", "lib/*-linux-gnu*")  # before trixie, those of the C library lie in /lib
_ELF: Final = b"\x7fELF"


def unpacked(name: str, package: str, finish: Callable[[Path], None] = lambda _: None) -> Path:
    """The folder of the cache that holds a package, and what the host lacks of its dependencies, as / would.

    `name` is the folder's, without the release; `finish` is called once, when all is unpacked. These are packages of
    the host's own release: they fit its libraries.

    Raises:
        Unavailable: the host has no apt, or it failed.
    """
    _check_tools()
    release = platform.freedesktop_os_release()

    def make(folder: Path) -> None:
        _unpack(package, folder)
        finish(folder)

    return cached(f"{name}-{release['ID']}-{release.get('VERSION_ID', 'rolling')}-{platform.machine()}", make)


def unpacked_from(suite: str, name: str, package: str, finish: Callable[[Path], None] = lambda _: None) -> Path:
    """As `unpacked`, of another suite of Debian (`trixie`), with all of its dependencies down to the C library.

    They come from the mirror that the host takes its own packages from. The programs among them do not fit the host's
    libraries, so `finish` may want to `start_with_own_loader` some.

    Raises:
        Unavailable: the host is no Debian, has no apt, or the suite cannot be reached.
    """
    _check_tools()

    def make(folder: Path) -> None:
        folder.joinpath("packages").mkdir()
        sources = folder / "packages" / "sources.list"
        status = folder / "packages" / "status"
        signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
        sources.write_text(f"deb{signed} {_mirror()} {suite} main\n")
        status.touch()  # nothing is installed, so nothing is taken for granted
        of_suite = (f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=-", f"Dir::State::status={status}")
        _unpack(package, folder, *of_suite)
        finish(folder)

    return cached(f"{name}-{suite}-{platform.machine()}", make)


def start_with_own_loader(folder: Path, programs: Path) -> None:
    """Makes the programs below `programs` start with the C library that lies in `folder`, and not with the host's.

    Its loader is told so by a script in the program's place. LD_LIBRARY_PATH would reach the host's own programs too,
    which they start, and whose loader is of another version.
    """
    libraries = _libraries(folder)
    loader = next(each for library in libraries for each in library.glob("ld-linux*.so.*"))
    for program in [each for each in programs.rglob("*") if _is_program(each)]:
        moved = program.rename(program.with_name(f"{program.name}.elf"))

        def beside(path: Path, here: Path = program.parent) -> str:
            return f"$here/{os.path.relpath(path, here)}"

        program.write_text(
            "#!/bin/sh\n"
            'here=$(dirname "$(readlink -f "$0")")\n'
            f'exec "{beside(loader)}" --argv0 "$0" --library-path "{":".join(map(beside, libraries))}" '
            f'"{beside(moved)}" "$@"\n'
        )
        program.chmod(0o755)


def has_own_loader(folder: Path) -> bool:
    """Whether a folder laid out as / came with a C library of its own."""
    return any(any(each.glob("libc.so.6")) for each in _libraries(folder))


def _libraries(folder: Path) -> list[Path]:
    return [each for pattern in _LIBRARIES for each in folder.glob(pattern)]


def _is_program(file: Path) -> bool:
    if file.is_symlink() or not file.is_file() or not os.access(file, os.X_OK) or ".so" in file.name:
        return False
    with file.open("rb") as opened:
        return opened.read(len(_ELF)) == _ELF


def _check_tools() -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Unavailable(f"it takes {tool}, of Debian or a descendant")


def _mirror() -> str:
    """Where the host's own packages come from, as apt is configured."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        raise Unavailable(f"it takes Debian's packages, and this is {release.get('NAME', release['ID'])}")
    wanted = f"{release.get('VERSION_CODENAME', 'sid')} main"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    for line in targets.splitlines():
        if line.startswith(f"{wanted} "):
            return line.removeprefix(f"{wanted} ")
    raise Unavailable(f"apt is not configured for Debian's {wanted}")


def _unpack(package: str, folder: Path, *options: str) -> None:
    """Apt keeps a private state for that. `options` are apt's."""
    packages = folder / "packages"
    for each in ("lists/partial", "archives/partial"):
        (packages / each).mkdir(parents=True)
    private = (
        f"Dir::State::lists={packages / 'lists'}",
        f"Dir::Cache={packages}",
        "Debug::NoLocking=1",  # the host's own apt may be at work, and its locks are root's
        "APT::Sandbox::User=root",  # apt's own user could not write here
        "Acquire::Languages=none",
        *options,
    )
    apt_get = ["apt-get", "--quiet", "--yes", *(word for option in private for word in ("-o", option))]
    run(*apt_get, "update")
    run(*apt_get, "install", "--download-only", "--no-install-recommends", package)
    for archive in (packages / "archives").glob("*.deb"):
        run("dpkg-deb", "--extract", str(archive), str(folder))
    shutil.rmtree(packages)
