"""`trunkline subscriptions`."""

import asyncio
import json
import sys

from trunkline_store import EventData, EventStore


async def trunkline(dsn: str, *arguments: str) -> list[dict[str, object]]:
    """What a command prints with --json."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.cli", "subscriptions", *arguments, "--dsn", dsn, "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


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
