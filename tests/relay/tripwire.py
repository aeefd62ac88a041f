"""A relay in a process of its own that stands still at a named point, until it is told to go on.

python -m tests.relay.tripwire DSN AMQP_URL LEASE POINT TIMES: the real one, which prints "tripped" when it comes to the
point for the given time, and stops there with all that it does, until it reads a line.
"""

import asyncio
import logging
import sys
from typing import Any

import structlog

from tests.tripwire import Tripwire
from trunkline_relay import run
from trunkline_relay.publish import Publisher
from trunkline_relay.tail import Tail
from trunkline_store import EventStore

POINTS = ("before read", "after read", "after publish", "before confirm", "before record")


wire = Tripwire()


class TrippingTail(Tail):
    async def _page(self, start: int, safe: int) -> Any:
        wire.at("before read")
        page = await super()._page(start, safe)
        wire.at("after read")
        return page


class TrippingPublisher(Publisher):
    async def publish(self, messages: Any) -> None:
        await super().publish(messages)
        wire.at("after publish")

    async def _on_confirm(self, frame: Any) -> None:
        wire.at("before confirm")
        await super()._on_confirm(frame)


class TrippingRelay(run.Relay):
    async def _record_once(self, lease: Any, window: Any) -> int:
        wire.at("before record")
        return await super()._record_once(lease, window)


async def main(dsn: str, url: str, lease: str, point: str, times: str) -> None:
    wire.point, wire.times = point, int(times)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    run.Tail, run.Publisher = TrippingTail, TrippingPublisher  # type: ignore[attr-defined]
    async with EventStore(dsn) as store:
        await TrippingRelay(store, url, lease=float(lease)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
