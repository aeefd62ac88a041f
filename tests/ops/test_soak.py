import asyncio
import json
import os
import sys
from array import array
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from trunkline_ops.servers import PostgresServer, RabbitMQServer
from trunkline_ops.soak.audit import ONCE, Figures, Findings, audit
from trunkline_ops.soak.forger import FORGED
from trunkline_ops.soak.plain import SUBSCRIBER
from trunkline_ops.soak.schedule import KINDS, PROMOTION, TAKE_AWAY, Fault, schedule
from trunkline_ops.soak.stage import TABLES
from trunkline_ops.soak.story import EVERYBODY, Standing, stalled
from trunkline_store import ANY_VERSION, EventData, EventStore

NO_SERVERS: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}


@pytest.fixture
def shared(postgres: PostgresServer, rabbitmq: RabbitMQServer) -> dict[str, str]:
    """The environment of a soak that leaves servers alone: it is to use those of this run."""
    return {
        **NO_SERVERS,
        "TRUNKLINE_DSN": postgres.dsn,
        "TRUNKLINE_AMQP_URL": rabbitmq.amqp_url,
        "TRUNKLINE_MANAGEMENT_URL": rabbitmq.management_url,
    }


async def soak(*arguments: str, environment: Mapping[str, str]) -> tuple[int | None, list[str], str]:
    """Exit code, lines of standard output, standard error of a soak."""
    command = [sys.executable, "-m", "trunkline_ops.soak", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment)
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode, out.decode().splitlines(), err.decode()


@pytest.mark.timeout(1200)
async def test_a_soak_survives_everything_and_says_so() -> None:
    """Programs, networks, queues and servers fail for a while: committed is confirmed is handled, effects are events,
    in order; the last line of the output holds the audit."""
    code, out, err = await soak("--minutes", "0.2", "--rate", "40", "--seed", "8", "--json", environment=NO_SERVERS)
    assert code == 0, err
    figures: dict[str, Any] = json.loads(out[-1])
    assert tuple(figures) == Figures._fields
    assert figures["committed"] == figures["confirmed"] == figures["handled"] > 100
    assert figures["lost"] == figures["out_of_order"] == figures["wrong_effects"] == 0
    assert figures["faults"] > 5
    assert (figures["seed"], figures["ok"]) == (8, True)


@pytest.mark.timeout(1200)
async def test_each_of_these_faults_is_met() -> None:
    """The audit counts each fault and finds nothing lost: a broker's address that accepts and closes, relays that
    return to a backlog, forged and damaged messages, a crash after a rollback, and a promotion while the old primary
    still answers. It reports the event loops and the language."""
    kinds = ("hang up", "backlog", "forge", "damage", "purge replay", "roll back")
    only = [word for kind in (*kinds, PROMOTION) for word in ("--only", kind)]
    code, out, err = await soak(
        *("--minutes", "0.2", "--rate", "40", "--seed", "11", "--loop", "mix", "--language", "de", "--json", *only),
        environment=NO_SERVERS,
    )
    assert code == 0, err
    figures = json.loads(out[-1])
    assert figures["met"].keys() == {*kinds, PROMOTION}
    assert figures["loop"] == "mix"
    assert figures["language"] in ("de", "en")  # where there is no translation, that is said


@pytest.mark.skipif("TRUNKLINE_TEST_FULL" not in os.environ, reason="it takes two minutes: ops/test --full")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("without", "wrong", "rate"), [("checkpoint-guard", "wrong_effects", "250"), ("hole-detection", "lost", "100")]
)
async def test_without_a_guard_the_soak_fails(shared: dict[str, str], without: str, wrong: str, rate: str) -> None:
    """The controls: owners are paused, some past their lease, some while their queue overflows. Without the guard
    effects come twice, without the detection of holes events are lost; and the audit sees it. If it did not, a soak
    would show nothing."""
    arguments = ("--minutes", "1", "--rate", rate, "--seed", "3", "--only", "pause owner", "--without", without)
    code, out, err = await soak(*arguments, "--json", environment=shared)
    assert code == 1, err
    figures = json.loads(out[-1])
    assert figures[wrong] > 0, err
    assert not figures["ok"]


@pytest.mark.timeout(900)
async def test_owners_are_killed_one_after_the_other(shared: dict[str, str]) -> None:
    """As many as one likes, each while it works; effects are the events all the same, exactly."""
    code, out, err = await soak("--kills", "8", "--rate", "40", "--seed", "5", "--json", environment=shared)
    assert code == 0, err
    figures = json.loads(out[-1])
    assert figures["kills"] >= 8
    assert figures["committed"] == figures["handled"] > 0
    assert (figures["lost"], figures["wrong_effects"], figures["crashes"]) == (0, 0, 0), err


@pytest.mark.parametrize(
    "arguments",
    [("--only", "rain"), ("--without", "luck"), ("--minutes", "0"), ("--kills", "0"), ("--seed", "x"), ("--loop", "x")],
)
async def test_a_mistake_on_the_command_line_is_told_in_one_line(arguments: tuple[str, ...]) -> None:
    """P9: it ends with 2, before any server is started."""
    code, out, err = await soak(*arguments, environment=NO_SERVERS)
    assert (code, out) == (2, [])
    assert err.startswith("soak: ")
    assert err.count("\n") == 1


def faults_of(seed: int, *only: str) -> list[Fault]:
    subscriptions = list(EVERYBODY.subscribers)
    return list(
        schedule(
            seed,
            600,
            lease=2.0,
            actors=["writer-1", "relay-1"],
            subscriptions=subscriptions,
            consumers=[*subscriptions, SUBSCRIBER],
            only=only,
        )
    )


def test_a_seed_stands_for_its_faults() -> None:
    """The same ones again for the same seed, others for another; every kind comes, or only those that are wanted."""
    faults = faults_of(1)
    assert faults == faults_of(1)
    assert faults != faults_of(2)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults if fault.at < 600)
    assert {fault.kind for fault in faults_of(1, "purge", "cut")} == {"purge", "cut"}
    for fault in faults:
        shortest, longest = KINDS[fault.kind].leases
        assert 2 * shortest <= fault.seconds <= 2 * longest
        assert (fault.kind in TAKE_AWAY) <= (fault.target in ("postgres", "rabbitmq"))


def test_who_stands_still_is_behind_and_makes_no_progress() -> None:
    """A stall begins where a subscription was last seen to move, and ends when it moves, or there is nothing to do."""
    before: dict[str, tuple[int, float]] = {}

    def look(last: int, checkpoint: int, now: float) -> float:
        return stalled(before, Standing(last, 0, 0, {"s": checkpoint, "idle": last}), now)

    assert look(10, 10, 0.0) == 0
    assert look(10, 10, 9.0) == 0, "there is nothing to do"
    assert look(20, 10, 10.0) == 1.0
    assert look(20, 10, 14.0) == 5.0
    assert look(20, 15, 15.0) == 6.0, "until it moved it stood still"
    assert look(20, 20, 16.0) == 1.0
    assert look(20, 20, 99.0) == 0


@pytest_asyncio.fixture
async def audited(store: EventStore) -> AsyncIterator[EventStore]:
    """A store where all is well: three events in each of two streams, confirmed, and handled by everybody."""
    async with store.acquire() as connection:
        await connection.execute(TABLES)
    for _ in range(3):
        for stream in ("a", "b"):
            await store.append_to_stream(stream, ANY_VERSION, [EventData("T", None)])
    await store.fetch(
        "INSERT INTO eventstore.relays (name, position) SELECT 'relay', max(position) FROM eventstore.events"
    )
    for name in (*EVERYBODY.subscribers, SUBSCRIBER):
        await store.fetch(
            "INSERT INTO soak.effects (subscriber, position, stream, stream_version, pid) "
            "SELECT $1, position, stream, stream_version, 1 FROM eventstore.events "
            "JOIN eventstore.streams USING (stream_id) ORDER BY position",
            name,
        )
    yield store


async def found(store: EventStore, told: tuple[int, ...] = ()) -> Findings:
    positions = [event.position for event in await store.read_all_streams_forward()]
    ranges = array("q", told or (positions[0], positions[0], positions[4], positions[4]))
    return await audit(store, EVERYBODY.subscribers, {"writer-1": ranges}, plain=True)


_THIRD = "position = (SELECT position FROM eventstore.events ORDER BY position OFFSET 2 LIMIT 1)"
_SWAPPED = """
    UPDATE soak.effects AS s
    SET position = e.position, stream = e.stream, stream_version = e.stream_version
    FROM soak.effects AS e
    WHERE s.subscriber = $1 AND e.subscriber = $1
      AND (s.stream, s.stream_version, e.stream, e.stream_version) IN (('a', 2, $2, $3), ($2, $3, 'a', 2))
"""
_AGAIN = """
    INSERT INTO soak.effects (subscriber, position, stream, stream_version, pid)
    SELECT subscriber, position, stream, stream_version, 2 FROM soak.effects WHERE subscriber = $1
"""


async def test_the_audit_finds_nothing_where_all_is_well(audited: EventStore) -> None:
    """Everything is counted once, and there is nothing to say."""
    counts, details = await found(audited)
    assert details == []
    assert counts == {
        "committed": 6, "confirmed": 6, "handled": 6,
        "lost": 0, "out_of_order": 0, "wrong_effects": 0, "duplicates": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", EVERYBODY.subscribers)
async def test_the_audit_finds_what_a_subscriber_lost(audited: EventStore, name: str) -> None:
    """An event in the middle has no effect: it is said whose, and where."""
    await audited.fetch(f"DELETE FROM soak.effects WHERE subscriber = $1 AND {_THIRD}", name)
    counts, details = await found(audited)
    assert (counts["lost"], counts["handled"], len(details)) == (1, 5, 1)
    assert details[0].startswith(f"{name}: 1 lost, at [")


async def test_the_audit_lets_a_plain_consumer_miss_what_it_has_seen_to_be_missing(audited: EventStore) -> None:
    """Without a hole, what is missing is lost; with one, it is to be had by a replay; and then all is well."""
    await audited.fetch(f"DELETE FROM soak.effects WHERE subscriber = $1 AND {_THIRD}", SUBSCRIBER)
    assert (await found(audited)).counts["lost"] == 2
    await audited.fetch(f"INSERT INTO soak.holes SELECT position - 1, position FROM eventstore.events WHERE {_THIRD}")
    assert (await found(audited)).counts["lost"] == 1
    await audited.fetch(
        "INSERT INTO soak.effects (subscriber, position, stream, stream_version, pid, replayed) "
        f"SELECT $1, position, 'a', 2, 1, true FROM eventstore.events WHERE {_THIRD}",
        SUBSCRIBER,
    )
    assert (await found(audited)).details == []


@pytest.mark.parametrize(
    ("name", "stream", "version", "out_of_order"),
    [
        ("plain", "b", 2, 1),
        ("tx", "b", 2, 1),
        (SUBSCRIBER, "b", 2, 1),
        ("concurrent", "b", 2, 0),
        ("parking", "a", 3, 1),
    ],
)
async def test_the_audit_knows_which_order_is_promised(
    audited: EventStore, name: str, stream: str, version: int, out_of_order: int
) -> None:
    """Two events come in the wrong order: of two streams, which only those see that handle one stream after the other;
    of one stream, which everybody sees."""
    await audited.fetch(_SWAPPED, name, stream, version)
    assert (await found(audited)).counts["out_of_order"] == out_of_order


@pytest.mark.parametrize(
    ("name", "wrong"), [("plain", 0), (SUBSCRIBER, 0), ("tx", 6), ("concurrent", 6), ("parking", 6)]
)
async def test_the_audit_knows_who_may_handle_something_twice(audited: EventStore, name: str, wrong: int) -> None:
    """Whose effects are in the checkpoint's transaction may not; for others it is a duplicate, and no fault."""
    await audited.fetch(_AGAIN, name)
    counts, details = await found(audited)
    assert (counts["wrong_effects"], counts["duplicates"]) == (wrong, 6 - wrong)
    assert bool(details) == bool(wrong)


@pytest.mark.parametrize("name", EVERYBODY.subscribers)
async def test_the_audit_finds_forged_effects_where_a_transaction_excludes_them(audited: EventStore, name: str) -> None:
    """A handler without a transaction may receive forged events, which is no fault; a handler with one must have no
    effect of them. The real event at a forged event's position counts as lost if it was not handled."""
    row = "INSERT INTO soak.effects (subscriber, position, stream, stream_version, pid) VALUES ($1, $2, $3, 1, 1)"
    await audited.fetch(row, name, 99 * 1024, FORGED)
    assert (await found(audited)).counts["wrong_effects"] == (name in ONCE)
    first = (await audited.read_all_streams_forward())[0].position
    await audited.fetch(
        "UPDATE soak.effects SET position = $2 WHERE subscriber = $1 AND stream = $3", name, first, FORGED
    )
    await audited.fetch("DELETE FROM soak.effects WHERE position = $1 AND stream <> $2", first, FORGED)
    assert f"{name}: 1 lost, at [{first}]" in (await found(audited)).details


async def test_the_audit_finds_effects_of_nothing(audited: EventStore) -> None:
    """Of an append that was rolled back, say."""
    await audited.fetch(
        "INSERT INTO soak.effects (subscriber, position, stream, stream_version, pid) VALUES ('tx', 999999, 'a', 4, 1)"
    )
    assert (await found(audited)).counts["wrong_effects"] == 1


async def test_the_audit_believes_the_writers_and_not_the_relay(audited: EventStore) -> None:
    """What a writer was told is committed and is not there is lost; so is what is not confirmed."""
    assert (await found(audited, (7, 9))).counts["lost"] == 3
    await audited.fetch("UPDATE eventstore.relays SET position = position - 1")
    counts, _ = await found(audited)
    assert (counts["lost"], counts["confirmed"]) == (1, 5)
