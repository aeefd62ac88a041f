"""Reading `$all` or a category to its end: pages ahead, names by id, and events that are too large for a page."""

import asyncio
from typing import Any

import asyncpg
import pytest

from trunkline_store import ANY_VERSION, EventData, EventStore, RecordedEvent, pages
from trunkline_store.pages import Names, Pages
from trunkline_store.read import PAGE_BYTES

PAGE = 10


class Asked:
    """What a store is asked while pages are read."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.queries: list[str] = []

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        self.queries.append(next(name for name, text in self.store.sql.items() if text == query))
        return await self.store.fetch(query, *args)

    async def pages(self, names: Names | None = None) -> Pages:
        look = await self.store.look()
        return Pages(self.fetch, self.store.sql, names or Names(), self.store.serializer, look, PAGE, None)

    async def read(self, names: Names | None = None) -> list[tuple[str, Any]]:
        return [(e.stream, e.data) async for events in (await self.pages(names)).forward(0) for e in events]


async def fill(store: EventStore, count: int, *, large: tuple[int, ...] = ()) -> list[tuple[str, Any]]:
    """Events over three streams; the large ones do not fit into a page with others."""
    written = []
    for n in range(count):
        stream, data = f"s-{n % 3}", "x" * (PAGE_BYTES // PAGE + 1) if n in large else n
        await store.append_to_stream(stream, ANY_VERSION, [EventData("E", data, {"n": n})])
        written.append((stream, data))
    return written


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 1])
async def test_every_event_is_read_once_and_in_order(store: EventStore, count: int) -> None:
    """Wherever the last page ends."""
    written = await fill(store, count)
    assert await Asked(store).read() == written


@pytest.mark.parametrize("large", [(0,), (5,), (PAGE - 1,), (PAGE,), (3 * PAGE,), (3, 4, 14, 25)])
async def test_large_events_are_read_like_others(store: EventStore, large: tuple[int, ...]) -> None:
    """Wherever they stand; and only from the first of them on is the query asked that adds up bytes."""
    written = await fill(store, 3 * PAGE + 1, large=large)
    asked = Asked(store)
    assert await asked.read() == written
    assert asked.queries.index("read_all_forward") <= 2 * (large[0] // PAGE + 2)
    assert "page_all" not in asked.queries[asked.queries.index("read_all_forward") :]


async def test_small_events_are_never_added_up(store: EventStore) -> None:
    """One query a page, one for the names that are not known yet, and none only to see that there is nothing more."""
    await fill(store, 2 * PAGE + 1)
    asked, names = Asked(store), Names()
    await asked.read(names)
    assert sorted(asked.queries) == ["page_all"] * 3 + ["stream_names"]
    asked.queries.clear()
    await asked.read(names)
    assert asked.queries == ["page_all"] * 3


async def test_only_one_page_is_read_ahead(store: EventStore) -> None:
    """While the first one is used, the second one is fetched, and no more, however long that takes."""
    await fill(store, 5 * PAGE)
    asked = Asked(store)
    feed = (await asked.pages()).forward(0)
    await anext(feed)
    while asked.queries.count("page_all") < 2:
        await asyncio.sleep(0)  # the loop's next turn
    await asyncio.gather(*(store.safe_position() for _ in range(20)))
    assert asked.queries.count("page_all") == 2
    await feed.aclose()


async def test_who_stops_reading_leaves_nothing_behind(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """The page that is on its way is given up, its connection is free, and nothing is complained of."""
    async with EventStore(database, pool_size=1) as store:
        await fill(store, 3 * PAGE)
        for _ in range(10):
            async for event in store.stream_all_forward(page=PAGE):
                assert event.data == 0
                break
            async with asyncio.timeout(5):
                await store.safe_position()
    assert caplog.records == []


async def test_an_error_of_the_page_ahead_comes_after_the_page_before(store: EventStore) -> None:
    """What was read is given first."""
    await fill(store, 2 * PAGE)
    given: list[Any] = []

    async def fetch(query: str, *args: Any) -> list[asyncpg.Record]:
        if query == store.sql["page_all"] and args[0] > 0:
            raise ConnectionResetError
        return await store.fetch(query, *args)

    async def read() -> None:
        look = await store.look()
        async for events in Pages(fetch, store.sql, Names(), store.serializer, look, PAGE, None).forward(0):
            given.extend(event.data for event in events)

    with pytest.raises(ConnectionResetError):
        await read()
    assert given == list(range(PAGE))


async def test_events_of_a_stream_that_is_removed_meanwhile_are_gone(store: EventStore) -> None:
    """They had been read, but not yet their stream's name; the others come as ever."""
    written = await fill(store, 2 * PAGE)
    asked = Asked(store)

    async def fetch(query: str, *args: object) -> list[asyncpg.Record]:
        if query == store.sql["stream_names"] and "stream_names" not in asked.queries:
            await store.delete_stream("s-1", ANY_VERSION, hard=True)
        return await asked.fetch(query, *args)

    look = await store.look()
    feed = Pages(fetch, store.sql, Names(), store.serializer, look, PAGE, None).forward(0)
    read = [(event.stream, event.data) async for events in feed for event in events]
    assert read == [(stream, data) for stream, data in written if stream != "s-1"]


async def test_names_are_kept_within_bounds(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many streams there are, and each event still has its own."""
    monkeypatch.setattr(pages, "KEPT_NAMES", 5)
    names = Names()
    for n in range(30):
        await store.append_to_stream(f"s-{n}", 0, [EventData("E", n)])
    for _ in range(2):
        assert await Asked(store).read(names) == [(f"s-{n}", n) for n in range(30)]
        assert len(vars(names)["_names"]) <= PAGE


@pytest.mark.parametrize("linked", [False, True])
async def test_a_page_of_a_stream_is_bounded_by_bytes(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """Whatever is in it, own events and linked ones, a lazy reader holds no more than so many bytes, and one event."""
    size = 1000
    monkeypatch.setattr("trunkline_store.read.PAGE_BYTES", 3 * size)
    written = [EventData("E", "x" * size) for _ in range(10)] + [EventData("E", n) for n in range(10)]
    await store.append_to_stream("s-1", 0, written)
    if linked:
        await store.link_to_stream("t-1", 0, await store.read_stream_forward("s-1"))
    stream = "t-1" if linked else "s-1"
    counts: list[int] = []
    for direction in ("forward", "backward"):
        whole = getattr(store, f"read_stream_{direction}")

        async def page(*args: Any, whole: Any = whole, **options: Any) -> list[RecordedEvent]:
            found: list[RecordedEvent] = await whole(*args, **options)
            counts.append(sum(event.size for event in found))
            return found

        monkeypatch.setattr(store, f"read_stream_{direction}", page)
    forward = [event async for event in store.stream_forward(stream)]
    assert [event.event_id for event in forward] == [event.id for event in written]
    assert [event async for event in store.stream_backward(stream)] == forward[::-1]
    assert max(counts) <= 4 * size + 100
    assert len(counts) >= 2 * 4


async def test_names_are_those_of_the_history(store: EventStore) -> None:
    """In another history, an id can belong to another stream. Within one it never does, so its name is remembered (the
    control)."""
    await store.append_to_stream("before-1", 0, [EventData("E", 1)])

    async def streams() -> list[str]:
        feed = store.pages(await store.look(), PAGE, None).forward(0)
        return [event.stream async for events in feed for event in events]

    assert await streams() == ["before-1"]
    await store.fetch("ALTER TABLE eventstore.streams DISABLE TRIGGER ALL")
    await store.fetch("UPDATE eventstore.streams SET stream = 'after-1'")  # as a restored database may have it
    assert await streams() == ["before-1"]
    await store.fetch("TRUNCATE eventstore.incarnation")  # as a crash does
    assert await streams() == ["after-1"]
    assert [event.stream async for event in store.stream_all_forward()] == ["after-1"]
