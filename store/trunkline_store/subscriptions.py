"""The rows of subscriptions, for those who look after them. Following one is the consumer SDK's work."""

from __future__ import annotations

import asyncio
import enum
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol
from uuid import UUID

import asyncpg

from trunkline_store.connections import Connection
from trunkline_store.errors import (
    HistoryChanged,
    InvalidArgument,
    OperationTimeout,
    PermissionRefused,
    SubscriptionHalted,
    SubscriptionNotFound,
    SubscriptionNotHalted,
)
from trunkline_store.pages import Look
from trunkline_store.translate import translated
from trunkline_store.words import COUNTED


class Start(enum.Enum):
    """Where a subscription begins that does not exist yet, or begins again."""

    ORIGIN = "the first event"
    CURRENT = "after the last event that is there"


ORIGIN: Final = Start.ORIGIN
CURRENT: Final = Start.CURRENT


class SubscriptionInfo(NamedTuple):
    """A subscription as the store knows it.

    - `feed`: what it follows: `$all`, `$category-<name>`, or a stream's name.
    - `checkpoint`: everything of it up to this position is finished.
    - `owner`: who follows it now; None where nobody does. `epoch` counts the owners, and resets.
    - `behind`: events of its feed that are safe to read and not finished, counted up to 10,000, of more than fifty
      subscriptions at once up to fewer; `or_more`: as many were counted as were to be. `seconds_behind`: the age of the
      first of them by its `created_at`; imported ones bring their own.
    - `parked`: batches that could not be handled, and those that wait behind them.
    - `halted`: JSON that says why its last owner gave up; None where it did not.
    - `process`: where the owner runs, as `host:pid`; None where nobody follows it.
    """

    name: str
    feed: str
    checkpoint: int
    owner: UUID | None
    epoch: int
    created_at: datetime
    updated_at: datetime
    behind: int
    seconds_behind: float
    parked: int
    halted: str | None
    process: str | None = None
    or_more: bool = False

    @property
    def state(self) -> Literal["following", "halted", "stopped"]:
        """What its owner does, as far as the store can tell."""
        return "halted" if self.halted is not None else "stopped" if self.owner is None else "following"


class Parked(NamedTuple):
    """A batch that could not be handled, or (with no attempts) waits behind one of its key. `wanted`: what an operator
    has asked for, and the owner has not done yet."""

    first_position: int
    last_position: int
    stream: str
    key: str | None
    attempts: int
    error: str | None
    traceback: str | None
    wanted: Literal["retry", "discard"] | None
    parked_at: datetime


class Skipped(NamedTuple):
    """A batch that was finished without being handled, and its subscription's new checkpoint."""

    first: int
    last: int
    stream: str
    checkpoint: int


class Move(NamedTuple):
    """The consequences of a reset to `position`. Events are counted up to 10,000 of each kind.

    - `again`: events that were finished, and come again.
    - `passed_over`: events that were not finished, and will never be handed out.
    - `forgotten`: parked batches.
    """

    position: int
    again: int
    passed_over: int
    forgotten: int


class Halt(NamedTuple):
    """The reason for which a subscription's last owner halted. `at`: its time, as text. Missing fields are empty."""

    position: int = 0
    attempts: int = 0
    error: str = ""
    at: str = ""
    traceback: str | None = None


def halt_of(written: str | None) -> Halt | None:
    """Read `SubscriptionInfo.halted`; None if the subscription is not halted.

    Any login that may own the subscription can write the column, so a value of another type than its field's counts as
    missing.
    """
    if written is None:
        return None
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        found = None
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    kinds = {"position": int, "attempts": int, "error": str, "at": str, "traceback": str}
    return Halt(**{name: fields[name] for name, kind in kinds.items() if type(fields.get(name)) is kind})


class Executor(Protocol):
    """What is needed of a store."""

    schema: str
    sql: Mapping[str, str]

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]: ...

    async def fetchval(self, query: str, *args: object) -> Any: ...

    async def safe_position(self, *, connection: Connection | None = None) -> int: ...

    async def look(self, *, follow: bool) -> Look: ...

    def transaction(self) -> AbstractAsyncContextManager[Any]: ...


class Subscriptions:
    """`store.subscriptions`: list, get, delete, reset, skip, wait_for; and what was parked."""

    def __init__(self, store: Executor) -> None:
        self._store = store

    async def list(self) -> Sequence[SubscriptionInfo]:
        """All of them by name. Raises `Unavailable`."""
        return await self._list(None)

    async def get(self, name: str) -> SubscriptionInfo:
        """One of them. Raises `SubscriptionNotFound`, `Unavailable`."""
        found = await self._list(name)
        if not found:
            raise SubscriptionNotFound(name)
        return found[0]

    async def _list(self, name: str | None) -> Sequence[SubscriptionInfo]:
        safe = await self._store.safe_position()
        rows = await self._store.fetch(self._store.sql["list_subscriptions"], name, safe)
        return [SubscriptionInfo(*row) for row in rows]

    async def delete(self, name: str) -> None:
        """Removes it, with its checkpoint, if it is there; its owner finds out at the next checkpoint or renewal.
        The broker's queue is not touched. Raises `PermissionRefused`, `Unavailable`."""
        with suppress(SubscriptionNotFound):
            await self._check_owned(name)
        await self._store.fetch(self._store.sql["delete_subscription"], name)

    async def reset(self, name: str, to: int | Start | datetime) -> int:
        """Sets the checkpoint, forward or back: to ORIGIN, CURRENT, a position (exclusive), or a time (with a zone),
        from which on events come. What was parked is forgotten: returns how many batches.

        Events that were finished above the new checkpoint come again, and have their effects again: `preview_reset`
        counts them. To get past a batch that cannot be handled, use `skip`.

        A living owner adopts it, at its next checkpoint or renewal: transactions of handlers that are open then are
        rolled back. Raises `SubscriptionNotFound`, `InvalidArgument`, `PermissionRefused`, `Unavailable`.
        """
        sql = self._store.sql
        _check_target(to)
        await self._check_owned(name)
        async with self._store.transaction() as connection:
            position = await self._position(to, connection)
            with translated(self._store.schema):
                number = await connection.fetchval(sql["lock_subscription"], name)
                if number is None:
                    raise SubscriptionNotFound(name)
                forgotten = await connection.fetchval(sql["unpark_all"], number)
                await connection.execute(sql["reset_subscription"], number, position)
        return int(forgotten)

    async def preview_reset(self, name: str, to: int | Start | datetime) -> Move:
        """Return what `reset` would do, without doing it. Raises as `reset`."""
        _check_target(to)
        async with self._store.transaction() as connection:
            position = await self._position(to, connection)
            with translated(self._store.schema):
                rows = await connection.fetch(self._store.sql["preview_reset"], name, position, COUNTED)
        if not rows:
            raise SubscriptionNotFound(name)
        return Move(position, *rows[0])

    async def skip(self, name: str, *, at: int | None = None) -> Skipped:
        """Finish the batch at which a subscription has halted, without handling it.

        Only that batch is skipped: events that were finished above it stay finished. Start the consumer again
        afterwards.

        Args:
            at: The first position of the batch; None for the one at which it halted.

        Raises:
            SubscriptionNotHalted: It is not halted, not at this batch, or was started again or moved meanwhile.
            SubscriptionNotFound, InvalidArgument, Unavailable
        """
        sql = self._store.sql
        await self._check_owned(name)
        rows = await self._store.fetch(sql["see_halt"], name)
        if not rows:
            raise SubscriptionNotFound(name)
        number, epoch, halted = rows[0]
        if halted is None:
            raise SubscriptionNotHalted(name)
        start, first, last, stream = _interval(name, halted)
        if at is not None and at != first:
            raise SubscriptionNotHalted(name, at)
        moved = await self._store.fetch(sql["skip_halted"], number, epoch, start, first, last)
        if not moved:
            raise SubscriptionNotHalted(name, first)
        return Skipped(first, last, stream, moved[0]["checkpoint"])

    async def _position(self, to: int | Start | datetime, connection: Connection) -> int:
        """In the session that keeps it: another server may have other events there."""
        if isinstance(to, int):
            return to
        if to is Start.ORIGIN:
            return 0
        # above the safe position an event of that time may still appear
        safe = await self._store.safe_position(connection=connection)
        query, what = ("last_feed_position", ()) if to is Start.CURRENT else ("position_before", (to,))
        with translated(self._store.schema):
            return int(await connection.fetchval(self._store.sql[query], *what, safe, None))

    async def wait_for(self, name: str, position: int, *, seconds: float = 15.0) -> None:
        """Waits until the position is safe and nothing of the subscription's feed up to it is left: handled, filtered
        or parked. An append's `last_position` is what a reader of its own writes waits for.

        Raises `OperationTimeout` after `seconds`, `SubscriptionHalted` at once where its handler gave up before,
        `SubscriptionNotFound`, `Unavailable`.
        """
        deadline, pause, history = time.monotonic() + seconds, 0.005, ""
        while True:
            if not history:
                look = await self._store.look(follow=False)
                history = look.history if look.safe >= position else ""
            try:
                if history and await self._is_done(name, position, history):
                    return
            except HistoryChanged:  # look again
                history = ""
            if time.monotonic() + pause > deadline:
                raise OperationTimeout(f"subscription {name!r} has not finished position {position} in {seconds:g} s")
            await asyncio.sleep(pause)
            pause = min(0.1, pause * 1.5)

    async def _is_done(self, name: str, position: int, history: str) -> bool:
        rows = await self._store.fetch(self._store.sql["left_of"], name, position, history)
        if not rows:
            raise SubscriptionNotFound(name)
        left, halted = rows[0]
        if left and (why := halt_of(halted)) is not None:
            raise SubscriptionHalted(name, why.position, why.attempts, why.error)
        return not left

    # --- what could not be handled

    async def parked(self, name: str, *, start: int = 0, count: int = 1000) -> Sequence[Parked]:
        """At most `count`, from position `start` on, in the order of the feed. Raises `SubscriptionNotFound`,
        `Unavailable`."""
        await self.get(name)
        return [Parked(*row) for row in await self._store.fetch(self._store.sql["list_parked"], name, start, count)]

    async def retry(self, name: str, position: int | None = None) -> int:
        """Asks the owner to handle a parked batch again, by its first position, or all that have failed; what waits
        behind one goes with it. Returns how many were asked for. Raises `SubscriptionNotFound`, `PermissionRefused`,
        `Unavailable`."""
        return await self._want(name, "retry", position)

    async def discard(self, name: str, position: int | None = None) -> int:
        """Asks the owner to forget a parked batch, by its first position, or all of them; what waits behind a discarded
        one is handled then. Returns how many. Raises `SubscriptionNotFound`, `PermissionRefused`, `Unavailable`."""
        return await self._want(name, "discard", position)

    async def _want(self, name: str, what: str, position: int | None) -> int:
        await self._check_owned(name)
        return len(await self._store.fetch(self._store.sql["want_parked"], name, what, position))

    async def _check_owned(self, name: str) -> None:
        """Raise `SubscriptionNotFound`, or `PermissionRefused` if this login may not own the subscription."""
        if await self._store.fetchval(self._store.sql["owned_subscription"], name) is None:
            await self.get(name)
            raise PermissionRefused(
                f"this login may not own subscription {name!r}: `trunkline roles --as consumer` grants the right"
            )


def _check_target(to: object) -> None:
    """Raise `InvalidArgument` for what a subscription cannot be reset to."""
    if isinstance(to, datetime):
        if to.tzinfo is None:
            raise InvalidArgument("to: the time has no zone")
    elif not isinstance(to, Start) and (not isinstance(to, int) or isinstance(to, bool) or not 0 <= to < 2**63):
        raise InvalidArgument(f"to: {to!r} is neither ORIGIN, CURRENT, a position nor a time")


def _interval(name: str, halted: str) -> tuple[int, int, int, str]:
    """Return the interval (start, last] of the batch at which an owner halted, its first position and its stream.
    Raises `InvalidArgument` if the record is invalid: a login that may write the row can write anything."""
    why = json.loads(halted)
    match why:
        case {"start": int(start), "position": int(first), "last": int(last), "stream": str(stream)}:
            if 0 <= start < first <= last < 2**63:
                return start, first, last, stream
    raise InvalidArgument(f"subscription {name!r}: the record of its halt is invalid: use reset")
