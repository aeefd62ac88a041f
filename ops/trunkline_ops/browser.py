"""A real browser without a window, for screenshots and for the tests of the status page."""

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from trunkline_ops.servers import Unavailable
from trunkline_ops.servers.packages import unpacked
from trunkline_ops.servers.ways import first_open

if TYPE_CHECKING:
    from playwright.async_api import Browser

_FLAGS: Final = (
    "--no-sandbox",  # root has none, and all that is loaded here is ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Chromium(NamedTuple):
    """The program, and what its environment needs beside this one."""

    program: Path
    environment: Mapping[str, str]


def chromium() -> Chromium:
    """The Chromium that is installed, else Debian's, unpacked in the cache without root.

    Raises:
        Unavailable: there is no way to one here; the message lists what was tried.
    """
    return first_open("Chromium", "install one (Debian: apt install chromium)", _installed, _unpacked)


@asynccontextmanager
async def browser() -> AsyncIterator["Browser"]:
    """A browser with an empty profile, until the block is left.

    Raises:
        Unavailable: there is no Chromium, or no `playwright` (of the group `dev`) to drive it.
    """
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise Unavailable("the package playwright is missing: pip install playwright") from error
    program, environment = chromium()
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=program, args=list(_FLAGS), env={**os.environ, **environment}, timeout=60_000
        )
        try:
            yield running
        finally:
            await running.close()


def _installed() -> Chromium:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (program := shutil.which(name)) is not None:
            return Chromium(Path(program), {})
    raise Unavailable("PATH leads to none")


def _unpacked() -> Chromium:
    usr = unpacked("chromium", "chromium") / "usr"
    libraries = [folder for each in sorted(usr.glob("lib/*-linux-gnu*")) for folder in (each, each / "pulseaudio")]
    given = os.environ.get("LD_LIBRARY_PATH")
    environment = {"LD_LIBRARY_PATH": ":".join([*map(str, libraries), *([given] if given else [])])}
    if not Path("/etc/fonts/fonts.conf").exists():
        environment |= {"FONTCONFIG_PATH": str(usr.parent / "etc/fonts"), "XDG_DATA_HOME": str(usr / "share")}
    return Chromium(usr / "lib" / "chromium" / "chromium", environment)
