"""Looks at the store every second or two, beside the pump: how far behind the relay is, and who holds readers back."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import structlog

from trunkline_relay.metrics import Metrics
from trunkline_relay.status import Status
from trunkline_store import EventStore, TrunklineError
from trunkline_store.overview import RELAY, OpenTransaction
from trunkline_store.presence import process_name

LOOK_SECONDS: Final = 1.5
HELD_SECONDS: Final = 10.0
"""A transaction that has appended and is open for so long is logged; again each time that its age has doubled."""

log = structlog.get_logger("trunkline.relay")


async def observe(store: EventStore, owner: UUID, metrics: Metrics, status: Status) -> None:
    """For ever; a standby says, too, that it is there. While the store cannot be asked, `status` grows old, which it
    tells."""
    watch = HolderWatch()
    while True:
        try:
            safe = await store.safe_position()
            row = await store.fetchrow(store.sql["relay_lag"], safe, RELAY)
            holder = watch.seen(await store.fetchrow(store.sql["holder"], safe), time.monotonic())
        except TrunklineError as error:  # the relay itself meets it too, and says so
            log.debug("not observed", error=str(error))
        except Exception:
            log.exception("not observed")
        else:
            position, events, seconds = (row["position"], row["events"], row["seconds"]) if row else (0, 0, 0.0)
            status.see(position, safe, events, max(0.0, seconds), holder)
            if not status.leading:  # a leader knows better
                metrics.position.set(position)
                metrics.safe_position.set(safe)
            age = 0.0 if holder is None else holder.seconds or 0.0
            metrics.see(events, max(0.0, seconds), age)
            if holder is not None and watch.due(age):
                log.warning("readers held back by an open transaction", store=store.schema, **holder._asdict())
            if not status.leading:
                with suppress(TrunklineError):  # of a database that is read-only, say
                    await store.fetch(store.sql["stand_by"], RELAY, owner, process_name())
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.9, 1.1))


class HolderWatch:
    """Since when each holder has been there, if PostgreSQL does not tell, and when it is time to speak of it: pure."""

    def __init__(self) -> None:
        self._who: tuple[Any, ...] | None = None
        self._since = 0.0
        self._next = HELD_SECONDS

    def seen(self, row: Any | None, now: float) -> OpenTransaction | None:
        """The holder that a row of the query tells of, with its age, or None. now: monotonic seconds."""
        if row is None:
            self._who = None
            return None
        who = row["pid"], row["prepared"], row["block"]
        if who != self._who:
            self._who, self._since, self._next = who, now, HELD_SECONDS
        age = now - self._since if row["age"] is None else row["age"]
        return OpenTransaction(row["pid"], row["login"] or "", row["application"], row["prepared"], max(0.0, age))

    def due(self, age: float) -> bool:
        """Whether a holder of this age is to be logged now."""
        if age < self._next:
            return False
        self._next = age * 2
        return True
