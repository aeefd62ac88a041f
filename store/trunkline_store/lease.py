"""Leases: who does what, until when, by the database's clock.

A lease is taken, renewed and judged by one clock, the database's; no session holds anything, so it works through
PgBouncer and outlives a host that vanishes by its length only. Whoever takes it over gets a higher epoch, and the
rows that a lease guards are written in statements that check owner and epoch: a former holder that was paused can
therefore do nothing, whatever it believes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import asyncpg

from trunkline_store.errors import LeaseLost, Unavailable


class Executor(Protocol):
    """What a lease needs of a store."""

    sql: Mapping[str, str]

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None: ...


class Lease:
    """A lease that is held. `epoch` counts its holders; `length` is in seconds."""

    def __init__(self, store: Executor, name: str, owner: UUID, epoch: int, length: float, sent_at: float) -> None:
        self.name = name
        self.owner = owner
        self.epoch = epoch
        self.length = length
        self._store = store
        self._deadline = sent_at + length
        self._renewed = asyncio.Event()

    @classmethod
    async def acquire(cls, store: Executor, name: str, owner: UUID, length: float) -> Lease | None:
        """The lease, or None while somebody else holds it. Raises `Unavailable`."""
        sent_at = time.monotonic()
        row = await store.fetchrow(store.sql["acquire_lease"], name, owner, timedelta(seconds=length))
        return None if row is None else cls(store, name, owner, row["epoch"], length, sent_at)

    @property
    def held(self) -> bool:
        """Whether nobody else can have it yet, judged without asking, from the *sending* of the last renewal on."""
        return time.monotonic() < self._deadline

    async def renew(self) -> None:
        """Raises `LeaseLost` if it has another holder or is gone, and `Unavailable`."""
        sent_at = time.monotonic()
        row = await self._store.fetchrow(self._store.sql["renew_lease"], self.name, self.owner, self.epoch)
        if row is None:
            self._deadline = sent_at
            raise LeaseLost(self.name)
        self._deadline = sent_at + self.length
        self._renewed.set()

    async def until_held(self) -> None:
        """Waits while it cannot be said whether we hold it: the database is away, or this process was paused."""
        while not self.held:
            self._renewed.clear()
            await self._renewed.wait()

    async def keep(self) -> None:
        """Renews for ever. While the database is away the lease may run out (`held` turns false), and is ours again
        afterwards if nobody took it meanwhile; raises `LeaseLost` if somebody did."""
        while True:
            await asyncio.sleep(self.length / 4)
            while True:
                try:
                    async with asyncio.timeout(self.length / 2):  # a connection that is dead without a word is left
                        await self.renew()
                    break
                except (Unavailable, TimeoutError):
                    await asyncio.sleep(min(0.1, self.length / 20))

    async def release(self) -> None:
        """Lets the next one in at once. Raises `Unavailable`; the lease then runs out by itself."""
        self._deadline = time.monotonic()
        await self._store.fetchrow(self._store.sql["release_lease"], self.name, self.owner, self.epoch)
