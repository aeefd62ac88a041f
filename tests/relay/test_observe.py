"""What an operator sees of a relay: how far it is, who holds it up, whether it is ready."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from structlog.testing import capture_logs

from tests.relay.plain import append, recorded
from tests.whole.flow import relay_running
from trunkline_relay import Relay, metrics, observe
from trunkline_relay.metrics import Metrics, Registry
from trunkline_relay.serve import Server
from trunkline_relay.status import STALLED_SECONDS, UNSEEN_SECONDS, Status
from trunkline_store import EventData, EventStore

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are frequent here."""
    monkeypatch.setattr(observe, "LOOK_SECONDS", 0.05)


@asynccontextmanager
async def seen(dsn: str, url: str, **given: Any) -> AsyncIterator[tuple[Relay, httpx.AsyncClient]]:
    """A relay that runs, and a client of its endpoints."""
    async with EventStore(dsn) as store:
        registry, status = Registry(), Status(store.schema, **given)
        relay = Relay(store, url, lease=2, metrics=Metrics(store.schema, registry), status=status)
        running = asyncio.create_task(relay.run())
        async with Server("127.0.0.1", 0, registry, [status]) as server:
            base = f"http://127.0.0.1:{server.port}"
            async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
                yield relay, client
        relay.stop()
        async with asyncio.timeout(15):
            await running


async def until(client: httpx.AsyncClient, fits: Callable[[int, dict[str, Any]], Any]) -> dict[str, Any]:
    """Waits until `/readyz` says so, and returns what it says of the store."""
    async with asyncio.timeout(30):
        while True:
            response = await client.get("/readyz")
            [found] = response.json()["stores"]
            if fits(response.status_code, found):
                return dict(found)
            await asyncio.sleep(0.02)  # between two looks


async def metric(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).raise_for_status().text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"trunkline_relay_{name}{{"))


async def test_leader_and_standby_are_ready_and_told_apart(store: EventStore, database: str, vhost: str) -> None:
    """Both answer 200, and the body says who leads; either knows how far the store is."""
    async with seen(database, vhost) as (_, one):
        await until(one, lambda code, found: code == 200 and found["role"] == "leader")
        async with seen(database, vhost) as (_, two):
            [position] = await append(store, "a-1", "E")
            await recorded(store, position)
            standby = await until(two, lambda code, found: code == 200 and found["position"] == position)
            assert standby["role"] == "standby"
            assert await metric(two, "leader") == 0
            assert await metric(two, "position") == position
            assert await metric(one, "leader") == 1
            leader = await until(one, lambda code, found: found["position"] == position)
            assert (leader["role"], leader["lag_events"], leader["lag_seconds"]) == ("leader", 0, 0)


async def test_a_leader_that_does_not_move_is_not_ready(store: EventStore, database: str) -> None:
    """While nothing is ahead a relay without a broker is ready; with events ahead it is 503, and the lag is told."""
    async with seen(database, NOWHERE, stalled=0.5) as (_, client):
        await until(client, lambda code, found: code == 200 and found["role"] == "leader")
        await append(store, "a-1", *["E"] * 7)
        found = await until(client, lambda code, _: code == 503)
        assert "no progress" in found["problem"]
        assert found["lag_events"] == 7
        assert await metric(client, "lag_events") == 7
        assert await metric(client, "lag_seconds") > 0


async def test_links_are_something_ahead(store: EventStore, database: str) -> None:
    """A link that is not published is a lag as well."""
    await store.append_to_stream("a-1", 0, [event := EventData("E", 1)])
    await store.link_to_stream("b-1", 0, [event.id])
    async with seen(database, NOWHERE) as (_, client):
        await until(client, lambda _, found: found["lag_events"] == 2)


@pytest.mark.parametrize("prepared", [False, True], ids=["open", "prepared"])
async def test_a_transaction_that_holds_readers_back_is_named(
    store: EventStore, database: str, vhost: str, prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pid, application, login and age in `/readyz` and in one log line, the age in a metric; none once it has ended."""
    monkeypatch.setattr(observe, "HELD_SECONDS", 0.3)
    async with EventStore(database, application_name="the culprit") as other:
        async with seen(database, vhost) as (_, client), other.acquire() as connection:
            with capture_logs() as logs:
                await connection.execute("BEGIN")
                pid = connection.get_server_pid()
                await other.append_to_stream("a-1", 0, [EventData("E", 1)], connection=connection)
                if prepared:
                    await connection.execute(f"PREPARE TRANSACTION 'left over {pid}'")
                await append(store, "b-1", "E")  # a later one, which is not the holder
                found = await until(client, lambda _, found: found["holder"] and found["holder"]["seconds"] > 0.4)
                assert await metric(client, "holder_seconds") > 0.3
                expected = (None, f"left over {pid}") if prepared else (pid, None)
                assert (found["holder"]["pid"], found["holder"]["prepared"]) == expected
                assert found["holder"]["application"] == ("" if prepared else "the culprit")
                assert found["holder"]["login"]
                await connection.execute(f"COMMIT PREPARED 'left over {pid}'" if prepared else "COMMIT")
                await until(client, lambda _, found: found["holder"] is None)
                assert await metric(client, "holder_seconds") == 0
    told = [entry for entry in logs if entry["event"] == "readers held back by an open transaction"]
    assert told, "nothing was logged"
    assert (told[0]["pid"], told[0]["prepared"], told[0]["log_level"]) == (*expected, "warning")


async def test_the_relays_own_login_sees_the_holder(store: EventStore, logins: dict[str, str], vhost: str) -> None:
    """What is observed takes no more rights than the role `relay` has."""
    async with seen(logins["relay"], vhost) as (_, client), store.transaction() as connection:
        await store.append_to_stream("a-1", 0, [EventData("E", 1)], connection=connection)
        found = await until(client, lambda code, found: code == 200 and found["holder"])
        assert found["holder"]["pid"] == connection.get_server_pid()


async def test_a_lag_of_many_is_counted_to_a_bound(store: EventStore, database: str) -> None:
    """P8: what is asked every second costs the same, however far a relay is behind."""
    await store.fetchval(store.sql["fence_relay"], "relay", uuid4(), 1, 0, store.history)
    for n in range(11):
        await append(store, f"a-{n}", *["E"] * 1000)
    row = await store.fetchrow(store.sql["relay_lag"], await store.safe_position(), "relay")
    assert row is not None
    assert row["events"] == 10_000


def test_ready_is_what_moves_or_has_nothing_to_do() -> None:
    """A new leader gets time; a standby is not to blame for a lag; what was seen long ago says nothing."""
    now = 100.0
    status = Status("s", clock=lambda: now)
    assert status.problem == "the database does not answer"
    status.lead(True)
    status.see(5, 9, 3, 1.0, None)
    assert status.problem is None
    now += STALLED_SECONDS + 1
    status.see(5, 9, 3, 1.0, None)
    assert status.problem == "no progress for 16 s"
    assert status.report()["cause"] is None
    status.see(6, 9, 2, 1.0, None)
    assert status.problem is None
    now += STALLED_SECONDS + 1
    status.see(9, 9, 0, 0.0, None)
    now += 1
    status.see(9, 12, 1, 0.0, None)
    assert status.problem is None, "an idle time is not counted"
    now += STALLED_SECONDS
    status.lead(False)
    status.see(9, 12, 1, 0.0, None)
    assert status.problem is None
    assert status.report()["role"] == "standby"
    now += UNSEEN_SECONDS + 1
    assert status.problem == "the database does not answer"
    status.failure = "the schema is gone"
    assert (status.report()["role"], status.report()["ready"]) == ("failed", False)
    assert (status.report()["problem"], status.report()["cause"]) == ("a person is needed", "the schema is gone")


async def test_what_was_seen_is_not_told_for_ever(
    store: EventStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gauges of the store are left out before the first look, when the database has not answered for a while, and when
    the relay has ended; an old lag would stay a lag for ever."""
    monkeypatch.setattr(metrics, "UNSEEN_SECONDS", 0.5)
    names = {f"trunkline_relay_{name}" for name in metrics.SEEN}

    def told(relay: Relay) -> set[str]:
        families = relay.metrics.registry.registry.collect()
        return names & {sample.name for family in families for sample in family.samples}

    async def until_told(relay: Relay, expected: set[str]) -> None:
        async with asyncio.timeout(30):
            while told(relay) != expected:
                await asyncio.sleep(0.02)  # between two looks

    async with EventStore(database) as its:
        relay = Relay(its, NOWHERE, lease=2)
        assert told(relay) == set()
        running = asyncio.create_task(relay.run())
        await until_told(relay, names)
        async with store.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE eventstore.relays IN ACCESS EXCLUSIVE MODE")
            await until_told(relay, set())
        await until_told(relay, names)
        monkeypatch.setattr(metrics, "UNSEEN_SECONDS", 600.0)
        relay.stop()
        await asyncio.wait_for(running, 15)
        assert told(relay) == set()


def test_a_holder_whose_age_is_not_told_is_timed() -> None:
    """Without the right to see others' transactions, its age is at least since it was first seen; it is spoken of
    again only when its age has doubled."""
    watch = observe.HolderWatch()
    row: dict[str, Any] = {"pid": 7, "login": None, "application": "", "prepared": None, "block": 3, "age": None}
    ages = []
    for now in range(100, 160):
        holder = watch.seen(row, now)
        assert holder is not None
        assert holder.seconds is not None
        if watch.due(holder.seconds):
            ages.append(holder.seconds)
    assert ages == [10, 20, 40]
    assert watch.seen(None, 160) is None
    again = watch.seen({**row, "age": 2.5}, 161)
    assert again is not None
    assert (again.seconds, watch.due(2.5)) == (2.5, False)


async def test_a_relay_still_runs_where_nobody_looks(store: EventStore, database: str, vhost: str) -> None:
    """The endpoints are an addition: without them the relay observes itself all the same."""
    async with relay_running(database, vhost) as relay:
        [position] = await append(store, "a-1", "E")
        async with asyncio.timeout(20):
            while relay.status.report()["position"] != position:
                await asyncio.sleep(0.02)  # between two looks
