"""`export` and `import`: a whole store as a file of lines, and back."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Final

import asyncpg
import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import ImportStopped, Incomplete, Misuse
from trunkline_ops.lines import BYTE_ORDER_MARK, MAX_LINE_BYTES
from trunkline_ops.options import AsJson, Dsn, Schema
from trunkline_ops.output import Output
from trunkline_ops.progress import Advance, bar
from trunkline_ops.settings import Settings
from trunkline_ops.transfer.file import begun
from trunkline_ops.transfer.item import FORMAT, End, Head, Item, Tally, decode, encode
from trunkline_ops.transfer.put_in import TOGETHER_BYTES, TOGETHER_ITEMS, Importing, check_file
from trunkline_ops.transfer.take_out import besides, in_order
from trunkline_store import EventStore, InvalidArgument, TrunklineError
from trunkline_store.pages import lasting

_STREAMED: Final = "-"
_FLUSH_ITEMS: Final = 1000

File = Annotated[str, typer.Argument(metavar="FILE|-", help="The file; - is standard output, or input.")]


def export(file: File, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Write all of a store to a file: events, links, deleted streams, snapshots; a JSON object a line.

    Ids and dates are kept, and all stand in their order; the last line holds their count and digest. A file that a
    former try has begun is gone on with. Subscriptions are not exported: their checkpoints are positions of this store.
    """
    settings = Settings.of(dsn=dsn, store=schema)
    output = Output(as_json=as_json)
    if file == _STREAMED:
        if as_json:
            raise Misuse("--json is of the result, and standard output holds the export: name a file")
        asyncio.run(_export(settings, None, sys.stdout.buffer))
        return
    path = Path(file)
    if path.is_dir():
        raise Misuse(f"{file} is a directory")
    tally, resumed = asyncio.run(_export(settings, path, None))
    end = tally.end
    since = f", {resumed} of them before" if resumed else ""
    output.result(
        f"exported {_counted(end)} to {file}{since}; digest {end.digest}",
        file=file,
        resumed=resumed,
        **{name: getattr(end, name) for name in end.__struct_fields__},
    )


async def _export(settings: Settings, path: Path | None, out: IO[bytes] | None) -> tuple[Tally, int]:
    """What it came to, and how many items were there already. out: where there is no path."""
    before = None if path is None else begun(path)
    async with opened(settings, "export", connections=3) as store:
        if before is None:
            end = await store.safe_position()
            head = Head(
                format=FORMAT,
                schema=store.schema,
                history=lasting(store.history),
                data_type=store.data_type,
                content_type=store.content_type,
                position=end,
            )
            tally, behind = Tally(), -1
        elif before.head.history != lasting(store.history):
            raise InvalidArgument(
                f"{path} is an export of another store, or of its past: remove it, or name another file"
            )
        else:
            head, tally, behind = before.head, before.tally, before.position
        resumed = tally.events + tally.links
        with bar("exporting") as advance, _writing(path, out, 0 if before is None else before.size) as file:
            if before is None:
                file.write(encode(Item(export=head)) + b"\n")
            await _write(store, file, tally, head.position, behind, advance)
            file.write(encode(Item(end=tally.end)) + b"\n")
    return tally, resumed


async def _write(store: EventStore, file: IO[bytes], tally: Tally, end: int, behind: int, advance: Advance) -> None:
    count = 0
    async for item in in_order(store, end, behind=behind):
        tally.add(item)
        file.write(encode(item) + b"\n")
        count += 1
        if count % _FLUSH_ITEMS == 0:
            file.flush()
            advance(item.place or 0, end, f"{tally.events} events")
    async for item in besides(store, end):
        tally.add(item)
        file.write(encode(item) + b"\n")


@contextmanager
def _writing(path: Path | None, out: IO[bytes] | None, size: int) -> Iterator[IO[bytes]]:
    """Open the file behind its first `size` bytes, and flush it to disk at the end. A new file is readable only for its
    owner, since it holds the data of all events."""
    if path is None:
        assert out is not None
        yield out
        out.flush()
        return
    with open(path, "r+b" if size else "wb", opener=_private) as file:
        file.seek(size)
        file.truncate()
        yield file
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def import_(file: File, dsn: Dsn = None, schema: Schema = None, as_json: AsJson = False) -> None:
    """Read an export into an empty store: the same order in each stream and in all of them, the same ids and dates.

    A file is checked against its own count and digest before anything of it is stored. Where a former try has stopped,
    the same import again goes on. At the end, what the store gives is compared with the export. Positions are new ones.
    Of trace contexts, and of the dates of deletions and snapshots, nothing is kept.
    """
    settings = Settings.of(dsn=dsn, store=schema)
    output = Output(as_json=as_json)
    if file == _STREAMED:
        importing, exact = _import(settings, sys.stdin.buffer, None)
    else:
        with Path(file).open("rb") as lines:
            importing, exact = _import(settings, lines, os.fstat(lines.fileno()).st_size)
    end = importing.tally.end
    sentence = f"imported {_counted(end)}{f', {importing.passed} of them before' if importing.passed else ''}; " + (
        "verified" if exact else "verified, all but the text of data, which jsonb keeps in a way of its own"
    )
    if importing.renumbered:
        sentence += f"; {importing.renumbered} have another version than before, where versions were missing"
    if importing.left_out:
        sentence += f"; {importing.left_out} deleted streams are left out, of which the export holds nothing"
    output.result(
        sentence,
        schema=settings.store,
        before=importing.passed,
        exact=exact,
        renumbered=importing.renumbered,
        left_out=importing.left_out,
        **{name: getattr(end, name) for name in end.__struct_fields__},
    )


def _counted(end: End) -> str:
    return f"{end.events} events, {end.links} links, {end.deleted} deleted streams and {end.snapshots} snapshots"


def _import(settings: Settings, file: IO[bytes], size: int | None) -> tuple[Importing, bool]:
    """The file is read while no event loop runs, so that Ctrl-C ends a read that waits."""
    with asyncio.Runner() as runner, bar("importing") as advance:
        stack = AsyncExitStack()
        store = runner.run(stack.enter_async_context(opened(settings, "import", connections=3)))
        try:
            reading = _Reading(file)
            head = reading.head()
            importing = Importing(store, head)
            runner.run(importing.begin())
            try:
                if size is not None and file.seekable():
                    _check(reading, size, advance)
                    file.seek(0)
                    reading = _Reading(file)
                    reading.head()
                end = _put(runner, reading, importing, size, advance)
                advance(reading.bytes, size, "verifying")
                return importing, runner.run(importing.finish(end))
            except (TrunklineError, OSError, asyncpg.PostgresError, KeyboardInterrupt) as error:
                raise ImportStopped(reading.line, importing.passed, importing.appended) from error
        finally:
            runner.run(stack.aclose())


def _check(reading: _Reading, size: int, advance: Advance) -> None:
    """All of a file, before anything of it is stored: of a damaged one, nothing is to stay behind."""
    tally = Tally()
    while (item := reading.next()).end is None:
        tally.add(item)
        if reading.line % _FLUSH_ITEMS == 0:
            advance(reading.bytes, size, "checking the file")
    check_file(tally, item.end)


def _put(runner: asyncio.Runner, reading: _Reading, importing: Importing, size: int | None, advance: Advance) -> End:
    """All items, in transactions of many; returns what the last line says."""
    waiting: list[Item] = []
    begins = reading.bytes
    while True:
        item = reading.next()
        if item.end is not None or len(waiting) == TOGETHER_ITEMS or reading.bytes - begins > TOGETHER_BYTES:
            runner.run(importing.put(waiting))
            waiting, begins = [], reading.bytes
            advance(reading.bytes, size, f"{importing.tally.events} events")
        if item.end is not None:
            return item.end
        waiting.append(item)


class _Reading:
    """Items, line by line; it knows how far it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.line = 0
        self.bytes = 0
        self._file = file

    def head(self) -> Head:
        """What the first line says. Raises `InvalidArgument` where it is that of no export, or of a newer one."""
        line = self._line().removeprefix(BYTE_ORDER_MARK)
        head = decode(line).export if line else None
        if head is None:
            raise InvalidArgument("this is no export, by its first line; `trunkline append -` takes lines of events")
        if head.format > FORMAT:
            raise InvalidArgument(f"the export has format {head.format}: upgrade trunkline")
        return head

    def next(self) -> Item:
        """The next one. Raises `InvalidArgument`, `Incomplete`."""
        line = self._line()
        try:
            item = decode(line)
        except InvalidArgument as error:
            if line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
                raise
            raise Incomplete(
                "the export is not complete: it has no last line; export again to the same file"
            ) from error
        if item.export is not None:
            raise InvalidArgument("a second export begins here: import one after the other")
        return item

    def _line(self) -> bytes:
        line = self._file.readline(MAX_LINE_BYTES + 1)
        self.line += 1
        self.bytes += len(line)
        return line
