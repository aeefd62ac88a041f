"""The status page of `trunkline relay`: what the program's settings make of it."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aio_pika
import httpx
import pytest
from typer.testing import CliRunner

from tests.ops.test_cli import environment, program
from trunkline_ops.commands import app
from trunkline_ops.servers import RabbitMQServer
from trunkline_ops.settings import InvalidSettings, Settings
from trunkline_store import EventStore

TOKEN = "s3cret-of-sixteen"


@contextmanager
def relay(
    database: str, vhost: str, *options: str, host: str = "127.0.0.1", management: str | None = None
) -> Iterator[httpx.Client]:
    """One that listens, and a client of it."""
    variables = environment(database) | {"TRUNKLINE_MANAGEMENT_URL": management}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen = ["--listen", f"{host}:{port}"]
    with program(database, "relay", "--amqp-url", vhost, *listen, *options, variables=variables):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            deadline = time.monotonic() + 100
            while True:
                try:
                    client.get("/healthz").raise_for_status()
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)  # between two tries
            yield client


def until(client: httpx.Client, fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Waits until the page says so of the one store."""
    deadline = time.monotonic() + 100
    while True:
        [found] = client.get("/status.json").raise_for_status().json()["stores"]
        if fits(found):
            return dict(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.1)  # between two looks


async def test_it_knows_the_queues_by_the_management_api(
    store: EventStore, database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """With the AMQP URL's login: what is ready and unacknowledged, and a link to each queue's page, without a
    password."""
    await store.fetch(store.sql["create_subscription"], "billing", "$all", 0)
    async with await aio_pika.connect(vhost) as connection:
        await (await connection.channel()).declare_queue("eventstore.billing", durable=True)
    with relay(database, vhost, management=rabbitmq.management_url) as client:
        found = until(client, lambda found: found["looked_at"] and found["subscriptions"][0]["queue"])
        billing = found["subscriptions"][0]
        assert billing["queue"] == {"ready": 0, "unacked": 0, "consumers": 0}
        name = quote(urlsplit(vhost).path.removeprefix("/"), safe="")
        assert billing["queue_page"] == f"{rabbitmq.management_url}/#/queues/{name}/eventstore.billing"
        assert rabbitmq.password not in client.get("/status.json").text


async def test_a_management_api_that_refuses_is_said(
    store: EventStore, database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """With whom it refused; everything else is shown, and the password that it refused is not."""
    await store.fetch(store.sql["create_subscription"], "billing", "$all", 0)
    url = urlsplit(rabbitmq.management_url)
    wrong = url._replace(netloc=f"nobody:{TOKEN}@{url.netloc}").geturl()
    with relay(database, vhost, management=wrong) as client:
        refused = "refuses user 'nobody'"  # it may not answer at once
        found = until(client, lambda found: found["looked_at"] and refused in found["line"][2]["says"])
        assert found["subscriptions"][0]["name"] == "billing"
        assert TOKEN not in client.get("/status.json").text


def test_beyond_this_machine_the_page_is_closed(database: str, vhost: str) -> None:
    """Without a token it says what it takes, and probes and metrics answer."""
    with relay(database, vhost, host="0.0.0.0") as client:
        assert "TRUNKLINE_TOKEN" in client.get("/").text
        assert [client.get(path).status_code for path in ("/", "/status.json", "/healthz", "/metrics")] == [
            403, 403, 200, 200,
        ]  # fmt: skip


@pytest.mark.parametrize("option", ["--token-file", "--public-page"])
def test_beyond_this_machine_it_can_be_opened(option: str, database: str, vhost: str, tmp_path: Path) -> None:
    """With a token, in a file, to who sends it; or to everybody, where that is said."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    options = [option, str(file)] if option == "--token-file" else [option]
    with relay(database, vhost, *options, host="0.0.0.0") as client:
        stranger = client.get("/", headers={"Host": "status.example"})
        assert stranger.status_code == (401 if option == "--token-file" else 200)
        assert client.get("/", auth=("", TOKEN)).status_code == 200


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        ("", "16 characters"),
        ("short", "16 characters"),
        ("with a space in its middle", "spaces"),
    ],
)
def test_a_bad_token_is_told_in_one_line(content: str | None, problem: str, database: str, tmp_path: Path) -> None:
    """P9: exit code 2, before anything is begun; and what the token was is not printed."""
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    options = ["--amqp-url", "amqp://127.0.0.1:1", "--listen", "9464", "--token-file", str(file), "--json"]
    result = CliRunner().invoke(app, ["relay", *options], env=environment(database))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    message = json.loads(result.stderr)["message"]
    assert problem in message
    assert not content or content not in message


@pytest.mark.parametrize("variable", ["TRUNKLINE_TOKEN", "TRUNKLINE_TOKEN_FILE"])
def test_a_page_that_is_to_be_open_and_closed_is_refused(variable: str, database: str) -> None:
    """P9: a token and --public-page at once are an error of one line, exit code 2, that names both."""
    options = ["--amqp-url", "amqp://127.0.0.1:1", "--listen", "9464", "--public-page", "--json"]
    result = CliRunner().invoke(app, ["relay", *options], env=environment(database) | {variable: TOKEN})
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    message = json.loads(result.stderr)["message"]
    assert "--public-page" in message
    assert variable in message
    assert TOKEN not in message


def test_the_token_of_a_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before that of the environment, as the help says; a bad one is refused, and not printed."""
    file = tmp_path / "token"
    file.write_text("of-the-file-sixteen")
    monkeypatch.setenv("TRUNKLINE_TOKEN", TOKEN)
    assert Settings.of(token_file=str(file)).page_token() == "of-the-file-sixteen"
    monkeypatch.setenv("TRUNKLINE_TOKEN_FILE", str(file))
    assert Settings.of().page_token() == "of-the-file-sixteen"
    monkeypatch.delenv("TRUNKLINE_TOKEN_FILE")
    assert Settings.of().page_token() == TOKEN
    monkeypatch.setenv("TRUNKLINE_TOKEN", "tooshort")
    with pytest.raises(InvalidSettings) as refused:
        Settings.of()
    assert "TRUNKLINE_TOKEN" in str(refused.value)
    assert "tooshort" not in str(refused.value)
    monkeypatch.delenv("TRUNKLINE_TOKEN")
    assert Settings.of().page_token() is None


@pytest.mark.parametrize(
    ("management", "amqp", "expected"),
    [
        ("http://mq:15672/", "amqp://ann:p%40w@mq/v", ("http://mq:15672", "ann", "p@w")),
        ("https://bob:x%2Fy@mq:15671", "amqp://ann:pw@mq/v", ("https://mq:15671", "bob", "x/y")),
        ("http://mq:15672", "amqp://mq", ("http://mq:15672", "guest", "guest")),
    ],
)
def test_who_asks_the_management_api(management: str, amqp: str, expected: tuple[str, str, str]) -> None:
    """The URL's own user, else that of the AMQP URL; the address that links are made of has neither."""
    found = Settings.of(management_url=management, amqp_url=amqp).management()
    assert found is not None
    assert tuple(found) == expected
