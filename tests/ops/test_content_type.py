"""The command line with a store whose data is not JSON."""

import asyncio
import json
from base64 import b64decode

import aio_pika
import msgspec
from typer.testing import CliRunner, Result

from tests.ops.test_cli import environment, program
from trunkline_consumer import Consumer
from trunkline_ops.as_stored import AsStored
from trunkline_ops.commands import app
from trunkline_store import EventData, EventStore

PACKED = "application/msgpack"
DATA = msgspec.msgpack.encode({"total": 12, "note": b"\xff\n"})


def run(database: str, *args: str, code: int = 0) -> Result:
    result = CliRunner(env=environment(database)).invoke(app, [*args, "--schema", "packed"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


async def test_it_goes_the_whole_way(database: str, vhost: str) -> None:
    """From `init` through `relay` and `replay` to a plain consumer, with `read`, `tail` and `subscriptions`: what is no
    JSON is told as base64; only `append`, which takes JSON, refuses."""

    async def told(*args: str, code: int = 0) -> Result:
        return await asyncio.to_thread(run, database, *args, code=code)

    await told("init", "--data-type", "bytea", "--content-type", PACKED)
    async with (
        EventStore(database, schema="packed", serializer=AsStored(PACKED)) as store,
        await aio_pika.connect(vhost) as connection,
        Consumer(store, vhost) as consumer,
    ):
        channel = await connection.channel()
        queue = await channel.declare_queue("plain")
        await queue.bind(await channel.declare_exchange("packed", aio_pika.ExchangeType.TOPIC, durable=True), "#")
        position = (await store.append_to_stream("order-1", 0, [EventData("Placed", DATA)])).last_position
        with program(database, "relay", "--schema", "packed", "--amqp-url", vhost):
            live = await _got(queue)
            async with consumer.subscribe_to_all_streams("billing"):
                listed = await told("subscriptions", "list", "--json")
        assert json.loads(listed.stdout)["name"] == "billing"
        await told("replay", "--to", "plain", "--amqp-url", vhost)
        for message in (live, await _got(queue)):
            [event] = json.loads(message.body)
            assert (event["datacontenttype"], b64decode(event["data_base64"])) == (PACKED, DATA)
    line = json.loads((await told("read", "--json")).stdout)
    assert (line["position"], b64decode(line["data_base64"]), "data" in line) == (position, DATA, False)
    assert b64decode((await told("read", "order-1")).stdout.split()[-1]) == DATA
    with program(database, "tail", "--schema", "packed", "--last", "1") as process:
        assert process.stdout is not None
        assert b64decode(process.stdout.readline().split()[-1]) == DATA
    assert "keeps application/msgpack" in (await told("append", "a-1", "T", code=1)).stderr
    assert (await told("subscriptions", "reset", "billing", "--to", "origin")).stdout == "billing is at 0\n"


async def _got(queue: aio_pika.abc.AbstractQueue) -> aio_pika.abc.AbstractIncomingMessage:
    async with asyncio.timeout(40):
        while (message := await queue.get(no_ack=True, fail=False)) is None:
            await asyncio.sleep(0.02)  # between two looks
        return message


def test_how_data_is_kept_is_for_good(database: str) -> None:
    """What is no media type, or no JSON in a column of JSON, makes no store; one that is there is not changed, and is
    found whatever it keeps."""
    for args, said in (
        (["--content-type", "msgpack"], "use a media type"),
        (["--content-type", ""], "use a media type"),
        (["--content-type", PACKED], "takes data_type bytea"),
        (["--data-type", "jsonb", "--content-type", PACKED], "takes data_type bytea"),
    ):
        for command in ("init", "create"):
            assert said in run(database, command, *args, code=1).stderr
    run(database, "init", "--content-type", "application/vnd.order+json; charset=utf-8", "--data-type", "jsonb")
    assert "cannot be changed" in run(database, "init", "--content-type", "application/json", code=1).stderr
    assert "cannot be changed" in run(database, "init", "--data-type", "bytea", code=1).stderr
    assert "is there already" in run(database, "create").stdout
    assert "is there already" in run(database, "init", "--data-type", "jsonb").stdout
