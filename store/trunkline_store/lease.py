"""Leases: who does what, until when, by the database's clock.

A lease is taken, renewed and judged by one clock, the database's; no session holds anything, so it works through
PgBouncer and outlives a host that vanishes by its length only. Whoever takes it over gets a higher epoch, and the
rows that a lease guards are written in statements that check owner and epoch: a former holder that was paused can
therefore do nothing, whatever it believes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import asyncpg

from trunkline_store.errors import LeaseLost, OperationTimeout, TrunklineError, Unavailable
from trunkline_store.presence import process_name

log = logging.getLogger("trunkline.store")


class Executor(Protocol):
    """What a lease needs of a store."""

    sql: Mapping[str, str]

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]: ...

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
        self.lost = asyncio.Event()
        """Set when somebody else has it, or it is gone."""
        self.fault: Unavailable | None = None
        """Why `keep` could not renew it the last time, if it could not."""

    @classmethod
    async def acquire(cls, store: Executor, name: str, owner: UUID, length: float) -> Lease | None:
        """The lease, or None while somebody else holds it. Raises `Unavailable`."""
        sent_at = time.monotonic()
        row = await store.fetchrow(store.sql["acquire_lease"], name, owner, timedelta(seconds=length), process_name())
        return None if row is None else cls(store, name, owner, row["epoch"], length, sent_at)

    @property
    def held(self) -> bool:
        """Whether nobody else can have it yet, judged without asking, from the *sending* of the last renewal on."""
        return time.monotonic() < self._deadline

    @property
    def lapsed(self) -> bool:
        """Whether it has not been held for as long as it is: that is no hiccup."""
        return time.monotonic() > self._deadline + self.length

    async def renew(self) -> None:
        """Raises `LeaseLost` if it has another holder or is gone, and `Unavailable`."""
        sent_at = time.monotonic()
        row = await self._store.fetchrow(self._store.sql["renew_lease"], self.name, self.owner, self.epoch)
        if row is None:
            self.refused()
            raise LeaseLost(self.name)
        self.renewed(sent_at)

    def renewed(self, sent_at: float) -> None:
        """It was renewed, by a statement that was sent at this (monotonic) time."""
        self._deadline = sent_at + self.length
        self.fault = None
        self._renewed.set()

    def refused(self) -> None:
        """It was not renewed, since it is no longer ours."""
        self._deadline = time.monotonic()
        self.lost.set()

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
                except Unavailable as error:
                    self.fault = error
                except TimeoutError:
                    self.fault = OperationTimeout("the database did not answer in time to renew a lease")
                await asyncio.sleep(min(0.1, self.length / 20))

    async def release(self) -> None:
        """Lets the next one in at once. Raises `Unavailable`; the lease then runs out by itself."""
        self._deadline = time.monotonic()
        await self._store.fetchrow(self._store.sql["release_lease"], self.name, self.owner, self.epoch)


class Keeper:
    """Renews all leases of a process, in one event loop, in one statement each time."""

    def __init__(self, store: Executor) -> None:
        self._store = store
        self._leases: dict[str, Lease] = {}
        self._changed = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    def add(self, lease: Lease) -> None:
        """From now on it is renewed."""
        self._leases[lease.name] = lease
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep(), name="leases")
            self._keeping.add_done_callback(self._ended)
        self._changed.set()

    def remove(self, lease: Lease) -> None:
        """It is renewed no more."""
        if self._leases.get(lease.name) is lease:
            del self._leases[lease.name]

    async def close(self) -> None:
        """Renews nothing any more."""
        self._leases.clear()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def _ended(self, keeping: asyncio.Task[None]) -> None:
        """Tell every owner at once if renewal has ended without `close`."""
        if keeping is not self._keeping or not self._leases:
            return
        cause = None if keeping.cancelled() else keeping.exception()
        log.error("leases are no longer renewed: their owners stop", exc_info=cause)
        for lease in list(self._leases.values()):
            self.remove(lease)
            lease.refused()

    async def _keep(self) -> None:
        while self._leases:
            length = min(lease.length for lease in self._leases.values())
            pause = length / 4
            try:
                async with asyncio.timeout(length / 2):  # a connection that is dead without a word is left
                    if not await self._renew():
                        pause = length / 20
            except (TrunklineError, TimeoutError):
                pause = min(0.1, length / 20)  # the database is away: the leases may run out, and be ours afterwards
            except Exception:
                log.exception("leases could not be renewed because of an unknown error: trying again")
                pause = length / 4
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _renew(self) -> bool:
        """Returns whether all that are ours could be renewed."""
        leases, sent_at, every = list(self._leases.values()), time.monotonic(), True
        rows = await self._store.fetch(
            self._store.sql["renew_leases"],
            [lease.name for lease in leases],
            [lease.owner for lease in leases],
            [lease.epoch for lease in leases],
        )
        for name, epoch, renewed, ours in rows:
            lease = self._leases.get(name)
            if lease is None or lease.epoch != epoch:
                continue
            if renewed:
                lease.renewed(sent_at)
            elif not ours:
                self.remove(lease)
                lease.refused()
            every = every and (renewed or not ours)
        return every
