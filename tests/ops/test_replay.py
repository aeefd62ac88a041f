"""The command `trunkline replay`, as a person and as a script use it."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import pytest
from typer.testing import CliRunner, Result

from tests.ops.test_cli import NOWHERE, environment, program, shown_on, terminal
from tests.proxy import Proxy
from trunkline_ops.commands import app
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

    async def run(*args: str, code: int = 0) -> Result:
        given = ["replay", *args, *([] if "--amqp-url" in args else ["--amqp-url", vhost])]
        result = await asyncio.to_thread(runner.invoke, app, given, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


async def declared(url: str, **arguments: Any) -> None:
    """The consumer's queue."""
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(QUEUE, durable=True, arguments=arguments)


async def arrived(url: str) -> list[int]:
    """Positions of all that is in the queue."""
    found = []
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        ready = await channel.declare_queue(QUEUE, passive=True)
        while (message := await ready.get(fail=False, no_ack=True)) is not None:
            found += [int(event["sequence"]) for event in json.loads(message.body)]
    return found


async def test_it_says_what_it_did(replay: Replay, last: int, vhost: str, store: EventStore) -> None:
    """For people in a sentence; for programs in one object; and so it was."""
    await declared(vhost)
    result = await replay("--to", QUEUE)
    assert result.stdout == f"replayed 40 events in 40 messages to 'heal', up to position {last}\n"
    every = await arrived(vhost)
    assert every == [event.position for event in await store.read_all_streams_forward()]
    between = ["--from", str(every[10]), "--to-position", str(every[20])]
    result = await replay("--to", QUEUE, *between, "--category", "order", "--type", "Made", "--json")
    assert json.loads(result.stdout) == {"queue": QUEUE, "events": 6, "messages": 6, "position": every[20]}
    assert await arrived(vhost) == every[10:21:2]


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
    """Obeying the error's `--from`, again and again, brings everything in the end."""
    await declared(vhost, **{"x-max-length": 9, "x-overflow": "reject-publish"})
    result = await replay("--to", QUEUE, code=1)
    assert "go on with --from" in result.stderr
    found = await arrived(vhost)
    result = await replay("--to", QUEUE, "--from", str(found[0]), "--json", code=1)
    start = json.loads(result.stderr)["next"]
    while True:
        found += await arrived(vhost)
        result = await asyncio.to_thread(
            CliRunner().invoke,
            app,
            ["replay", "--to", QUEUE, "--from", str(start), "--json"],
            env=environment(None) | {"TRUNKLINE_DSN": _dsn(replay), "TRUNKLINE_AMQP_URL": vhost},
        )
        if result.exit_code == 0:
            break
        start = json.loads(result.stderr)["next"]
    found += await arrived(vhost)
    assert sorted(set(found))[-1] == last
    assert len(set(found)) == 40
