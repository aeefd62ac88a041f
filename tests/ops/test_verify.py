"""`trunkline verify`: committed = confirmed = handled, or what is not."""

import asyncio
import json
from itertools import pairwise
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.ops.test_cli import environment, shown_on, terminal
from tests.relay.plain import append, plain, recorded
from tests.whole.flow import Flow, relay_running
from trunkline_ops.commands import app
from trunkline_ops.servers import RabbitMQServer
from trunkline_ops.servers.proxy import Proxy
from trunkline_ops.settings import Settings
from trunkline_ops.verify import run, verify
from trunkline_ops.verify.feeds import Ranges
from trunkline_ops.verify.versions import Gap, Inversion, Versions
from trunkline_store import ANY_VERSION, EventData, EventStore
from trunkline_store.lease import Lease
from trunkline_store.queries import for_store

PARTS = ["store", "versions", "relay"]


@pytest.fixture(autouse=True)
def nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test says: nothing of whoever runs it."""
    for name in environment(None):
        if name.startswith("TRUNKLINE_"):
            monkeypatch.delenv(name, raising=False)


def events(count: int) -> list[EventData]:
    return [EventData("E", n) for n in range(count)]


async def proved(database: str, **given: Any) -> dict[str, dict[str, Any]]:
    """What verify says, by what it looked at; a subscription by its name."""
    async with EventStore(database) as store:
        parts = await verify(store, Settings.of(dsn=database), lambda done, total, words: None, **given)
    return {part.facts.get("name", part.check): {"ok": part.ok, "words": part.sentence, **part.facts} for part in parts}


async def relayed(store: EventStore, position: int) -> None:
    """As a relay leaves it that has confirmed so far, and has stopped."""
    owner = uuid4()
    lease = await Lease.acquire(store, "relay", owner, 5)
    assert lease is not None
    await store.fetch(store.sql["fence_relay"], "relay", owner, lease.epoch, position, store.history)
    await lease.release()


async def subscribed(store: EventStore, name: str, feed: str, checkpoint: int) -> None:
    await store.fetch(store.sql["create_subscription"], name, feed, checkpoint)


async def test_a_flow_that_has_come_to_rest_is_proved(database: str, vhost: str) -> None:
    """Writers, a relay and a subscriber, all real: the figures are those of the tables, and all of them agree."""
    async with Flow(database, vhost) as flow:
        await flow.more(60)
        committed = await flow.finish()
        found = await proved(database, wait=20)
    assert all(part["ok"] for part in found.values()), found
    count = len(committed)
    assert (found["store"]["committed"], found["relay"]["confirmed"], found["flow"]["handled"]) == (count, count, count)
    assert found["store"]["position"] == committed[-1]


async def test_what_rabbitmq_refused_is_not_confirmed(store: EventStore, database: str, vhost: str) -> None:
    """Though the relay's position is past it; until somebody says that it was seen to."""
    full: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    async with plain(vhost, "#"), await aio_pika.connect(vhost) as connection, connection.channel() as channel:
        async with relay_running(database, vhost, patience=0.2):
            queue = await channel.declare_queue("full", durable=True, arguments=full)
            await queue.bind("eventstore", "#")
            positions = [p for _ in range(4) for p in await append(store, "a-1", "E")]
            await recorded(store, positions[-1])
    found = (await proved(database))["relay"]
    assert (found["ok"], found["confirmed"]) == (False, 4)
    assert [(each["messages"], each["first"], each["last"]) for each in found["given_up"]] == [
        (3, positions[1], positions[3])
    ]
    assert f"3 messages between positions {positions[1]} and {positions[3]} RabbitMQ refused" in found["words"]
    assert (await proved(database, given_up_to=positions[2]))["relay"]["ok"] is False
    assert (await proved(database, given_up_to=positions[3]))["relay"]["ok"] is True


async def test_what_is_not_confirmed_or_handled_is_named(store: EventStore, database: str) -> None:
    """By positions, each subscription by its own feed: all, a category, a stream with a link; finished ranges count."""
    first = await store.append_to_stream("a-1", ANY_VERSION, events(3))
    second = await store.append_to_stream("b-1", ANY_VERSION, events(2))
    link = await store.link_to_stream("a-9", ANY_VERSION, await store.read_stream_forward("b-1", count=1))
    await relayed(store, first.last_position)
    await subscribed(store, "everything", "$all", first.first_position)
    await subscribed(store, "category", "$category-b", 0)
    await subscribed(store, "stream", "a-9", second.last_position)
    await subscribed(store, "done", "$all", second.last_position)
    await store.fetch(
        "UPDATE eventstore.subscriptions SET finished = int8multirange(int8range($1, $2, '(]')) "
        "WHERE name = 'everything'",
        first.first_position,
        first.last_position,
    )
    found = await proved(database)
    both = [second.first_position, second.last_position]
    assert [name for name, part in found.items() if not part["ok"]] == ["relay", "category", "everything", "stream"]
    assert (found["store"]["committed"], found["store"]["links"], found["store"]["position"]) == (
        5,
        1,
        link.last_position,
    )
    assert (found["relay"]["confirmed"], found["relay"]["positions"]) == (3, [*both, link.last_position])
    assert (found["everything"]["handled"], found["everything"]["positions"]) == (3, both)
    assert (found["category"]["events"], found["category"]["positions"]) == (2, both)
    assert (found["stream"]["events"], found["stream"]["positions"]) == (1, [link.last_position])
    assert (found["done"]["handled"], found["done"]["missing"]) == (5, 0)
    upto = await proved(database, to=first.last_position)
    assert upto["relay"]["ok"]
    assert (upto["store"]["committed"], upto["everything"]["missing"], upto["category"]["events"]) == (3, 0, 0)


async def test_what_is_parked_is_not_handled(store: EventStore, database: str) -> None:
    """Though the checkpoint is past it."""
    last = await store.append_to_stream("a-1", ANY_VERSION, events(5))
    await relayed(store, last.last_position)
    await subscribed(store, "s", "$all", last.last_position)
    await store.fetch(
        "INSERT INTO eventstore.parked (subscription_id, first_position, last_position, stream, attempts) "
        "VALUES (1, $1, $2, 'a-1', 3)",
        last.first_position + 1,
        last.first_position + 2,
    )
    found = await proved(database)
    assert not found["s"]["ok"]
    assert (found["s"]["handled"], found["s"]["parked"], found["s"]["missing"]) == (3, 2, 0)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM eventstore.events WHERE stream_version = 2", "a-1 lacks version 2"),
        ("DELETE FROM eventstore.events WHERE stream_version = 5", "a-1 says 5 and has 4"),
        ("UPDATE eventstore.streams SET version = 9", "a-1 says 9 and has 5"),
        ("UPDATE eventstore.events SET stream_version = 77 WHERE stream_version = 1", "are out of order"),
        ("DELETE FROM eventstore.streams", "events without a stream"),
    ],
)
async def test_damage_to_the_tables_is_found(damage: str, said: str, store: EventStore, database: str) -> None:
    """Holes, a version that is not the last one, another order, events that no reader gets: as after a disk's fault, or
    somebody's SQL."""
    last = await store.append_to_stream("a-1", ANY_VERSION, events(5))
    await relayed(store, last.last_position)
    assert (await proved(database))["versions"]["ok"]
    await store.fetch("ALTER TABLE eventstore.events DISABLE TRIGGER events_are_immutable")
    await store.fetch("ALTER TABLE eventstore.streams DISABLE TRIGGER USER")
    await store.fetch(damage)
    found = (await proved(database))["versions"]
    assert not found["ok"]
    assert said in found["words"]


async def test_links_that_were_erased_leave_holes_that_are_allowed(store: EventStore, database: str) -> None:
    """A hard delete takes links to its events too; --erased says that this has happened, and it is told what it
    allows: holes, versions at the end, all of a stream."""
    await store.append_to_stream("a-1", ANY_VERSION, events(2))
    await store.append_to_stream("b-1", ANY_VERSION, events(1))
    erased, kept = await store.read_stream_forward("a-1"), await store.read_stream_forward("b-1")
    await store.link_to_stream("hole", ANY_VERSION, [*erased, *kept])
    await store.link_to_stream("end", ANY_VERSION, [*kept, erased[0]])
    last = await store.link_to_stream("all", ANY_VERSION, erased)
    await store.delete_stream("a-1", ANY_VERSION, hard=True)
    await relayed(store, last.last_position)
    found = (await proved(database))["versions"]
    assert not found["ok"]
    assert found["words"].endswith(
        "2 versions are missing: hole lacks versions 1 to 2. end says 2 and has 1; all says 2 and has 0. "
        "if events that were linked were removed for good, use --erased"
    )
    found = (await proved(database, erased=True))["versions"]
    assert found["ok"]
    assert (found["versions_missing"], found["versions_erased"]) == (0, 5)
    assert found["words"].endswith(
        "5 versions are missing, allowed by --erased: hole lacks versions 1 to 2; end says 2 and has 1; "
        "all says 2 and has 0"
    )


async def test_whether_a_stream_has_links_is_found_by_an_index(store: EventStore) -> None:
    """Also where all links are in one stream, so that a table that is read would soon have one, but for the others."""
    await store.fetch(
        "INSERT INTO eventstore.links (feed_position, stream_id, stream_version, position) "
        "SELECT n, 1, n, n FROM generate_series(1, 20000) AS n"
    )
    await store.fetch("ANALYZE eventstore.links")
    query = for_store(run._QUERIES["targets"], "eventstore", "json")
    plan = await store.fetch(f"EXPLAIN {query}", [1, 2, 3])
    assert "links_stream_version" in str(plan)
    assert [row["stream_id"] for row in await store.fetch(query, [1, 2, 3])] == [1]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM eventstore.events WHERE stream_version = 2", "a-1 lacks version 2"),
        ("DELETE FROM eventstore.events WHERE stream_version = 5", "a-1 says 5 and has 4"),
        ("UPDATE eventstore.streams SET version = 1 WHERE stream = 'linked'", "linked says 1 and has 2"),
    ],
)
async def test_what_no_erased_link_explains_is_never_allowed(
    damage: str, said: str, store: EventStore, database: str
) -> None:
    """--erased does not cover a stream that has events and no links, nor versions above what the stream's row says."""
    await store.append_to_stream("a-1", ANY_VERSION, events(5))
    last = await store.link_to_stream("linked", ANY_VERSION, (await store.read_stream_forward("a-1"))[2:4])
    await relayed(store, last.last_position)
    assert (await proved(database, erased=True))["versions"]["ok"]
    await store.fetch("ALTER TABLE eventstore.events DISABLE TRIGGER events_are_immutable")
    await store.fetch(damage)
    found = (await proved(database, erased=True))["versions"]
    assert not found["ok"]
    assert said in found["words"]
    assert "use --erased" not in found["words"]


async def test_a_position_beyond_the_store_is_no_proof(store: EventStore, database: str) -> None:
    """As after a restore of an older backup: what is appended up to there would be taken for confirmed and handled. A
    relay, a checkpoint, a finished range: each is told, and by how much."""
    last = await store.append_to_stream("a-1", ANY_VERSION, events(3))
    safe = await store.safe_position()
    await relayed(store, safe + 5000)
    await subscribed(store, "good", "$all", last.last_position)
    await subscribed(store, "ahead", "$all", safe + 77)
    await subscribed(store, "finished", "$all", last.last_position)
    await store.fetch(
        "UPDATE eventstore.subscriptions SET finished = int8multirange(int8range($1, $2, '(]')) "
        "WHERE name = 'finished'",
        safe + 10,
        safe + 20,
    )
    found = await proved(database)
    assert [name for name, part in found.items() if not part["ok"]] == ["relay", "ahead", "finished"]
    assert [found[name]["beyond"] for name in ("relay", "good", "ahead", "finished")] == [5000, 0, 77, 20]
    assert f"it stands at {safe + 77}, 77 above the safe position" in found["ahead"]["words"]
    assert f"it stands at {safe + 5000}, 5000 above the safe position" in found["relay"]["words"]


async def test_a_checkpoint_without_an_event_is_told(store: EventStore, database: str) -> None:
    """A checkpoint, or the relay's position, at which the store holds no event is reported. It is no error by itself:
    the checkpoint may have been reset to a number, or the event erased."""
    appended = await store.append_to_stream("a-1", 0, events(3))
    last, nowhere = appended.last_position, appended.last_position + 7
    await store.append_to_stream("b-1", 0, events(1))
    linked = await store.link_to_stream("c", 0, [(await store.read_stream_forward("b-1"))[0]])
    await relayed(store, linked.last_position)
    for name, checkpoint in {"none": 0, "good": last, "link": linked.last_position, "nowhere": nowhere}.items():
        await subscribed(store, name, "$all", checkpoint)
    found = await proved(database)
    anchored = [found[name]["anchored"] for name in ("relay", "none", "good", "link", "nowhere")]
    assert anchored == [True, True, True, True, False]
    assert f"it stands at {nowhere}, where the store holds no event" in found["nowhere"]["words"]
    assert "holds no event" not in "".join(found[name]["words"] for name in ("relay", "none", "good", "link"))


async def test_the_proof_of_the_tables_does_not_take_rabbitmq(
    store: EventStore, database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """Where the management API goes away meanwhile, one line says so; everything else is proved all the same."""
    last = await store.append_to_stream("a-1", ANY_VERSION, events(3))
    await relayed(store, last.last_position)
    await subscribed(store, "s", "$all", last.last_position)
    leaving: list[asyncio.Task[None]] = []
    async with Proxy(rabbitmq.management_url) as proxy:
        settings = Settings.of(dsn=database, amqp_url=vhost, management_url=proxy.url)

        def advance(*_: object) -> None:
            leaving.append(asyncio.create_task(proxy.refuse()))

        parts = await verify(store, settings, advance)
    assert [part.check for part in parts] == [*PARTS, "queues", "subscription"]
    assert all(part.ok for part in parts)
    assert "cannot be reached" in parts[3].sentence
    assert parts[4].facts["handled"] == 3


async def test_what_is_not_proved_has_a_problem_in_words(store: EventStore, database: str) -> None:
    """For the relay whether one leads, for a subscription what it does; what is proved has none."""

    async def problems() -> list[str]:
        async with EventStore(database) as own:
            return [part.problem for part in await verify(own, Settings.of(dsn=database), lambda *_: None)]

    last = await store.append_to_stream("a-1", ANY_VERSION, events(3))
    assert await problems() == ["", "", "3 of 3 are not confirmed, and no relay leads: start `trunkline relay`"]
    await relayed(store, last.first_position)
    lease = await Lease.acquire(store, "relay", uuid4(), 600)
    assert lease is not None
    await store.fetch("UPDATE eventstore.relays SET owner = $1, epoch = $2", lease.owner, lease.epoch)
    assert await problems() == ["", "", "2 of 3 are not confirmed, and the relay is behind: give it time by --wait"]
    await lease.release()
    await store.fetch("UPDATE eventstore.relays SET position = $1", last.last_position)
    await subscribed(store, "s", "$all", 0)
    await store.fetch("""UPDATE eventstore.subscriptions SET halted = '{"error": "E"}'""")
    halted = "s has not handled 3 of 3, and is halted: `trunkline subscriptions show` says why"
    assert await problems() == ["", "", "", halted]


async def test_above_the_safe_position_nothing_is_proved(store: EventStore, database: str) -> None:
    """While a transaction is open that has appended, it can still be that something appears there."""
    async with store.transaction() as connection:
        held = await store.append_to_stream("a-1", ANY_VERSION, events(1), connection=connection)
        later = await store.append_to_stream("b-1", ANY_VERSION, events(1))
        await relayed(store, later.last_position)
        found = await proved(database, to=later.last_position)
        assert not found["store"]["ok"]
        assert "a transaction is open" in found["store"]["words"]
    found = await proved(database, to=later.last_position)
    assert found["store"]["ok"]
    assert (found["store"]["committed"], found["relay"]["confirmed"]) == (2, 2)
    assert held.last_position < later.last_position


async def test_pages_do_not_matter(store: EventStore, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders may lie anywhere: within a stream, a block, between events and links."""
    for n in range(7):
        last = await store.append_to_stream(f"a-{n % 3}", ANY_VERSION, events(n % 3 + 1))
        some = await store.read_stream_backward(f"a-{n % 3}", count=1)
        last = await store.link_to_stream("linked", ANY_VERSION, some)
    await relayed(store, last.last_position - 1)
    await subscribed(store, "s", "linked", last.last_position - 1)
    whole = await proved(database)
    assert (whole["relay"]["missing"], whole["s"]["missing"], whole["s"]["handled"]) == (1, 1, 6)
    for size in (1, 2, 3, 5):
        monkeypatch.setattr(run, "PAGE", size)
        assert await proved(database) == whole


ROWS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 50), st.booleans()), unique_by=lambda row: row[:2]
)


@given(rows=ROWS, size=st.integers(1, 4), upto=st.integers(1, 50))
def test_versions_are_judged_as_by_sets(rows: list[tuple[int, int, int, bool]], size: int, upto: int) -> None:
    """However rows are paged: what is missing and what is inverted is what a plain program over sets finds."""
    targets = {row[0] for row in rows if row[3]}
    rows = sorted((stream, version, position, stream in targets) for stream, version, position, _ in rows)
    versions = Versions(upto)
    for start in range(0, len(rows), size):
        versions.take(rows[start : start + size])
    missing = erasable = inverted = 0
    for stream in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == stream and row[2] <= upto]
        lacks = max((row[1] for row in mine), default=0) - len(mine)
        missing, erasable = (missing, erasable + lacks) if stream in targets else (missing + lacks, erasable)
        inverted += sum(b[2] <= a[2] for a, b in pairwise(mine))
    assert (versions.missing, versions.erasable, versions.inverted) == (missing, erasable, inverted)


def test_only_the_first_are_named() -> None:
    """However much is missing, memory holds a few names of it."""
    versions = Versions(10**9)
    versions.take((stream, 2, 1, False) for stream in range(1, 1000))
    assert (versions.missing, len(versions.gaps), versions.gaps[0]) == (999, 20, Gap(1, 1, 1))
    versions = Versions(10**9)
    versions.take((1, version, 1000 - version, False) for version in range(1, 1000))
    assert (versions.inverted, len(versions.inversions), versions.inversions[0]) == (998, 20, Inversion(1, 2, 998))


@given(ranges=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5))), position=st.integers(-1, 60))
def test_a_position_is_in_one_of_the_ranges(ranges: list[tuple[int, int]], position: int) -> None:
    """As in the set of all their numbers; ranges that do not touch."""
    kept: list[tuple[int, int]] = []
    for lower, length in sorted(ranges):
        if not kept or lower >= kept[-1][1]:
            kept.append((lower, lower + length))
    assert (position in Ranges(kept)) == any(lower <= position < upper for lower, upper in kept)


async def test_the_command_fails_with_1_where_it_is_not_so(store: EventStore, database: str) -> None:
    """A line for each part; for programs an object for each; a bar on a terminal."""
    last = await store.append_to_stream("a-1", ANY_VERSION, events(3))
    await relayed(store, last.last_position)
    runner = CliRunner(env=environment(database))

    async def run(*args: str) -> tuple[int, str]:
        result = await asyncio.to_thread(runner.invoke, app, ["verify", *args], catch_exceptions=False)
        assert result.stderr == ""
        return result.exit_code, result.stdout

    code, shown = await run()
    assert (code, shown.splitlines()[-1]) == (0, "committed = confirmed = handled")
    await subscribed(store, "s", "$all", 0)
    code, shown = await run("--json")
    objects = [json.loads(line) for line in shown.splitlines()]
    assert (code, [each["check"] for each in objects]) == (1, [*PARTS, "subscription"])
    assert [each["ok"] for each in objects] == [True, True, True, False]
    code, shown = await run()
    assert shown.splitlines()[-1] == (
        "NOT PROVED: s has not handled 3 of 3, and is followed by nobody: start its program"
    )
    assert code == 1
    assert f"3 are not, it is followed by nobody: {last.first_position}, " in shown
    with terminal(database, "verify", "--to", str(last.last_position)) as (process, screen):
        assert "verifying" in shown_on(screen)
        assert process.wait() == 1
