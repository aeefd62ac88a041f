import asyncio
import json
import sys
from asyncio.subprocess import PIPE

import pytest

from trunkline_ops.bench.load import Run
from trunkline_ops.bench.rounds import Measure, compared
from trunkline_ops.servers import PostgresServer, RabbitMQServer


@pytest.mark.timeout(400)  # on a busy machine its programs take long to start
@pytest.mark.parametrize("family", ["append", "read", "consume"])
async def test_a_bench_prints_one_line_for_each_measure(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, family: str
) -> None:
    """Measured briefly it gives every measure of its family, each a line of JSON with all that is promised, and no
    target that such a run could miss."""
    command = [sys.executable, "-m", "trunkline_ops.bench", family, "--quick", "--json"]
    servers = {
        "TRUNKLINE_DSN": postgres.dsn,
        "TRUNKLINE_AMQP_URL": rabbitmq.amqp_url,
        "TRUNKLINE_MANAGEMENT_URL": rabbitmq.management_url,
    }
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=servers)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        assert list(line) == ["name", "value", "unit", "p50_ms", "p99_ms", "floor", "ratio", "target", "ok"]
        assert line["value"] >= 0
        assert line["ok"] is None


def run(events: int, seconds: float) -> Run:
    return Run(events, 0.0, seconds, [seconds])


def test_a_ratio_is_the_median_of_the_rounds_against_the_best_floor() -> None:
    """Each round is compared with its own floor, and the floor is the side that is best in most rounds."""
    runs = {"ours": [run(50, 1), run(90, 1), run(40, 1)], "a": [run(100, 1)] * 3, "b": [run(10, 1)] * 3}
    measure = compared("m", "events/s", runs, target=0.5)
    assert (measure.value, measure.floor, measure.ratio) == (50, 100, 0.5)
    assert (measure.lowest, measure.highest, measure.ok) == (0.4, 0.9, True)


@pytest.mark.parametrize(
    ("value", "ratio", "at_most", "ok"),
    [(5.0, 0.9, False, False), (5.0, 1.1, False, True), (5.0, 1.1, True, False), (0.9, None, True, True)],
)
def test_a_missed_target_is_said(value: float, ratio: float | None, at_most: bool, ok: bool) -> None:
    """The target is the ratio's where there is one, else the value's; at least, or at most."""
    assert Measure("m", value, "x", ratio=ratio, target=1.0, at_most=at_most).ok is ok
