"""The command `trunkline`, as a person and as a script use it."""

import asyncio
import io
import json
import os
import pty
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

import asyncpg
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner, Result

import trunkline_store.migrate
from trunkline_ops.commands import app
from trunkline_ops.commands.read import _until_now
from trunkline_ops.failure import FAILED, USAGE
from trunkline_ops.lines import MAX_LINE_BYTES, bursts
from trunkline_ops.servers import PostgresServer
from trunkline_ops.servers.proxy import Proxy
from trunkline_ops.settings import InvalidSettings, Settings
from trunkline_store import ANY_VERSION, EventData, EventStore
from trunkline_store.masking import masked
from trunkline_store.migrate import latest, migrations

PASSWORD = "geheim%40word"
NOWHERE = f"postgresql://ann:{PASSWORD}@127.0.0.1:1/app"
Cli = Callable[..., Result]


def environment(database: str | None) -> dict[str, str | None]:
    """Only what a test says: nothing of whoever runs it."""
    theirs: dict[str, str | None] = {name: None for name in os.environ if name.startswith("TRUNKLINE_")}
    return {**theirs, "TRUNKLINE_DSN": database, "COLUMNS": "120"}


@pytest.fixture
def cli(database: str) -> Cli:
    """Runs a command in this process, on a fresh database."""
    runner = CliRunner(env=environment(database))

    def run(*args: str, stdin: str | bytes = "", code: int = 0) -> Result:
        result = runner.invoke(app, args, input=stdin, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


@contextmanager
def program(
    database: str,
    *args: str,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    variables: dict[str, str | None] | None = None,
) -> Iterator["subprocess.Popen[str]"]:
    """Runs a command in a process of its own, which is gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trunkline_ops.cli", *args],
        env={name: value for name, value in {**os.environ, **(variables or environment(database))}.items() if value},
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a job may ignore it
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def terminal(database: str, *args: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Runs a command on a terminal of 60 columns; gives the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, **environment(database), "COLUMNS": "60", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trunkline_ops.cli", *args],
        env={name: value for name, value in variables.items() if value is not None},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a job may ignore it
    )
    os.close(theirs)
    with process:
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def shown_on(terminal: int, until: str | None = None) -> str:
    """What the terminal shows up to some text, or up to the program's end."""
    shown = ""
    while until is None or until not in shown:
        try:
            new = os.read(terminal, 4096)
        except OSError:  # EIO: nobody has the other end any more
            new = b""
        if not new:
            assert until is None, shown
            break
        shown += new.decode()
    return shown


def sql(database: str, query: str) -> list[Any]:
    """The first column of what a query gives."""

    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(database)
        try:
            return [row[0] for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def lines(result: Result) -> list[dict[str, Any]]:
    """The JSON objects on standard output."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def elsewhere(dsn: str, database: str) -> str:
    """The same server's other database."""
    return urlsplit(dsn)._replace(path=f"/{quote(database, safe='')}").geturl()


# --- what there is


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """All of them by name, also those in groups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield before + name, command


def test_the_commands_and_their_options_are_these() -> None:
    """A renamed or lost option breaks somebody's script: it takes a change here too."""
    common = ["--dsn", "--help", "--json", "--schema"]
    broker = ["--amqp-url", "--management-url"]
    found = {
        name: [each for parameter in command.params for each in parameter.opts]
        for name, command in commands(get_command(app))
    }
    assert {name: sorted({*options, "--help"}) for name, options in found.items()} == {
        "create": sorted([*common, "--data-type", "--content-type"]),
        "init": sorted([*common, "--data-type", "--content-type"]),
        "migrate": common,
        "migrations": common,
        "roles": sorted([*common, "--login", "--as", "--subscriptions", "--print"]),
        "reset": sorted([*common, "--yes"]),
        "drop": sorted([*common, "--yes"]),
        "append": sorted(
            [
                *common,
                *("stream", "event_type", "data", "--metadata", "--expected", "--correlation-id", "--causation-id"),
                *("--id", "--stdin", "--stream"),
            ]
        ),
        "read": sorted([*common, "stream", "--from", "--count"]),
        "streams": sorted(
            [
                *common,
                *("search", "--category", "--deleted", "--sort", "--desc", "--count", "--after", "--categories"),
            ]
        ),
        "export": sorted([*common, "file"]),
        "import": sorted([*common, "file"]),
        "status": sorted([*common, *broker, "--watch", "--every"]),
        "verify": sorted([*common, *broker, "--to", "--wait", "--erased", "--given-up"]),
        "doctor": sorted([*common, *broker, "--patience"]),
        "tail": sorted([*common, "--from", "--last", "--stream", "--category", "--type"]),
        "relay": sorted([*common, *broker, "--from", "--lease", "--listen", "--token-file", "--public-page"]),
        "replay": sorted(
            [*common, "--to", "--from", "--to-position", "--category", "--stream", "--type", "--amqp-url"]
        ),
        "asyncapi": ["--help", "--json", "--schema"],
        "definitions": ["--help", "--json", "--passwords", "--schema", "--subscription", "--vhost"],
        "consume": ["--help", "--json", "--listen", "where"],
        "subscriptions list": common,
        "subscriptions show": [*common, "name"],
        "subscriptions reset": sorted([*common, "--to", "--yes", "name"]),
        "subscriptions skip": sorted([*common, "--at", "--yes", "name"]),
        "subscriptions delete": sorted([*common, "--amqp-url", "--yes", "name"]),
        "subscriptions parked": sorted([*common, "--from", "--count", "name"]),
        "subscriptions retry": sorted([*common, "--at", "name"]),
        "subscriptions discard": sorted([*common, "--at", "--yes", "name"]),
    }


def test_alone_it_shows_its_help() -> None:
    """Whoever types just the name learns which commands there are."""
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "append" in result.stdout
    assert "Example" in CliRunner().invoke(app, ["append", "-h"]).stdout


def test_it_says_its_version() -> None:
    """`--version` is one line."""
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.split()[0], result.stdout.count("\n")) == (0, "trunkline", 1)


def test_a_missing_extra_is_named() -> None:
    """Installed bare, the command says what to install, without a traceback."""
    code = "import sys; sys.modules['typer'] = None; from trunkline_ops.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: typer is missing: install trunkline[cli]\n")


# --- what goes wrong

WRONG: list[tuple[str, list[str], str, int, str, str]] = [
    # name, arguments, standard input, exit code, error, a part of the message
    ("no command", ["follow"], "", USAGE, "UsageError", "No such command 'follow'"),
    ("a URL first", [f"postgresql://a:{PASSWORD}@h/d"], "", USAGE, "UsageError", "No such command"),
    ("no option", ["read", "--form", "3"], "", USAGE, "UsageError", "--from"),
    ("early option", ["--dsn", "x", "read"], "", USAGE, "UsageError", "after the command"),
    ("no value", ["read", "--from"], "", USAGE, "UsageError", "--from"),
    ("no number", ["read", "--from", "x"], "", USAGE, "UsageError", "--from"),
    ("negative start", ["read", "--from", "-1"], "", USAGE, "UsageError", "--from"),
    ("count of none", ["read", "--count", "0"], "", USAGE, "UsageError", "--count"),
    ("nothing to append", ["append"], "", USAGE, "UsageError", "STREAM and TYPE"),
    ("no type", ["append", "order-1"], "", USAGE, "UsageError", "STREAM and TYPE"),
    ("a fourth argument", ["append", "a", "B", "{}", "{}"], "", USAGE, "UsageError", "unexpected"),
    ("expected what", ["append", "a", "B", "--expected", "-1"], "", USAGE, "UsageError", "any, none, exists"),
    ("no id", ["append", "a", "B", "--id", "1"], "", USAGE, "UsageError", "--id"),
    ("two ways", ["append", "a", "B", "--stdin"], "", USAGE, "UsageError", "bring their own"),
    ("stream twice", ["append", "a", "B", "--stream", "c"], "", USAGE, "UsageError", "--stream"),
    ("version of lines", ["append", "-", "--expected", "0"], "", USAGE, "UsageError", "--stream"),
    ("unasked drop", ["drop"], "", USAGE, "UsageError", "--yes"),
    ("unasked reset", ["reset"], "", USAGE, "UsageError", "--yes"),
    ("login for what", ["roles", "--login", "billing"], "", USAGE, "UsageError", "--as"),
    ("data type", ["init", "--data-type", "xml"], "", USAGE, "UsageError", "--data-type"),
    ("relay from", ["relay", "--amqp-url", "amqp://h", "--from", "x"], "", USAGE, "UsageError", "origin"),
    ("relay lease", ["relay", "--amqp-url", "amqp://h", "--lease", "0"], "", USAGE, "UsageError", "--lease"),
    ("relay listen", ["relay", "--amqp-url", "amqp://h", "--listen", "h:0x"], "", USAGE, "InvalidSettings", "--listen"),
    ("relay schemas", ["relay", "--schema", "a", "--schema", "B"], "", USAGE, "InvalidSettings", "--schema"),
    ("no broker", ["relay"], "", USAGE, "InvalidSettings", "TRUNKLINE_AMQP_URL"),
    ("bad broker", ["relay", "--amqp-url", f"http://a:{PASSWORD}@h"], "", USAGE, "InvalidSettings", "--amqp-url"),
    ("schema name", ["read", "--schema", "Orders"], "", USAGE, "InvalidSettings", "'Orders'"),
    ("other scheme", ["read", "--dsn", f"mysql://a:{PASSWORD}@h/d"], "", USAGE, "InvalidSettings", "postgresql://"),
    ("no URL", ["read", "--dsn", f"host=h password={PASSWORD}"], "", USAGE, "InvalidSettings", "postgresql://"),
    ("port", ["read", "--dsn", f"postgresql://a:{PASSWORD}@h:abc/d"], "", USAGE, "InvalidSettings", "encoded"),
    ("half a host", ["read", "--dsn", f"postgresql://a:{PASSWORD}@[::1/d"], "", USAGE, "InvalidSettings", "encoded"),
    ("no database named", ["create", "--dsn", "{server}/"], "", USAGE, "InvalidSettings", "names no database"),
    ("refused", ["read", "--dsn", NOWHERE], "", FAILED, "StoreUnavailable", "127.0.0.1:1/app"),
    ("no host", ["read", "--dsn", f"postgresql://a:{PASSWORD}@h.invalid"], "", FAILED, "StoreUnavailable", "h.invalid"),
    ("wrong password", ["read", "--dsn", "{wrong}"], "", FAILED, "PermissionRefused", "password authentication failed"),
    ("no database", ["read", "--dsn", "{server}/none"], "", FAILED, "PermissionRefused", "`trunkline create` makes it"),
    ("unknown setting", ["read", "--dsn", "{dsn}?x=1"], "", FAILED, "InvalidArgument", "does not know"),
    ("no TLS", ["read", "--dsn", "{dsn}?sslmode=require"], "", FAILED, "StoreUnavailable", "SSL"),
    ("not initialised", ["read", "--schema", "other"], "", FAILED, "NotInitialised", "create --schema other`"),
    ("nothing to migrate", ["migrate", "--schema", "other"], "", FAILED, "NotInitialised", "create --schema other`"),
    ("other data type", ["init", "--data-type", "bytea"], "", FAILED, "InvalidArgument", "json"),
    ("unknown stream", ["read", "nope"], "", FAILED, "StreamNotFound", "'nope'"),
    ("blank stream", ["append", " ", "B"], "", FAILED, "InvalidArgument", "blank"),
    ("reserved stream", ["append", "$all", "B"], "", FAILED, "InvalidArgument", "reserved"),
    ("long stream", ["append", "a-" + 254 * "x", "B"], "", FAILED, "InvalidArgument", "255"),
    ("long category", ["append", 65 * "x", "B"], "", FAILED, "InvalidArgument", "category"),
    ("control character", ["append", "a\x1b[31m", "B"], "", FAILED, "InvalidArgument", "control character"),
    ("not UTF-8", ["append", "a\udcff", "B"], "", FAILED, "InvalidArgument", "lone surrogate"),
    ("blank type", ["append", "a", ""], "", FAILED, "InvalidEvent", "blank"),
    ("long type", ["append", "a", 129 * "x"], "", FAILED, "InvalidEvent", "128"),
    ("long correlation", ["append", "a", "B", "--correlation-id", 129 * "x"], "", FAILED, "InvalidEvent", "128"),
    ("not JSON", ["append", "a", "B", "{"], "", FAILED, "InvalidEvent", "no JSON"),
    ("surrogate", ["append", "a", "B", '"\\ud800"'], "", FAILED, "InvalidEvent", "lone surrogate"),
    ("not a number", ["append", "a", "B", "NaN"], "", FAILED, "InvalidEvent", "no JSON"),
    ("too large a number", ["append", "a", "B", "1e999"], "", FAILED, "InvalidEvent", "out of range"),
    ("deep", ["append", "a", "B", 513 * "[" + 513 * "]"], "", FAILED, "InvalidEvent", "512"),
    ("deeper", ["append", "a", "B", 9999 * "[" + 9999 * "]"], "", FAILED, "InvalidEvent", "too deep"),
    ("metadata", ["append", "a", "B", "--metadata", "[]"], "", FAILED, "InvalidEvent", "object"),
    ("new, but it is not", ["append", "old", "B", "--expected", "none"], "", FAILED, "StreamExists", "version 1"),
    ("other version", ["append", "old", "B", "--expected", "7"], "", FAILED, "WrongExpectedVersion", "version 1"),
    ("no such stream", ["append", "new", "B", "--expected", "exists"], "", FAILED, "StreamNotFound", "'new'"),
    ("taken id", ["append", "new", "B", "--id", str(UUID(int=1))], "", FAILED, "DuplicateEvent", str(UUID(int=1))),
    ("lines that are none", ["append", "-"], "x\n", FAILED, "InvalidArgument", "line 1: not a JSON object"),
    ("a list", ["append", "-"], "[]\n", FAILED, "InvalidArgument", "line 1: not an event"),
    ("not UTF-8 line", ["append", "-"], '{"stream": "a", "type": "\udcff"}', FAILED, "InvalidArgument", "line 1"),
    ("typo", ["append", "-"], '{"stream": "a", "typ": "B"}', FAILED, "InvalidArgument", "line 1: not an event"),
    ("no stream in it", ["append", "-"], '{"type": "B"}', FAILED, "InvalidArgument", "--stream"),
    ("no zone", ["append", "-"], '{"stream": "a", "type": "B", "created_at": "2020-01-01T00:00:00"}', FAILED,
     "InvalidArgument", "timezone"),
    ("not its own", ["append", "-", "--stream", "b"], '{"stream": "a", "type": "B"}', FAILED, "InvalidArgument", "b"),
    ("line's type", ["append", "-"], '{"stream": "a", "type": ""}', FAILED, "InvalidEvent", "line 1: type"),
    ("line's data", ["append", "-"], '{"stream": "a", "type": "B", "data": "\\ud800"}', FAILED, "InvalidArgument",
     "lone surrogate"),
]  # fmt: skip


STATE = """
SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' UNION ALL
SELECT datname::text FROM pg_database WHERE datname ~ '^none' UNION ALL
SELECT stream || event_id FROM eventstore.streams JOIN eventstore.events USING (stream_id)
"""


@pytest.fixture(scope="module")
def untouched(postgres: PostgresServer, template: str) -> Iterator[str]:
    """The DSN of a database that all bad input shares, for none of it changes anything; its one stream is `old`."""
    name = f"test_{secrets.token_hex(6)}"
    sql(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
    dsn = elsewhere(postgres.dsn, name)
    appended = CliRunner(env=environment(dsn)).invoke(app, ["append", "old", "A", "--id", str(UUID(int=1))])
    assert appended.exit_code == 0, appended.output
    yield dsn
    sql(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("args", "stdin", "code", "error", "part"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_bad_input_is_told_in_one_line_and_changes_nothing(
    args: list[str], stdin: str, code: int, error: str, part: str, untouched: str
) -> None:
    """Exit code 2 for usage and 1 for failure; the line says what to do; with --json it is an object; no password."""
    url = urlsplit(untouched)
    wrong = url._replace(netloc=f"{url.username}:{PASSWORD}@{url.hostname}:{url.port}").geturl()
    for name, value in {"{dsn}": untouched, "{server}": untouched.removesuffix(url.path), "{wrong}": wrong}.items():
        args = [each.replace(name, value) for each in args]
    before = sql(untouched, STATE)

    runner = CliRunner(env=environment(untouched))
    raw = stdin.encode(errors="surrogateescape")
    for_people, for_programs = (
        runner.invoke(app, [*args, *more], input=raw, catch_exceptions=False) for more in ([], ["--json"])
    )

    assert for_people.stderr.startswith("error: ")
    assert part in for_people.stderr
    assert json.loads(for_programs.stderr)["error"] == error
    for result in (for_people, for_programs):
        assert result.exit_code == code
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
        assert PASSWORD not in result.output
        assert str(url.password) not in result.output
    assert sql(untouched, STATE) == before


def test_an_error_has_its_attributes_for_programs(cli: Cli) -> None:
    """A script need not take a message apart to learn at which version the stream is."""
    cli("append", "order-1", "A")
    error = json.loads(cli("append", "order-1", "B", "--expected", "5", "--json", code=FAILED).stderr)
    assert (error["stream"], error["expected"], error["actual"]) == ("order-1", 5, 1)


@pytest.mark.parametrize(
    ("version", "error"), [("1000000", "SchemaTooNew"), ("0", "MigrationPending")], ids=["newer", "older"]
)
@pytest.mark.parametrize("args", [["read"], ["tail"], ["append", "a", "B"]], ids=" ".join)
def test_a_schema_that_does_not_fit_is_left_alone(
    args: list[str], version: str, error: str, cli: Cli, database: str
) -> None:
    """A newer schema asks for a newer trunkline, an older one for `trunkline migrate`."""
    sql(database, f"UPDATE eventstore.schema_migrations SET version = {version} WHERE version = {latest()}")
    assert json.loads(cli(*args, "--json", code=FAILED).stderr)["error"] == error
    assert sql(database, "SELECT count(*) FROM eventstore.events") == [0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://ann:p@h/d", "postgresql://ann:***@h/d"),
        ("at amqp://ann:a@b/c@h: refused", "at amqp://ann:***@h: refused"),
        ("postgresql://h/d?user=ann&password=p&x=1", "postgresql://h/d?user=ann&password=***&x=1"),
        ("postgresql://ann@h/d", "postgresql://ann@h/d"),
        ("nothing: here", "nothing: here"),
    ],
)
def test_passwords_are_masked(text: str, expected: str) -> None:
    """Whatever stands where a password stands in a URL is not shown; the rest is."""
    assert masked(text) == expected
    assert masked(masked(text)) == expected


def test_settings_come_from_the_environment_and_options_win(database: str) -> None:
    """TRUNKLINE_DSN and TRUNKLINE_SCHEMA are read when a command runs; an empty one counts as not set."""
    runner = CliRunner(env={**environment(NOWHERE), "TRUNKLINE_SCHEMA": "other"})
    assert "'other'" in runner.invoke(app, ["read", "--dsn", database]).stderr
    assert runner.invoke(app, ["read", "--dsn", database, "--schema", "eventstore"]).exit_code == 0
    assert "127.0.0.1:1" in runner.invoke(app, ["read"]).stderr
    empty = CliRunner(env={**environment(""), "TRUNKLINE_SCHEMA": ""}).invoke(app, ["read"])
    assert (empty.exit_code, empty.stderr.count("no database is named")) == (USAGE, 1)


# --- the store


@pytest.fixture
def missing(postgres: PostgresServer) -> Iterator[str]:
    """The DSN of a database that does not exist; it is removed at the end."""
    name = f'test "ü" {secrets.token_hex(4)}'
    yield elsewhere(postgres.dsn, name)
    quoted = name.replace('"', '""')
    sql(postgres.dsn, f'DROP DATABASE IF EXISTS "{quoted}" WITH (FORCE)')


def test_create_makes_what_is_missing(missing: str) -> None:
    """The database, in UTF-8, and the store in it; a second time it says that they are there."""
    runner = CliRunner(env=environment(missing))
    first = runner.invoke(app, ["create", "--json"], catch_exceptions=False)
    assert json.loads(first.stdout) == {"schema": "eventstore", "created": True, "created_database": True}
    assert sql(missing, "SHOW server_encoding") == ["UTF8"]
    assert runner.invoke(app, ["append", "a", "B"]).exit_code == 0
    second = runner.invoke(app, ["create"])
    assert (second.exit_code, second.stdout) == (0, "the store 'eventstore' is there already\n")
    assert sql(missing, "SELECT count(*) FROM eventstore.events") == [1]


@pytest.mark.parametrize("data_type", ["json", "jsonb", "bytea"])
def test_init_makes_a_store_of_a_data_type(data_type: str, cli: Cli, database: str) -> None:
    """The column has the type, for good: init again without one leaves it, with another one is refused."""
    assert lines(cli("init", "--schema", "other", "--data-type", data_type, "--json"))[0]["created"] is True
    assert sql(database, "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attname = 'data' AND "
               "attrelid = 'other.events'::regclass") == [data_type]  # fmt: skip
    assert lines(cli("init", "--schema", "other", "--json"))[0]["created"] is False
    another = "jsonb" if data_type == "json" else "json"
    cli("init", "--schema", "other", "--data-type", another, code=FAILED)


def test_migrate_applies_what_is_pending(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that the first release made is brought up to this one, once."""
    with monkeypatch.context() as first_release:
        first_release.setattr(trunkline_store.migrate, "migrations", lambda: migrations()[:1])
        cli("init", "--schema", "other")
    pending = [each.version for each in migrations()[1:]]
    assert lines(cli("migrate", "--schema", "other", "--json"))[0] == {"schema": "other", "applied": pending}
    assert "nothing to apply" in cli("migrate", "--schema", "other").stdout
    cli("append", "a", "B", "--schema", "other")


def test_migrations_lists_them_and_fails_while_one_is_pending(
    cli: Cli, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment can wait for exit code 0: all that this version knows is applied, and nothing that it does not."""
    with monkeypatch.context() as first_release:
        first_release.setattr(trunkline_store.migrate, "migrations", lambda: migrations()[:1])
        cli("init", "--schema", "other")
    one, two, *_ = lines(cli("migrations", "--schema", "other", "--json", code=FAILED))
    assert (one["version"], one["name"], one["state"], one["migrated_at"] is None) == (1, "store", "applied", False)
    assert (two["version"], two["name"], two["state"], two["migrated_at"]) == (2, "streams", "pending", None)
    assert re.search(r"(?m)^ +2 +streams +pending$", cli("migrations", "--schema", "other", code=FAILED).stdout)
    cli("migrate", "--schema", "other")
    assert re.search(r"(?m)^ +2 +streams +applied +20..-..-.. ", cli("migrations", "--schema", "other").stdout)
    assert {each["state"] for each in lines(cli("migrations", "--json"))} == {"applied"}
    sql(database, "INSERT INTO eventstore.schema_migrations VALUES (9999, 'later')")
    assert lines(cli("migrations", "--json", code=FAILED))[-1]["state"] == "unknown"


def test_reset_makes_the_store_anew(cli: Cli, database: str) -> None:
    """Without its events, of the same data type; where there is none, none is made."""
    cli("init", "--schema", "other", "--data-type", "jsonb")
    cli("append", "a", "B", "--schema", "other")
    assert lines(cli("reset", "--schema", "other", "--yes", "--json")) == [{"schema": "other", "reset": True}]
    assert sql(database, "SELECT count(*) FROM other.events") == [0]
    assert sql(database, "SELECT data_type FROM other.store") == ["jsonb"]
    cli("reset", "--schema", "none", "--yes", code=FAILED)
    assert sql(database, "SELECT to_regnamespace('none')") == [None]


def test_reset_asks_a_person(database: str) -> None:
    """As drop does: only a y removes anything."""
    with terminal(database, "reset") as (process, screen):
        shown_on(screen, until="[y/N]")
        os.write(screen, b"n\n")
        shown_on(screen)
        assert process.wait() == FAILED


def test_roles_makes_roles_and_a_login(cli: Cli, database: str) -> None:
    """The login can do what its role can; --print shows the same SQL and runs nothing."""
    name = urlsplit(database).path.removeprefix("/")
    tag = secrets.token_hex(4)
    login = ["--login", f"bill_{tag}", "--as", "writer"]
    count = f"SELECT count(*) FROM pg_roles WHERE rolname LIKE '{name}.%' OR rolname = 'bill_{tag}'"

    printed = cli("roles", *login, "--print").stdout
    assert printed.startswith("BEGIN;")
    assert printed.endswith("COMMIT;\n")
    assert sql(database, count) == [0]

    done = lines(cli("roles", *login, "--json"))[0]
    assert done["roles"]["writer"] == f"{name}.eventstore.writer"
    assert done["login"] == f"bill_{tag}"
    assert sql(database, count) == [6]
    assert f"bill_{tag}" in cli("roles", *login).stdout
    sql(database, f"ALTER ROLE bill_{tag} PASSWORD '{tag}'")
    url = urlsplit(database)
    dsn = url._replace(netloc=f"bill_{tag}:{tag}@{url.hostname}:{url.port}").geturl()
    cli("append", "a", "B", "--dsn", dsn)
    assert json.loads(cli("drop", "--yes", "--json", "--dsn", dsn, code=FAILED).stderr)["error"] == "PermissionRefused"
    assert json.loads(cli("roles", "--json", "--dsn", dsn, code=FAILED).stderr)["error"] == "PermissionRefused"

    for role in sql(database, count.replace("count(*)", "rolname")):
        sql(database, f'DROP OWNED BY "{role}"')
        sql(database, f'DROP ROLE "{role}"')
    asyncio.run(execute(database, printed))
    assert sql(database, count) == [6]
    for role in sql(database, count.replace("count(*)", "rolname")):
        sql(database, f'DROP OWNED BY "{role}"')
        sql(database, f'DROP ROLE "{role}"')


def test_roles_gives_a_consumer_some_subscriptions_only(cli: Cli, database: str) -> None:
    """The login is a member of the pattern's group, and no longer of the group of all consumers. The SQL of --print
    does the same. A writer has no subscriptions, and a bad pattern is an error."""
    name = urlsplit(database).path.removeprefix("/")
    login = f"bill_{secrets.token_hex(4)}"
    wide = ["roles", "--login", login, "--as", "consumer"]
    narrow = [*wide, "--subscriptions", "billing-*"]
    member = f"SELECT roleid::regrole::text FROM pg_auth_members WHERE member::regrole::text = '{login}' ORDER BY 1"
    group = f"{name}.eventstore.consumer"
    printed = cli(*narrow, "--print").stdout
    for give in (lambda: cli(*narrow), lambda: asyncio.run(execute(database, printed))):
        cli(*wide)
        assert f'"{group}"' in sql(database, member)
        give()
        assert sql(database, member) == [f'"{group}.billing-*"']
    assert f"{group}.billing-*" in cli(*narrow).stdout
    cli("roles", "--login", login, "--as", "writer", "--subscriptions", "x", code=USAGE)
    assert "prefix" in cli(*wide, "--subscriptions", "a*b", code=FAILED).stderr
    count = f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{name}.%' OR rolname = '{login}'"
    for role in sql(database, count):
        sql(database, f'DROP OWNED BY "{role}"')
        sql(database, f'DROP ROLE "{role}"')


async def execute(database: str, script: str) -> None:
    """Runs a script of several statements."""
    connection = await asyncpg.connect(database)
    await connection.execute(script)
    await connection.close()


def test_drop_removes_the_schema_and_not_the_database(cli: Cli, database: str) -> None:
    """With --yes nobody is asked; where there is no store it says so."""
    assert lines(cli("drop", "--yes", "--json")) == [{"schema": "eventstore", "dropped": True}]
    assert sql(database, "SELECT to_regnamespace('eventstore')") == [None]
    assert cli("drop", "--yes").stdout == "there is no store 'eventstore'\n"


@pytest.mark.parametrize(("answer", "dropped"), [("n", False), ("y", True)])
def test_drop_asks_a_person(answer: str, dropped: bool, database: str) -> None:
    """On a terminal it names what it would remove, without the password, and only a y removes it."""
    with terminal(database, "drop") as (process, screen):
        asked = shown_on(screen, until="[y/N]")
        os.write(screen, f"{answer}\n".encode())
        shown_on(screen)
        assert process.wait() == (0 if dropped else FAILED)
    assert "eventstore" in asked
    assert str(urlsplit(database).password) not in asked
    assert (sql(database, "SELECT to_regnamespace('eventstore')") == [None]) is dropped


# --- append


def test_append_says_where_the_event_is(cli: Cli) -> None:
    """Its version and position; and what was given is what is read, the data byte for byte."""
    given = ["--metadata", '{"by": "ann"}', "--correlation-id", "c", "--causation-id", "d", "--id", str(UUID(int=7))]
    appended = lines(cli("append", "order-1", "Placed", '{"total":  1.0,\n"x": 1e2}', *given, "--json"))[0]
    assert (appended["stream"], appended["first_version"], appended["last_version"]) == ("order-1", 1, 1)
    printed = cli("read", "--json").stdout
    assert '"data":{"total":  1.0, "x": 1e2}' in printed
    event = json.loads(printed)
    assert event.pop("created_at").endswith("Z")
    assert event == {
        "event_number": appended["last_position"],
        "position": appended["last_position"],
        "stream": "order-1",
        "stream_version": 1,
        "id": str(UUID(int=7)),
        "type": "Placed",
        "data": {"total": 1.0, "x": 100.0},
        "metadata": {"by": "ann"},
        "correlation_id": "c",
        "causation_id": "d",
    }


def test_append_takes_an_event_once(cli: Cli) -> None:
    """The same id, type and data again give the answer of the first time."""
    event = ["append", "order-1", "Placed", "1", "--id", str(UUID(int=7)), "--expected", "none", "--json"]
    assert cli(*event).stdout == cli(*event).stdout
    assert len(lines(cli("read", "--json"))) == 1


def test_append_without_data_stores_an_empty_object(cli: Cli) -> None:
    """So handlers that look into the data find nothing, and do not fail."""
    cli("append", "order-1", "Placed", "--expected", "0")
    cli("append", "-", "--stream", "order-1", "--expected", "1", stdin='{"type": "Paid"}')
    assert [event["data"] for event in lines(cli("read", "--json"))] == [{}, {}]


def test_lines_of_one_stream_are_appended_together(cli: Cli) -> None:
    """Consecutive ones, at most 500 at once; blank lines are skipped; the options fill what a line leaves out."""
    a = '{"type": "A"}\n'
    b = '{"type": "B", "stream": "b", "correlation_id": "own"}\n'
    named = a.replace("}", ', "stream": "a"}')
    text = f"{named}\n{named}  \n{named}{b}{named * 1100}"
    groups = lines(cli("append", "--stdin", "--correlation-id", "c", "--json", stdin=text))
    assert [(each["stream"], each["first_version"], each["last_version"]) for each in groups] == [
        ("a", 1, 3),
        ("b", 1, 1),
        ("a", 4, 503),
        ("a", 504, 1003),
        ("a", 1004, 1103),
    ]
    assert [event["correlation_id"] for event in lines(cli("read", "--json", "--count", "4"))] == ["c", "c", "c", "own"]
    assert cli("append", "-", stdin="").stdout == "appended 0 events\n"


def test_a_byte_order_mark_at_the_head_of_lines_is_passed_over(cli: Cli) -> None:
    """Windows editors and shells write one at the head; elsewhere it makes a line invalid JSON."""
    line = '{"type": "A", "stream": "a", "data": "\ufeff"}\n'
    assert cli("append", "-", stdin="\ufeff" + line + line).stdout == "appended 2 events\n"
    assert cli("append", "-", stdin="\ufeff").stdout == "appended 0 events\n"
    assert [event["data"] for event in lines(cli("read", "a", "--json"))] == ["\ufeff", "\ufeff"]
    assert "line 2: not a JSON object" in cli("append", "-", stdin=line + "\ufeff" + line, code=FAILED).stderr


def test_lines_can_expect_a_version(cli: Cli) -> None:
    """With --stream, all of them stand one after the other on the expected version, whatever the number of groups."""
    text = '{"type": "A"}\n' * 501
    assert cli("append", "-", "--stream", "a", "--expected", "none", stdin=text).stdout == "appended 501 events\n"
    error = cli("append", "-", "--stream", "a", "--expected", "none", stdin=text, code=FAILED).stderr
    assert "lines 1 to 500: stream 'a' is at version 501" in error


def test_at_a_bad_line_it_stops_and_says_where(cli: Cli) -> None:
    """All events before it are appended, none from it on; the line is counted as an editor does."""
    good = '{"type": "A", "stream": "a"}'
    text = f'{good}\n\n{good}\n{{"type": ""}}\n{good}'
    error = json.loads(cli("append", "-", "--json", stdin=text, code=FAILED).stderr)
    assert (error["error"], error["line"], error["appended"]) == ("InvalidArgument", 4, 2)
    assert "line 4: " in error["message"]
    assert len(lines(cli("read", "--json"))) == 2


def test_lines_with_ids_can_be_sent_again(cli: Cli) -> None:
    """After a bad line was mended, the whole file may be sent again: what is stored already stays as it is."""
    text = "".join(f'{{"type": "A", "id": "{UUID(int=n)}"}}\n' for n in range(1, 6))
    bad = text.replace(str(UUID(int=4)), "4")
    cli("append", "-", "--stream", "a", "--expected", "none", stdin=bad, code=FAILED)
    assert cli("append", "-", "--stream", "a", "--expected", "none", stdin=text).stdout == "appended 5 events\n"
    stored = lines(cli("read", "a", "--json"))
    assert [(each["stream_version"], each["id"]) for each in stored] == [(n, str(UUID(int=n))) for n in range(1, 6)]
    error = json.loads(cli("append", "-", "--stream", "b", "--json", stdin=text, code=FAILED).stderr)
    assert (error["error"], error["line"], error["appended"]) == ("DuplicateEvent", 1, 0)


def test_what_read_prints_can_be_appended_elsewhere(cli: Cli) -> None:
    """A copy holds the same events in the same order: ids, times, metadata, data; only positions are new."""
    cli("append", "a", "A", '{"x": 1.50}', "--metadata", '{"m": [null, "ä"]}', "--correlation-id", "c")
    cli("append", "b", "B", '"\\u0000 \\ud83d\\ude00"')
    cli("append", "a", "C", "[1,\n 2]", "--causation-id", "d")
    printed = cli("read", "--json").stdout
    cli("init", "--schema", "copy")
    cli("append", "-", "--schema", "copy", stdin=printed)
    again = cli("read", "--schema", "copy", "--json").stdout
    cli("append", "-", stdin=f'{{"stream": "c", "type": "D", "data_base64": "{b64encode(b"[1,2]").decode()}"}}')
    assert lines(cli("read", "c", "--json"))[-1]["data"] == [1, 2]

    def without_positions(text: str) -> list[str]:
        return [line[line.index('"stream"') :] for line in text.splitlines()]

    assert without_positions(again) == without_positions(printed)


def test_lines_that_come_slowly_are_not_held_back(database: str) -> None:
    """A line is appended when it has come, not when there are enough of them."""
    with program(database, "append", "-", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for version in (1, 2):
            process.stdin.write('{"type": "A", "stream": "a"}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["last_version"] == version
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
        assert process.returncode == 130
        assert json.loads(error)["appended"] == 2


@given(
    chunks=st.lists(st.binary(max_size=5).map(lambda each: each.replace(b"\x00", b"\n")), max_size=20),
    mark=st.sampled_from([[], [b"\xef\xbb\xbf"], [b"\xef", b"\xbb\xbf"]]),
)
def test_lines_are_the_same_however_they_come(chunks: list[bytes], mark: list[bytes]) -> None:
    """Chunks may end anywhere: within a line, at its end, behind several, within a byte-order mark."""

    class Chunked(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return chunks.pop(0) if chunks else b""

    chunks = [*mark, *(each for each in chunks if each)]
    text = b"".join(chunks).removeprefix(b"\xef\xbb\xbf")
    found = [line for burst in bursts(Chunked()) for line in burst]
    assert found == text.removesuffix(b"\n").split(b"\n") if text else found == []


def test_a_line_without_end_is_not_read_to_its_end(cli: Cli) -> None:
    """Memory holds one line of the longest event at most."""

    class Endless(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return b"x" * (size or 0)

    (((line),),) = bursts(Endless())
    assert MAX_LINE_BYTES < len(line) < MAX_LINE_BYTES + 2 * 1024 * 1024
    assert "line 1: not an event: it is over" in cli("append", "-", stdin=line, code=FAILED).stderr


# --- read and tail


def test_read_goes_from_and_to_where_it_is_told(cli: Cli) -> None:
    """--from is inclusive: a version in a stream, a position in all streams; --count is a limit."""
    cli("append", "-", stdin="".join(f'{{"type": "T{n}", "stream": "{s}"}}\n' for n in range(1, 4) for s in "ab"))

    def read(*args: str) -> list[tuple[str, int]]:
        return [(event["stream"], event["stream_version"]) for event in lines(cli("read", *args, "--json"))]

    everything = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert read() == everything
    assert read("--count", "2") == everything[:2]
    position = lines(cli("read", "--json"))[3]["position"]
    assert read("--from", str(position)) == everything[3:]
    assert read("--from", str(position + 1), "--count", "1") == everything[4:5]
    assert read("b", "--from", "2") == [("b", 2), ("b", 3)]
    assert read("b", "--count", "1") == [("b", 1)]
    assert read("b", "--from", "4") == []


def test_links_are_shown_as_what_they_link_to(cli: Cli, database: str) -> None:
    """The event is the original; its number is the one to go on from in the stream that was read."""

    async def link() -> None:
        async with EventStore(database) as store:
            for stream in ("order-1", "order-2"):
                await store.link_to_stream("orders", ANY_VERSION, await store.read_stream_forward(stream))

    for stream in ("order-1", "order-1", "order-2"):
        cli("append", stream, "Placed")
    asyncio.run(link())
    events = lines(cli("read", "orders", "--from", "2", "--json"))
    assert [(each["event_number"], each["stream"], each["stream_version"]) for each in events] == [
        (2, "order-1", 2),
        (3, "order-2", 1),
    ]


def test_read_takes_all_pages(cli: Cli) -> None:
    """A script gets the whole stream, and the whole store, however long."""
    cli("append", "-", "--stream", "a", stdin='{"type": "A"}\n' * 1234)
    assert len(cli("read", "a", "--json").stdout.splitlines()) == 1234
    assert len(cli("read").stdout.splitlines()) == 1234


def test_a_person_gets_a_screen_and_is_told_of_the_rest(cli: Cli, database: str) -> None:
    """On a terminal 100 events, each cut to one line of it, and how to go on."""
    cli("append", "-", "--stream", "a", stdin=f'{{"type": "A", "data": "{"x" * 200}"}}\n' * 101)
    with terminal(database, "read", "a") as (process, screen):
        shown = shown_on(screen).splitlines()
        assert process.wait() == 0
    assert len(shown) == 101
    assert "…" in shown[0]
    assert "there is more: go on with --from 101" in shown[100]


def test_events_cannot_steer_the_terminal(cli: Cli) -> None:
    """What others wrote is shown, not obeyed: control characters, also those above ASCII, are escaped."""
    cli("append", "-", stdin='{"stream": "a\u202eb", "type": "T", "data": "\x9b31m\u2028"}\n')
    shown = cli("read").stdout
    assert "a\\u202eb@1" in shown
    assert '"\\u009b31m\\u2028"' in shown


def test_a_pipe_that_is_closed_is_no_error(cli: Cli, database: str) -> None:
    """As with `| head -1`: no traceback, no error."""
    cli("append", "-", "--stream", "a", stdin='{"type": "A"}\n' * 2000)
    with program(database, "read", "--json") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == ("", 0)


def test_tail_shows_what_is_there_and_what_comes(cli: Cli, database: str) -> None:
    """From a position on, in order; Ctrl-C is the way in which it ends."""
    cli("append", "a", "A")
    with program(database, "tail", "--from", "0", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "A"
        cli("append", "a", "B")
        assert json.loads(process.stdout.readline())["type"] == "B"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "")
        assert process.returncode == 0


def test_tail_begins_now(cli: Cli, database: str) -> None:
    """Without --from, what was there before is not shown."""
    cli("append", "a", "Before")
    with terminal(database, "tail") as (process, screen):
        shown_on(screen, until="Ctrl-C ends")
        cli("append", "a", "After")
        assert "Before" not in shown_on(screen, until="After")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("args", "expected", "last"),
    [
        (["--stream", "a-1"], ["T1", "T3"], ("a-1", "End")),
        (["--category", "a", "--type", "T4", "--type", "T2"], ["T2"], ("a-9", "T4")),
    ],
    ids=["stream", "category and types"],
)
def test_tail_can_leave_out(
    args: list[str], expected: list[str], last: tuple[str, str], cli: Cli, database: str
) -> None:
    """An event must pass each kind of filter, and of several types one."""
    cli("append", "-", stdin="".join(
        f'{{"stream": "{stream}", "type": "{type}"}}\n'
        for stream, type in (("a-1", "T1"), ("a-2", "T2"), ("a-1", "T3"), ("b-1", "T4"), last)
    ))  # fmt: skip
    with program(database, "tail", "--from", "0", *args, "--json") as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["type"] for _ in (*expected, last)] == [*expected, last[1]]


def test_tail_begins_with_the_last_ones(cli: Cli, database: str) -> None:
    """So many of those that pass the filters, in their order; then what comes."""
    cli("append", "-", stdin="".join(f'{{"type": "T{n}", "stream": "{s}-1"}}\n' for n in range(3) for s in "ab"))
    with program(database, "tail", "--last", "2", "--category", "a", "--json") as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["type"] for _ in range(2)] == ["T1", "T2"]
        cli("append", "b-1", "Other")
        cli("append", "a-2", "New")
        assert json.loads(process.stdout.readline())["type"] == "New"


async def test_tail_holds_a_page_of_the_last_ones(store: EventStore, database: str) -> None:
    """However large they are, and however many: their place is found first, then they are read in their order."""
    for n in range(40):
        await store.append_to_stream("a", n, [EventData("A", "x" * 4_000_000)])
    with program(database, "tail", "--last", "40", "--json") as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["stream_version"] for _ in range(40)] == list(range(1, 41))
        assert peak_kilobytes(process) < 160_000


def peak_kilobytes(process: "subprocess.Popen[str]") -> int:
    """The most memory that it has had."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[0])


async def test_read_ends_where_a_busy_stream_did(store: EventStore) -> None:
    """What is appended to it meanwhile is not waited for."""
    await store.append_to_stream("a", 0, [EventData("A", n) for n in range(10)])
    found = []
    async for event in _until_now(store, "a", None):
        found.append(event.stream_version)
        await store.append_to_stream("a", ANY_VERSION, [EventData("A", n) for n in range(1000)])
        assert len(found) < 20
    assert found == list(range(1, 11))


def test_tail_ends_with_its_reader(cli: Cli, database: str) -> None:
    """Also where nothing comes any more that could fail to be written."""
    cli("append", "a", "A")
    with program(database, "tail", "--from", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait()) == ("", 0)


# --- relay


def logged(process: "subprocess.Popen[str]", event: str) -> dict[str, Any]:
    """Waits for a log line, and returns what it holds; they are all JSON where nobody looks on."""
    assert process.stderr is not None
    for line in process.stderr:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"{event!r} was not logged")


def test_the_relay_publishes_until_it_is_told_to_stop(cli: Cli, database: str, vhost: str) -> None:
    """At SIGTERM it records what is confirmed, and gives its lease away; then it ends with 0."""
    cli("append", "a", "Before")
    before = lines(cli("append", "a", "AlsoBefore", "--json"))[0]["last_position"]
    with program(database, "relay", "--amqp-url", vhost, "--from", str(before)) as process:
        assert logged(process, "publishing")["position"] == before
        after = lines(cli("append", "a", "After", "--json"))[0]["last_position"]
        while sql(database, "SELECT position FROM eventstore.relays") != [after]:
            pass
        process.send_signal(signal.SIGTERM)
        logged(process, "stopped")
        assert process.wait() == 0
    assert sql(database, "SELECT until < clock_timestamp() FROM eventstore.leases") == [True]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        ("DROP SCHEMA eventstore CASCADE", "NotInitialised"),
        ("UPDATE eventstore.schema_migrations SET version = version + 1000000", "SchemaTooNew"),
        ("UPDATE eventstore.schema_migrations SET version = version - 1000000", "MigrationPending"),
        (None, "PermissionRefused"),
    ],
    ids=["not initialised", "newer", "older", "wrong password"],
)
def test_the_relay_does_not_wait_for_what_needs_a_person(make: str | None, error: str, database: str) -> None:
    """It ends with 1 and one line, so that whoever started it looks."""
    url = urlsplit(database)
    wrong = url._replace(netloc=f"{url.username}:{PASSWORD}@{url.hostname}:{url.port}").geturl()
    if make is not None:
        sql(database, make)
    with program(database if make else wrong, "relay", "--amqp-url", "amqp://127.0.0.1:1", "--json") as process:
        _, line = process.communicate(timeout=30)
        assert (json.loads(line)["error"], process.returncode) == (error, 1)


@pytest.mark.parametrize("away", ["database", "broker", "broker's password"])
def test_the_relay_waits_for_servers_that_are_away(away: str, database: str, vhost: str) -> None:
    """It says so, without the password, tries again, and can be stopped meanwhile."""
    url = urlsplit(vhost)
    wrong = url._replace(netloc=f"{url.username}:{PASSWORD}@{url.hostname}:{url.port}").geturl()
    dsn, amqp_url, event = {
        "database": (NOWHERE, vhost, "database unavailable"),
        "broker": (database, f"amqp://ann:{PASSWORD}@127.0.0.1:1", "broker unavailable"),
        "broker's password": (database, wrong, "broker unavailable"),
    }[away]
    with program(dsn, "relay", "--amqp-url", amqp_url) as process:
        for _ in range(2):
            line = str(logged(process, event))
            assert PASSWORD not in line
            assert unquote(PASSWORD) not in line
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


async def test_the_relay_stops_while_the_database_hangs(database: str, vhost: str) -> None:
    """At SIGTERM, it ends by itself, with exit code 0, although no answer comes."""
    async with Proxy(database) as proxy:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trunkline_ops.cli", "relay", "--dsn", proxy.url, "--amqp-url", vhost),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        while b'"publishing"' not in await process.stderr.readline():
            pass
        proxy.stall()
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(40):  # it took 16 to 18 s when last measured; the aim is 5
                _, rest = await process.communicate()
        except TimeoutError:
            process.kill()
            raise
    assert process.returncode == 0
    assert b"stopped while PostgreSQL did not answer" in rest


def answer(port: int, path: str) -> tuple[int, str]:
    """What the relay's endpoint says; 0 while nobody listens."""
    try:
        response = httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=10)
    except httpx.TransportError:
        return 0, ""
    return response.status_code, response.text


def until_roles(port: int, **expected: str) -> None:
    """Waits until the stores' relays have these roles."""
    for _ in range(600):
        code, text = answer(port, "/readyz")
        if code and {s["store"]: s["role"] for s in json.loads(text)["stores"]} == expected:
            assert code == (503 if "failed" in expected.values() else 200)
            return
        time.sleep(0.05)  # between two looks
    raise AssertionError(f"{expected} never came, but {text}")


def test_one_relay_process_serves_several_stores(cli: Cli, database: str, vhost: str) -> None:
    """Each store has a relay, all have one HTTP server. When one store's schema is dropped, or was never there, its
    relay ends with a line that names it, and the others go on; when somebody makes it, its relay comes back by itself,
    and until then `/readyz` says so; when all have ended, the program ends with 1."""
    cli("init", "--schema", "second")
    stores = ["--schema", "eventstore", "--schema", "second", "--schema", "missing"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with program(database, "relay", "--amqp-url", vhost, *stores, "--listen", f"127.0.0.1:{port}") as process:
        failed = logged(process, "relay failed")
        assert (failed["store"], failed["kind"]) == ("missing", "NotInitialised")
        until_roles(port, eventstore="leader", second="leader", missing="failed")
        assert answer(port, "/healthz")[0] == 200
        metrics = answer(port, "/metrics")[1]
        assert all(f'trunkline_relay_leader{{store="{name}"}} 1.0' in metrics for name in ("eventstore", "second"))
        sql(database, "DROP SCHEMA second CASCADE")
        assert logged(process, "relay failed")["store"] == "second"
        after = lines(cli("append", "a", "After", "--json"))[0]["last_position"]
        while sql(database, "SELECT position FROM eventstore.relays") != [after]:
            pass
        until_roles(port, eventstore="leader", second="failed", missing="failed")
        assert "trunkline create --schema" in answer(port, "/readyz")[1]
        cli("init", "--schema", "missing")
        cli("init", "--schema", "second")
        until_roles(port, eventstore="leader", second="leader", missing="leader")
        sql(database, "DROP SCHEMA eventstore, second, missing CASCADE")
        assert process.wait() == 1


def test_several_stores_are_stopped_together(cli: Cli, database: str, vhost: str) -> None:
    """Also where the environment names them: at SIGTERM each lease is given away, and the program ends with 0."""
    cli("init", "--schema", "second")
    variables = environment(database) | {"TRUNKLINE_SCHEMAS": "eventstore, second", "TRUNKLINE_AMQP_URL": vhost}
    with program(database, "relay", variables=variables) as process:
        assert {logged(process, "publishing")["store"] for _ in range(2)} == {"eventstore", "second"}
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    for name in ("eventstore", "second"):
        assert sql(database, f"SELECT until < clock_timestamp() FROM {name}.leases") == [True]


def test_a_relay_that_cannot_listen_ends(database: str, vhost: str) -> None:
    """A port that is taken is an error in one line, before anything is published."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with program(database, "relay", "--amqp-url", vhost, "--listen", listen, "--json") as process:
            _, line = process.communicate(timeout=30)
            assert (json.loads(line)["error"], process.returncode) == ("OSError", 1)
            assert "in use" in line


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:0", ("localhost", 0)),
        *((bad, None) for bad in ("", ":", ":1", "h", "h:", "h:65536", "::1:80", "h:-1", "a b:1", "h:1\n")),
    ],
)
def test_where_to_listen(text: str, address: tuple[str, int] | None) -> None:
    """A port alone is on the loopback interface; whoever wants another names it."""
    if address is None:
        with pytest.raises(InvalidSettings, match="--listen"):
            Settings.of(listen=text)
    else:
        assert Settings.of(listen=text).listen == address
