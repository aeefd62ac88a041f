import asyncio
import datetime as dt
import secrets
import time
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx
import pamqp.frame
import pytest
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from tests.consumer_sdk.test_subscription import ONE_BY_ONE, append, data, take
from tests.whole.flow import relay_running
from trunkline_consumer import Consumer
from trunkline_consumer.receive import Queue, Receiver
from trunkline_ops.servers import RabbitMQServer
from trunkline_store import EventStore

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


async def test_the_body_of_a_message_by_another_exchange_is_not_kept(vhost: str) -> None:
    """A login that may bind the queue can send a prefetch of messages of 128 MiB: while a handler is slow, they take no
    memory. Messages of the bound exchange are kept whole."""
    queue = Queue("store.x", [("store", "#")], max_length=10, max_bytes=10**8, expires=60.0)
    receiver = Receiver(vhost, queue, prefetch=10)
    async with await aio_pika.connect(vhost) as connection, connection.channel() as channel:
        store = await channel.declare_exchange("store", aio_pika.ExchangeType.TOPIC, durable=True)
        await receiver.connect()
        mine = await channel.declare_exchange("mine", aio_pika.ExchangeType.TOPIC)
        await (await channel.get_queue(queue.name, ensure=False)).bind(mine, "#")
        for exchange in (mine, store, channel.default_exchange):
            await exchange.publish(aio_pika.Message(b"x" * 1_000_000), queue.name)
        received = [await receiver.next(20) for _ in range(3)]
        assert [each and (each.exchange, len(each.body)) for each in received] == [
            ("mine", 0), ("store", 1_000_000), ("", 0),
        ]  # fmt: skip
    await receiver.close()


async def publish_undecodable(url: str, exchange: str) -> None:
    """Publish a message with a time in its headers that RabbitMQ accepts, and Python's client cannot decode."""
    when = dt.datetime.fromtimestamp(0x01020304, tz=dt.UTC)
    properties = commands.Basic.Properties(headers={"when": when})
    frames = commands.Basic.Publish(exchange=exchange, routing_key="a.E.a-1"), ContentHeader(0, 1, properties)
    async with await aio_pika.connect(url) as connection:
        transport: Any = connection.transport
        channel = await transport.connection.channel(publisher_confirms=False)
        payload = b"".join(pamqp.frame.marshal(frame, channel.number) for frame in (*frames, ContentBody(b"x")))
        written = asyncio.get_running_loop().create_future()
        assert payload.count(b"T" + 0x01020304.to_bytes(8)) == 1
        payload = payload.replace(b"T" + 0x01020304.to_bytes(8), b"T" + b"\xff" * 8)
        await channel.write_queue.put(ChannelFrame(payload, True, written))
        await written


async def test_a_message_that_cannot_be_decoded_is_got_rid_of(store: EventStore, database: str, vhost: str) -> None:
    """Its queue is deleted after it has ended a few connections, and the subscription is live again. Nothing is lost,
    and the deletion is counted."""
    async with relay_running(database, vhost), Consumer(store, vhost) as consumer:
        async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
            n = 0
            while not subscription.counts.from_queue:
                await append(store, n)
                assert data(await take(subscription)) == [n]
                n += 1
            await publish_undecodable(vhost, "eventstore")
            before = subscription.counts.from_queue
            async with asyncio.timeout(60):
                while not subscription.counts.unreadable or subscription.counts.from_queue == before:
                    await append(store, n)
                    batch = await take(subscription)
                    assert data(batch) == [n]
                    await batch.ack()
                    n += 1
            assert subscription.counts.unreadable == 1
            assert subscription._receiver.generation < 10


@pytest.mark.parametrize("may_declare", [True, False])
async def test_a_subscriber_may_come_before_the_first_relay(
    store: EventStore,
    database: str,
    vhost: str,
    rabbitmq: RabbitMQServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    may_declare: bool,
) -> None:
    """It declares the exchange, or logs once that it is missing. It polls no faster than beside a relay, and is live
    once there is one."""
    monkeypatch.setattr("trunkline_consumer.receive.BIND_SECONDS", 0.2)
    url = urlsplit(vhost)
    user = f"early-{secrets.token_hex(4)}"
    exchange = "eventstore" if may_declare else "eventstore[.].*"
    rights = {"configure": f"^({exchange}|eventstore[.]s)$", "write": ".*", "read": ".*"}
    async with management_of(rabbitmq) as client:
        (await client.put(f"users/{user}", json={"password": "x", "tags": ""})).raise_for_status()
        (await client.put(f"permissions/{url.path[1:]}/{user}", json=rights)).raise_for_status()
        try:
            narrow = url._replace(netloc=f"{user}:x@{url.hostname}:{url.port}").geturl()
            async with Consumer(store, narrow) as consumer:
                async with consumer.subscribe_to_all_streams("s", options=ONE_BY_ONE) as subscription:
                    await append(store, 1)
                    await (await take(subscription)).ack()
                    async with asyncio.timeout(20):
                        while not subscription._receiver.connected:
                            await asyncio.sleep(0.01)  # between two looks
                    await asyncio.sleep(1)  # several tries to bind, if it is refused
                    assert subscription._receiver.connected
                    async with relay_running(database, vhost):
                        n = 2
                        while not subscription.counts.from_queue:
                            await append(store, n)
                            assert data(await take(subscription)) == [n]
                            n += 1
        finally:
            (await client.delete(f"users/{user}")).raise_for_status()
    said = [each.getMessage() for each in caplog.records if each.name == "trunkline.consumer"]
    assert ["start a relay" in line for line in said] == ([] if may_declare else [True]), said


def management_of(rabbitmq: RabbitMQServer) -> httpx.AsyncClient:
    """Return a client of the management API, as the administrator."""
    return httpx.AsyncClient(
        base_url=f"{rabbitmq.management_url}/api", auth=(rabbitmq.user, rabbitmq.password), timeout=30
    )
