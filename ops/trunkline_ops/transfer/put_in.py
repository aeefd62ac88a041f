"""An export's items into a store that is empty, or holds their beginning from a former try."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

from trunkline_ops.transfer.item import End, Head, Item, Tally, data_of, event_of, metadata_of, same
from trunkline_ops.transfer.take_out import besides, in_order
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidArgument,
    Snapshot,
    StreamAppend,
    StreamDeleted,
    StreamNotFound,
    TrunklineError,
)
from trunkline_store.connections import Connection

TOGETHER_ITEMS: Final = 5000
TOGETHER_BYTES: Final = 16 * 1024 * 1024
"""Of one transaction: a try that is killed loses so much at most, and does it again."""
_CALL_EVENTS: Final = 500


class NotTheSame(TrunklineError):
    """What is in the store, or in the file, is not what it should be."""


class Importing:
    """One import. `passed`: items that were there already. `left_out`: streams that are deleted in the export, of which
    it holds nothing, so that they cannot be made here."""

    def __init__(self, store: EventStore, head: Head) -> None:
        self.tally = Tally()
        self.passed = 0
        self.appended = 0
        self.left_out = 0
        self._store = store
        self._head = head
        self._there: AsyncIterator[Item] | None = None
        self._renumbered = 0
        self._kept = self.tally  # of what the store then gives: another one as soon as something is left out

    @property
    def renumbered(self) -> int:
        """Events and links that have another version than in the source, since versions are missing there."""
        return self._renumbered

    async def begin(self) -> None:
        """Raises `InvalidArgument` where such data cannot be kept."""
        store, head = self._store, self._head
        if head.content_type != store.content_type:
            raise InvalidArgument(
                f"the export holds {head.content_type}, and the store {store.schema!r} keeps {store.content_type}"
            )
        self._there = in_order(store, await store.safe_position())

    async def put(self, items: Sequence[Item]) -> None:
        """The next ones, all of them or none. Raises `NotTheSame` where the store holds something else."""
        new = [item for item in items if item.place is not None and not await self._is_there(item)]
        if new:
            async with self._store.transaction() as connection:
                for call in calls(new):
                    await self._call(call, connection)
            self.appended += len(new)
        for item in items:
            if item.place is None:
                await self._left_over()
                if not await self._besides(item):
                    self._kept = self.tally.copy() if self._kept is self.tally else self._kept
                    self.left_out += 1
                    self.tally.add(item)
                    continue
            self.tally.add(item)
            if self._kept is not self.tally:
                self._kept.add(item)

    async def _is_there(self, item: Item) -> bool:
        if self._there is None:
            return False
        found = await anext(self._there, None)
        if found is None:
            self._there = None
            return False
        if not same(item, found):
            raise NotTheSame(
                f"the store {self._store.schema!r} holds something else at position {found.place}: import into an "
                "empty one, or append the lines with `trunkline append -`"
            )
        self.passed += 1
        return True

    async def _left_over(self) -> None:
        if self._there is not None and (found := await anext(self._there, None)) is not None:
            raise NotTheSame(
                f"the store {self._store.schema!r} holds more than the export, from position {found.place} on: import "
                "into an empty one"
            )
        self._there = None

    async def _call(self, call: Sequence[Item], connection: Connection) -> None:
        first = call[0]
        if first.link is not None:
            ids = [item.link.id for item in call if item.link is not None]
            linked = await self._store.link_to_stream(first.link.stream, ANY_VERSION, ids, connection=connection)
            self._renumbered += len(call) * (linked.first_version != first.link.stream_version)
            return
        streams: dict[str, list[EventData]] = {}
        expected: dict[str, int] = {}
        for item in call:
            assert item.stream is not None
            streams.setdefault(item.stream, []).append(event_of(item))
            expected.setdefault(item.stream, item.stream_version or 0)
        appends = [StreamAppend(stream, ANY_VERSION, events) for stream, events in streams.items()]
        for appended in await self._store.append_to_streams(appends, connection=connection):
            if appended.first_version != expected[appended.stream]:
                self._renumbered += len(streams[appended.stream])

    async def _besides(self, item: Item) -> bool:
        """Whether it is in the store now."""
        if item.deleted is not None:
            try:
                await self._store.delete_stream(item.deleted.stream, ANY_VERSION)
            except StreamDeleted:
                pass  # by a former try
            except StreamNotFound:
                return False
        elif item.snapshot is not None:
            kept = item.snapshot
            await self._store.record_snapshot(
                Snapshot(kept.source, kept.version, kept.type, data_of(kept), cast("Any", metadata_of(kept)))
            )
        return True

    async def finish(self, end: End) -> bool:
        """Compares what was read with what the export says of itself, and with what the store gives now. Returns
        whether data are the same byte for byte; else the store keeps JSON in another way. Raises `NotTheSame`."""
        await self._left_over()
        check_file(self.tally, end)
        store, again = self._store, Tally()
        safe = await store.safe_position()
        async for item in in_order(store, safe):
            again.add(item)
        async for item in besides(store, safe):
            again.add(item)
        exact = store.data_type != "jsonb" or self._head.data_type == "jsonb"
        kept, has = self._kept.end, again.end
        if (has.digest != kept.digest) if exact else (has.outline != kept.outline):
            raise NotTheSame(
                f"the store {store.schema!r} is not as the export: that has {_shown(kept)}, and the store {_shown(has)}"
            )
        return exact


def check_file(tally: Tally, end: End) -> None:
    """Raises `NotTheSame` where a file does not hold what its last line says."""
    read = tally.end
    if read != end:
        raise NotTheSame(f"the file is damaged: it says {_shown(end)}, and holds {_shown(read)}")


def calls(items: Sequence[Item]) -> list[list[Item]]:
    """Items that one statement can store in their order: links into one stream; or events of several streams, each of
    which is one run of them."""
    found: list[list[Item]] = []
    streams: set[str] = set()
    for item in items:
        last = found[-1] if found else None
        stream = item.link.stream if item.link is not None else item.stream
        assert stream is not None
        before = None if last is None else last[-1]
        fits = (
            last is not None
            and before is not None
            and len(last) < _CALL_EVENTS
            and (before.link is None) == (item.link is None)
            and (
                before.link.stream == stream
                if before.link is not None
                else before.stream == stream or stream not in streams
            )
        )
        if fits and last is not None:
            last.append(item)
        else:
            found.append([item])
            streams = set()
        streams.add(stream)
    return found


def _shown(end: End) -> str:
    return (
        f"{end.events} events, {end.links} links, {end.deleted} deleted streams and {end.snapshots} snapshots with the "
        f"digest {end.digest[:12]}"
    )
