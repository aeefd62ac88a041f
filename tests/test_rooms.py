"""What the fixtures promise to the tests that build on them."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import httpx
import pytest

from trunkline_ops.management import Management
from trunkline_ops.servers.proxy import Proxy


async def test_a_database_is_fresh_and_holds_an_empty_store(database: str) -> None:
    """The schema is there, with no event in it."""
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("SELECT count(*) FROM eventstore.events") == 0
        assert await connection.fetchval("SHOW max_prepared_transactions") == "64"
    finally:
        await connection.close()


async def test_a_vhost_is_fresh_and_can_be_managed(vhost: str, management: Management) -> None:
    """What a test does to its broker, the management API shows and undoes, in this vhost only."""
    name = urlsplit(vhost).path.removeprefix("/")
    async with await aio_pika.connect(vhost) as connection:
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        channel = await connection.channel()
        queue = await channel.declare_queue("a/b c", durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b""), queue.name)
        assert [each["name"] for each in await management.queues(name)] == ["a/b c"]
        await management.purge_queue(name, "a/b c")
        assert await queue.get(fail=False) is None
        await management.delete_queue(name, "a/b c")
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await management.queue(name, "a/b c")
        while not await management.close_connections(name):
            await asyncio.sleep(0.1)  # the API hears of a connection a second or more after it was made
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_proxy_makes_the_faults_of_a_network() -> None:
    """It forwards, holds back, cuts and refuses, and afterwards forwards again on the same port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionResetError):
            while data := await reader.read(100):
                writer.write(data)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, Proxy(f"tcp://user:password@{host}:{port}/path") as proxy:
        there = urlsplit(proxy.url)
        assert (there.username, there.password, there.path) == ("user", "password", "/path")

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(there.hostname, there.port)

        reader, writer = await connect()
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"

        proxy.stall()
        writer.write(b"two")
        late_reader, late_writer = await connect()
        late_writer.write(b"new")
        for each in (reader, late_reader):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(each.readexactly(3), 0.1)
        proxy.resume()
        assert await reader.readexactly(3) == b"two"
        assert await late_reader.readexactly(3) == b"new"

        await proxy.cut()
        for each in (reader, late_reader):
            with pytest.raises(ConnectionResetError):
                await each.readexactly(1)
        writer.close()
        late_writer.close()

        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await connect()
        await proxy.accept()
        reader, writer = await connect()
        writer.write(b"end")
        writer.write_eof()
        assert await reader.read() == b"end"
        writer.close()
