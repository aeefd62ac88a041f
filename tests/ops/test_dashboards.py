"""Alert rules, scrape configuration and dashboards: they parse, they fire, and what they name is there."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx
import pytest

from tests.relay.plain import append, recorded
from tests.relay.test_view import follow, served
from tests.whole.flow import relay_running
from trunkline_ops.servers import RabbitMQServer, Unavailable
from trunkline_ops.servers.packages import unpacked
from trunkline_store import EventStore

OPS = Path(__file__).parents[2] / "ops"
RULES = OPS / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((OPS / "grafana" / "dashboards").glob("*.json"))


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Debian's, unpacked in the cache."""
    try:
        return unpacked("prometheus", "prometheus") / "usr" / "bin" / "promtool"
    except Unavailable as reason:
        pytest.skip(f"no promtool: {reason}")


def run(promtool: Path, *arguments: str) -> str:
    done = subprocess.run([promtool, *arguments], check=False, capture_output=True, text=True, cwd=OPS / "prometheus")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_configuration_and_rules(promtool: Path) -> None:
    """Both are valid, by Prometheus's own tool."""
    assert "SUCCESS" in run(promtool, "check", "config", "prometheus.yml")


def test_each_alert_fires_when_it_should_and_none_when_all_is_well(promtool: Path) -> None:
    """In made-up time; and there is no alert that no test lets fire."""
    run(promtool, "test", "rules", "alerts.test.yml")
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = (OPS / "prometheus" / "alerts.test.yml").read_text()
    assert [alert for alert in alerts if f'alertname="{alert}"' not in tested] == []


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return list(json.loads(dashboard.read_text())["panels"])


def expressions() -> Iterator[str]:
    """All that dashboards ask Prometheus, with values for Grafana's variables."""
    for dashboard in DASHBOARDS:
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield re.sub(r"\$\w+", ".*", target["expr"].replace("$__rate_interval", "1m"))


def test_prometheus_takes_what_the_dashboards_ask(promtool: Path, tmp_path: Path) -> None:
    """Each expression parses."""
    rules = [{"record": f"r:{n}", "expr": each} for n, each in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboards", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", str(file))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_laid_out(dashboard: Path) -> None:
    """Panels have ids of their own, do not lie upon each other, say what they show, and ask the data source that the
    dashboard lets one choose."""
    board = json.loads(dashboard.read_text())
    taken: set[tuple[int, int]] = set()
    assert board["uid"] == f"trunkline-{dashboard.stem}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) > 5
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


async def test_every_metric_that_is_named_is_exposed(
    store: EventStore, database: str, vhost: str, rabbitmq: RabbitMQServer
) -> None:
    """By a leading relay with a subscription, or by RabbitMQ with a queue: what rules and dashboards ask for."""
    name = r"\b((?:trunkline|rabbitmq)_[a-z_]+)\b"
    named = {found for each in expressions() for found in re.findall(name, each)}
    named |= set(re.findall(name, "\n".join(re.findall(r"expr: (.*)", RULES.read_text()))))
    assert len(named) > 20
    await follow(store, "billing")
    async with served(store) as (shown, client), relay_running(database, vhost) as relay:
        shown.status = relay.status
        await recorded(store, (await append(store, "a-1", "E"))[0])
        there = set(re.findall(r"^(\w+)[{ ]", (await client.get("/metrics")).text, re.MULTILINE))
        async with asyncio.timeout(30):
            while "trunkline_relay_lag_seconds" not in there:  # from its first look at the store on
                there |= {each.name for family in relay.metrics.registry.registry.collect() for each in family.samples}
                await asyncio.sleep(0.05)  # between two looks
        there |= await _of_rabbitmq(rabbitmq, vhost)
    assert named - there == set()


async def _of_rabbitmq(rabbitmq: RabbitMQServer, vhost: str) -> set[str]:
    """What its plugin says, in sum and queue by queue, of a queue that is there."""
    async with await aio_pika.connect(vhost) as connection:
        await (await connection.channel()).declare_queue("eventstore.billing", durable=True)
        ports = {each["protocol"]: each["port"] for each in await listeners(rabbitmq)}
        host = urlsplit(rabbitmq.management_url).hostname
        base = f"http://{host}:{ports['http/prometheus']}/metrics"
        configured = (OPS / "prometheus" / "prometheus.yml").read_text()
        scraped = re.search(r"metrics_path: (\S+)\n.*\n\s+family: \[(.*)\]", configured)
        assert scraped is not None
        families = [("family", family) for family in scraped[2].split(", ")]
        found: set[str] = set()
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client, asyncio.timeout(60):
            while "rabbitmq_detailed_queue_consumers" not in found:
                for url, query in [(base, []), (base.replace("/metrics", scraped[1]), families)]:
                    text = (await client.get(url, params=query)).raise_for_status().text
                    found |= set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
                await asyncio.sleep(0.2)  # between two looks
    return found


async def listeners(rabbitmq: RabbitMQServer) -> list[dict[str, Any]]:
    login = (rabbitmq.user, rabbitmq.password)
    async with httpx.AsyncClient(auth=login, trust_env=False, timeout=30) as client:
        answer = await client.get(f"{rabbitmq.management_url}/api/overview")
        return list(answer.raise_for_status().json()["listeners"])
