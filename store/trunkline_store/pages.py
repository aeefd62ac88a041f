"""`$all`, or a category, page by page: one page is used while the next one is on its way.

The page's query is the barest one, since everything that reads the past goes through it: joining the streams' names and
adding up bytes took twice as long as all the rest. So streams come by their ids, whose names are kept here, and a page
is bounded by its number of events and by what one of them may bring along. Where one is larger, the query that adds up
bytes takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

import asyncpg

from trunkline_store import read
from trunkline_store.events import RecordedEvent
from trunkline_store.serialize import Serializer

Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]

KEPT_NAMES: Final = 10_000


class Names:
    """Of streams that were read lately, by id. An id never stands for another name."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    async def of(self, ids: Collection[int], fetch: Fetch, query: str, history: str) -> Mapping[int, str]:
        """Return the names of these stream ids. A name is missing if its stream has been removed."""
        found = {each: self._names[each] for each in ids if each in self._names}
        if len(found) < len(ids):
            asked = {row[0]: row[1] for row in await fetch(query, [each for each in ids if each not in found], history)}
            if len(self._names) + len(asked) > KEPT_NAMES:
                self._names.clear()
            self._names |= asked
            found |= asked
        return found


class Look(NamedTuple):
    """The safe position at one moment, and the history that it belongs to."""

    safe: int
    history: str


def lasting(history: str) -> str:
    """Return a history without its last part, the incarnation: the parts that a crash does not change."""
    return history.rpartition("/")[0]


class _Page(NamedTuple):
    rows: list[asyncpg.Record]
    named: bool


class Pages:
    """The pages up to the safe position of `look`, in its history. category: None for all streams."""

    def __init__(
        self,
        fetch: Fetch,
        sql: Mapping[str, str],
        names: Names,
        serializer: Serializer,
        look: Look,
        count: int,
        category: str | None,
    ) -> None:
        self._fetch = fetch
        self._sql = sql
        self._names = names
        self._serializer = serializer
        self._look = look
        self._count = count
        self._feed = "all" if category is None else "category"
        self._more = () if category is None else (category,)
        self._large = False  # whether there was an event that is too large for the barest query

    async def forward(self, position: int) -> AsyncGenerator[list[RecordedEvent], None]:
        """Pages, none of them empty, from `position` on (inclusive)."""
        coming: asyncio.Task[_Page] | None = None
        try:
            page = await self._page(position)
            while page.rows:
                coming = None
                if self._large or len(page.rows) == self._count:
                    coming = asyncio.create_task(self._page(page.rows[-1][0] + 1))
                    coming.add_done_callback(_seen)
                events = await self._events(page)
                del page  # its rows need not live while their events are used
                if events:
                    yield events
                if coming is None:
                    return
                page = await coming
        finally:
            if coming is not None:
                coming.cancel()

    async def _page(self, position: int) -> _Page:
        safe, history = self._look
        if not self._large:
            each = read.PAGE_BYTES // self._count
            query = self._sql[f"page_{self._feed}"]
            rows = await self._fetch(query, position, safe, self._count, each, *self._more, history)
            if all(row[5] is not None for row in rows):
                return _Page(rows, named=False)
            self._large = True
        query = self._sql[f"read_{self._feed}_forward"]
        rows = await self._fetch(query, position, safe, self._count, read.PAGE_BYTES, *self._more, history)
        return _Page(rows, named=True)

    async def _events(self, page: _Page) -> list[RecordedEvent]:
        if page.named:
            return read.from_all(page.rows, self._serializer)
        names = await self._names.of(
            {row[1] for row in page.rows}, self._fetch, self._sql["stream_names"], self._look.history
        )
        return read.from_page(page.rows, names, self._serializer)


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever stops reading never asks for the page that is on its way; asyncio need not complain of its error."""
    if not task.cancelled():
        task.exception()
