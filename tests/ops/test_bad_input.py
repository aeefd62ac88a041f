"""Bad input to every command and every setting: one line that says what to do, and never a traceback.

What can be wrong is found by looking at the commands themselves: a new one without a row here fails the first test, and
a new option is tried as soon as it is there.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_origin
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tests.ops.test_cli import NOWHERE, PASSWORD, commands, environment
from trunkline_ops.commands import app
from trunkline_ops.failure import FAILED, USAGE
from trunkline_ops.servers import RabbitMQServer

PROGRAM = get_command(app)
ALL: dict[str, Any] = dict(commands(PROGRAM))
AWAY = f"amqp://ann:{PASSWORD}@127.0.0.1:1/"


@dataclass
class Row:
    """A command. good: arguments with which it would do something. database: whether it connects to one; store: and
    needs a store there. broker: whether it fails without AMQP; api: whether it fails without the management API.
    wrong: further arguments that it refuses, with the exit code."""

    good: list[str] = field(default_factory=list)
    database: bool = True
    store: bool = True
    broker: bool = False
    api: bool = False
    wrong: list[tuple[list[str], int]] = field(default_factory=list)


ROWS = {
    "create": Row(store=False, wrong=[(["--content-type", "x", "--schema", "new"], FAILED)]),
    "init": Row(store=False, wrong=[(["--content-type", "application/msgpack", "--schema", "new"], FAILED)]),
    "migrate": Row(),
    "migrations": Row(),
    "roles": Row(wrong=[(["--login", "x" * 64, "--as", "reader"], FAILED), (["--login", ""], USAGE)]),
    "reset": Row(["--yes"], wrong=[([], USAGE)]),
    "drop": Row(["--yes"], store=False, wrong=[([], USAGE)]),
    "append": Row(["a-1", "T"], wrong=[(["$a", "T"], FAILED), (["a-1", "T", "{"], FAILED)]),
    "read": Row(wrong=[(["nope"], FAILED), (["$all"], FAILED)]),
    "tail": Row(wrong=[(["--category", "a-b"], USAGE), (["--stream", ""], FAILED),
                       (["--from", "1", "--last", "1"], USAGE)]),
    "streams": Row(wrong=[(["--category", "a-b"], FAILED), (["--categories", "a"], USAGE)]),
    "export": Row(["-"], wrong=[(["/"], USAGE), (["/nowhere/file"], FAILED)]),
    "import": Row(["-"], wrong=[(["/nowhere/file"], FAILED), (["/"], FAILED), (["/dev/null"], FAILED)]),
    "relay": Row(["--amqp-url", AWAY], database=False, wrong=[(["--amqp-url", AWAY, "--from", "-1"], USAGE)]),
    "replay": Row(["--to", "q", "--amqp-url", AWAY], broker=True,
                  wrong=[(["--to", "", "--amqp-url", AWAY], USAGE)]),
    "asyncapi": Row(database=False),
    "definitions": Row(database=False, wrong=[(["--vhost", " "], USAGE), (["--vhost", "v" * 256], USAGE)]),
    "consume": Row(["nowhere:consumer"], database=False, wrong=[
        (["nowhere:consumer"], USAGE), (["json"], USAGE), (["json:"], USAGE), (["json:dumps"], USAGE),
        (["json:nope"], USAGE), ([":x"], USAGE)]),
    "subscriptions list": Row(),
    "subscriptions show": Row(["s"], wrong=[(["nope"], FAILED)]),
    "subscriptions reset": Row(["s", "--to", "origin"], wrong=[
        (["nope", "--to", "origin"], FAILED), (["s", "--to", "yesterday"], USAGE), (["s", "--to", "-1"], USAGE),
        (["s"], USAGE), (["s", "--to", "9" * 30], FAILED), (["s", "--to", "9999-12-31T23:59:59-12:00"], USAGE),
        (["s", "--to", "0001-01-01T00:00:00+12:00"], USAGE)]),
    "subscriptions skip": Row(["s", "--yes"], wrong=[(["nope", "--yes"], FAILED), (["s"], FAILED)]),
    "subscriptions delete": Row(["s"], wrong=[(["nope"], FAILED)]),
    "subscriptions parked": Row(["s"], wrong=[(["nope"], FAILED)]),
    "subscriptions retry": Row(["s"], wrong=[(["nope"], FAILED)]),
    "subscriptions discard": Row(["s"], wrong=[(["nope"], FAILED)]),
    "status": Row(),
    "verify": Row(api=True),
    "doctor": Row(store=False),
}  # fmt: skip


@pytest.fixture(autouse=True)
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner would build all commands anew for each of some thousand tries."""
    monkeypatch.setattr("typer.testing._get_command", lambda _: PROGRAM)


def test_every_command_has_a_row() -> None:
    """A new command is tried with bad input, too."""
    assert ALL.keys() == ROWS.keys()


def refused(database: str | None, command: str, args: list[str], code: int, **variables: str) -> None:
    """Runs it, and sees that it is refused as it should be, and that no password is shown."""
    runner = CliRunner(env={**environment(database), **variables})
    result = runner.invoke(app, [*command.split(), *args], input="", catch_exceptions=False)
    told = f"trunkline {command} {' '.join(args)}: {result.exit_code}\n{result.output}"
    assert result.exit_code == code, told
    assert result.stderr.startswith("error: "), told
    assert result.stderr.count("\n") == 1, told
    assert result.stdout == "", told
    assert "Traceback" not in result.output, told
    assert PASSWORD not in result.output, told
    if database is not None:
        assert str(urlsplit(database).password) not in result.output, told


def bad_values(parameter: Any) -> Iterator[str]:
    """What an option cannot take, by its type."""
    kind = parameter.type_descriptor.annotation
    info = parameter.type_descriptor.parameter_info
    if kind in (int, float):
        yield from ("x", "")
        if info.min is not None:
            yield str(info.min - 1)
        if info.max is not None:
            yield str(info.max + 1)
        if kind is float:
            yield "nan"
    elif kind is UUID or get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        yield "nonsense"


def test_numbers_ranges_and_choices_are_seen() -> None:
    """Typer still tells of them what is asked above: else nothing would be tried."""
    options = {(name, each.opts[0]): list(bad_values(each)) for name, command in ALL.items() for each in command.params}
    assert options["streams", "--count"] == ["x", "", "0", "10001"]
    assert options["init", "--data-type"] == options["append", "--id"] == options["streams", "--sort"] == ["nonsense"]
    assert options["relay", "--lease"] == ["x", "", "-0.5", "3601", "nan"]
    assert options["read", "--dsn"] == []


@pytest.mark.parametrize("command", ALL)
def test_arguments_that_cannot_be_are_refused(command: str) -> None:
    """Unknown options, arguments too many or too few, text for numbers, numbers out of range, unknown choices: 2, and
    no server is asked."""
    row, parameters = ROWS[command], ALL[command].params
    refused(NOWHERE, command, [*row.good, "--no-such-option"], USAGE)
    refused(NOWHERE, command, [*row.good, *("x" for _ in range(4))], USAGE)
    if any(each.param_type_name == "argument" and each.required for each in parameters):
        refused(NOWHERE, command, [], USAGE)
    for parameter in parameters:
        if parameter.param_type_name == "option" and not parameter.is_flag:
            refused(NOWHERE, command, [*row.good, parameter.opts[0]], USAGE)
            for value in bad_values(parameter):
                refused(NOWHERE, command, [*row.good, f"{parameter.opts[0]}={value}"], USAGE)


SETTINGS = {
    "--dsn": ("TRUNKLINE_DSN", ["x", "mysql://h/d", f"postgresql://a:{PASSWORD}@h:0x/d", "postgresql://[::1/d"]),
    "--schema": ("TRUNKLINE_SCHEMA", ["Orders", "a.b", "pg_x", "amq", "information_schema", "x" * 49, "1a"]),
    "--amqp-url": ("TRUNKLINE_AMQP_URL", ["x", f"http://a:{PASSWORD}@h", "amqp://h:99999", "amqp://[h"]),
    "--management-url": ("TRUNKLINE_MANAGEMENT_URL", ["x", f"amqp://a:{PASSWORD}@h", "http://h:port"]),
    "--listen": ("TRUNKLINE_LISTEN", ["x", "h:", "h:99999"]),
}


@pytest.mark.parametrize("command", [name for name in ALL if name != "consume"])
def test_settings_that_cannot_be_are_refused(command: str) -> None:
    """As an option and in the environment: 2, the line names the setting, and no server is asked."""
    row = ROWS[command]
    options = {each.opts[0] for each in ALL[command].params}
    for option, (variable, values) in SETTINGS.items():
        for value in values if option in options else ():
            refused(NOWHERE, command, [*row.good, option, value], USAGE)
        if option in options and option not in row.good:
            refused(NOWHERE, command, row.good, USAGE, **{variable: values[0]})
    for value in ("x", "-1"):
        refused(NOWHERE, command, row.good, USAGE, TRUNKLINE_STATEMENT_CACHE_SIZE=value)
    if "--dsn" in options:
        refused(None, command, row.good, USAGE)


@pytest.mark.parametrize("command", [name for name, row in ROWS.items() if row.database])
def test_a_database_that_cannot_be_had_is_told(command: str, database: str) -> None:
    """Refused, without TLS, wrong password, a database or a store that is not there: 1."""
    row, url = ROWS[command], urlsplit(database)
    refused(NOWHERE, command, row.good, FAILED)
    refused(f"{database}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem", command, row.good, USAGE)
    refused(f"{database}?sslmode=require", command, row.good, FAILED)
    refused(f"{database}?no_such_setting=1", command, row.good, FAILED)
    wrong = url._replace(netloc=f"{url.username}:{PASSWORD}@{url.hostname}:{url.port}").geturl()
    refused(wrong, command, row.good, FAILED)
    if command != "create":
        refused(url._replace(path="/none").geturl(), command, row.good, FAILED)
    if row.store:
        refused(database, command, [*row.good, "--schema", "nowhere"], FAILED)


@pytest.mark.parametrize("command", [name for name, row in ROWS.items() if row.broker or row.api])
def test_a_broker_that_cannot_be_had_is_told(command: str, database: str, rabbitmq: RabbitMQServer) -> None:
    """Refused, unknown host, TLS where there is none, none where there is another server, a wrong password: 1."""
    row, amqp, api = ROWS[command], urlsplit(rabbitmq.amqp_url), urlsplit(rabbitmq.management_url)
    option, name, there = ("--amqp-url", "amqp", amqp) if row.broker else ("--management-url", "http", api)
    address = f"{there.hostname}:{there.port}"
    port = urlsplit(database).port
    good = row.good[:-2] if row.broker else row.good
    for url in (
        f"{name}://ann:{PASSWORD}@127.0.0.1:1",
        f"{name}://ann:{PASSWORD}@host.invalid",
        f"{name}s://ann:{PASSWORD}@{address}",
        f"{name}://ann:{PASSWORD}@{address}",
        f"{name}://ann:{PASSWORD}@127.0.0.1:{port}",
    ):
        refused(database, command, [*good, option, url], FAILED)


@pytest.mark.parametrize(
    ("command", "args", "code"),
    [(name, args, code) for name, row in ROWS.items() for args, code in row.wrong],
    ids=lambda part: " ".join(part)[:30] if isinstance(part, list) else str(part),
)
def test_what_else_is_wrong_is_told(command: str, args: list[str], code: int, database: str) -> None:
    """Names that are not there, and what each command alone can be given wrongly."""
    refused(database, command, args, code)
