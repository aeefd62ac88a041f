"""`trunkline status` and `streams`, and the completion of shells."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import pytest
from typer.testing import CliRunner, Result

from tests.ops.test_cli import environment, program, shown_on, terminal
from tests.whole.flow import Flow
from trunkline_ops import management
from trunkline_ops.commands import app
from trunkline_ops.connect import managed
from trunkline_ops.depths import depths_of
from trunkline_ops.management import Management
from trunkline_ops.servers import RabbitMQServer
from trunkline_ops.settings import Settings
from trunkline_store import ANY_VERSION, EventData, EventStore, InvalidArgument
from trunkline_store.lease import Lease
from trunkline_store.line import Depth

Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
def cli(database: str) -> Cli:
    """Runs a command in this process."""
    runner = CliRunner(env=environment(database))

    async def run(*args: str, code: int = 0) -> Result:
        result = await asyncio.to_thread(runner.invoke, app, args, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


def facts(result: Result) -> dict[str, Any]:
    (line,) = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


async def test_everything_is_on_one_screen(database: str, vhost: str, rabbitmq: RabbitMQServer, cli: Cli) -> None:
    """A flow that runs, then one whose handler stands still: the store, the relay's leader, RabbitMQ, the subscription
    with its queue; and it is the handler that is waited for."""
    broker = ["--amqp-url", vhost, "--management-url", rabbitmq.management_url]
    async with Flow(database, vhost) as flow:
        await flow.more(20)
        flow.handling.clear()
        async with asyncio.timeout(60):
            now = facts(await cli("status", *broker, "--json"))
            while "handler" not in [each["stage"] for each in now["line"]]:
                await asyncio.sleep(0.1)  # between two looks
                now = facts(await cli("status", *broker, "--json"))
        assert now["relay"]["owner"] is not None
        assert now["broker"]["version"]
        assert (now["broker"]["problem"], now["broker"]["alarms"]) == (None, [])
        (subscription,) = now["subscriptions"]
        assert (subscription["name"], subscription["state"]) == ("flow", "following")
        shown = (await cli("status", *broker)).stdout
        assert "subscription  flow  $all  following" in shown
        assert "relay         leads with epoch 1" in shown
        flow.handling.set()
        await flow.finish()


async def test_a_locked_table_hides_nothing_but_the_size(store: EventStore, cli: Cli) -> None:
    """While one is rebuilt (VACUUM FULL locks it from everybody), all else is on the screen."""
    await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1)])
    async with store.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE eventstore.snapshots IN ACCESS EXCLUSIVE MODE")
        assert "1 events in 1 streams, a locked table keeps the size from being told" in (await cli("status")).stdout
        assert facts(await cli("status", "--json"))["store"]["bytes"] is None
    assert facts(await cli("status", "--json"))["store"]["bytes"] > 0


async def test_who_holds_the_line_is_said(store: EventStore, database: str, vhost: str, rabbitmq: RabbitMQServer,
                                          cli: Cli) -> None:  # fmt: skip
    """An open transaction, a relay that is away, a queue that is not taken from, a program that does not run."""
    await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", n) for n in range(3)])
    row = await store.fetchrow(store.sql["create_subscription"], "s", "$all", 0)
    assert row is not None
    assert [each["stage"] for each in facts(await cli("status", "--json"))["line"]] == ["nobody"]
    await store.fetch("INSERT INTO eventstore.relays (name, position) VALUES ('relay', 2048)")
    lease = await Lease.acquire(store, f"subscription {row['subscription_id']}", uuid4(), 600)
    assert lease is not None
    async with store.transaction() as connection:
        await store.append_to_stream("b-1", ANY_VERSION, [EventData("E", 1)], connection=connection)
        await store.append_to_stream("c-1", ANY_VERSION, [EventData("E", 1), EventData("E", 2)])
        now = facts(await cli("status", "--json"))
        assert [(each["stage"], each["events"]) for each in now["line"]] == [
            ("transaction", 2),
            ("relay", 2),
            ("handler", 3),
        ]
        assert now["transaction"]["pid"] == connection.get_server_pid()
        shown = (await cli("status")).stdout
        assert "2 events for the end of a transaction since" in shown
        assert f"process {connection.get_server_pid()}" in shown
        assert "no relay leads" in shown
    async with await aio_pika.connect(vhost) as amqp, amqp.channel() as channel:
        await channel.declare_queue("eventstore.s", durable=True)
        for _ in range(4):
            await channel.default_exchange.publish(aio_pika.Message(b"x"), "eventstore.s")
        broker = ["--amqp-url", vhost, "--management-url", rabbitmq.management_url]
        async with asyncio.timeout(60):
            while (now := facts(await cli("status", *broker, "--json")))["line"][-1]["stage"] != "broker":
                await asyncio.sleep(0.1)  # the management API is seconds behind
        assert now["subscriptions"][0]["queue"] == {"ready": 4, "unacked": 0, "consumers": 0}


async def test_a_broker_that_is_away_is_told(cli: Cli) -> None:
    """What the database says is shown all the same; passwords are not."""
    result = await cli("status", "--management-url", "http://ann:geheim@127.0.0.1:1")
    assert "RabbitMQ      RabbitMQ's management API cannot be reached" in result.stdout
    assert "geheim" not in result.stdout
    assert "store         eventstore: 0 events" in result.stdout


async def test_what_is_no_management_api_is_told(cli: Cli, rabbitmq: RabbitMQServer, database: str) -> None:
    """RabbitMQ's own port, or PostgreSQL's: in words, not by the name of an exception."""
    for server in (rabbitmq.amqp_url, database):
        result = await cli("status", "--management-url", f"http://{urlsplit(server).netloc.split('@')[-1]}")
        assert "what is there does not speak HTTP, or broke off (is it another port?)" in result.stdout


async def test_queues_that_go_while_they_are_asked_for_end_the_pages(
    vhost: str, rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ answers 400 for a page that is not there any more: what was found before is the answer."""
    settings = Settings.of(amqp_url=vhost, management_url=rabbitmq.management_url)
    monkeypatch.setattr(management, "_PAGE", 2)
    async with (
        managed(settings) as known,
        await aio_pika.connect(vhost) as connection,
        connection.channel() as channel,
    ):
        assert known is not None
        for queue in ("a", "b", "c"):
            await channel.declare_queue(queue, durable=True)
        asked = Management._do

        async def going(self: Management, *args: str, **given: Any) -> Any:
            """After each answer another queue is gone."""
            answer = await asked(self, *args, **given)
            for queue in ("b", "c"):
                await channel.queue_delete(queue)
            return answer

        monkeypatch.setattr(Management, "_do", going)
        assert [each["name"] for each in await known.api.queue_columns(known.name, ["name"])] == ["a", "b"]


async def test_only_the_stores_queues_are_asked_for_by_page(
    vhost: str, rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many queues a vhost has, an answer is of one page, of this store, and of what is shown."""
    mine = {f"eventstore.s{n}" for n in range(5)}
    async with await aio_pika.connect(vhost) as connection, connection.channel() as channel:
        for name in (*mine, "eventstores.other", "plain"):
            await channel.declare_queue(name, durable=True)
    monkeypatch.setattr(management, "_PAGE", 2)
    settings = Settings.of(amqp_url=vhost, management_url=rabbitmq.management_url)
    async with managed(settings) as known:
        assert known is not None
        async with asyncio.timeout(30):  # the API is seconds behind
            while (found := await depths_of(known, "eventstore")).keys() != mine:
                assert found.keys() <= mine
        assert set(found.values()) == {Depth(0, 0, 0)}
        assert list(await depths_of(known, "eventstore", most=3)) == sorted(mine)[:3]
        asked = await known.api.queue_columns(known.name, ["name", "consumers"])
        assert {each["name"] for each in asked} == {*mine, "eventstores.other", "plain"}
        assert all(each.keys() <= {"name", "consumers"} for each in asked)


async def test_it_watches_until_it_is_told_to_stop(store: EventStore, database: str) -> None:
    """One object after the other, or a screen; Ctrl-C is the way in which it ends."""
    with program(database, "status", "--watch", "--every", "0.1", "--json") as process:
        assert process.stdout is not None
        read = asyncio.to_thread(process.stdout.readline)
        assert json.loads(await read)["store"]["events"] == 0
        await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1)])
        while (now := json.loads(await asyncio.to_thread(process.stdout.readline)))["store"]["events"] == 0:
            pass
        assert now["store"]["events_per_second"] is not None
        process.send_signal(signal.SIGINT)
        _, error = await asyncio.to_thread(process.communicate)
        assert (process.returncode, error) == (0, "")
    with terminal(database, "status", "--watch", "--every", "0.1") as (process_on_terminal, screen):
        await asyncio.to_thread(shown_on, screen, "eventstore: 1 events")
        process_on_terminal.send_signal(signal.SIGINT)
        await asyncio.to_thread(shown_on, screen)
        assert process_on_terminal.wait() == 0


# --- streams


async def names(cli: Cli, *args: str) -> list[str]:
    return [json.loads(line)["stream"] for line in (await cli("streams", *args, "--json")).stdout.splitlines()]


async def test_streams_are_listed_filtered_sorted_and_paged(store: EventStore, cli: Cli) -> None:
    """Streams are filtered by a part of the name, category and deletion, and sorted by age or name; each page names the
    next one."""
    for count, name in ((1, "order-2"), (3, "order-1"), (2, "user-1")):
        await store.append_to_stream(name, ANY_VERSION, [EventData("E", n) for n in range(count)])
    await store.append_to_stream("order-9", ANY_VERSION, [EventData("E", 1)])
    await store.delete_stream("order-9", ANY_VERSION)
    assert await names(cli, "--sort", "age") == ["$all", "order-2", "order-1", "user-1", "order-9"]
    assert await names(cli, "--category", "order", "--live") == ["order-1", "order-2"]
    assert await names(cli, "--category", "order") == ["order-1", "order-2", "order-9"]
    assert await names(cli, "user") == ["user-1"]
    assert await names(cli, "--deleted") == ["order-9"]
    assert await names(cli, "--category", "order", "--desc", "--count", "1") == ["order-9"]
    assert await names(cli, "--sort", "age", "--count", "2", "--after", "user-1") == ["order-9"]
    assert await names(cli, "--count", "2", "--after", "order-9") == ["user-1"]
    shown = await cli("streams", "--sort", "age", "--count", "2", "--after", "order-2")
    assert shown.stderr == "a full page: for the next one, --after user-1\n"
    assert shown.stdout.splitlines()[0].split()[0::3] == ["3", "order-1"]
    assert "deleted" in (await cli("streams", "--deleted")).stdout
    categories = [json.loads(line) for line in (await cli("streams", "--categories", "--json")).stdout.splitlines()]
    assert categories == [
        {"category": "order", "streams": 2, "deleted": 1, "events": 5, "or_more": False},
        {"category": "user", "streams": 1, "deleted": 0, "events": 2, "or_more": False},
    ]


async def test_categories_come_in_pages(store: EventStore) -> None:
    """Behind a name, so many: however many there are."""
    for name in ("a", "b", "B", "ü"):
        await store.append_to_stream(f"{name}-1", ANY_VERSION, [EventData("E", 1)])
    await store.append_to_stream("-1", ANY_VERSION, [EventData("E", 1)])
    found: list[str] = []
    after: str | None = None
    while page := await store.categories(after=after, count=1):
        found += [each.category for each in page]
        after = page[-1].category
    assert found == ["", "B", "a", "b", "ü"]
    assert [each.category for each in await store.categories()] == found
    assert [each.category for each in await store.categories(after="A", count=2)] == ["B", "a"]
    with pytest.raises(InvalidArgument, match="category"):
        await store.paginate_streams(category="a-1")
    with pytest.raises(InvalidArgument, match="status"):
        await store.paginate_streams(status="open")  # type: ignore[arg-type]


async def test_names_are_no_markup(store: EventStore, database: str) -> None:
    """A subscription, a feed, and a stream may be called as what colours a terminal: all is shown as it is."""
    await store.append_to_stream("we[/b]ird-1", ANY_VERSION, [EventData("E", 1)])
    await store.fetch(store.sql["create_subscription"], "we[/b]ird", "we[/b]ird-1", 0)
    for command in (["status"], ["streams"], ["subscriptions", "list"], ["verify"], ["doctor"]):
        with terminal(database, *command) as (process, screen):
            shown = shown_on(screen)
            assert process.wait() in (0, 1)
        assert "Traceback" not in shown
        assert command == ["doctor"] or "we[/b]ird" in shown, command


# --- completion


def completed(words: str) -> list[str]:
    """What bash is given for a line."""
    variables = {**os.environ, "_TRUNKLINE_COMPLETE": "complete_bash", "COMP_WORDS": words}
    variables["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "trunkline")], env=variables, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def test_shells_complete_commands_and_options() -> None:
    """Bash is told what may stand there; `--install-completion` tells it whom to ask."""
    assert completed("trunkline ver") == ["verify"]
    assert set(completed("trunkline subscriptions re")) == {"reset", "retry"}
    assert "--management-url" in completed("trunkline doctor --m")
    assert completed("trunkline streams --sort a") == ["age"]
    assert "--install-completion" in CliRunner(env=environment(None)).invoke(app, ["--help"]).stdout


def test_the_broker_is_asked_as_whom_the_urls_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The management URL's own user wins; else it is the AMQP URL's; else RabbitMQ's default."""
    for name in environment(None):
        monkeypatch.delenv(name, raising=False)
    amqp, api = "amqp://ann:a%40@h/v%2f1", "http://h:15672/"
    assert Settings.of(amqp_url=amqp, management_url=api).management() == ("http://h:15672", "ann", "a@")
    assert Settings.of(amqp_url=amqp).vhost() == "v/1"
    assert Settings.of(amqp_url="amqp://h").vhost() == "/"
    own = Settings.of(amqp_url=amqp, management_url="https://bob:b@h").management()
    assert own == ("https://h", "bob", "b")
    assert Settings.of(management_url=api).management() == ("http://h:15672", "guest", "guest")
    assert Settings.of(amqp_url=amqp).management() is None
