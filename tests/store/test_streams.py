"""What is said of streams: one, and page by page."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidArgument,
    StreamAppend,
    StreamDeleted,
    StreamNotFound,
)
from trunkline_store.events import category_of, check_stream
from trunkline_store.streams import SortBy


async def append(store: EventStore, stream: str, count: int = 1, created_at: datetime | None = None) -> int:
    """Appends events; gives the last position."""
    events = [EventData("E", n, created_at=created_at) for n in range(count)]
    return (await store.append_to_stream(stream, ANY_VERSION, events)).last_position


async def names(store: EventStore, **asked: Any) -> list[str]:
    return [entry.stream for entry in await store.paginate_streams(**asked)]


async def test_a_stream_is_described(store: EventStore) -> None:
    """Name, version, status and times; ids are of the store's making, and differ."""
    await append(store, "a-1", 3)
    await append(store, "b-1", 1)
    one, other = await store.stream_info("a-1"), await store.stream_info("b-1")
    assert (one.stream, one.version, one.status, one.deleted_at) == ("a-1", 3, "created", None)
    assert abs(one.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert one.created_at.utcoffset() == timedelta(0)
    assert 0 < one.stream_id != other.stream_id > 0


async def test_a_stream_is_as_old_as_the_append_that_made_it(store: EventStore) -> None:
    """Later ones do not change that, and an import brings its own time, alone, coalesced, and of several streams."""
    then = datetime(2011, 1, 1, tzinfo=UTC)
    await append(store, "a-1", created_at=then)
    await append(store, "a-1", created_at=datetime(1999, 1, 1, tzinfo=UTC))
    await asyncio.gather(append(store, "b-1", created_at=then), append(store, "c-1", created_at=then))
    for stream in ("a-1", "b-1", "c-1"):
        assert (await store.stream_info(stream)).created_at == then
    await append(store, "d-1")
    await append(store, "d-1", created_at=then)
    assert (await store.stream_info("d-1")).created_at > then


async def test_all_is_described_like_a_stream(store: EventStore) -> None:
    """Its id is 0, and its version the last position; 0 where there is nothing."""
    empty = await store.stream_info("$all")
    assert (empty.stream, empty.stream_id, empty.version, empty.status) == ("$all", 0, 0, "created")
    await append(store, "a-1")
    last = await append(store, "b-1", 2)
    assert (await store.stream_info("$all")).version == last


async def test_unknown_and_deleted_streams_are_errors(store: EventStore) -> None:
    """Two of them; a stream that was deleted for good is unknown."""
    with pytest.raises(StreamNotFound):
        await store.stream_info("a-1")
    await append(store, "a-1")
    await append(store, "b-1")
    await store.delete_stream("a-1", 1)
    await store.delete_stream("b-1", 1, hard=True)
    with pytest.raises(StreamDeleted):
        await store.stream_info("a-1")
    with pytest.raises(StreamNotFound):
        await store.stream_info("b-1")


@pytest.mark.parametrize("stream", ["", "$x", "a\nb", None, 7])
async def test_bad_names_are_refused(store: EventStore, stream: Any) -> None:
    """P9."""
    with pytest.raises(InvalidArgument):
        await store.stream_info(stream)


async def test_an_empty_store_has_only_all(store: EventStore) -> None:
    """The only entry is `$all`; a search that finds nothing gives an empty page."""
    assert await names(store) == ["$all"]
    assert await names(store, after="$all") == []
    assert await names(store, search="nothing") == []


@pytest.mark.parametrize(
    "asked",
    [{}, {"category": "s"}, {"category": "s", "status": "deleted"}, {"status": "created"}, {"search": "s"}],
    ids=str,
)
async def test_pages_hold_every_stream_once(store: EventStore, asked: dict[str, Any]) -> None:
    """Each page begins behind the last name of the one before, by age and by name, both ways, with every filter."""
    made = ["s-3", "s", "s.x", "s-1", "s!-2", "t-1", "s-5", "a-9"]
    await store.append_to_streams([StreamAppend(name, 0, [EventData("E", 1)]) for name in made])
    await store.delete_stream("s-1", 1)
    ids = {info.stream: info.stream_id for info in await store.paginate_streams()}
    chosen = ["$all", *made]
    if "category" in asked:
        chosen = ["s-1"] if "status" in asked else ["s-3", "s", "s-1", "s-5"]
    elif "search" in asked:
        chosen = [name for name in made if "s" in name]
    elif asked:
        chosen.remove("s-1")
    for size, sort_by, sort_dir in product((1, 2, 3, 4, 7, 50), get_args(SortBy), ("asc", "desc")):
        if sort_by == "stream_id" and "category" in asked:
            continue
        key = (lambda name: name.encode()) if sort_by == "stream" else ids.__getitem__
        expected = sorted(chosen, key=key, reverse=sort_dir == "desc")
        seen, after = list[str](), None
        while page := await names(store, after=after, page_size=size, sort_by=sort_by, sort_dir=sort_dir, **asked):
            assert len(page) == min(size, len(chosen) - len(seen))
            seen += page
            after = page[-1]
        assert seen == expected, (size, sort_by, sort_dir)


async def test_a_page_behind_a_stream_that_is_gone_is_found_by_name_only(store: EventStore) -> None:
    """The age of a removed stream is unknown, which is an error; its name still has a place."""
    for name in ("a-1", "b-1", "c-1"):
        await append(store, name)
    await store.delete_stream("b-1", 1, hard=True)
    assert await names(store, after="b-1") == ["c-1"]
    with pytest.raises(StreamNotFound):
        await store.paginate_streams(after="b-1", sort_by="stream_id")


async def test_deleted_streams_are_listed_as_such(store: EventStore) -> None:
    """Those that were deleted for good are not."""
    for name in ("a-1", "b-1", "c-1"):
        await append(store, name)
    await store.delete_stream("a-1", 1)
    await store.delete_stream("b-1", 1, hard=True)
    by_name = {entry.stream: entry for entry in await store.paginate_streams()}
    assert set(by_name) == {"$all", "a-1", "c-1"}
    assert (by_name["a-1"].status, by_name["c-1"].status) == ("deleted", "created")
    gone = by_name["a-1"].deleted_at
    assert gone is not None
    assert gone > by_name["a-1"].created_at


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", ["$all", "Order-1", "order-1", "order-12", "x_%-1", "ü-1"]),
        ("order", ["order-1", "order-12"]),
        ("-1", ["Order-1", "order-1", "order-12", "x_%-1", "ü-1"]),
        ("12", ["order-12"]),
        ("Order", ["Order-1"]),
        ("$all", ["$all"]),
        ("%", ["x_%-1"]),
        ("_", ["x_%-1"]),
        ("ü", ["ü-1"]),
        ("\\", []),
        ("'; DROP TABLE eventstore.streams", []),
    ],
)
async def test_a_search_is_for_a_part_of_the_name(store: EventStore, search: str, found: list[str]) -> None:
    """Case matters, and no character is special."""
    for name in ("order-1", "order-12", "Order-1", "x_%-1", "ü-1"):
        await append(store, name)
    assert await names(store, search=search, sort_by="stream", page_size=2) == found[:2]
    assert await names(store, search=search, sort_by="stream") == found


async def test_streams_are_sorted_by_what_is_asked_for(store: EventStore) -> None:
    """Streams are sorted by name (byte by byte) or by age, both ways."""
    for name in ("b-1", "a-1", "C-1"):
        await append(store, name)
    expected: dict[Any, list[str]] = {
        "stream": ["$all", "C-1", "a-1", "b-1"],
        "stream_id": ["$all", "b-1", "a-1", "C-1"],
    }
    assert set(expected) == set(get_args(SortBy))
    for sort_by, upward in expected.items():
        assert await names(store, sort_by=sort_by) == upward
        assert await names(store, sort_by=sort_by, sort_dir="desc") == upward[::-1]


@pytest.mark.parametrize(
    "asked",
    [
        {"page_size": 0},
        {"page_size": -1},
        {"page_size": True},
        {"page_size": "5"},
        {"after": 1},
        {"after": ""},
        {"after": "$x"},
        {"sort_by": "created_at"},
        {"sort_by": "stream_id", "category": "a"},
        {"sort_by": "version; DROP TABLE eventstore.streams"},
        {"sort_dir": "up"},
        {"search": None},
        {"search": 7},
        {"search": "a\x00b"},
        {"search": "\ud800"},
    ],
)
async def test_bad_pages_are_refused(store: EventStore, asked: dict[str, Any]) -> None:
    """P9: typed, whatever is wrong."""
    await append(store, "a-1")
    with pytest.raises(InvalidArgument):
        await store.paginate_streams(**asked)


def test_every_name_that_the_library_accepts_is_stored(database: str) -> None:
    """Any text that is in bounds is a stream's name to the database as well, and is read, found and listed as given."""
    with asyncio.Runner() as runner:
        store = EventStore(database)
        runner.run(store.open())

        @settings(max_examples=60)
        @given(st.sets(st.text(min_size=1, max_size=70), min_size=1, max_size=8))
        def check(names: set[str]) -> None:
            accepted = [name for name in names if is_accepted(name)]
            runner.run(store_and_find(store, accepted))

        check()
        runner.run(store.close())


def is_accepted(name: str) -> bool:
    try:
        return bool(check_stream(name))
    except InvalidArgument:
        return False


async def store_and_find(store: EventStore, accepted: list[str]) -> None:
    await store.append_to_streams([StreamAppend(name, ANY_VERSION, [EventData("E", name)]) for name in accepted])
    for name in accepted:
        assert (await store.read_stream_forward(name))[-1].stream == name
        assert name in await names(store, search=name, page_size=1000)
        if category_of(name).strip():
            assert name in {event.data for event in await store.read_category_forward(category_of(name))}
