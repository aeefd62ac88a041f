"""Whether streams have all their versions, once each, in the order of positions: of rows in the order of stream and
version. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

NAMED: Final = 20
"""So many of a kind are named; the rest is counted."""


class Gap(NamedTuple):
    """Versions `first` to `last` of a stream are not there."""

    stream_id: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Inversion(NamedTuple):
    """A version of a stream stands in `$all` before the version before it; or it is there twice."""

    stream_id: int
    version: int
    position: int


class Versions:
    """Takes rows up to a position, in pages; remembers the last row only."""

    def __init__(self, upto: int) -> None:
        self.rows = 0
        self.missing = 0
        """Versions that are not there, of streams without links."""
        self.gaps: list[Gap] = []
        self.erasable = 0
        """Versions that are not there, and may have been links to events that were removed for good."""
        self.erasable_gaps: list[Gap] = []
        self.inverted = 0
        self.inversions: list[Inversion] = []
        self._upto = upto
        self._stream, self._version, self._position = 0, 0, 0

    def take(self, rows: Iterable[tuple[int, int, int, bool]]) -> None:
        """rows: stream id, version, position, and whether links are in the stream."""
        for stream, version, position, linked in rows:
            if position > self._upto:
                continue  # of a stream, only what comes last can be above
            if stream != self._stream:
                self._stream, self._version, self._position = stream, 0, -1
            if version > self._version + 1:
                gap = Gap(stream, self._version + 1, version - 1)
                gaps = self.erasable_gaps if linked else self.gaps
                if len(gaps) < NAMED:
                    gaps.append(gap)
                if linked:
                    self.erasable += gap.size
                else:
                    self.missing += gap.size
            if version <= self._version or position <= self._position:
                self.inverted += 1
                if len(self.inversions) < NAMED:
                    self.inversions.append(Inversion(stream, version, position))
            self.rows += 1
            self._version, self._position = version, position
