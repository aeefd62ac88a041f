"""What there is to see while the demo runs: a live view in a terminal, else a few lines on standard error."""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trunkline_ops.demo.audit import percentile
from trunkline_ops.demo.processes import Report

_RATE_SECONDS = 2.0
_FRAMES_PER_SECOND = 4
_RECENT = 500  # appends
_WIDTH = 110


class Scene:
    """How things stand, by what the programs report and the relay's row says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.act = "starting"
        self.confirmed = 0
        self.append_ms = array("d")
        self.happenings: list[str] = []
        self._began = self._ended = 0.0
        self._writers: dict[int, Report] = {}
        self._subscribers: dict[int, Report] = {}

    def begin(self) -> None:
        """The writers write."""
        self._began = time.monotonic()
        self.act = "writing"

    def end(self) -> None:
        """The writers have stopped."""
        self._ended = time.monotonic()
        self.act = "settling"

    @property
    def elapsed(self) -> float:
        """Seconds of writing."""
        return (self._ended or time.monotonic()) - self._began if self._began else 0.0

    def happens(self, what: str) -> None:
        self.happenings.append(f"{self.elapsed:6.1f} s  {what}")

    def writer_reports(self, number: int, report: Report) -> None:
        self.append_ms.extend(report.pop("append_ms"))
        self._writers[number] = report

    def subscriber_reports(self, number: int, report: Report) -> None:
        self._subscribers[number] = report

    @property
    def writing(self) -> int:
        """How many writers have reported."""
        return len(self._writers)

    @property
    def appended(self) -> int:
        """Events that the writers were told are committed."""
        return sum(report["appended"] for report in self._writers.values())

    @property
    def conflicts(self) -> int:
        """Appends that were refused, since somebody else had been faster."""
        return sum(report["conflicts"] for report in self._writers.values())

    def subscriber(self, number: int) -> Report:
        """A subscriber's last report; zeros before the first one."""
        nothing = {"handled": 0, "position": 0, "state": "", "from_queue": 0, "from_store": 0, "healed": 0}
        return self._subscribers.get(number, nothing)

    @property
    def progress(self) -> tuple[int, int, int, int]:
        """What grows: appended, confirmed, handled by the first and by the second subscriber.

        The reports are a moment old, each by its own; what has been confirmed or handled has been appended.
        """
        further = self.confirmed, self.subscriber(1)["handled"], self.subscriber(2)["handled"]
        return max(self.appended, *further), *further


@asynccontextmanager
async def live_view(scene: Scene, console: Console, title: str) -> AsyncIterator[None]:
    """Shows the scene in a terminal, and leaves its last picture there."""
    rates = _Rates(scene)
    with Live(
        get_renderable=lambda: _picture(scene, rates.now(), title, console.width),
        console=console,
        refresh_per_second=_FRAMES_PER_SECOND,
    ):
        yield


@asynccontextmanager
async def plain_lines(scene: Scene, console: Console, title: str) -> AsyncIterator[None]:
    """Prints what happens, and now and then how things stand."""
    console.print(title, markup=False, highlight=False, soft_wrap=True)

    async def follow() -> None:
        said, pause = 0, max(1.0, scene.seconds / 10)
        due = pause
        while True:
            for line in scene.happenings[said:]:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            said = len(scene.happenings)
            if scene.act == "writing" and scene.elapsed >= due:
                due = scene.elapsed + pause
                line = "appended {}, confirmed {}, handled {} and {}".format(*scene.progress)
                console.print(f"{scene.elapsed:6.1f} s  {line}", highlight=False, soft_wrap=True)
            await asyncio.sleep(0.1)

    following = asyncio.create_task(follow())
    try:
        yield
        await asyncio.sleep(0.2)  # for the last lines
    finally:
        following.cancel()


class _Rates:
    """Events per second over the last moments, while there are writers."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._seen: deque[tuple[float, tuple[int, int, int, int]]] = deque()

    def now(self) -> list[str]:
        now = time.monotonic()
        self._seen.append((now, self._scene.progress))
        while len(self._seen) > 2 and self._seen[0][0] < now - _RATE_SECONDS:
            self._seen.popleft()
        (began, before), (_, after) = self._seen[0], self._seen[-1]
        if self._scene.act != "writing" or now - began < _RATE_SECONDS / 2:
            return ["", "", "", ""]
        return [f"{(b - a) / (now - began):,.0f}" for a, b in zip(before, after, strict=True)]


def _picture(scene: Scene, rates: list[str], title: str, width: int) -> RenderableType:
    table = Table(width=min(width, _WIDTH))
    table.add_column("")
    for column in ("events", "per second", "behind"):
        table.add_column(column, justify="right")
    table.add_column("", ratio=1)
    names = ("appended", "confirmed", "subscriber 1", "subscriber 2")
    remarks = (_of_writers(scene), "", _of_subscriber(scene.subscriber(1)), _of_subscriber(scene.subscriber(2)))
    progress = scene.progress
    for name, count, rate, remark in zip(names, progress, rates, remarks, strict=True):
        table.add_row(name, f"{count:,}", rate, f"{progress[0] - count:,}", remark)
    clock = f"{scene.act}: {min(scene.elapsed, scene.seconds):.0f} of {scene.seconds:g} s"
    return Group(Text(title), Text(clock), table, *(Text(line) for line in scene.happenings[-8:]))


def _of_writers(scene: Scene) -> str:
    recent = scene.append_ms[-_RECENT:]
    if not recent:
        return ""
    return f"p50 {percentile(recent, 50)} ms, p99 {percentile(recent, 99)} ms, {scene.conflicts:,} conflicts"


def _of_subscriber(report: Report) -> str:
    if not report["state"]:
        return "not started yet"
    return f"{report['from_queue']:,} from the queue, {report['from_store']:,} from the store"
