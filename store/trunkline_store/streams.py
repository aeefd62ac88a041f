"""What is said of a stream, and of many."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, NamedTuple

import asyncpg

from trunkline_store.errors import InvalidArgument

ALL: Final = "$all"

SortBy = Literal["stream", "stream_id", "version", "created_at", "deleted_at"]
SortDir = Literal["asc", "desc"]

_SORT_BY: Final = ("stream", "stream_id", "version", "created_at", "deleted_at")


class StreamInfo(NamedTuple):
    """A stream, or `$all` (whose id is 0, and whose version is the last position)."""

    stream: str
    stream_id: int
    version: int
    created_at: datetime
    deleted_at: datetime | None

    @property
    def status(self) -> Literal["created", "deleted"]:
        return "created" if self.deleted_at is None else "deleted"


class CategoryInfo(NamedTuple):
    """What is in a category: streams that are there, and deleted ones; events and links that were appended to them."""

    category: str
    streams: int
    deleted: int
    events: int


class Page(NamedTuple):
    """One page of streams; `page_number` begins at 1, and an empty store has one page."""

    entries: list[StreamInfo]
    page_number: int
    page_size: int
    total_entries: int

    @property
    def total_pages(self) -> int:
        return max(1, -(-self.total_entries // self.page_size))


def info(row: asyncpg.Record) -> StreamInfo:
    """A row of `stream_info`, `all_info` or `paginate_streams`."""
    return StreamInfo(row["stream"], row["stream_id"], row["version"], row["created_at"], row["deleted_at"])


def sorted_query(query: str, sort_by: str, sort_dir: str) -> str:
    """`paginate_streams` with its order filled in. Raises `InvalidArgument`."""
    if sort_by not in _SORT_BY:
        raise InvalidArgument(f"sort_by: {sort_by!r} is none of {', '.join(_SORT_BY)}")
    if sort_dir not in ("asc", "desc"):
        raise InvalidArgument(f"sort_dir: {sort_dir!r} is neither asc nor desc")
    return query.replace("@sort@", f"{sort_by} {sort_dir}")
