"""Reads `$all` up to the safe position, page by page, and makes messages of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Final

from trunkline_store import EventStore
from trunkline_store.batch import Cutter, block_start
from trunkline_store.wire import Chain, Message, StoredEvent, encode

PAGE_EVENTS: Final = 2000
PAGE_BYTES: Final = 4 * 1024 * 1024
REMEMBERED: Final = 10_000


class Tail:
    """Where a relay stands in `$all`, and how messages of what follows are made."""

    def __init__(self, store: EventStore, history: str, position: int, epoch: int) -> None:
        self.position = position
        """Messages were made of everything up to here."""
        self._store = store
        self._history = history
        self._epoch = epoch
        self._previous: int | None = None
        self._categories: OrderedDict[str, int] = OrderedDict()
        self._streams: OrderedDict[str, int] = OrderedDict()

    async def until(self, safe: int) -> AsyncIterator[list[Message]]:
        """The messages of everything above `position` up to the safe position, a page at a time."""
        store = self._store
        cutter: Cutter[StoredEvent] = Cutter(store.batch_count, store.batch_bytes)
        start = block_start(self.position + 1)
        more = True
        while more:
            rows = await store.fetch(store.sql["relay_page"], start, safe, PAGE_EVENTS, PAGE_BYTES, store.batch_bytes)
            more = len(rows) == PAGE_EVENTS or (sum(min(row["size"], store.batch_bytes) for row in rows) >= PAGE_BYTES)
            batches = cutter.cut(StoredEvent(*row) for row in rows)
            if more:
                start = rows[-1]["position"] + 1
            else:
                batches += cutter.rest()
            if messages := await self._messages(batches):
                yield messages

    async def _messages(self, batches: Sequence[list[StoredEvent]]) -> list[Message]:
        ahead = [
            batch if batch[0].position > self.position else [e for e in batch if e.position > self.position]
            for batch in batches
            if batch[-1].position > self.position
        ]
        if not ahead:
            return []
        if self._previous is None:
            self._previous = int(await self._store.fetchval(self._store.sql["last_position"], ahead[0][0].position - 1))
        await self._look_up(ahead)
        messages = []
        for batch in ahead:
            first, last = batch[0], batch[-1].position
            chain = Chain(
                self._previous,
                self._categories[first.category],
                self._streams[first.stream] if first.stream_version > 1 else 0,
            )
            messages.append(
                encode(
                    batch,
                    chain,
                    store=self._store.schema,
                    history=self._history,
                    epoch=self._epoch,
                    content_type=self._store.content_type,
                )
            )
            self._previous = last
            _remember(self._categories, first.category, last)
            _remember(self._streams, first.stream, last)
        self.position = self._previous
        for cache in (self._categories, self._streams):
            while len(cache) > REMEMBERED:
                cache.popitem(last=False)
        return messages

    async def _look_up(self, batches: Sequence[list[StoredEvent]]) -> None:
        """Finds the predecessors that are not remembered: two index look-ups a page, at most."""
        categories: dict[str, int] = {}
        streams: dict[str, int] = {}
        for batch in batches:
            first = batch[0]
            if first.category not in self._categories:
                categories.setdefault(first.category, first.position)
            if first.stream not in self._streams and first.stream_version > 1:
                streams.setdefault(first.stream, first.stream_version)
        for query, wanted, known in (
            ("previous_in_category", categories, self._categories),
            ("previous_in_stream", streams, self._streams),
        ):
            if wanted:
                rows = await self._store.fetch(self._store.sql[query], list(wanted), list(wanted.values()))
                known.update(zip(wanted, (row["previous"] for row in rows), strict=True))


def _remember(cache: OrderedDict[str, int], key: str, position: int) -> None:
    cache[key] = position
    cache.move_to_end(key)
