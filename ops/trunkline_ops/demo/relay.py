"""Runs the relay until it is told to stop."""

import asyncio
import os

from trunkline_ops.demo.leash import told_to_stop
from trunkline_relay import Relay
from trunkline_store import EventStore


async def main() -> None:
    """Runs the relay until it is told to stop."""
    stop = told_to_stop()
    async with EventStore(os.environ["TRUNKLINE_DSN"], application_name="demo relay") as store:
        relay = Relay(store, os.environ["TRUNKLINE_AMQP_URL"])
        running = asyncio.create_task(relay.run())
        await stop.wait()
        relay.stop()
        await running


if __name__ == "__main__":
    asyncio.run(main())
