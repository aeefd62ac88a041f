"""`trunkline subscriptions`."""

import asyncio
import json
import os
import sys

import aio_pika
import pytest

from tests.ops.test_cli import shown_on, terminal
from trunkline_consumer import Batch, Consumer
from trunkline_ops.settings import Settings
from trunkline_ops.status import facts, standing
from trunkline_store import EventData, EventStore, SubscriptionHalted


async def trunkline(dsn: str, *arguments: str) -> list[dict[str, object]]:
    """What a command prints with --json."""
    return [json.loads(line) for line in (await printed(dsn, *arguments, "--json")).splitlines()]


async def printed(dsn: str, *arguments: str, code: int = 0) -> str:
    """What it prints; of a failure, on standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.cli", "subscriptions", *arguments, "--dsn", dsn),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == code, errors
    return (errors if code else output).decode()


async def with_parked(store: EventStore, count: int) -> None:
    """A subscription with so many batches that failed, at 10, 20, …, and one that waits behind the last of them."""
    await store.fetch(store.sql["create_subscription"], "s", "$all", 5)
    number = await store.fetchval("SELECT subscription_id FROM eventstore.subscriptions")
    for n in range(1, count + 2):
        waits = n == count + 1
        await store.fetch(
            store.sql["park"], number, n * 10, n * 10, "a-1", "a-1", 0 if waits else 3, None if waits else "E", "trace"
        )


async def test_a_reset_tells_of_the_parked_batches_that_it_forgets(store: EventStore, database: str) -> None:
    """Where there are any, it moves nothing until it is confirmed, by --yes or on a terminal; then it says how many."""
    await with_parked(store, 2)
    told = await printed(database, "reset", "s", "--to", "origin", code=2)
    assert "Move 's' to 0: 3 parked batches forgotten?" in told
    assert "--yes" in told
    with terminal(database, "subscriptions", "reset", "s", "--to", "origin") as (process, screen):
        await asyncio.to_thread(shown_on, screen, until="[y/N]")
        os.write(screen, b"n\n")
        await asyncio.to_thread(shown_on, screen)
        assert process.wait() == 1
    info = await store.subscriptions.get("s")
    assert (info.checkpoint, info.parked) == (5, 3)
    assert await printed(database, "reset", "s", "--to", "9", "--yes") == "s is at 9; 3 parked batches forgotten\n"
    assert (await store.subscriptions.get("s")).parked == 0
    assert await printed(database, "reset", "s", "--to", "8") == "s is at 8\n"


async def test_a_deletion_tells_of_the_parked_batches_that_it_forgets(store: EventStore, database: str) -> None:
    """Nothing is deleted until it is confirmed; then the command says how many batches are forgotten."""
    await with_parked(store, 2)
    told = await printed(database, "delete", "s", code=2)
    assert "Delete 's' with its checkpoint 5 and 3 parked batches?" in told
    assert "--yes" in told
    assert (await store.subscriptions.get("s")).parked == 3
    assert await printed(database, "delete", "s", "--yes") == (
        "s is deleted; 3 parked batches forgotten; its queue is left to expire: no AMQP URL is given\n"
    )
    assert "does not exist" in await printed(database, "delete", "s", code=1)


async def test_programs_are_told_why_a_handler_gave_up_as_an_object(store: EventStore, database: str) -> None:
    """No JSON within a string: so in list, show and status."""
    why = {"position": 7, "attempts": 1, "error": "E", "traceback": "T", "at": "2026-01-01T00:00:00Z"}
    await store.fetch(store.sql["create_subscription"], "s", "$all", 5)
    await store.fetch(store.sql["create_subscription"], "well", "$all", 5)
    await store.fetch("UPDATE eventstore.subscriptions SET halted = $1::text::json WHERE name = 's'", json.dumps(why))
    assert [each["halted"] for each in await trunkline(database, "list")] == [why, None]
    assert (await trunkline(database, "show", "s"))[0]["halted"] == why
    shown = facts(await standing(store, Settings.of(dsn=database)))
    assert [each["halted"] for each in shown["subscriptions"]] == [why, None]


async def test_parked_batches_come_in_pages(store: EventStore, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, a hundred at a time; with --count so many, and from where to go on; 100 for a person."""
    await with_parked(store, 204)
    every = await trunkline(database, "parked", "s")
    assert [each["first_position"] for each in every] == [n * 10 for n in range(1, 206)]
    some = await trunkline(database, "parked", "s", "--from", "25", "--count", "2")
    assert [each["first_position"] for each in some] == [30, 40]
    with terminal(database, "subscriptions", "parked", "s") as (process, screen):
        shown = await asyncio.to_thread(shown_on, screen)
        assert process.wait() == 0
    assert "1000  a-1  3 attempts: E" in shown
    assert "there is more, 205 in all: go on with --from 1010" in shown
    assert [each.first_position for each in await store.subscriptions.parked("s", start=15, count=1)] == [20]


async def test_what_is_asked_of_a_batch_that_is_not_parked_is_an_error(store: EventStore, database: str) -> None:
    """The error says whether none begins there, or whether it waits behind another; nothing is asked of any."""
    await with_parked(store, 1)
    for what, at, said in (
        ("retry", 11, "no parked batch of 's' begins there"),
        ("discard", 11, "no parked batch of 's' begins there"),
        ("retry", 20, "waits behind one of its key"),
    ):
        assert said in await printed(database, what, "s", "--at", str(at), code=1)
    assert [each.wanted for each in await store.subscriptions.parked("s")] == [None, None]
    assert await trunkline(database, "discard", "s", "--at", "20") == [{"name": "s", "wanted": 1}]


async def test_subscriptions_are_shown_moved_and_removed(store: EventStore, database: str) -> None:
    """Listed with their lag, reset, asked about what is parked, and deleted."""
    last = (await store.append_to_stream("a-1", 0, [EventData("E", 1)])).last_position
    await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
    assert [(s["name"], s["behind"], s["state"]) for s in await trunkline(database, "list")] == [("s", 1, "stopped")]
    assert "1 event not handled yet are passed over?" in await printed(
        database, "reset", "s", "--to", "current", code=2
    )
    assert await trunkline(database, "reset", "s", "--to", "current", "--yes") == [
        {"name": "s", "checkpoint": last, "again": 0, "passed_over": 1, "forgotten": 0}
    ]
    assert (await trunkline(database, "show", "s"))[0]["behind"] == 0
    assert await trunkline(database, "parked", "s") == []
    assert await trunkline(database, "retry", "s") == [{"name": "s", "wanted": 0}]
    assert "1 event come again?" in await printed(database, "reset", "s", "--to", "ORIGIN", code=2)
    assert (await trunkline(database, "reset", "s", "--to", "ORIGIN", "--yes"))[0] | {"again": 1} == {
        "name": "s", "checkpoint": 0, "again": 1, "passed_over": 0, "forgotten": 0,
    }  # fmt: skip
    assert (await trunkline(database, "reset", "s", "--to", "Current", "--yes"))[0]["checkpoint"] == last
    deleted = (await trunkline(database, "delete", "s", "--yes"))[0]
    assert (deleted["name"], deleted["forgotten"]) == ("s", 0)
    assert await trunkline(database, "list") == []


async def test_a_person_is_told_why_a_handler_gave_up(store: EventStore, database: str, vhost: str) -> None:
    """Where, when and with which error, whatever the error's text would do to a terminal."""
    position = (await store.append_to_stream("a-1", 0, [EventData("E", 1)])).last_position
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", attempts=1)
        async def handle(batch: Batch) -> None:
            raise OddlyTold

        with pytest.raises(SubscriptionHalted):
            await consumer.run()
    line, why = (await printed(database, "show", "s")).splitlines()
    assert line.startswith("s  $all  halted  at 0, 1 event (")
    assert why.startswith(f"    its handler gave up at position {position} (20")
    assert why.endswith("): the error\\u001b[2J, in two lines: \\u000atwo")


class OddlyTold(Exception):
    """Its text clears the screen."""

    def __repr__(self) -> str:
        return "the error\x1b[2J, in two lines: \ntwo"


async def test_a_deletion_removes_the_queue_too(store: EventStore, database: str, vhost: str) -> None:
    """The command removes the queue as the SDK does, if it knows the broker; if the broker is away, it says that the
    queue is left."""
    await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
    async with await aio_pika.connect(vhost) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("eventstore.s", durable=True)
        assert await printed(database, "delete", "s", "--yes", "--amqp-url", vhost) == "s is deleted\n"
        async with connection.channel() as channel:
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
                await channel.get_queue("eventstore.s")
    await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
    away = "amqp://ann:geheim@127.0.0.1:1/"
    told = await printed(database, "delete", "s", "--yes", "--amqp-url", away)
    assert told.startswith("s is deleted; its queue is left to expire: RabbitMQ cannot be reached")
    assert "geheim" not in told


async def test_what_cannot_be_undone_is_asked_first(store: EventStore, database: str) -> None:
    """A deletion, and a discard of everything parked, do nothing without an answer; a discard of one batch does not
    ask."""
    await with_parked(store, 2)
    assert "Forget 3 parked batches of 's', which will never be handled?" in await printed(
        database, "discard", "s", code=2
    )
    assert "Delete 's'" in await printed(database, "delete", "s", code=2)
    assert [each.wanted for each in await store.subscriptions.parked("s")] == [None] * 3
    assert await trunkline(database, "discard", "s", "--at", "10") == [{"name": "s", "wanted": 1}]
    assert await trunkline(database, "discard", "s", "--yes") == [{"name": "s", "wanted": 3}]


async def test_a_halted_batch_is_skipped_after_a_question(store: EventStore, database: str, vhost: str) -> None:
    """The question says which batch it is and why it failed; any position but the one at which it halted is refused."""
    position = (await store.append_to_stream("a-1", 0, [EventData("E", 1)])).last_position
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("s", attempts=1)
        async def handle(batch: Batch) -> None:
            raise ValueError("poison")

        with pytest.raises(SubscriptionHalted):
            await consumer.run()
    question = f"Skip the batch at {position} in 's', which failed with ValueError('poison')?"
    assert question in await printed(database, "skip", "s", code=2)
    assert f"is not halted at {position + 1}" in await printed(
        database, "skip", "s", "--yes", "--at", str(position + 1), code=1
    )
    assert await trunkline(database, "skip", "s", "--yes") == [
        {"name": "s", "first": position, "last": position, "stream": "a-1", "checkpoint": position}
    ]
    assert "is not halted" in await printed(database, "skip", "s", "--yes", code=1)
