"""Reads events and links up to the safe position, page by page, and makes messages of them.

One page is made into messages and published while the next one is on its way.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from heapq import merge
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple

import asyncpg
import msgspec

from trunkline_store import EventStore
from trunkline_store.batch import Cutter, block_start
from trunkline_store.context import tracer
from trunkline_store.pages import Names
from trunkline_store.wire import Chain, Message, StoredEvent, StoredLink, encode

PAGE_EVENTS: Final = 2000
PAGE_BYTES: Final = 4 * 1024 * 1024
PORTION_EVENTS: Final = 250
"""Of which messages are made in one go: a few milliseconds, in which nothing else happens in this process."""
REMEMBERED: Final = 10_000

_SIZE: Final = itemgetter(6)


class _Page(NamedTuple):
    """Events and links in their order; up to `end` there are no others, and `more` may follow."""

    entries: Sequence[StoredEvent]
    end: int
    more: bool


class Tail:
    """Where a relay stands among events and links, and how messages of what follows are made."""

    def __init__(self, store: EventStore, history: str, position: int, epoch: int) -> None:
        self.position = position
        """Messages were made of everything up to here."""
        self._store = store
        self._history = history
        self._epoch = epoch
        self._traced = tracer() is not None
        self._previous: int | None = None
        self._categories: OrderedDict[str, int] = OrderedDict()
        self._streams: OrderedDict[str, int] = OrderedDict()
        self._names = Names()
        self._large = False  # whether the last page had an event that is too large for the barest query

    async def until(self, safe: int) -> AsyncGenerator[list[Message], None]:
        """The messages of everything above `position` up to the safe position, some at a time."""
        cutter: Cutter[StoredEvent] = Cutter(self._store.batch_count, self._store.batch_bytes)
        coming: asyncio.Task[_Page] | None = None
        try:
            page = await self._page(block_start(self.position + 1), safe)
            while True:
                coming = asyncio.create_task(self._page(page.end + 1, safe)) if page.more else None
                batches = cutter.cut(page.entries)
                if coming is None:
                    batches += cutter.rest()
                batches = self._ahead(batches)
                await self._look_up(batches)
                for some in _portions(batches):
                    await asyncio.sleep(0)  # meanwhile the next page is asked for, and comes in
                    yield self._messages(some)
                if coming is None:
                    return
                page = await coming
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _page(self, start: int, safe: int) -> _Page:
        page, with_links = await self._events(start, safe)
        if not with_links:
            return page
        rows, links_end, more_links = await self._rows("relay_links", start, page.end)
        if not rows:
            return page
        # what is beyond them is read again
        events = [event for event in page.entries if event.position < links_end] if more_links else page.entries
        links: list[StoredEvent] = [StoredLink(*row) for row in rows]
        return _Page(list(merge(events, links, key=attrgetter("position"))), links_end, page.more or more_links)

    async def _events(self, start: int, safe: int) -> tuple[_Page, bool]:
        """A page without links, and whether there may be links in its range."""
        store, each = self._store, PAGE_BYTES // PAGE_EVENTS
        if not self._large:
            # Adding up bytes and joining the streams' names take half of a page's time: where no event is above its
            # share of the page, the first is not needed, and names are remembered.
            rows = await store.fetch(store.sql["relay_page_barest"], start, safe, PAGE_EVENTS, each, self._history)
            if max(map(_SIZE, rows), default=0) <= each:
                ids, query = {row[1] for row in rows}, store.sql["stream_names"]
                names = await self._names.of(ids, store.fetch, query, self._history)
                # a stream without a name has been removed meanwhile, with its events
                events = [StoredEvent(row[0], names[row[1]], *row[2:13]) for row in rows if row[1] in names]
                more = len(rows) == PAGE_EVENTS
                return _Page(events, rows[-1][0] if more else safe, more), not rows or rows[0][13]
        rows, end, more = await self._rows("relay_page", start, safe)
        self._large = max(map(_SIZE, rows), default=0) > each
        return _Page([StoredEvent(*row[:13]) for row in rows], end, more), not rows or rows[0][13]

    async def _rows(self, query: str, start: int, safe: int) -> tuple[list[asyncpg.Record], int, bool]:
        """The rows, up to where nothing is missing, and whether there may be more."""
        largest = self._store.batch_bytes
        args = start, safe, PAGE_EVENTS, PAGE_BYTES, largest, self._history
        rows = await self._store.fetch(self._store.sql[query], *args)
        more = len(rows) == PAGE_EVENTS or sum(min(row["size"], largest) for row in rows) >= PAGE_BYTES
        return rows, rows[-1]["position"] if more else safe, more

    def _ahead(self, batches: Sequence[list[StoredEvent]]) -> list[list[StoredEvent]]:
        """Without what messages were made of before."""
        return [
            batch if batch[0].position > self.position else [e for e in batch if e.position > self.position]
            for batch in batches
            if batch[-1].position > self.position
        ]

    def _messages(self, batches: Sequence[list[StoredEvent]]) -> list[Message]:
        assert self._previous is not None
        messages = []
        for batch in batches:
            first, last = batch[0], batch[-1].position
            linked = isinstance(first, StoredLink)
            chain = Chain(
                0 if linked else self._previous,
                0 if linked else self._categories[first.category],
                self._streams[first.stream] if first.stream_version > 1 else 0,
            )
            message = encode(
                batch,
                chain,
                store=self._store.schema,
                history=self._history,
                epoch=self._epoch,
                content_type=self._store.content_type,
            )
            if self._traced:
                traces = tuple(event.traceparent for event in batch if event.traceparent is not None)
                message = msgspec.structs.replace(message, traceparents=traces)
            messages.append(message)
            _remember(self._streams, first.stream, last)
            if not linked:
                self._previous = last
                _remember(self._categories, first.category, last)
        self.position = batches[-1][-1].position
        return messages

    async def _look_up(self, batches: Sequence[list[StoredEvent]]) -> None:
        """Finds the predecessors that are not remembered: two index look-ups a page, at most. What is forgotten is
        forgotten before: the page needs the rest."""
        for cache in (self._categories, self._streams):
            while len(cache) > REMEMBERED:
                cache.popitem(last=False)
        if self._previous is None and batches:
            before = batches[0][0].position - 1
            query = self._store.sql["last_position"]
            self._previous = int(await self._store.fetchval(query, before, self._history))
        categories: dict[str, int] = {}
        streams: dict[str, int] = {}
        for batch in batches:
            first = batch[0]
            if first.category not in self._categories and not isinstance(first, StoredLink):
                categories.setdefault(first.category, first.position)
            if first.stream not in self._streams and first.stream_version > 1:
                streams.setdefault(first.stream, first.stream_version)
        lookups: tuple[tuple[str, dict[str, int], OrderedDict[str, int]], ...] = (
            ("previous_in_category", categories, self._categories),
            ("previous_in_stream", streams, self._streams),
        )
        for query, wanted, known in lookups:
            if wanted:
                args = list(wanted), list(wanted.values()), self._history
                rows = await self._store.fetch(self._store.sql[query], *args)
                known.update(zip(wanted, (row["previous"] for row in rows), strict=True))


def _portions(batches: Sequence[list[StoredEvent]]) -> Iterator[list[list[StoredEvent]]]:
    """Of about `PORTION_EVENTS` each."""
    portion: list[list[StoredEvent]] = []
    events = 0
    for batch in batches:
        portion.append(batch)
        events += len(batch)
        if events >= PORTION_EVENTS:
            yield portion
            portion, events = [], 0
    if portion:
        yield portion


def _remember(cache: OrderedDict[str, int], key: str, position: int) -> None:
    cache[key] = position
    cache.move_to_end(key)
