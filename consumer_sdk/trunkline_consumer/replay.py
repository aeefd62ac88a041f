"""The store's side of a subscription: batches from PostgreSQL, up to the safe position.

They are cut as the relay cuts them, so that a batch has the same borders whichever way it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, NamedTuple

from trunkline_consumer.feed import Feed, Kind
from trunkline_store import EventStore, RecordedEvent
from trunkline_store.batch import Cutter, block_start
from trunkline_store.pages import Look
from trunkline_store.read import from_linked_stream

PAGE_EVENTS: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024


class _Placed(NamedTuple):
    """An event where it stands in the stream that is read: what its batch is cut by."""

    position: int
    stream: str
    type: str
    correlation_id: str | None
    size: int
    event: RecordedEvent


async def replay(store: EventStore, feed: Feed, after: int, look: Look) -> AsyncGenerator[list[RecordedEvent], None]:
    """Read the batches of a feed above `after`, up to the safe position of `look`. Events at or below `after` are
    trimmed off. Raises `HistoryChanged`."""
    if after >= look.safe:
        return
    batches = (
        _of_stream(store, feed.name, after, look) if feed.kind is Kind.STREAM else _of_all(store, feed, after, look)
    )
    async with aclosing(batches):
        async for batch in batches:
            if batch[0].feed_position > after:
                yield batch
            elif batch[-1].feed_position > after:
                yield [event for event in batch if event.feed_position > after]


async def _of_all(store: EventStore, feed: Feed, after: int, look: Look) -> AsyncGenerator[list[RecordedEvent], None]:
    cutter: Cutter[RecordedEvent] = Cutter(store.batch_count, store.batch_bytes)
    pages = store.pages(look, PAGE_EVENTS, feed.name if feed.kind is Kind.CATEGORY else None)
    async with aclosing(pages.forward(block_start(after + 1))) as found:
        async for page in found:
            for batch in cutter.cut(page):
                yield batch
    for batch in cutter.rest():
        yield batch


async def _of_stream(
    store: EventStore, stream: str, after: int, look: Look
) -> AsyncGenerator[list[RecordedEvent], None]:
    cutter: Cutter[_Placed] = Cutter(store.batch_count, store.batch_bytes)
    place = await store.fetchrow(store.sql["stream_place"], stream, block_start(after + 1) - 1, look.history)
    if place is None:
        return
    async with aclosing(_pages_of_stream(store, place["stream_id"], place["version"], look)) as found:
        async for page in found:
            placed = (_Placed(e.feed_position, stream, e.type, e.correlation_id, e.size, e) for e in page)
            for batch in cutter.cut(placed):
                yield [each.event for each in batch]
    for batch in cutter.rest():
        yield [each.event for each in batch]


async def _pages_of_stream(
    store: EventStore, stream_id: int, version: int, look: Look
) -> AsyncGenerator[list[RecordedEvent], None]:
    """Prefetch the next page while one is used."""

    def ask(version: int) -> asyncio.Task[list[Any]]:
        query = store.sql["page_stream"]
        return asyncio.create_task(
            store.fetch(query, stream_id, version, look.safe, PAGE_EVENTS, PAGE_BYTES, look.history)
        )

    coming = ask(version)
    try:
        while rows := await coming:
            coming = ask(rows[-1]["number"] + 1)
            yield from_linked_stream(rows, store.serializer)
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
