"""What a handler is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import overload

from trunkline_store import RecordedEvent

Ack = Callable[[int, int], Awaitable[None]]


class Batch(Sequence[RecordedEvent]):
    """Consecutive events of one stream with one correlation id (or none), in their order."""

    __slots__ = ("_ack", "_events", "_generation")

    def __init__(self, events: Sequence[RecordedEvent], ack: Ack, generation: int) -> None:
        self._events = events
        self._ack = ack
        self._generation = generation

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordedEvent]: ...
    def __getitem__(self, index: int | slice) -> RecordedEvent | Sequence[RecordedEvent]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[RecordedEvent]:
        return iter(self._events)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} from {self.stream!r}, positions {self[0].position}-{self[-1].position}>"

    @property
    def stream(self) -> str:
        return self._events[0].stream

    @property
    def correlation_id(self) -> str | None:
        return self._events[0].correlation_id

    async def ack(self) -> None:
        """These events, and all in flight before them, are handled. See `Subscription.ack`."""
        await self._ack(self._events[-1].feed_position, self._generation)
