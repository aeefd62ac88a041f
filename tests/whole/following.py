"""A subscriber in its own process, which prints its events: python -m tests.whole.following DSN URL [CONTROL]

It prints the type and position of each event on a line, and acknowledges it. CONTROL takes a guard out of this program.
"""

import asyncio
import sys

from tests.whole.crashing import OPTIONS
from trunkline_consumer import Consumer, subscription
from trunkline_consumer.follow import Follower
from trunkline_store import EventStore


class Remembering(Follower):
    """A follower that, after a look, takes all events up to the safe position as seen."""

    async def _catch_up(self) -> bool:
        found = await super()._catch_up()
        self._tenure.delivered = max(self._tenure.delivered, await self._store.safe_position())
        return found


def remember_safe_position() -> None:
    subscription.Follower = Remembering  # type: ignore[attr-defined]


CONTROLS = {"seen": remember_safe_position}


async def main(dsn: str, url: str, without: str = "") -> None:
    if without:
        CONTROLS[without]()
    async with (
        EventStore(dsn, application_name="following") as store,
        Consumer(store, url) as consumer,
        consumer.subscribe_to_all_streams("following", options=OPTIONS) as followed,
    ):
        async for batch in followed:
            for event in batch:
                print(event.type, event.position, flush=True)
            await batch.ack()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
