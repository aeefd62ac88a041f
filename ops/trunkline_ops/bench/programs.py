"""What runs beside a measure in processes of its own, such as a relay, and how to wait for what becomes of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

from trunkline_ops.bench.lab import Room
from trunkline_ops.demo.processes import Processes
from trunkline_ops.servers import ServerError
from trunkline_store import EventStore

_PATIENCE_SECONDS: Final = 60.0


def programs(room: Room, amqp_url: str) -> Processes:
    """To be entered with `async with`; they end with the bench at the latest, and find the room's servers in their
    environment."""
    passed_on = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    return Processes(passed_on | {"TRUNKLINE_DSN": room.dsn, "TRUNKLINE_AMQP_URL": amqp_url})


async def start_relay(processes: Processes, store: EventStore, *, start_from: str = "origin") -> None:
    """A relay, which publishes what is there and what comes. Returns when it leads."""

    async def leads() -> bool:
        return await store.fetchrow(store.sql["see_relay"], "relay") is not None

    await processes.start("relay", "trunkline_ops.cli", "relay", "--from", start_from)
    await processes.during(until(leads))


async def until(fact: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what other processes do; nobody tells us. Raises `ServerError` when they take too long."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not await fact():  # noqa: ASYNC110 - as said
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise ServerError(f"{fact.__qualname__} did not come true within {_PATIENCE_SECONDS:g} s") from error
