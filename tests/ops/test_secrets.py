"""Passwords: where they come from, and that nobody shows them."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import structlog
from typer.main import get_command
from typer.testing import CliRunner

from trunkline_ops.commands import app
from trunkline_ops.failure import USAGE
from trunkline_ops.logs import log_to_stderr
from trunkline_ops.settings import InvalidSettings, Settings
from trunkline_store.masking import masked

PASSWORD = "gehe%40im%2Fes"
DSN = f"postgresql://ann:{PASSWORD}@127.0.0.1:1/app"
AMQP_URL = f"amqp://ann:{PASSWORD}@127.0.0.1:1/"


def environment(**variables: str) -> dict[str, str | None]:
    """Only what a test says: nothing of whoever runs it."""
    return {**{name: None for name in os.environ if name.startswith("TRUNKLINE_")}, **variables}


def shows_a_password(text: str, *urls: str) -> bool:
    """Whether it holds one, as it is written in the URL or as it is meant."""
    passwords = {PASSWORD, *(urlsplit(url).password or PASSWORD for url in urls)}
    return any(each in text or unquote(each) in text for each in passwords)


# --- where they come from


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings."""
    for name in [name for name in os.environ if name.startswith("TRUNKLINE_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_urls_can_stand_in_files(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever orchestrators mount: the end of line does not count, and an option comes before it."""
    for name, url in (("DSN", DSN), ("AMQP_URL", AMQP_URL), ("MANAGEMENT_URL", "http://h:1")):
        (tmp_path / name).write_text(f"{url}\n")
        bare.setenv(f"TRUNKLINE_{name}_FILE", str(tmp_path / name))
    settings = Settings.of()
    assert (settings.database(), settings.broker()) == (DSN, AMQP_URL)
    assert settings.management_url is not None
    assert settings.management_url.get_secret_value() == "http://h:1"
    assert Settings.of(dsn="postgresql://other").database() == "postgresql://other"


@pytest.mark.parametrize("name", ["dsn", "amqp_url", "management_url"])
def test_a_file_that_cannot_be_meant_is_named(name: str, bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is not there, is no text, or holds no URL; and one beside the variable itself. What is in it is not
    shown."""
    variable, file = f"TRUNKLINE_{name.upper()}_FILE", tmp_path / "secret"
    bare.setenv(variable, str(file))
    with pytest.raises(InvalidSettings, match=rf"^{variable}: \S+secret cannot be read: .*No such file"):
        Settings.of()
    file.write_bytes(b"\xff")
    with pytest.raises(InvalidSettings, match=rf"^{variable}: \S+secret cannot be read"):
        Settings.of()
    file.write_text(f"mysql://ann:{PASSWORD}@h/d")
    with pytest.raises(InvalidSettings, match=rf"^{variable}: not a valid URL") as caught:
        Settings.of()
    assert not shows_a_password(str(caught.value))
    bare.setenv(variable.removesuffix("_FILE"), DSN)
    with pytest.raises(InvalidSettings, match="give one of them"):
        Settings.of()


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("dsn", f"{DSN}?sslmode=verify-full&sslrootcert="),
        ("dsn", f"{DSN}?passfile="),
        ("amqp_url", f"amqps://ann:{PASSWORD}@h/?cafile="),
        ("management_url", "https://h:1?cafile="),
    ],
)
def test_a_file_that_a_url_names_is_there(name: str, url: str, bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the setting is refused, with the parameter's and the file's names."""
    parameter = url.rpartition("=")[0].rpartition("?")[2].rpartition("&")[2]
    with pytest.raises(InvalidSettings, match=f"{parameter} names {tmp_path}/ca.pem") as caught:
        Settings.of(**{name: f"{url}{tmp_path}/ca.pem"})
    assert not shows_a_password(str(caught.value))
    (tmp_path / "ca.pem").touch()
    Settings.of(**{name: f"{url}{tmp_path}/ca.pem"})


def test_a_password_with_a_blank_is_refused() -> None:
    """It could not be told from the text around it, and masked; percent-encoded it is good."""
    with pytest.raises(InvalidSettings, match="percent-encoded"):
        Settings.of(dsn="postgresql://ann:my secret@h/d")
    assert masked(Settings.of(dsn="postgresql://ann:my%20secret@h/d").database()) == "postgresql://ann:***@h/d"


# --- that nobody shows them


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


COMMANDS = dict(commands(get_command(app)))
LASTING = {("relay",), ("consume",)}
"""They wait for servers that are away."""


def arguments(command: Any) -> list[str]:
    """Such that it begins to work: a 1 for all that it needs, and yes to what it asks."""
    given = []
    for parameter in command.params:
        option = [each for each in parameter.opts if each.startswith("-")][:1]
        if parameter.required or (parameter.name in ("stream", "event_type") and not option):
            given += [*option, "1"]
        elif option == ["--yes"]:
            given += option
    return given


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in LASTING], ids=" ".join)
@pytest.mark.parametrize("fault", ["refused", "wrong password", "broker refused"])
def test_no_command_shows_a_password(name: tuple[str, ...], fault: str, database: str) -> None:
    """Servers that are away, or refuse the password: one line, exit code not 0, no traceback, no password of any URL;
    for programs as for people."""
    command = COMMANDS[name]
    options = {each for parameter in command.params for each in parameter.opts}
    if "--dsn" not in options or (fault == "broker refused" and "--amqp-url" not in options):
        pytest.skip("it connects to no such server")
    url = urlsplit(database)
    dsn = {
        "refused": DSN,
        "wrong password": url._replace(netloc=f"{url.username}:{PASSWORD}@{url.hostname}:{url.port}").geturl(),
        "broker refused": database,
    }[fault]
    runner = CliRunner(env=environment(TRUNKLINE_DSN=dsn, TRUNKLINE_AMQP_URL=AMQP_URL))
    for more in ([], ["--json"]):
        result = runner.invoke(app, [*name, *arguments(command), *more], catch_exceptions=False)
        if fault != "broker refused" or "--management-url" not in options:  # these say of a broker that it is away
            assert result.exit_code not in (0, USAGE), result.output
            assert result.stderr.count("\n") == 1
        assert not shows_a_password(result.output, database)


def test_a_failure_is_one_line_whatever_libraries_log() -> None:
    """aiormq logs what it raises: in a process of its own, a command's error is the only line all the same."""
    done = subprocess.run(
        [sys.executable, "-c", _BUG.format(raises="log('a library says amqp://ann:geheim@h/'); raise OSError('x')")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "error: x\n")


def test_a_bug_keeps_its_traceback_and_no_password() -> None:
    """What a program was not made for shows where it happened, with the passwords of URLs masked."""
    done = subprocess.run(
        [sys.executable, "-c", _BUG.format(raises="raise RuntimeError('no ' + 'amqp://ann:' + 'geheim@h/')")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: no amqp://ann:***@h/" in done.stderr


_BUG = """
import logging
from trunkline_ops import cli, commands
log = logging.getLogger("aiormq").error
def bug():
    {raises}
commands.app.command()(bug)
import sys
sys.argv = ["trunkline", "bug"]
cli.main()
"""


class Terminal(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_no_log_shows_a_password(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the event, in any value, in a traceback and its causes; by structlog, by the standard library and by asyncio;
    and no traceback shows the values of variables."""
    output = Terminal(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", output)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        log_to_stderr(as_json=False)
        ours, theirs = structlog.get_logger("trunkline.relay"), logging.getLogger("aiormq")
        secret_of_a_variable = unquote(PASSWORD)  # noqa: F841
        try:
            try:
                raise OSError(f"cannot reach {AMQP_URL}")
            except OSError as cause:
                raise RuntimeError(f"no relay for {DSN}") from cause
        except RuntimeError as error:
            ours.exception("failed", error=error, urls=[DSN, {"amqp": AMQP_URL}], dsn=DSN)
            ours.warning(f"at {DSN}")
            theirs.exception("closed %r of %s", AMQP_URL, error)
    finally:
        root.handlers[:], root.level = before
        structlog.reset_defaults()
    shown = output.getvalue()
    assert not shows_a_password(shown), shown
    assert shown.count("Traceback") == 4, "each of the two, with its cause"
    assert shown.count("***") > 8
    assert shown.count("RuntimeError") >= 2
