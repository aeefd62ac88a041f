"""The command `trunkline replay`, as a person and as a script use it."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel
from typer.testing import CliRunner, Result

from tests.ops.test_cli import NOWHERE, environment, program, shown_on, terminal
from trunkline_ops.commands import app
from trunkline_ops.servers.proxy import Proxy
from trunkline_relay.replay import WINDOW
from trunkline_relay.tail import PAGE_EVENTS
from trunkline_store import ANY_VERSION, EventData, EventStore

QUEUE = "heal"
Replay = Callable[..., Awaitable[Result]]


@pytest.fixture
async def last(store: EventStore) -> int:
    """The last position of a history of 40 events in two categories."""
    position = 0
    for n in range(20):
        for stream in (f"order-{n}", f"user-{n}"):
            position = (await store.append_to_stream(stream, ANY_VERSION, [EventData("Made", n)])).last_position
    return position


@pytest.fixture
def replay(database: str, vhost: str) -> Replay:
    """Runs the command in this process; given a dsn or a URL, with that one."""
    runner = CliRunner(env=environment(database))

    async def run(*args: str, code: int | None = 0) -> Result:
        given = ["replay", *args, *([] if "--amqp-url" in args else ["--amqp-url", vhost])]
        result = await asyncio.to_thread(runner.invoke, app, given, catch_exceptions=False)
        assert code is None or result.exit_code == code, result.output
        return result

    return run


async def declared(url: str, **arguments: Any) -> None:
    """The consumer's queue."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(QUEUE, durable=True, arguments=arguments)


async def ready(channel: AbstractChannel) -> int:
    """How many messages are in the queue."""
    return (await channel.declare_queue(QUEUE, passive=True)).declaration_result.message_count or 0


async def arrived(url: str) -> list[int]:
    """Positions of all that is in the queue."""
    found = []
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        ready = await channel.declare_queue(QUEUE, passive=True)
        while (message := await ready.get(fail=False, no_ack=True)) is not None:
            found += [int(event["sequence"]) for event in json.loads(message.body)]
    return found


async def test_an_error_without_a_name_of_its_own_keeps_the_place(
    replay: Replay, vhost: str, store: EventStore, database: str
) -> None:
    """Whatever PostgreSQL says in the middle of a replay: the error says from where to go on."""
    await declared(vhost)
    half = PAGE_EVENTS // 2
    for stream in ("a-1", "a-2", "a-3"):
        events = [EventData("E", n, correlation_id=str(n)) for n in range(half)]  # each a message of its own
        last = await store.append_to_stream(stream, ANY_VERSION, events)
    connection = await asyncpg.connect(database)
    for setting in ("enable_seqscan", "enable_bitmapscan"):  # a page is read in order, and no further than it goes
        await connection.execute(f"ALTER DATABASE {urlsplit(database).path[1:]} SET {setting} = off")
    await connection.execute(f"""
        CREATE FUNCTION eventstore.readable(place bigint) RETURNS boolean LANGUAGE plpgsql AS $$
            BEGIN
                IF place > {last.first_position} THEN
                    RAISE io_error USING MESSAGE = 'could not read block 7';
                END IF;
                RETURN true;
            END $$;
        ALTER TABLE eventstore.events RENAME TO all_events;
        CREATE VIEW eventstore.events AS SELECT * FROM eventstore.all_events WHERE eventstore.readable(position)""")
    await connection.close()
    args = ["--to", QUEUE, "--to-position", str(last.last_position), "--json"]
    error = json.loads((await replay(*args, code=1)).stderr)
    assert error["message"].startswith("PostgreSQL failed (58030): could not read block 7")
    assert 0 < error["next"] <= last.first_position
    assert 0 < error["events"] <= 2 * half


async def test_it_says_what_it_did(replay: Replay, last: int, vhost: str, store: EventStore) -> None:
    """For people in a sentence; for programs in one object; and so it was."""
    await declared(vhost)
    result = await replay("--to", QUEUE)
    safe = await store.safe_position()
    assert result.stdout == f"replayed 40 events in 40 messages to 'heal', up to position {safe}\n"
    every = await arrived(vhost)
    assert every == [event.position for event in await store.read_all_streams_forward()]
    between = ["--from", str(every[10]), "--to-position", str(every[20])]
    result = await replay("--to", QUEUE, *between, "--category", "order", "--type", "Made", "--json")
    told = json.loads(result.stdout)
    UUID(told.pop("replay"))
    assert told == {"queue": QUEUE, "events": 6, "messages": 6, "position": every[20]}
    assert await arrived(vhost) == every[10:21:2]


@pytest.mark.every_rabbitmq
async def test_what_the_queue_has_lost_again_is_no_success(replay: Replay, vhost: str, last: int) -> None:
    """A queue that confirms all and drops its oldest messages gives exit code 1, the counts, and the advice to replay
    from the start again."""
    await declared(vhost, **{"x-max-length": 15})
    error = json.loads((await replay("--to", QUEUE, "--json", code=1)).stderr)
    assert (error["error"], error["queue"], error["sent"], error["found"]) == ("MessagesLost", QUEUE, 40, 15)
    assert "next" not in error


@pytest.mark.every_rabbitmq
@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
async def test_every_kind_of_queue_can_be_replayed_to(replay: Replay, vhost: str, last: int, kind: str) -> None:
    """The confirmed messages are found in the queue, beside those that were there before."""
    await declared(vhost, **{"x-queue-type": kind})
    for _ in range(2):
        await replay("--to", QUEUE)


async def test_bad_input_is_one_line(replay: Replay, last: int, vhost: str, database: str) -> None:
    """P9: 2 for how it was used, 1 for what cannot be done; nothing is sent, and no password is shown."""
    await declared(vhost)
    used = [
        (),
        ("--to", ""),
        ("--to", QUEUE, "--from", "-1"),
        ("--to", QUEUE, "--from", "x"),
        ("--to", QUEUE, "--from", "5", "--to-position", "4"),
        ("--to", QUEUE, "--category", "order", "--stream", "order-1"),
        ("--to", QUEUE, "--amqp-url", "http://here"),
    ]
    failed = [
        ("--to", "missing"),
        ("--to", QUEUE, "--stream", "missing"),
        ("--to", QUEUE, "--dsn", NOWHERE),
        ("--to", QUEUE, "--amqp-url", "amqp://ann:geheim@127.0.0.1:1/"),
    ]
    for args, code in [*((args, 2) for args in used), *((args, 1) for args in failed)]:
        for more in ((), ("--json",)):
            result = await replay(*args, *more, code=code)
            assert result.stdout == ""
            assert len(result.stderr.splitlines()) == 1, result.stderr
            assert "geheim" not in result.stderr
            assert "go on" not in result.stderr
    refused = json.loads((await replay("--to", "missing", "--json", code=1)).stderr)
    assert (refused["error"], refused["queue"]) == ("QueueNotFound", "missing")
    assert await arrived(vhost) == []


async def test_where_it_stops_it_says_from_where_to_go_on(replay: Replay, last: int, vhost: str) -> None:
    """Doing as the error says, again and again, brings everything in the end."""
    await declared(vhost, **{"x-max-length": 9, "x-overflow": "reject-publish"})
    result = await replay("--to", QUEUE, code=1)
    start = int(re.search(r"events were replayed; go on with --from (\d+)\)$", result.stderr.strip())[1])  # type: ignore[index]
    found = await arrived(vhost)
    while (result := await replay("--to", QUEUE, "--from", str(start), "--json", code=None)).exit_code:
        assert json.loads(result.stderr)["next"] > start
        start = json.loads(result.stderr)["next"]
        found += await arrived(vhost)
    found += await arrived(vhost)
    assert (len(set(found)), max(found)) == (40, last)


async def test_ctrl_c_says_from_where_to_go_on(replay: Replay, store: EventStore, database: str, vhost: str) -> None:
    """Interrupted in the middle, it ends with 130 and the position; what is before that has arrived."""
    await asyncio.gather(*(store.append_to_stream(f"a-{n}", ANY_VERSION, [EventData("Made", n)]) for n in range(2000)))
    every = [event.position async for event in store.stream_all_forward()]
    await declared(vhost)
    async with await aio_pika.connect(vhost) as connection, connection.channel() as channel, Proxy(vhost) as proxy:
        with program(database, "replay", "--to", QUEUE, "--json", "--amqp-url", proxy.url) as process:
            while await ready(channel) <= WINDOW:
                await asyncio.sleep(0.002)  # between two looks
            proxy.stall()
            process.send_signal(signal.SIGINT)
            _, errors = await asyncio.to_thread(process.communicate, timeout=30)
            assert process.returncode == 130
        stopped = json.loads(errors)
        found = await arrived(vhost)
        assert stopped["error"] == "Interrupted"
        assert set(found) >= {position for position in every if position < stopped["next"]}
        await replay("--to", QUEUE, "--from", str(stopped["next"]))
        found += await arrived(vhost)
    assert list(dict.fromkeys(found)) == every


async def test_on_a_terminal_it_shows_how_far_it_is(database: str, vhost: str, last: int) -> None:
    """A bar with the position while it runs, which makes room for the result."""
    await declared(vhost)
    with terminal(database, "replay", "--to", QUEUE, "--amqp-url", vhost) as (process, screen):
        shown = await asyncio.to_thread(shown_on, screen)
        assert process.wait() == 0
    assert re.search(r"position \d+, \d+ events", shown)
    assert "replayed 40 events in 40 messages to 'heal'" in shown
