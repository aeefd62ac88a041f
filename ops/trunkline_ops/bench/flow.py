"""From the call of append to the handler: how long it takes, and what rate is held for good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from statistics import median
from typing import Final

from trunkline_ops.bench.lab import Lab
from trunkline_ops.bench.line import Line, Passage, line
from trunkline_ops.bench.load import percentile_ms
from trunkline_ops.bench.rounds import Effort, Measure

RATES: Final = (100, 1000)
LATENCY_SECONDS: Final = 5.0
TARGET_P50_MS: Final = 6.0
TARGET_P99_MS: Final = 20.0

STEADY_RATE: Final = 3000
STEADY_SECONDS: Final = 60.0
TARGET_STEADY_MS: Final = 10.0
GROWTH_MS: Final = 10.0
"""By so much the median of the last quarter may be above that of the first: a rate that is one in a thousand too high
for the line makes it 45 ms in a minute."""

TARGET_HIGHEST: Final = 5000
HIGHEST_SECONDS: Final = 20.0
STEPS: Final = (1000, 250)
"""The search goes up by the first until a rate does not hold, then back up by the second."""
KEPT: Final = 0.98
"""Of the offered rate that writers must reach for a run to count as one at that rate."""


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """Latency at low rates; a rate that keeps two cores busy, for a minute; the highest rate that holds."""
    if not any(effort.wants(part) for part in ("latency", "steady", "highest")):
        return
    async with line(lab) as (running, _):
        await running.relay()
        await running.leading()
        await running.subscribe()
        for part, measured in (("latency", _latency), ("steady", _steady), ("highest", _highest)):
            if effort.wants(part):
                async for measure in measured(running, effort):
                    yield measure


async def _latency(running: Line, effort: Effort) -> AsyncIterator[Measure]:
    """In turns, and beside them what the machine adds by itself."""
    seconds = LATENCY_SECONDS * effort.seconds
    passages: dict[int, list[Passage]] = {rate: [] for rate in RATES}
    for _ in range(effort.rounds):
        for rate, found in passages.items():
            found.append(await running.passage(rate, seconds, writers=1))
    for rate, found in passages.items():
        name = f"append to handler, {rate:,} events/s"
        for percent, target in ((50, TARGET_P50_MS), (99, TARGET_P99_MS)):
            yield _percentile(f"{name}, p{percent}", found, percent, target)
        yield _noise(name, found)


async def _steady(running: Line, effort: Effort) -> AsyncIterator[Measure]:
    found = await running.passage(STEADY_RATE, effort.lasting(STEADY_SECONDS), writers=_writers(effort))
    name = f"append to handler, {STEADY_RATE:,} events/s for {effort.lasting(STEADY_SECONDS):g} s"
    yield _percentile(f"{name}, p50", [found], 50, TARGET_STEADY_MS)
    yield Measure(f"{name}, growth of it", _growth_ms(found), "ms", target=GROWTH_MS, at_most=True)
    yield Measure(f"{name}, appended", found.written / found.seconds, "events/s", target=KEPT * STEADY_RATE)
    yield _noise(name, [found])


async def _highest(running: Line, effort: Effort) -> AsyncIterator[Measure]:
    """By steps."""
    seconds, held, passages = effort.lasting(HIGHEST_SECONDS), 0, dict[int, Passage]()
    for step in STEPS[: 1 if effort.quick else None]:
        rate = max(held, STEADY_RATE - STEPS[0]) + step
        while rate not in passages:
            passages[rate] = await running.passage(rate, seconds, writers=_writers(effort))
            if effort.quick or not _holds(passages[rate]):
                break
            held, rate = rate, rate + step
    latencies = [each.latency for each in passages[held].arrivals] if held else []
    yield Measure(
        f"append to handler, the highest rate that holds for {seconds:g} s",
        held,
        "events/s",
        percentile_ms(latencies, 50) if latencies else None,
        percentile_ms(latencies, 99) if latencies else None,
        target=TARGET_HIGHEST,
    )


def _writers(effort: Effort) -> int:
    return 1 if effort.quick else 2


def _holds(found: Passage) -> bool:
    return found.written >= KEPT * found.rate * found.seconds and _growth_ms(found) <= GROWTH_MS


def _growth_ms(found: Passage) -> float:
    """From the first quarter to the last one, of the median."""
    latencies = [each.latency for each in found.arrivals]
    quarter = max(1, len(latencies) // 4)
    return 1000 * (median(latencies[-quarter:]) - median(latencies[:quarter]))


def _percentile(name: str, found: Sequence[Passage], percent: int, target: float) -> Measure:
    """The median of the rounds; p50 and p99 are those of all of them together."""
    rounds = [percentile_ms([each.latency for each in passage.arrivals], percent) for passage in found]
    latencies = [each.latency for passage in found for each in passage.arrivals]
    return Measure(
        name,
        median(rounds),
        "ms",
        percentile_ms(latencies, 50),
        percentile_ms(latencies, 99),
        target=target,
        at_most=True,
        lowest=min(rounds),
        highest=max(rounds),
    )


def _noise(name: str, found: Sequence[Passage]) -> Measure:
    late = [each for passage in found for each in passage.lateness]
    return Measure(
        f"{name}, a timer's lateness", percentile_ms(late, 99), "ms", percentile_ms(late, 50), percentile_ms(late, 99)
    )
