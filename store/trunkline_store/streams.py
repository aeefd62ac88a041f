"""What is said of a stream, and of many."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, NamedTuple

import asyncpg

from trunkline_store.errors import InvalidArgument
from trunkline_store.queries import qualified

ALL: Final = "$all"

SortBy = Literal["stream", "stream_id"]
SortDir = Literal["asc", "desc"]


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
    """The counts of a category: its streams, its deleted streams, and the events and links appended to them.

    If `or_more` is true, the category has more streams, and the counts are those of the first ones.
    """

    category: str
    streams: int
    deleted: int
    events: int
    or_more: bool


def info(row: asyncpg.Record) -> StreamInfo:
    """A row of `stream_info`, `all_info` or `paginate_streams`."""
    return StreamInfo(row["stream"], row["stream_id"], row["version"], row["created_at"], row["deleted_at"])


def page_query(
    query: str,
    count: int,
    *,
    after: str | int | None,
    search: str,
    sort_by: SortBy,
    sort_dir: SortDir,
    category: str | None,
    deleted: bool | None,
) -> tuple[str, list[object]]:
    """Return `paginate_streams` with its order and conditions filled in, and its arguments.

    Conditions that are not needed are left out: one that is true for a null parameter would keep the planner from the
    index. A category's bounds are pairs, as in `read_category_forward`.

    Args:
        query: The statement, with `@where@` and `@sort@`.
        count: Streams on the page, at most.
        after: The last name of the last page, or the last id if sorted by id; None for the first page.
        search: A part of the name; empty for all.
        sort_by: `stream` (the name), or `stream_id` (the age), which excludes `category`.
        sort_dir: `asc` or `desc`.
        category: Only streams of this category.
        deleted: Only deleted streams, or only those that are not.

    Raises:
        InvalidArgument: The order is none of these.
    """
    if sort_by not in ("stream", "stream_id"):
        raise InvalidArgument(f"sort_by: {sort_by!r} is unknown: use 'stream' or 'stream_id'")
    if sort_by == "stream_id" and category is not None:
        raise InvalidArgument("sort_by: the streams of a category are sorted by name: use 'stream'")
    if sort_dir not in ("asc", "desc"):
        raise InvalidArgument(f"sort_dir: {sort_dir!r} is neither asc nor desc")
    conditions, arguments = ["true"], list[object]([count])

    def given(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}::{'bigint' if isinstance(value, int) else 'text'}"

    forward = sort_dir == "asc"
    columns: list[str] = [sort_by]
    if category is not None:
        low, high = "", f"{category}."  # `.` is the character after the `-` that ends a category
        if after is not None:
            low, high = (str(after), high) if forward else (low, str(after))
        name, low, high = given(category), given(low), given(high)
        if deleted:  # deleted streams are few, and have an index of their names
            conditions.append(f"stream > {low} AND stream < {high} AND split_part(stream, '-', 1) = {name}")
        else:
            columns = ["category", "stream"]
            conditions.append(f"(category, stream) > ({name}, {low}) AND (category, stream) < ({name}, {high})")
    elif after is not None:
        conditions.append(f"{sort_by} {'>' if forward else '<'} {given(after)}")
    if search:
        conditions.append(f"position({given(search)} IN stream) > 0")
    if deleted is not None:
        conditions.append(f"deleted_at IS {'NOT ' if deleted else ''}NULL")
    order = ", ".join(f"{column} {sort_dir}" for column in columns)
    return query.replace("@where@", qualified(" AND ".join(conditions))).replace("@sort@", order), arguments
