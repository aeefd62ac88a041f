"""`trunkline subscriptions`."""

import asyncio
import json
import sys

import pytest

from trunkline_consumer import Batch, Consumer
from trunkline_store import EventData, EventStore, SubscriptionHalted


async def trunkline(dsn: str, *arguments: str) -> list[dict[str, object]]:
    """What a command prints with --json."""
    return [json.loads(line) for line in (await printed(dsn, *arguments, "--json")).splitlines()]


async def printed(dsn: str, *arguments: str) -> str:
    """What it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.cli", "subscriptions", *arguments, "--dsn", dsn),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_subscriptions_are_shown_moved_and_removed(store: EventStore, database: str) -> None:
    """Listed with their lag, reset, asked about what is parked, and deleted."""
    last = (await store.append_to_stream("a-1", 0, [EventData("E", 1)])).last_position
    await store.fetch(store.sql["create_subscription"], "s", "$all", 0)
    assert [(s["name"], s["behind"], s["state"]) for s in await trunkline(database, "list")] == [("s", 1, "stopped")]
    assert await trunkline(database, "reset", "s", "--to", "current") == [{"name": "s", "checkpoint": last}]
    assert (await trunkline(database, "show", "s"))[0]["behind"] == 0
    assert await trunkline(database, "parked", "s") == []
    assert await trunkline(database, "retry", "s") == [{"name": "s", "wanted": 0}]
    await trunkline(database, "delete", "s")
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
