"""A store's items, in the one order: events, and links where they stand; then what has no place in it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from typing import Final

from trunkline_ops.json_text import in_line
from trunkline_ops.transfer.item import Deleted, Item, Kept, Link, data_of, metadata_in_line, of_event
from trunkline_store import EventStore
from trunkline_store.queries import for_store, parts_of
from trunkline_store.read import PAGE_BYTES
from trunkline_store.serialize import is_json

_PAGE: Final = 1000
_BUNCH_BYTES: Final = 1024 * 1024
_SNAPSHOTS: Final = 20


async def in_order(store: EventStore, end: int, *, behind: int = -1) -> AsyncIterator[Item]:
    """Events and links above position `behind` and up to `end`. Raises `Unavailable`.

    Links are read after the events before them: a hard delete, which takes an event's links too, then leaves no link
    without its event.
    """
    async for events in _bunches(_events(store, behind, end)):
        upto = _place(events[-1])
        async for link in _links(store, behind, upto):
            while _place(events[0]) < _place(link):
                yield events.popleft()
            yield link
        while events:
            yield events.popleft()
        behind = upto
    async for link in _links(store, behind, end):
        yield link


async def _bunches(events: AsyncIterator[Item]) -> AsyncIterator[deque[Item]]:
    """Some at a time: so many, or until they are large."""
    bunch, size = deque[Item](), 0
    async for event in events:
        bunch.append(event)
        size += len(data_of(event))
        if len(bunch) == _PAGE or size > _BUNCH_BYTES:
            yield bunch
            bunch, size = deque(), 0
    if bunch:
        yield bunch


async def besides(store: EventStore, end: int) -> AsyncIterator[Item]:
    """Streams that are deleted, of those with events or links up to `end`, and snapshots. Raises `Unavailable`."""
    sql, name = _sql(store), ""
    while rows := await store.fetch(sql["deleted"], name, _PAGE, end):
        for name, deleted_at in rows:
            yield Item(deleted=Deleted(stream=name, deleted_at=deleted_at))
    as_json, source = is_json(store.content_type), ""
    while rows := await store.fetch(sql["snapshots"], source, _SNAPSHOTS, PAGE_BYTES):
        for source, version, kind, stored, text in rows:
            data, data_base64 = in_line(store.serializer.deserialize(stored, kind), is_json=as_json)
            metadata, metadata_base64 = metadata_in_line(text)
            yield Item(
                snapshot=Kept(
                    source=source,
                    version=version,
                    type=kind,
                    data=data,
                    data_base64=data_base64,
                    metadata=metadata,
                    metadata_base64=metadata_base64,
                )
            )


async def _events(store: EventStore, behind: int, end: int) -> AsyncIterator[Item]:
    as_json = is_json(store.content_type)
    async for event in store.stream_all_forward(start=behind + 1):
        if event.position > end:
            return
        yield of_event(event, is_json=as_json)


async def _links(store: EventStore, behind: int, end: int) -> AsyncIterator[Item]:
    sql = _sql(store)
    while rows := await store.fetch(sql["links"], behind, end, _PAGE):
        for behind, stream, version, event_id in rows:
            yield Item(link=Link(position=behind, stream=stream, stream_version=version, id=event_id))


def _place(item: Item) -> int:
    place = item.place
    assert place is not None
    return place


def _sql(store: EventStore) -> Mapping[str, str]:
    return {name: for_store(text, store.schema, store.data_type) for name, text in _QUERIES.items()}


_QUERIES: Final = parts_of((files(__package__) / "queries.sql").read_text())
