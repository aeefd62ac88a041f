"""What a handler is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, overload

from trunkline_store import RecordedEvent
from trunkline_store.connections import Connection

if TYPE_CHECKING:
    from trunkline_consumer.acks import Unit
    from trunkline_consumer.tenure import Tenure


class Batch(Sequence[Any]):
    """Consecutive events of one stream (the one that is read) with one correlation id (or none), in their order; or,
    with a `mapper`, what it made of them."""

    __slots__ = ("_tenure", "_values", "error", "events", "key", "stream", "unit")

    def __init__(
        self,
        events: Sequence[RecordedEvent],
        values: Sequence[Any],
        *,
        stream: str,
        key: Any,
        tenure: Tenure,
        unit: Unit,
        error: BaseException | None = None,
    ) -> None:
        self.events = events
        """As they were recorded."""
        self.stream = stream
        self.key = key
        """What `partition_by` said of them."""
        self.unit = unit
        self.error = error
        """What a selector, mapper or partition_by raised for it."""
        self._values = values
        self._tenure = tenure

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} from {self.stream!r}, positions {self.unit.first}-{self.unit.last}>"

    @property
    def subscription(self) -> str:
        """The name of the subscription that handed the batch out."""
        return self._tenure.claim.name

    @property
    def correlation_id(self) -> str | None:
        return self.events[0].correlation_id

    async def ack(self) -> None:
        """These events, and all in flight before them, are handled. See `Subscription.ack`."""
        await self._tenure.ack(self.unit.last)

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """A connection in a transaction that also finishes this batch: your writes and that are committed together, or
        neither. Exactly once in effect, also when the answer to the commit is lost and the work is done again.

        Raises `SubscriptionLost` at its end, with everything rolled back, if the subscription has another owner by
        then, or was reset (the iteration goes on from there), and `Unavailable`.
        """
        return self._tenure.transaction(self)
