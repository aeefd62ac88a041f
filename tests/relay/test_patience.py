"""A queue that refuses holds the others up for so long, and no longer."""

from uuid import uuid4

import aio_pika
from prometheus_client import generate_latest
from prometheus_client.samples import Sample

from tests.relay.plain import append, plain, recorded
from tests.whole.flow import relay_running
from trunkline_relay.confirms import GivenUp, Window
from trunkline_relay.metrics import Registry
from trunkline_relay.patience import Patience
from trunkline_store import EventStore


def test_patience_ends_once_and_returns_after_a_long_calm() -> None:
    """P9: refusals are borne for `seconds` from the first on, then given up at once, until none has come for ten times
    as long; one refusal now and then never uses it up."""
    patience = Patience(30)
    assert [patience.refused(now) for now in (100, 110, 129, 130, 131, 400)] == [False] * 3 + [True] * 3
    assert patience.lost(700)
    assert not patience.lost(701)
    assert [patience.refused(now) for now in (701, 732, 763, 794)] == [False] * 4
    assert Patience(0).refused(1), "none at all"
    short = Patience(0.2)
    assert [short.refused(now) for now in (0, 5)] == [False, True], "the relay waits for longer between two tries"


def test_what_is_given_up_is_passed_and_a_late_confirm_of_it_changes_nothing() -> None:
    """The position goes on past what was given up, never past what is outstanding, and names each message once."""
    window = Window(0)
    for n in range(1, 6):
        window.sent(n * 10, n * 10, "k", at=float(n))
    window.ack(2)
    assert [sent.tag for sent in window.give_up_older(3.0)] == [1, 3]
    assert window.position == 30
    assert window.ack(1) == []
    assert window.give_up(3, multiple=True) == []
    assert [sent.tag for sent in window.ack(5, multiple=True)] == [4, 5]
    assert (window.position, len(window)) == (50, 0)


def test_what_was_given_up_is_told_with_the_position_that_passes_it() -> None:
    """Not before: it would be sent again, by another relay. And once."""
    window = Window(0)
    for n in range(1, 6):
        window.sent(n * 10 + 5, n * 10, "k")
    window.give_up(2)
    window.give_up(3)
    window.give_up(5)
    assert window.passed(window.position) is None
    window.ack(1)
    assert window.passed(window.position) == GivenUp(20, 35, 2)
    window.noted(35)
    assert window.passed(35) is None
    window.ack(4)
    assert window.passed(window.position) == GivenUp(50, 55, 1)


async def test_a_queue_that_always_refuses_does_not_stop_the_others(
    store: EventStore, database: str, vhost: str
) -> None:
    """P9: after the patience the relay goes on past what is refused, records that, and counts it."""
    async with plain(vhost, "#") as other, await aio_pika.connect(vhost) as connection, connection.channel() as channel:
        full = await channel.declare_queue(
            "full", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await full.bind("eventstore", "a.#")
        async with relay_running(database, vhost, patience=0.5) as relay:
            positions = [p for n in range(60) for p in await append(store, f"{'ab'[n % 2]}-1", "E")]
            await recorded(store, positions[-1])
            counted = {s.name: s.value for s in samples(relay.metrics.registry)}
    assert list(dict.fromkeys(other.positions)) == positions
    assert counted["trunkline_relay_skipped_total"] >= 25
    assert counted["trunkline_relay_refused_total"] > counted["trunkline_relay_skipped_total"]
    assert counted["trunkline_relay_position"] == positions[-1]
    [(_, first, last, messages)] = await store.fetch(store.sql["given_up"], "relay")
    assert (first, last) == (positions[2], positions[-2]), "the first message found room"
    assert messages == counted["trunkline_relay_skipped_total"]


async def test_what_was_given_up_is_counted_once_by_the_hour(store: EventStore) -> None:
    """Written with the position, by the leader alone; said again, since an answer was lost, it is not counted again."""
    owner = uuid4()
    assert await store.fetchval(store.sql["fence_relay"], "relay", owner, 1, 0, store.history) == 0

    async def record(epoch: int, position: int, first: int, last: int, messages: int) -> None:
        query = store.sql["record_relay"]
        await store.fetch(query, "relay", owner, epoch, position, store.history, first, last, messages)

    await record(1, 40, 20, 30, 2)
    await record(1, 40, 20, 30, 2)
    await record(0, 70, 60, 70, 9)
    await record(1, 90, 0, 0, 0)
    await record(1, 99, 95, 97, 3)
    await record(1, 120, 95, 110, 7)  # the last answer was lost, and more was given up
    rows = await store.fetch(store.sql["given_up"], "relay")
    assert sum(row["messages"] for row in rows) >= 5, "an hour may have begun meanwhile"
    assert (rows[0]["first_position"], rows[-1]["last_position"]) == (20, 110)


def samples(registry: Registry) -> list[Sample]:
    """All that a relay counts."""
    return [sample for family in registry.registry.collect() for sample in family.samples]


def test_the_names_of_the_metrics() -> None:
    """Dashboards and alarms are made of them: a changed name is a decision."""
    names = [
        line.split()[2:] for line in generate_latest(Registry().registry).decode().splitlines() if "# TYPE" in line
    ]
    kinds = {name.removeprefix("trunkline_relay_"): kind for name, kind in names if not name.endswith("_created")}
    assert kinds == {
        **dict.fromkeys(["position", "safe_position", "lag_events", "lag_seconds", "holder_seconds"], "gauge"),
        **dict.fromkeys(["leader", "connected", "blocked"], "gauge"),
        **dict.fromkeys(
            [f"{n}_total" for n in ("published", "confirmed", "unroutable", "refused", "skipped")], "counter"
        ),
        **dict.fromkeys([f"{n}_total" for n in ("retries", "broker_faults", "database_faults")], "counter"),
        **dict.fromkeys(["batch_events", "confirm_seconds"], "histogram"),
    }
