"""What the pictures show: a shop under load, two relays, and subscriptions that are well, late, parked and left."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, NamedTuple

from trunkline_consumer import Batch, Consumer
from trunkline_ops.servers import RabbitMQServer
from trunkline_ops.servers.ports import reserved_ports
from trunkline_store import ANY_VERSION, ORIGIN, EventData, EventStore

_PAUSE: Final = 0.01
"""Between two appends, in seconds."""


class Scene(NamedTuple):
    """Where it takes place: the base URLs of the page and of the management UI, and who logs in there."""

    page: str
    management: str
    user: str
    password: str


@asynccontextmanager
async def scene(rabbitmq: RabbitMQServer, dsn: str) -> AsyncIterator[Scene]:
    """It plays until the block is left. dsn: of a database with an empty store."""
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(reserved_ports(2))
        for port in ports:
            await stack.enter_async_context(_relay(dsn, rabbitmq, port))
        store = await stack.enter_async_context(EventStore(dsn, application_name="shop"))
        consumer = await stack.enter_async_context(Consumer(store, rabbitmq.amqp_url))
        await _left_behind(store, consumer)
        _handlers(consumer)
        for work in (consumer.run(), _write(store)):
            stack.push_async_callback(_ended, asyncio.create_task(work))
        yield Scene(f"http://127.0.0.1:{ports[0]}", rabbitmq.management_url, rabbitmq.user, rabbitmq.password)


@asynccontextmanager
async def _relay(dsn: str, rabbitmq: RabbitMQServer, port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trunkline_ops.cli", "relay", "--listen", str(port)),
        env={
            **os.environ,
            "TRUNKLINE_DSN": dsn,
            "TRUNKLINE_AMQP_URL": rabbitmq.amqp_url,
            "TRUNKLINE_MANAGEMENT_URL": rabbitmq.management_url,
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _until_it_listens(port)
        yield
    finally:
        process.terminate()
        await process.wait()


async def _until_it_listens(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                return writer.close()
            await asyncio.sleep(0.1)


async def _left_behind(store: EventStore, consumer: Consumer) -> None:
    """A subscription that somebody began to follow, and left."""
    await store.append_to_stream("order-1", ANY_VERSION, [EventData("OrderPlaced", {"total": 12})])
    async with consumer.subscribe_to_category("order", "monthly-report", start_from=ORIGIN) as subscription:
        async for batch in subscription:
            await batch.ack()
            return


def _handlers(consumer: Consumer) -> None:
    @consumer.handler("billing", category="order")
    async def bill(batch: Batch) -> None:
        pass

    @consumer.handler("search-index")
    async def index(batch: Batch) -> None:
        await asyncio.sleep(5 * _PAUSE)  # slower than they come

    @consumer.handler("shipping-labels", category="parcel", attempts=1, on_failure="park")
    async def label(batch: Batch) -> None:
        if batch[0].stream.endswith("7"):
            raise ValueError("no such address")


async def _write(store: EventStore) -> None:
    while True:
        number = random.randint(1, 400)
        events = [EventData("OrderPlaced", {"total": 12}), EventData("OrderPaid", {"by": "card"})]
        await store.append_to_stream(f"order-{number}", ANY_VERSION, events)
        if number < 20:
            await store.append_to_stream(f"parcel-{number}", ANY_VERSION, [EventData("ParcelPacked", {"grams": 800})])
        await asyncio.sleep(_PAUSE)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
