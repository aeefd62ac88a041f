import asyncio
import json
import math
import sys
from asyncio.subprocess import PIPE

import pytest

from trunkline_ops.bench.broker import bounded_queue, channel_to
from trunkline_ops.bench.load import Run
from trunkline_ops.bench.messages import messages_of
from trunkline_ops.bench.raw import raw_publisher
from trunkline_ops.bench.report import as_markdown
from trunkline_ops.bench.rounds import Measure, compared
from trunkline_ops.servers import PostgresServer, RabbitMQServer


@pytest.mark.timeout(400)  # on a busy machine its programs take long to start
@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("append", ["append 1 event", "append 100 events", "WAL"]),
        ("read", ["read a stream", "read all"]),
        ("growth", ["read a stream", "append 1 event", "of a category of 999 in 1,000, against 1 %", "safe position"]),
        ("relay", ["publish", "tail", "append to handler", "highest rate", "backlog", "idle", "SIGKILL", "clean stop"]),
        ("consume", ["live", "catch-up", "tx=True", "subscriptions", "memory"]),
    ],
)
@pytest.mark.timeout(300)  # of its dozen processes each takes seconds to start on a busy machine
async def test_a_bench_prints_one_line_for_each_measure(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, family: str, names: list[str]
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
    assert all(any(name in line["name"] for line in lines) for name in names)
    for line in lines:
        assert list(line) == ["name", "value", "unit", "p50_ms", "p99_ms", "floor", "ratio", "target", "ok"]
        assert math.isfinite(line["value"])
        assert line["ok"] is None


async def test_the_floor_of_publishing_counts_what_was_confirmed(vhost: str) -> None:
    """It ends when every message is confirmed, be its window a message or more, and the queue has them all."""
    messages = messages_of(40, 2)
    async with channel_to(vhost) as channel:
        await bounded_queue(channel, "all")
        for window in (1, 7, 1000):
            async with raw_publisher(vhost, window, 5_000) as raw:
                run = await raw.side(messages)(10)()
                assert run.events == 400
        assert (await channel.declare_queue("all", passive=True)).declaration_result.message_count == 600


async def test_the_floor_of_publishing_does_not_wait_for_what_will_not_come(vhost: str) -> None:
    """A channel that RabbitMQ closes, here for an exchange that is not there, ends it with an error."""
    async with raw_publisher(vhost, 10, 5_000) as raw, asyncio.timeout(20):
        with pytest.raises(ConnectionError):
            await raw.side(messages_of(10, 1))(1)()


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


def test_the_table_for_a_guide_says_what_was_missed() -> None:
    """One line for each measure, with its figures, its target, and whether that was missed."""
    found = [
        Measure("publish", 18_429.0, "events/s", floor=21_158.0, ratio=0.87, target=0.75, lowest=0.8, highest=0.9),
        Measure("p50", 7.25, "ms", target=6.0, at_most=True),
    ]
    assert as_markdown(found).splitlines()[2:] == [
        "| publish | 18,429 events/s | 21,158 | 0.87 | 0.80 to 0.90 | ≥ 0.75 |",
        "| p50 | 7.25 ms |  |  |  | ≤ 6 (missed) |",
    ]
