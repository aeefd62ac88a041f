"""`streams`: which there are."""

from __future__ import annotations

import asyncio
import enum
import shlex
import sys
from datetime import UTC
from typing import Annotated, Literal

import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AsJson, Dsn, Schema
from trunkline_ops.output import Output, visible
from trunkline_ops.settings import Settings
from trunkline_store.streams import SortBy

_PAGE = 1000


class Sort(enum.StrEnum):
    """What streams are sorted by."""

    AGE = "age"
    NAME = "name"


_SORT_BY: dict[Sort, SortBy] = {Sort.AGE: "stream_id", Sort.NAME: "stream"}


def streams(
    search: Annotated[str, typer.Argument(metavar="[TEXT]", help="Only those whose name holds this.")] = "",
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only streams whose name up to the first - is this.")
    ] = None,
    deleted: Annotated[
        bool | None, typer.Option("--deleted/--live", help="Only deleted ones, or only those that are not.")
    ] = None,
    sort: Annotated[Sort, typer.Option(help="What they are sorted by.")] = Sort.NAME,
    desc: Annotated[bool, typer.Option("--desc", help="The last ones first.")] = False,
    count: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="So many on a page.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="STREAM", help="The last stream of the page before, to list the next page.")
    ] = None,
    categories: Annotated[bool, typer.Option("--categories", help="Categories instead, with what is in them.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """List streams, page by page, each with its version; $all is one of them. Or list categories."""
    settings = Settings.of(dsn=dsn, store=schema)
    output = Output(as_json=as_json)
    if categories:
        if search or category or deleted is not None:
            raise Misuse("--categories lists all of them: TEXT, --category, --deleted and --live are for streams")
        if after is not None:
            raise Misuse("--after is for streams: leave it out, since --categories lists all categories")
        asyncio.run(_categories(settings, output))
        return
    status: Literal["created", "deleted"] | None = None if deleted is None else "deleted" if deleted else "created"
    asyncio.run(_streams(settings, output, search, category, status, sort, desc, count, after))


async def _streams(
    settings: Settings,
    output: Output,
    search: str,
    category: str | None,
    status: Literal["created", "deleted"] | None,
    sort: Sort,
    desc: bool,
    count: int,
    after: str | None,
) -> None:
    async with opened(settings, "streams") as store:
        found = await store.paginate_streams(
            after=after,
            page_size=count,
            search=search,
            sort_by=_SORT_BY[sort],
            sort_dir="desc" if desc else "asc",
            category=category,
            status=status,
        )
    for each in found:
        gone = "" if each.deleted_at is None else f"  deleted {each.deleted_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        output.result(
            f"{each.version:>12}  {each.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}  {visible(each.stream)}{gone}",
            stream=each.stream,
            version=each.version,
            created_at=each.created_at.isoformat(),
            deleted_at=None if each.deleted_at is None else each.deleted_at.isoformat(),
        )
    if len(found) == count and not output.as_json:
        output.flush()
        print(f"a full page: for the next one, --after {shlex.quote(visible(found[-1].stream))}", file=sys.stderr)


async def _categories(settings: Settings, output: Output) -> None:
    after: str | None = None
    every = True
    async with opened(settings, "streams") as store:
        while every:
            found = await store.categories(after=after, count=_PAGE)
            for each in found:
                deleted = f", {each.deleted} deleted" if each.deleted else ""
                least = " and more" if each.or_more else ""
                output.result(
                    f"{each.events:>12}  {visible(each.category)}  in {each.streams} streams{deleted}{least}",
                    **each._asdict(),
                )
                after = each.category
            every = len(found) == _PAGE
