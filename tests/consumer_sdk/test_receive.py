import asyncio
import time

import aio_pika

from trunkline_consumer.receive import Queue, Receiver

MOMENTS = 80


async def test_a_connect_can_be_cancelled_at_any_moment(vhost: str) -> None:
    """A cancellation is never swallowed, nor taken for an absent broker: who stops a subscription waits for it."""
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await channel.declare_exchange("store", aio_pika.ExchangeType.TOPIC, durable=True)
    receiver = Receiver(
        vhost, Queue("store.x", [("store", "#")], max_length=10, max_bytes=1000, expires=60.0), prefetch=10
    )
    seconds = 0.0
    for _ in range(3):
        began = time.monotonic()
        await receiver.connect()
        seconds = time.monotonic() - began
        await receiver.close()
    for moment in range(MOMENTS):
        connecting = asyncio.create_task(receiver.connect())
        await asyncio.sleep(seconds * moment / MOMENTS)  # the moments of a connect
        if connecting.cancel():
            await asyncio.wait({connecting})
            assert connecting.cancelled()
        await receiver.close()
