"""Turns, medians and ratios."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import Final, Literal, NamedTuple

from trunkline_ops.bench.load import Run, percentile_ms

_MOST_EVENTS: Final = 200_000
"""Of one side in one round: they are all made before it starts."""


class Effort(NamedTuple):
    """How much is done."""

    rounds: int = 5
    seconds: float = 1.0
    """That a side has in a round, about."""
    quick: bool = False
    """Only to see that it works."""
    curves: bool = False
    """Also the points that only a plot needs."""
    short: bool = False
    """What is long by itself is done at a tenth."""
    parts: frozenset[str] = frozenset()
    """Of a family that has parts, only these; all of them where none is named."""

    def scaled(self, events: int) -> int:
        """How many events a database is filled with."""
        return events // (100 if self.quick else 10 if self.short else 1)

    def lasting(self, seconds: float) -> float:
        """How long something is watched that takes its time by itself."""
        return seconds / (100 if self.quick else 10 if self.short else 1)

    def wants(self, part: str) -> bool:
        """Whether a part of a family is measured."""
        return not self.parts or part in self.parts


class Measure(NamedTuple):
    """One line of the result. Where `at_most`, less is better."""

    name: str
    value: float
    unit: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    floor: float | None = None
    ratio: float | None = None
    target: float | None = None
    at_most: bool = False
    lowest: float | None = None
    highest: float | None = None
    """Of the rounds' ratios: the noise."""
    curve: tuple[str, int] | None = None
    """For plots: the curve's name, and the number of callers."""

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None where there is none. It is the ratio's, or the value's without a floor."""
        if self.target is None:
            return None
        reached = self.value if self.ratio is None else self.ratio
        return reached <= self.target if self.at_most else reached >= self.target

    def line(self) -> str:
        """As one line of JSON."""
        names = ("name", "value", "unit", "p50_ms", "p99_ms", "floor", "ratio", "target", "ok")
        values = ((name, getattr(self, name)) for name in names)
        return json.dumps({name: _short(value) if type(value) is float else value for name, value in values})


Side = Callable[[int], Callable[[], Awaitable[Run]]]
"""Makes work for so many calls; what it returns has it done."""


async def interleaved(
    sides: Mapping[str, Side], effort: Effort, *, first: int, events_each: int = 1, fixed: int | None = None
) -> dict[str, list[Run]]:
    """Runs the sides in turns, after a run of `first` calls each that warms up and counts for nothing.

    The calls of a run are what fills the time, by the side's own last run; or `fixed` ones.
    """
    most = max(1, _MOST_EVENTS // events_each)
    count = dict.fromkeys(sides, first)

    async def run(name: str, seconds: float) -> Run:
        done = await sides[name](count[name])()
        count[name] = fixed or min(most, max(first, int(len(done.latencies) / done.seconds * seconds)))
        return done

    for name in sides:
        await run(name, effort.seconds / 4)
        if not effort.quick:
            await run(name, effort.seconds)
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(effort.rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):  # a drift helps neither
            runs[name].append(await run(name, effort.seconds))
    return runs


def compared(
    name: str,
    unit: str,
    runs: Mapping[str, Sequence[Run]],
    *,
    ours: str = "ours",
    by: Literal["figure", "p50_ms"] = "figure",
    target: float | None = None,
    at_most: bool = False,
    curve: tuple[str, int] | None = None,
) -> Measure:
    """Our side against the best of the others, by medians; the ratio is the median of the rounds' ratios."""

    def values(side: str) -> list[float]:
        return [getattr(run, by) for run in runs[side]]

    best = min if at_most else max
    floor = best((side for side in runs if side != ours), key=lambda side: median(values(side)))
    ratios = [ours / floor for ours, floor in zip(values(ours), values(floor), strict=True)]
    latencies = [latency for run in runs[ours] for latency in run.latencies]
    return Measure(
        name,
        median(values(ours)),
        unit,
        percentile_ms(latencies, 50),
        percentile_ms(latencies, 99),
        median(values(floor)),
        median(ratios),
        target,
        at_most,
        min(ratios),
        max(ratios),
        curve,
    )


def _short(value: float) -> float:
    return float(f"{value:.5g}")
