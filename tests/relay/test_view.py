"""What the status page is told, and whom."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from tests.relay.plain import append
from tests.whole.flow import relay_running
from trunkline_relay import Relay, observe, view
from trunkline_relay.guard import Guard
from trunkline_relay.metrics import Metrics, Registry
from trunkline_relay.page import headers, page
from trunkline_relay.serve import Server
from trunkline_relay.status import Status
from trunkline_relay.view import Broker, View
from trunkline_store import BrokerUnavailable, EventData, EventStore, SubscriptionHalted
from trunkline_store.lease import Lease
from trunkline_store.line import Depth
from trunkline_store.presence import process_name

TOKEN = "s3cret-of-sixteen"
WHOLE = ("standbys", "subscriptions")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are frequent here."""
    monkeypatch.setattr(observe, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(view, "LOOK_SECONDS", 0.05)


@asynccontextmanager
async def served(
    store: EventStore | None, *, broker: Broker | None = None, guard: Guard | None = None
) -> AsyncIterator[tuple[View, httpx.AsyncClient]]:
    """A server of one store's page, and a client of it."""
    registry = Registry()
    shown = View(Status("eventstore"), Metrics("eventstore", registry), broker)
    shown.store = store
    async with Server("127.0.0.1", 0, registry, [shown.status], views=[shown], guard=guard) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as client:
            yield shown, client


async def status(client: httpx.AsyncClient) -> dict[str, Any]:
    [found] = (await client.get("/status.json")).raise_for_status().json()["stores"]
    return dict(found)


async def follow(store: EventStore, name: str, *, feed: str = "$all") -> Lease:
    """As an owner of a subscription leaves its rows."""
    row = await store.fetchrow(store.sql["create_subscription"], name, feed, 0)
    assert row is not None
    lease = await Lease.acquire(store, f"subscription {row['subscription_id']}", uuid4(), 60)
    assert lease is not None
    await store.fetch(store.sql["fence_subscription"], row["subscription_id"], lease.owner, lease.epoch, store.history)
    return lease


async def test_leader_and_standbys_are_named(store: EventStore, database: str, vhost: str) -> None:
    """By host and process; who stands by says so, and is forgotten when it has gone; a new leader is no standby."""
    async with served(store) as (_, client):
        assert (await status(client))["leader"] is None
        async with relay_running(database, vhost):
            leader = (await until(client, lambda found: found["leader"]))["leader"]
            assert (leader["process"], leader["epoch"]) == (process_name(), 1)
            owner = uuid4()
            await store.fetch(store.sql["stand_by"], "relay", owner, "elsewhere:7")
            found = await until(client, lambda found: found["standbys"])
            assert [each["process"] for each in found["standbys"]] == ["elsewhere:7"]
            await store.fetch("UPDATE eventstore.standbys SET seen_at = seen_at - interval '6 s'")
            assert (await until(client, lambda found: not found["standbys"]))["leader"] == leader


async def until(client: httpx.AsyncClient, fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Waits until it says so."""
    async with asyncio.timeout(30):
        while True:
            found = await status(client)
            if fits(found):
                return found
            await asyncio.sleep(0.05)  # between two looks


async def test_a_relay_that_waits_says_so(store: EventStore, database: str, vhost: str) -> None:
    """The second of two relays is a standby, as long as it lives; then it leads, and is none."""
    async with served(store) as (_, client):
        async with relay_running(database, vhost) as first:
            async with EventStore(database) as its:
                second = Relay(its, vhost, lease=1.0)
                running = asyncio.create_task(second.run())
                found = await until(client, lambda found: found["standbys"])
                assert len(found["standbys"]) == 1
                first.stop()
                await until(client, lambda found: (found["leader"] or {}).get("epoch") == 2 and not found["standbys"])
                second.stop()
                await asyncio.wait_for(running, 15)


async def test_subscriptions_are_told_with_all_that_matters(store: EventStore) -> None:
    """Owner, state, place, lag, queue, what is parked and why one has halted, but no traceback; links lead to the
    queue's page in the vhost, and hold no password."""
    [position] = await append(store, "order-1", "E")
    await follow(store, "billing", feed="$category-order")
    await follow(store, "ünal/1")
    await store.fetch(
        "UPDATE eventstore.subscriptions SET owner = NULL, halted = $1::text::json WHERE name = 'ünal/1'",
        json.dumps({"position": position, "attempts": 5, "error": "ValueError: x", "traceback": "secret", "at": "now"}),
    )
    await store.fetch(
        "INSERT INTO eventstore.parked (subscription_id, first_position, last_position, stream, attempts)"
        " VALUES (1, $1, $1, 'order-1', 3)",
        position,
    )

    async def ask(schema: str) -> dict[str, Depth]:
        return {f"{schema}.billing": Depth(4, 1, 1)}

    broker = Broker(ask, "a/b", "http://mq.example:15672")
    async with served(store, broker=broker) as (_, client):
        text = (await client.get("/status.json")).text
        assert "secret" not in text
        billing, halted = (await status(client))["subscriptions"]
        assert (billing["name"], billing["feed"], billing["state"]) == ("billing", "$category-order", "following")
        assert (billing["owner"], billing["behind"], billing["parked"]) == (process_name(), 1, 1)
        assert billing["queue"] == {"ready": 4, "unacked": 1, "consumers": 1}
        assert billing["queue_page"] == "http://mq.example:15672/#/queues/a%2Fb/eventstore.billing"
        assert (halted["state"], halted["late"], halted["waits_for"]) == ("halted", True, "halted")
        assert halted["halted"]["error"] == "ValueError: x"
        assert halted["queue_page"].startswith("http://mq.example:15672/#/queues/a%2Fb/eventstore._nal%2F1_")


async def test_the_rate_is_that_of_what_was_committed(store: EventStore, database: str, vhost: str) -> None:
    """Events between two looks, over the time between them; and the relay's place follows."""
    async with served(store) as (shown, client):
        async with relay_running(database, vhost) as relay:
            shown.status = relay.status
            count = 0

            async def write() -> None:
                nonlocal count
                while True:
                    count += len(await append(store, "a-1", *("E",) * 100))

            writing = asyncio.create_task(write())
            rate = (await until(client, lambda found: found["events_per_second"]))["events_per_second"]
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            assert 0 < rate <= (count + 100) / 0.05
            last = (await store.stream_info("$all")).version
            await until(client, lambda found: found["position"] == last)


async def test_what_cannot_be_seen_now_stays_as_it_was(store: EventStore) -> None:
    """A management API that refuses, or a database that is away, is said, and the page still answers."""

    async def ask(schema: str) -> dict[str, Depth]:
        raise BrokerUnavailable("refused")

    async with served(None, broker=Broker(ask)) as (shown, client):
        assert (await status(client))["looked_at"] is None
        async with EventStore(store._dsn) as its:
            shown.store = its
            found = await status(client)
            assert found["line"][2]["says"] == "not known: refused"
        assert (await status(client))["looked_at"] is not None
        assert (await status(client))["problem"] == "the database does not answer"


async def test_a_look_that_fails_is_told_with_the_age_of_the_last(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a table is locked the page answers at once, with what was seen, how old that is and why, and Prometheus is
    told of no subscription; the log has one line when looks begin to fail, and one when they work again."""
    monkeypatch.setattr(view, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(view, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(view, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(view, "_STALE_SECONDS", 0.5)
    await follow(store, "billing")
    async with served(store) as (shown, client):
        shown.status.lead(True)
        await until(client, lambda found: found["fresh"] and found["look_problem"] is None)
        with capture_logs() as logs:
            async with store.acquire() as connection, connection.transaction():
                await connection.execute("LOCK TABLE eventstore.subscriptions IN ACCESS EXCLUSIVE MODE")
                found = await until(client, lambda found: not found["fresh"] and found["look_problem"])
                assert "locked" in found["look_problem"]
                assert found["seconds_since_look"] >= 0.5
                assert [each["name"] for each in found["subscriptions"]] == ["billing"]
                assert "trunkline_subscription_halted{" not in (await client.get("/metrics")).text
                await until(client, lambda found: found["seconds_since_look"] > 1)
            found = await until(client, lambda found: found["fresh"] and found["look_problem"] is None)
            assert found["seconds_since_look"] <= 0.5
        await until_metrics(client, "trunkline_subscription_halted{")
    told = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert told == ["the status page cannot look at the store", "the status page looks at the store again"]


async def until_metrics(client: httpx.AsyncClient, text: str) -> None:
    """Waits until Prometheus would be told."""
    async with asyncio.timeout(30):
        while text not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.05)  # between two looks


async def test_those_in_trouble_are_among_the_first(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more subscriptions than are told of, those that have halted, parked or are late are, so that their alerts
    fire; how many there are is told."""
    monkeypatch.setattr(view, "SUBSCRIPTIONS", 3)
    for name in ("a", "b", "c", "d", "halted", "late", "parked"):
        await follow(store, name)
    [position] = await append(store, "x-1", "E")
    update = "UPDATE eventstore.subscriptions SET {} WHERE name {}"
    await store.fetch(update.format("checkpoint = $1", "<> 'late'"), position)
    await store.fetch(update.format("owner = NULL, halted = '{}'", "= 'halted'"))
    await store.fetch(
        "INSERT INTO eventstore.parked (subscription_id, first_position, last_position, stream, attempts)"
        " SELECT subscription_id, 1, 1, 'x-1', 3 FROM eventstore.subscriptions WHERE name = 'parked'"
    )
    monkeypatch.setattr(view, "_TROUBLE_SECONDS", 0.0)
    async with served(store) as (shown, client):
        found = await status(client)
        assert [each["name"] for each in found["subscriptions"]] == ["halted", "late", "parked"]
        assert found["more_subscriptions"] == 4
        shown.status.lead(True)
        text = (await client.get("/metrics")).text
        assert 'trunkline_subscriptions{store="eventstore"} 7.0' in text
        assert 'trunkline_subscription_halted{store="eventstore",subscription="halted"} 1.0' in text


async def test_a_probe_is_told_a_kind_of_problem_and_no_name(store: EventStore) -> None:
    """Causes, which name logins and hosts, are for who may see the page."""
    async with served(store, guard=Guard("127.0.0.1", TOKEN)) as (shown, client):
        shown.status.blame('password authentication failed for user "ann" at db.example')
        for failure in (None, "role ann may not use schema secret"):
            shown.status.failure = failure
            outside = (await client.get("/readyz")).text
            assert "ann" not in outside
            [told] = (await client.get("/readyz", auth=("me", TOKEN))).json()["stores"]
            assert "ann" in told["cause"]
            assert f'"problem": "{told["problem"]}"' in outside
            assert told["problem"] == ("the database does not answer" if failure is None else "a person is needed")


async def test_many_who_look_cost_one_look(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: of forty at once, one asks the store, and the next one not before a second has passed."""
    monkeypatch.setattr(view, "LOOK_SECONDS", 600.0)
    asked = 0

    async def ask(schema: str) -> dict[str, Depth]:
        nonlocal asked
        asked += 1
        return {}

    async with served(store, broker=Broker(ask)) as (_, client):
        await asyncio.gather(*(status(client) for _ in range(40)))
        await status(client)
    assert asked == 1


async def test_prometheus_is_told_of_subscriptions_by_the_leader_alone(store: EventStore) -> None:
    """With labels for store and subscription, escaped; a standby says nothing of them, so that nothing counts twice."""
    await append(store, "a-1", "E", "E")
    name = 'say "hi"\\'
    await follow(store, name)

    async def told(client: httpx.AsyncClient) -> dict[str, float]:
        families = text_string_to_metric_families((await client.get("/metrics")).text)
        samples = [sample for family in families for sample in family.samples]
        return {s.name: s.value for s in samples if s.labels.get("subscription") == name or s.name.endswith(WHOLE)}

    async with served(store) as (shown, client):
        assert await told(client) == {}
        shown.status.lead(True)
        found = await told(client)
        assert found.pop("trunkline_subscription_behind_seconds") > 0
        assert found == {
            "trunkline_relay_standbys": 0,
            "trunkline_subscriptions": 1,
            "trunkline_subscription_checkpoint": 0,
            "trunkline_subscription_behind_events": 2,
            "trunkline_subscription_parked": 0,
            "trunkline_subscription_followed": 1,
            "trunkline_subscription_halted": 0,
        }
        shown.status.lead(False)
        assert await told(client) == {}


async def test_the_token_opens_the_page_and_probes_need_none(store: EventStore) -> None:
    """401 with a challenge for page and JSON; probes and metrics answer, but name nobody's transactions."""
    await append(store, "a-1", "E")
    async with served(store, guard=Guard("127.0.0.1", TOKEN)) as (_, client):
        for path in ("/", "/status.json"):
            refused = await client.get(path)
            assert (refused.status_code, "Basic" in refused.headers["www-authenticate"]) == (401, True)
            assert TOKEN not in refused.text
            assert (await client.get(path, auth=("me", "wrong"))).status_code == 401
            assert (await client.get(path, auth=("me", TOKEN))).status_code == 200
            assert (await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code in (200, 503)
        assert "holder" not in (await client.get("/readyz")).json()["stores"][0]
        assert "holder" in (await client.get("/readyz", auth=("me", TOKEN))).json()["stores"][0]


async def test_another_sites_name_for_this_machine_is_refused(store: EventStore) -> None:
    """A page elsewhere whose name leads here gets 421, and reads neither the page nor metrics nor readiness."""
    async with served(store) as (_, client):
        for path in ("/", "/status.json", "/metrics", "/readyz"):
            assert (await client.get(path, headers={"Host": "evil.example"})).status_code == 421
            assert (await client.get(path, headers={"Host": "localhost:1"})).status_code in (200, 503)
        assert (await client.get("/healthz", headers={"Host": "evil.example"})).status_code == 200
    async with served(store, guard=Guard("127.0.0.1", TOKEN)) as (_, client):
        for path in ("/metrics", "/readyz"):
            named = {"Host": "relay.example"}
            assert (await client.get(path, headers=named)).status_code == 421
            assert (await client.get(path, headers=named, auth=("me", TOKEN))).status_code in (200, 503)


@pytest.mark.parametrize(
    "written", ["[1]", "null", "7", '"x"', '{"position": "1", "error": {"a": 1}}', "[" * 5000 + "]" * 5000]
)
async def test_what_a_consumer_wrote_cannot_break_the_page(store: EventStore, written: str) -> None:
    """`halted` is a column that logins may write: an invalid value counts as none, and the page, the metrics and
    `wait_for` answer."""
    await follow(store, "billing")
    last = (await store.append_to_stream("a-1", 0, [EventData("E", 1)])).last_position
    await store.fetch("UPDATE eventstore.subscriptions SET halted = $1::text::json, owner = NULL", written)
    async with served(store) as (shown, client):
        shown.status.lead(True)
        found = await until(client, lambda found: found["fresh"] and found["subscriptions"])
        assert found["subscriptions"][0]["state"] == "halted"
        assert found["subscriptions"][0]["halted"]["error"] == ""
        assert "trunkline_subscription_halted{" in (await client.get("/metrics")).text
    with pytest.raises(SubscriptionHalted) as caught:
        await store.subscriptions.wait_for("billing", last)
    assert caught.value.position == 0


async def test_the_page_may_do_nothing_but_ask_its_server(store: EventStore) -> None:
    """Its policy allows by their hashes the one script and the one style that are in it, and nothing from elsewhere;
    answers are not kept, not sniffed and not framed; nothing but GET and HEAD is answered."""
    async with served(store) as (_, client):
        answer = await client.get("/")
        assert answer.content == page()
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"].count("sha256-") == policy["style-src"].count("sha256-") == 1
        assert "unsafe" not in headers()["Content-Security-Policy"]
        data = await client.get("/status.json")
        for each in (answer, data):
            assert each.headers["cache-control"] == "no-store"
            assert each.headers["x-content-type-options"] == "nosniff"
        assert (await client.post("/status.json")).status_code == 405
        assert (await client.head("/")).headers["content-length"] == str(len(page()))
        assert b"http://" not in page().replace(b"http://www.w3.org/2000/svg", b""), "it needs nobody else"
