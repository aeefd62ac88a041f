"""The store's side of a subscription: batches from PostgreSQL, up to the safe position."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from trunkline_store import EventStore, RecordedEvent
from trunkline_store.batch import Cutter, block_start
from trunkline_store.read import from_all

PAGE_EVENTS: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024


async def replay(store: EventStore, after: int, safe: int) -> AsyncIterator[list[RecordedEvent]]:
    """The batches of `$all` above `after`, up to the safe position. Events at or below `after` are trimmed off."""
    cutter: Cutter[RecordedEvent] = Cutter(store.batch_count, store.batch_bytes)
    start = block_start(after + 1)
    more = True
    while more and start <= safe:
        rows = await store.fetch(store.sql["read_all_forward"], start, safe, PAGE_EVENTS, PAGE_BYTES)
        events = from_all(rows, store.serializer)
        more = len(rows) == PAGE_EVENTS or sum(event.size for event in events) >= PAGE_BYTES
        batches = cutter.cut(events)
        if more:
            start = events[-1].position + 1
        else:
            batches += cutter.rest()
        for batch in batches:
            if batch[0].position > after:
                yield batch
            elif batch[-1].position > after:
                yield [event for event in batch if event.position > after]
