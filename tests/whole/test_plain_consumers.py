"""The examples of plain consumers, in two languages, against the real broker: what they do is what the relay's README
says that a consumer without the SDK can rely on."""

import asyncio
import json
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest

from tests.whole.flow import relay_running
from trunkline_ops.management import Management
from trunkline_ops.servers.cache import cached, run
from trunkline_ops.servers.ways import Unavailable
from trunkline_relay import Replay
from trunkline_store import ANY_VERSION, EventData, EventStore
from trunkline_store.rights import Role

GUIDE = (Path(__file__).parents[2] / "relay" / "README.md").read_text()
EXAMPLES = Path(__file__).parents[2] / "ops" / "examples"
QUEUE = "billing"


@pytest.fixture(params=["python", "node"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The example of one language, ready to be run."""
    if request.param == "python":
        return [sys.executable, str(EXAMPLES / "plain_consumer.py")]
    if not (node := shutil.which("node")) or not shutil.which("npm"):
        pytest.skip("there is no Node.js with npm here: the example in JavaScript was not run")
    try:
        modules = cached(_name(), _install) / "node_modules"
    except Unavailable as reason:
        pytest.skip(f"npm cannot get amqplib: the example in JavaScript was not run: {reason}")
    shutil.copy(EXAMPLES / "plain_consumer.mjs", tmp_path)  # a module looks for others beside itself
    (tmp_path / "node_modules").symlink_to(modules)
    return [node, str(tmp_path / "plain_consumer.mjs")]


def _name() -> str:
    version = json.loads((EXAMPLES / "package.json").read_text())["dependencies"]["amqplib"]
    return f"amqplib-{version}"


def _install(folder: Path) -> None:
    shutil.copy(EXAMPLES / "package.json", folder)
    run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder))


class Consumer:
    """A running example, and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []

    @property
    def positions(self) -> list[int]:
        return [event["position"] for event in self.events]

    async def read(self) -> None:
        """Its output, as it comes."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        await asyncio.gather(self._events(self.process.stdout), self._words(self.process.stderr))

    async def _events(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            if line.endswith(b"\n"):  # else it was killed in the middle of one
                self.events.append(json.loads(line))

    async def _words(self, errors: asyncio.StreamReader) -> None:
        async for line in errors:
            self.said.append(line.decode().rstrip())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                assert self.process.returncode is None, self.said
                await asyncio.sleep(0.01)  # between two looks


@asynccontextmanager
async def consuming(command: list[str], *args: str) -> AsyncIterator[Consumer]:
    """An example that runs, until it is killed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, *args, stdout=pipe, stderr=pipe, limit=1024 * 1024)
    consumer = Consumer(process)
    reading = asyncio.create_task(consumer.read())
    try:
        yield consumer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def append(store: EventStore, count: int) -> list[int]:
    """Events of two categories, some of them together; returns their positions."""
    found: list[int] = []
    for n in range(count):
        events = [EventData("Made", {"n": n}) for _ in range(n % 3 + 1)]
        appended = await store.append_to_stream(f"{'order' if n % 2 else 'user'}-{n % 5}", ANY_VERSION, events)
        found += range(appended.first_position, appended.last_position + 1)
    return found


async def bound(url: str) -> None:
    """Waits until the example consumes from its queue."""
    async with asyncio.timeout(60), await aio_pika.connect(url) as connection:
        while True:
            with suppress(aio_pika.exceptions.ChannelNotFoundEntity):
                async with connection.channel() as channel:
                    queue = await channel.declare_queue(QUEUE, passive=True)
                    if queue.declaration_result.consumer_count:
                        return
            await asyncio.sleep(0.02)  # between two looks


@pytest.mark.every_rabbitmq
async def test_a_plain_consumer_handles_all_in_order_whatever_happens_to_it(
    command: list[str], store: EventStore, database: str, vhost: str, tmp_path: Path
) -> None:
    """Killed in the middle, with messages that come again, and with a relay that publishes everything once more: every
    event is handled in order, and none again but the one that was not written down."""
    place = str(tmp_path / "place.json")
    async with consuming(command, vhost, QUEUE, place) as first:
        await bound(vhost)
        async with relay_running(database, vhost):
            every = await append(store, 60)
            await first.until(lambda: len(first.events) >= 20)
            first.process.kill()  # in the middle of the rest
            await first.process.wait()
            every += await append(store, 60)
    handled = first.positions
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE eventstore.relays SET position = 0")  # a relay that begins again
    await connection.close()
    async with relay_running(database, vhost), consuming(command, vhost, QUEUE, place) as second:
        every += await append(store, 5)
        await second.until(lambda: every[-1] in second.positions)
    handled += second.positions
    assert list(dict.fromkeys(handled)) == every
    assert len(handled) <= len(every) + 3, "one message, of at most three events, was handled and not written down"
    assert first.said + second.said == []
    assert second.events[-1] == {"position": every[-1], "stream": "user-4", "type": "Made", "data": {"n": 4}}


async def test_a_plain_consumer_believes_no_other_exchange(
    command: list[str], store: EventStore, database: str, vhost: str, tmp_path: Path
) -> None:
    """A login that can bind its queue, but not publish to the store's exchange, sends it the next event, and a replay.
    It skips them, and handles the true event of that position."""
    async with (
        relay_running(database, vhost),
        consuming(command, vhost, QUEUE, str(tmp_path / "place.json")) as consumer,
        await aio_pika.connect(vhost) as connection,
        connection.channel() as channel,
    ):
        await bound(vhost)
        true = await append(store, 1)
        await consumer.until(lambda: consumer.positions == true)
        mine = await channel.declare_exchange("mine", "topic")
        queue = await channel.get_queue(QUEUE, ensure=False)
        await queue.bind(mine, "#")
        spy = await channel.declare_queue(exclusive=True)
        await spy.bind("eventstore", "#")
        true += await append(store, 1)
        await consumer.until(lambda: consumer.positions == true)
        async with asyncio.timeout(60):
            while (caught := await spy.get(no_ack=True, fail=False)) is None:
                await asyncio.sleep(0.02)  # between two looks
        forged: dict[str, Any] = {**caught.headers, "first_position": true[-1] + 1024, "last_position": true[-1] + 1024}
        body = caught.body.replace(b'"sequence"', b'"was"').replace(
            b'"specversion"', b'"sequence":"%d","specversion"' % (true[-1] + 1024)
        )
        place = {"replay_id": "x", "replay_of": "$all", "previous_in_replay": 0, "replay_end": 2**40}
        for headers in (forged, {**forged, "replayed": True, **place}):
            await mine.publish(aio_pika.Message(body, headers=headers), "x.y.z")
        await mine.publish(aio_pika.Message(b""), "x.y.z")
        await consumer.until(lambda: len(consumer.said) == 3)
        assert {said.split(",")[1] for said in consumer.said} == {" which is nobody's: passed over"}
        true += await append(store, 1)
        await consumer.until(lambda: consumer.positions[2:] != [])
        assert consumer.positions == true


@pytest.mark.parametrize("category", [None, "order"])
async def test_a_plain_consumer_sees_a_hole_and_a_replay_fills_it(
    command: list[str],
    category: str | None,
    store: EventStore,
    database: str,
    vhost: str,
    management: Management,
    tmp_path: Path,
) -> None:
    """Its queue is purged while it is away: one comparison shows what is missing, it says how to get it, and obeying
    that to the letter brings exactly that. So it is with what was there before the consumer was."""
    place = tmp_path / "place.json"
    args = (vhost, QUEUE, str(place), *([category] if category else []))
    name = urlsplit(vhost).path.removeprefix("/")
    before = await append(store, 10)
    async with relay_running(database, vhost):
        async with consuming(command, *args) as first:
            await bound(vhost)
            at_first = await append(store, 10)
            wanted = await of(store, category)
            await first.until(lambda: wanted[-1] in first.positions)
        purged = await append(store, 20)
        await published(store, purged[-1])
        await management.purge_queue(name, QUEUE)
        async with consuming(command, *args) as second:
            at_last = await append(store, 10)
            wanted = await of(store, category)
            await second.until(lambda: wanted[-1] in second.positions and bool(second.said))
            assert not {*purged} & {*first.positions, *second.positions}
            for said in first.said + second.said:
                await obey(said, store, vhost, category)
            await second.until(lambda: len(first.events) + len(second.events) >= len(wanted))
    assert sorted(first.positions + second.positions) == wanted
    assert {*before, *at_first, *purged, *at_last} >= {*wanted}
    assert json.loads(place.read_text())[1:] == [wanted[-1], []]


@pytest.mark.parametrize("lost", ["the first", "the middle", "the last"])
async def test_a_replay_that_is_incomplete_fills_no_hole(
    command: list[str], lost: str, store: EventStore, database: str, vhost: str, tmp_path: Path
) -> None:
    """If messages of a replay are lost, its own chain shows it, the hole stays open, and the next, complete replay
    fills it."""
    place, missed = tmp_path / "place.json", await append(store, 12)
    async with relay_running(database, vhost):
        async with consuming(command, vhost, QUEUE, str(place)) as first:
            await bound(vhost)
            seen = await append(store, 1)
            await first.until(lambda: place.exists() and json.loads(place.read_text())[1] == seen[-1])
            await first.until(lambda: bool(first.said))
        async with await aio_pika.connect(vhost) as connection, connection.channel() as channel:
            await obey(first.said[0], store, vhost, None)
            queue = await channel.get_queue(QUEUE)
            messages = []
            while (message := await queue.get(fail=False)) is not None:
                messages.append(message)
            replayed = [message for message in messages if message.headers.get("replayed")]
            assert len(replayed) == 12
            taken = {"the first": replayed[:4], "the middle": replayed[4:8], "the last": replayed[8:]}[lost]
            for message in taken:
                await message.ack()
        async with consuming(command, vhost, QUEUE, str(place)) as second:
            more = await append(store, 1)
            await second.until(lambda: more[-1] in second.positions)
            again = [said for said in second.said if said.startswith("a hole: ")]
            assert bool(again) == (lost != "the last"), "where the last one is lost, nothing comes that could show it"
            (hole,) = json.loads(place.read_text())[2]
            reached = {"the first": 0, "the middle": 4, "the last": 8}[lost]
            assert hole[1] == missed[-1]
            assert hole[0] == (0 if reached == 0 else int(str(replayed[reached - 1].headers["last_position"])))
            end = {"--from": hole[0] + 1, "--to-position": hole[1]}
            words = " ".join(f"{option} {value}" for option, value in end.items())
            await obey(again[-1] if again else f"trunkline replay --to {QUEUE} {words}", store, vhost, None)
            await second.until(lambda: json.loads(place.read_text())[2] == [])
    assert list(dict.fromkeys(sorted(first.positions + second.positions))) == sorted([*missed, *seen, *more])
    assert len(first.positions + second.positions) == len({*first.positions, *second.positions})


async def test_silence_is_told_from_a_lost_binding_by_the_guides_query(
    store: EventStore, database: str, vhost: str, logins: dict[Role, str]
) -> None:
    """Without its binding, a consumer gets no sign of what it misses. The guide's query, run as a reader, shows it, and
    for the consumer's own feed only."""
    [query] = re.findall(r"^    (SELECT max\(e\.position\).*?)\n\n", GUIDE, re.MULTILINE | re.DOTALL)
    reader = await asyncpg.connect(logins["reader"])
    async with relay_running(database, vhost):
        async with await aio_pika.connect(vhost) as connection, connection.channel() as channel:
            queue = await channel.declare_queue(QUEUE)
            await queue.bind(await channel.declare_exchange("eventstore", "topic", durable=True), "order.#")
            seen = (await store.append_to_stream("order-1", ANY_VERSION, [EventData("Made", 1)])).last_position
            await published(store, seen)
            await queue.unbind("eventstore", "order.#")
            other = (await store.append_to_stream("user-1", ANY_VERSION, [EventData("Made", 1)])).last_position
            await published(store, other)
            assert await reader.fetchval(query) == seen, "the store is quiet"
            missed = (await store.append_to_stream("order-1", ANY_VERSION, [EventData("Made", 2)])).last_position
            await published(store, missed)
            assert (await queue.get(fail=False, no_ack=True)) is not None
            assert (await queue.get(fail=False)) is None
            assert await reader.fetchval(query) == missed
    await reader.close()


async def of(store: EventStore, category: str | None) -> list[int]:
    """Positions of all events of the feed."""
    events = store.stream_all_forward() if category is None else store.stream_category_forward(category)
    return [event.position async for event in events]


async def published(store: EventStore, position: int) -> None:
    """Waits until the relay has recorded it."""
    async with asyncio.timeout(60):
        while True:
            row = await store.fetchrow(store.sql["see_relay"], "relay")
            if row is not None and row["position"] >= position:
                return
            await asyncio.sleep(0.01)  # between two looks


async def obey(said: str, store: EventStore, url: str, category: str | None) -> None:
    """Does what the command would do that the consumer has named."""
    words = shlex.split(said.removeprefix("a hole: "))
    assert words[:2] == ["trunkline", "replay"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--to"] == QUEUE
    assert options.get("--category") == category
    await Replay(
        store,
        url,
        QUEUE,
        start=int(options["--from"]),
        end=int(options["--to-position"]),
        category=options.get("--category"),
    ).run()
