"""Where batches begin and end.

A batch is a run of events with neighbouring positions in one block, of one stream and one correlation id (none counts
as a value of its own), cut by a count, by bytes, and by the number of its types. All of that is a property of the
recorded events, so a batch has the same borders whenever and by whomever it is read, provided that reading begins at
the beginning of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

from trunkline_store.events import BLOCK

TYPES: Final = 256
"""Different types in a batch. A message has a routing key of up to 255 bytes for each of them in its header, which must
fit into one frame of the broker's: 131,072 bytes by default."""


class Placed(Protocol):
    """What decides about a batch's borders."""

    @property
    def position(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def correlation_id(self) -> str | None: ...
    @property
    def size(self) -> int: ...


E = TypeVar("E", bound=Placed)


def block_start(position: int) -> int:
    """The first position of the block that `position` is in: where to begin to read for true borders."""
    return position - position % BLOCK


class Cutter(Generic[E]):
    """Cuts events, which come page by page in their order, into batches."""

    def __init__(self, count: int, bytes: int) -> None:
        self._count = count
        self._bytes = bytes
        self._open: list[E] = []
        self._size = 0
        self._types: set[str] = set()

    def cut(self, page: Iterable[E]) -> list[list[E]]:
        """The batches that are complete now. The last one stays open: the next page may go on with it."""
        done: list[list[E]] = []
        batch, size, types = self._open, self._size, self._types
        following, stream, correlation, type = -1, "", None, ""
        if batch:
            last = batch[-1]
            following, stream, correlation, type = last.position + 1, last.stream, last.correlation_id, last.type
        for event in page:
            position = event.position
            if (
                position != following
                or event.stream != stream
                or event.correlation_id != correlation
                or position % BLOCK == 0
                or len(batch) == self._count
                or size + event.size > self._bytes
                or (len(types) == TYPES and event.type not in types)
            ) and batch:
                done.append(batch)
                batch, size, types, type = [], 0, set(), ""
            batch.append(event)
            size += event.size
            following, stream, correlation = position + 1, event.stream, event.correlation_id
            if event.type != type:
                type = event.type
                types.add(type)
        self._open, self._size, self._types = batch, size, types
        return done

    def rest(self) -> list[list[E]]:
        """The last batch, when everything up to a safe position has been read: a block is never seen in part."""
        batch, self._open, self._size, self._types = self._open, [], 0, set()
        return [batch] if batch else []
