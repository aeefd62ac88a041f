"""The store, its relay and its subscriptions at a moment: all that the database alone can tell of how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from trunkline_store.store import EventStore
from trunkline_store.subscriptions import SubscriptionInfo

RELAY: Final = "relay"
"""The relay's row, and its lease."""
SIZE_SECONDS: Final = 1.0
"""For whoever has locked a table."""


class OpenTransaction(NamedTuple):
    """One that has appended, is not finished, and so holds the safe position back. pid: None where it is prepared.
    seconds: its age; None where only a member of `pg_read_all_stats` may see that."""

    pid: int | None
    login: str
    application: str
    prepared: str | None
    seconds: float | None

    @property
    def words(self) -> str:
        """Who it is, for a person."""
        who = f"prepared transaction {self.prepared!r}" if self.pid is None else f"process {self.pid}"
        whose = ", ".join(part for part in (self.application and f"{self.application!r}", self.login) if part)
        age = "" if self.seconds is None else f", open for {self.seconds:.1f} s"
        return f"{who} ({whose}){age}" if whose else f"{who}{age}"


class RelayInfo(NamedTuple):
    """What the relay's rows say. owner: of the lease; None where nobody leads. position: all up to it is confirmed, and
    recorded, the last time at `updated_at`. lag: events and links between it and the safe position, counted up to
    10,000 of each, and the age of the first of those events in seconds."""

    position: int
    owner: UUID | None
    epoch: int
    updated_at: datetime
    lag_events: int
    lag_seconds: float


class Overview(NamedTuple):
    """Of one store.

    - `at`: the database's clock; `version`: of the schema.
    - `safe_position`: all up to it can be read; `last_position`: of the last event that is committed.
    - `held_back`: events that are committed and above the safe position, counted up to 10,000: somebody else's
      transaction is why they cannot be read yet; `transaction` is the oldest of those.
    - `events`, `streams`: exact below 10,000, then an estimate of PostgreSQL's. `inserted`: rows of events written
      since the server's statistics began, rolled back ones too: the difference of two is how fast events come.
    - `relay`: None where none has ever run.
    """

    at: datetime
    schema: str
    version: int
    history: str
    data_type: str
    content_type: str
    created_at: datetime
    safe_position: int
    last_position: int
    held_back: int
    transaction: OpenTransaction | None
    events: int
    streams: int
    inserted: int
    relay: RelayInfo | None
    subscriptions: Sequence[SubscriptionInfo]


async def overview(store: EventStore) -> Overview:
    """How everything is now, in a few short statements. It takes no right but a reader's. Raises `Unavailable`,
    `UnsafeRead`."""
    safe = await store.safe_position()
    sql = store.sql
    row = await store.fetchrow(sql["overview"], safe)
    assert row is not None, "a store has one row"
    holder = await store.fetchrow(sql["holder"], safe)
    relay = await store.fetchrow(sql["relay_standing"], RELAY)
    lag = await store.fetchrow(sql["relay_lag"], safe, RELAY)
    subscriptions = await store.fetch(sql["list_subscriptions"], None, safe)
    return Overview(
        schema=store.schema,
        safe_position=safe,
        transaction=None
        if holder is None
        else OpenTransaction(
            holder["pid"], holder["login"] or "", holder["application"], holder["prepared"], _positive(holder["age"])
        ),
        relay=None
        if relay is None or lag is None
        else RelayInfo(**dict(relay), lag_events=lag["events"], lag_seconds=max(0.0, lag["seconds"])),
        subscriptions=[SubscriptionInfo(*each) for each in subscriptions],
        **dict(row),
    )


async def size(store: EventStore) -> int | None:
    """Bytes of all tables with their indexes; None where one is locked, so that it cannot be told soon. Raises
    `Unavailable`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SIZE_SECONDS):
            return int(await store.fetchval(store.sql["size"]))
    return None


def _positive(seconds: float | None) -> float | None:
    return None if seconds is None else max(0.0, seconds)
