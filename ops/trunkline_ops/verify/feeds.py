"""What of a subscription's feed is handled, parked, or missing. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from trunkline_consumer.feed import Feed as _Feed
from trunkline_consumer.feed import Kind
from trunkline_ops.verify.versions import NAMED


class Ranges:
    """Positions, as half-open intervals (from, to) that are sorted and do not touch."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._ranges = sorted(ranges)
        self._lower = [lower for lower, _ in self._ranges]

    def __contains__(self, position: int) -> bool:
        at = bisect_right(self._lower, position) - 1
        return at >= 0 and position < self._ranges[at][1]

    @property
    def last(self) -> int:
        """The highest position in them; 0 without any."""
        return self._ranges[-1][1] - 1 if self._ranges else 0


class Feed:
    """One subscription's, while its events go by in their order. finished: what is done above the checkpoint.
    `parking`: what is parked of the page that goes by. `beyond`: how far it stands above the safe position."""

    def __init__(self, name: str, label: str, checkpoint: int, finished: Ranges, safe: int) -> None:
        self.name = name
        self.label = label
        self.events = 0
        self.handled = 0
        self.parked = 0
        self.missing = 0
        self.named: list[int] = []
        """The first of those that are missing."""
        self.parking = Ranges(())
        self.stands = max(checkpoint, finished.last)
        self.anchored = True
        """False if the store holds no event at the checkpoint."""
        self.beyond = max(0, self.stands - safe)
        self.checkpoint = checkpoint
        self._finished = finished

    def take(self, position: int) -> None:
        """The next one of its feed."""
        self.events += 1
        if position in self.parking:
            self.parked += 1
        elif position <= self.checkpoint or position in self._finished:
            self.handled += 1
        else:
            self.missing += 1
            if len(self.named) < NAMED:
                self.named.append(position)


class Feeds:
    """Hands each row to those whose feed it is in, without asking all of them."""

    def __init__(self) -> None:
        self._all: list[Feed] = []
        self._categories: dict[str, list[Feed]] = {}
        self._streams: dict[int, list[Feed]] = {}

    def add(self, feed: Feed, stream_id: int | None) -> None:
        """stream_id: of a feed that is one stream; None of one that is deleted, or not there yet."""
        kind, name = _Feed.of(feed.label)
        if kind is Kind.ALL:
            self._all.append(feed)
        elif kind is Kind.CATEGORY:
            self._categories.setdefault(name, []).append(feed)
        elif stream_id is not None:
            self._streams.setdefault(stream_id, []).append(feed)

    def take(self, position: int, stream_id: int, category: str | None, link: bool) -> None:
        """A link is in its target's feed only."""
        if not link:
            for feed in self._all:
                feed.take(position)
            for feed in self._categories.get(category or "", ()):
                feed.take(position)
        for feed in self._streams.get(stream_id, ()):
            feed.take(position)


def words(positions: Sequence[int], count: int) -> str:
    """Positions, and how many more there are."""
    shown = ", ".join(map(str, positions))
    return shown if count <= len(positions) else f"{shown} and {count - len(positions)} more"
