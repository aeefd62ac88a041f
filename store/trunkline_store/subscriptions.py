"""The rows of subscriptions, for those who look after them. Following one is the consumer SDK's work."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

import asyncpg

from trunkline_store.errors import InvalidArgument, SubscriptionNotFound


class SubscriptionInfo(NamedTuple):
    """A subscription as the store knows it.

    - `feed`: what it follows. `checkpoint`: everything of it up to this position is finished.
    - `owner`: who follows it now; None where nobody does. `epoch` counts the owners.
    - `behind`: events of its feed above the checkpoint, counted up to 10,000.
    """

    name: str
    feed: str
    checkpoint: int
    owner: UUID | None
    epoch: int
    created_at: datetime
    updated_at: datetime
    behind: int


class Executor(Protocol):
    """What is needed of a store."""

    sql: Mapping[str, str]

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]: ...


class Subscriptions:
    """`store.subscriptions`: list, get, delete and reset."""

    def __init__(self, store: Executor) -> None:
        self._store = store

    async def list(self) -> list[SubscriptionInfo]:
        """All of them by name. Raises `Unavailable`."""
        return [_info(row) for row in await self._store.fetch(self._store.sql["list_subscriptions"], None)]

    async def get(self, name: str) -> SubscriptionInfo:
        """One of them. Raises `SubscriptionNotFound`, `Unavailable`."""
        rows = await self._store.fetch(self._store.sql["list_subscriptions"], name)
        if not rows:
            raise SubscriptionNotFound(name)
        return _info(rows[0])

    async def delete(self, name: str) -> None:
        """Removes it, with its checkpoint, if it is there; its owner finds out at the next checkpoint or renewal.
        The broker's queue is not touched. Raises `Unavailable`."""
        await self._store.fetch(self._store.sql["delete_subscription"], name)

    async def reset(self, name: str, position: int) -> None:
        """Sets the checkpoint, forward or back: events after `position` come (again). Whoever owns the subscription
        loses it. Raises `SubscriptionNotFound`, `InvalidArgument`, `Unavailable`."""
        if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < 2**63:
            raise InvalidArgument(f"position: {position!r} is no position")
        if not await self._store.fetch(self._store.sql["reset_subscription"], name, position):
            raise SubscriptionNotFound(name)


def _info(row: asyncpg.Record) -> SubscriptionInfo:
    return SubscriptionInfo(*row)
