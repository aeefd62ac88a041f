"""A table for people, lines of JSON for programs, curves for both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table

from trunkline_ops.bench.rounds import Measure

_BLUE: Final = "#2a78d6"
_GREY: Final = "#8a8a86"


def as_table(measures: Sequence[Measure]) -> Table:
    """All measures, with the targets and what has become of them."""
    table = Table()
    table.add_column("measure")
    for heading in ("value", "unit", "p50 ms", "p99 ms", "floor", "ratio", "of the rounds", "target", ""):
        table.add_column(heading, justify="left" if heading in ("unit", "") else "right", no_wrap=True)
    for measure in measures:
        table.add_row(
            measure.name,
            _number(measure.value),
            measure.unit,
            _number(measure.p50_ms),
            _number(measure.p99_ms),
            _number(measure.floor),
            _ratio(measure.ratio),
            noise(measure),
            _target(measure),
            {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}[measure.ok],
        )
    return table


def as_markdown(measures: Sequence[Measure]) -> str:
    """The same, as the guides show it."""
    rows = [
        (
            measure.name,
            f"{_number(measure.value)} {measure.unit}",
            _number(measure.floor),
            _ratio(measure.ratio),
            noise(measure),
            _target(measure) + (" (missed)" if measure.ok is False else ""),
        )
        for measure in measures
    ]
    head = ("measure", "value", "floor", "ratio", "of the rounds", "target")
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ("---",) * len(head), *rows])


def noise(measure: Measure) -> str:
    """The least and the greatest ratio of the rounds."""
    return "" if measure.lowest is None else f"{_ratio(measure.lowest)} to {_ratio(measure.highest)}"


def plot(measures: Sequence[Measure], folder: Path) -> list[Path]:
    """One PNG for each curve: throughput over callers, ours and the floor."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for curve in dict.fromkeys(measure.curve[0] for measure in measures if measure.curve):
        points = sorted((m.curve[1], m.value, m.floor) for m in measures if m.curve and m.curve[0] == curve)
        callers = [point[0] for point in points]
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        axes.plot(callers, [point[1] for point in points], marker="o", color=_BLUE, label="Trunkline")
        axes.plot(callers, [point[2] or 0 for point in points], marker="s", color=_GREY, label="floor: bare asyncpg")
        axes.set(title=curve, xlabel="concurrent callers", ylabel="events/s", xscale="log")
        axes.set_xticks(callers, [str(each) for each in callers])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        files.append(folder / f"{curve.replace(',', '').replace(' ', '-')}.png")
        figure.savefig(files[-1], dpi=150)
        plt.close(figure)
    return files


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _target(measure: Measure) -> str:
    return "" if measure.target is None else f"{'≤' if measure.at_most else '≥'} {measure.target:g}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
