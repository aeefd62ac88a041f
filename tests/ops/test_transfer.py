"""`trunkline export` and `import`: a store as lines, and such lines as a store again."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from tests.ops.test_cli import environment, program, shown_on, terminal
from trunkline_ops.as_stored import AsStored
from trunkline_ops.commands import app
from trunkline_ops.json_text import in_line
from trunkline_ops.transfer import item as lines
from trunkline_ops.transfer.item import Item, Link, Tally, decode, encode
from trunkline_ops.transfer.put_in import calls
from trunkline_ops.transfer.take_out import besides, in_order
from trunkline_store import ANY_VERSION, EventData, EventStore, InvalidArgument, Snapshot, StreamAppend
from trunkline_store.migrate import DataType, initialise

Cli = Callable[..., Awaitable[Result]]
LONG_AGO = datetime(1999, 12, 31, 23, 59, 59, 123456, tzinfo=UTC)


@pytest.fixture
def cli(database: str) -> Cli:
    """Runs a command in this process."""
    runner = CliRunner(env=environment(database))

    async def run(*args: str, stdin: bytes | None = None, code: int = 0) -> Result:
        result = await asyncio.to_thread(runner.invoke, app, args, input=stdin, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


async def filled(store: EventStore) -> None:
    """With all that there can be: interleaved streams, appends of several, links, a deleted stream, snapshots, ids and
    dates of one's own, and data that is easily changed on the way."""
    for n in range(5):
        for stream in ("order-1", "order-2", "user-ü"):
            await store.append_to_stream(stream, ANY_VERSION, [EventData("Made", {"n": n}) for _ in range(n % 3 + 1)])
    await store.append_to_stream(
        "old-1",
        ANY_VERSION,
        [EventData("Old", [1.0, "ä\n", None], {"user": "ann", "of": [1]}, created_at=LONG_AGO, correlation_id="c",
                   causation_id="d", id=UUID(int=7))],
    )  # fmt: skip
    await store.link_to_stream("linked", ANY_VERSION, await store.read_stream_forward("order-1", count=3))
    await store.append_to_stream("linked", ANY_VERSION, [EventData("Own", 1)])
    await store.link_to_stream("linked", ANY_VERSION, await store.read_stream_forward("order-2", count=2))
    await store.append_to_streams(
        [StreamAppend(f"many-{n}", ANY_VERSION, [EventData("M", n) for _ in range(3)]) for n in range(3)]
    )
    await store.append_to_stream("gone-1", ANY_VERSION, [EventData("G", 1)])
    await store.delete_stream("gone-1", ANY_VERSION)
    for n in range(25):
        await store.record_snapshot(Snapshot(f"order-{n}", n, "Order", {"total": n}, {"by": "x"} if n % 2 else None))


async def told(store: EventStore) -> list[Any]:
    """All that a reader is told, but for the positions."""
    found = [(event.stream, event.stream_version, event.event_id, event.type, event.data, event.metadata,
              event.correlation_id, event.causation_id, event.created_at)
             async for event in store.stream_all_forward()]  # fmt: skip
    linked = [(event.event_number, event.event_id) async for event in store.stream_forward("linked")]
    page = await store.paginate_streams(page_size=999)
    streams = [(info.stream, info.version, info.status) for info in page if info.stream != "$all"]
    snapshots = [await store.read_snapshot(f"order-{n}") for n in range(25)]
    return [found, linked, sorted(streams), [each._replace(created_at=None) for each in snapshots]]


async def test_an_import_is_the_same_store(store: EventStore, database: str, cli: Cli, tmp_path: Path) -> None:
    """The same order in each stream and in all of them; ids, dates, links, deleted streams and snapshots; and an export
    of it has the same digest."""
    await filled(store)
    file = str(tmp_path / "all.ndjson")
    exported = json.loads((await cli("export", file, "--json")).stdout)
    assert (exported["links"], exported["deleted"], exported["snapshots"]) == (5, 1, 25)
    await cli("init", "--schema", "copy")
    imported = json.loads((await cli("import", file, "--schema", "copy", "--json")).stdout)
    assert (imported["exact"], imported["before"], imported["renumbered"]) == (True, 0, 0)
    assert imported["digest"] == exported["digest"]
    async with EventStore(database, schema="copy") as copy:
        assert await told(copy) == await told(store)
        assert (await copy.stream_info("old-1")).created_at == LONG_AGO
    again = json.loads((await cli("export", str(tmp_path / "copy.ndjson"), "--schema", "copy", "--json")).stdout)
    assert {**again, "file": file} == exported


async def test_a_byte_order_mark_at_the_head_of_an_export_is_passed_over(
    store: EventStore, cli: Cli, tmp_path: Path
) -> None:
    """An editor may have written one: the file has the same digest, and makes the same store."""
    await filled(store)
    file = tmp_path / "all.ndjson"
    exported = json.loads((await cli("export", str(file), "--json")).stdout)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    await cli("init", "--schema", "copy")
    imported = json.loads((await cli("import", str(file), "--schema", "copy", "--json")).stdout)
    assert (imported["exact"], imported["digest"]) == (True, exported["digest"])


@pytest.mark.parametrize(("source", "target"), [
    ("json", "json"), ("json", "jsonb"), ("json", "bytea"), ("jsonb", "json"), ("jsonb", "jsonb"), ("bytea", "jsonb"),
])  # fmt: skip
async def test_a_store_can_change_its_data_type_so(
    source: DataType, target: DataType, database: str, cli: Cli, tmp_path: Path
) -> None:
    """Every byte of data is kept but where jsonb keeps its own text; values are the same in all cases."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "source", data_type=source)
    await initialise(connection, "target", data_type=target)
    await connection.close()
    texts = [b'{"b": 1.0,  "a": 1e2}', b"[1,\n 2]", b'"x"', b"12345678901234567890123"]
    async with EventStore(database, schema="source", serializer=AsStored("application/json")) as raw:
        await raw.append_to_stream("a-1", ANY_VERSION, [EventData("E", text) for text in texts])
        before = [event.data for event in await raw.read_stream_forward("a-1")]
    file = str(tmp_path / "file")
    await cli("export", file, "--schema", "source")
    imported = json.loads((await cli("import", file, "--schema", "target", "--json")).stdout)
    assert imported["exact"] == (target != "jsonb" or source == "jsonb")
    async with EventStore(database, schema="target", serializer=AsStored("application/json")) as raw:
        after = [event.data for event in await raw.read_stream_forward("a-1")]
    if imported["exact"]:
        assert after == before
    assert [json.loads(each) for each in after] == [json.loads(each) for each in texts]


async def test_data_that_is_no_json_is_kept(database: str, cli: Cli, tmp_path: Path) -> None:
    """As base64; only into a store that keeps the same kind."""
    connection = await asyncpg.connect(database)
    for name in ("source", "target"):
        await initialise(connection, name, data_type="bytea", content_type="application/x-protobuf")
    await connection.close()
    data = [bytes(range(256)), b"", b"\n", b"{}"]
    async with EventStore(database, schema="source", serializer=AsStored("application/x-protobuf")) as raw:
        await raw.append_to_stream("a-1", ANY_VERSION, [EventData("E", each) for each in data])
        await raw.record_snapshot(Snapshot("a-1", 4, "S", b"\xff"))
    file = str(tmp_path / "file")
    await cli("export", file, "--schema", "source")
    await cli("import", file, "--schema", "target")
    async with EventStore(database, schema="target", serializer=AsStored("application/x-protobuf")) as raw:
        assert [event.data for event in await raw.read_stream_forward("a-1")] == data
        assert (await raw.read_snapshot("a-1")).data == b"\xff"
    assert "keeps application/json" in (await cli("import", file, code=1)).stderr


async def test_lines_go_through_pipes_and_are_those_of_append(store: EventStore, cli: Cli, tmp_path: Path) -> None:
    """`-` is standard output, and input. The lines of events are such as `append -` takes."""
    await filled(store)
    exported = (await cli("export", "-")).stdout.encode()
    for name in ("copy", "appended"):
        await cli("init", "--schema", name)
    assert "verified" in (await cli("import", "-", "--schema", "copy", stdin=exported)).stdout
    events = [line for line in exported.splitlines() if b'"position"' in line[:14]]
    await cli("append", "-", "--schema", "appended", stdin=b"\n".join(events))
    assert len(events) == len((await cli("read", "--schema", "appended")).stdout.splitlines())


async def test_an_export_is_its_owners_alone(store: EventStore, cli: Cli, tmp_path: Path) -> None:
    """It holds the data of all events, and the usual mask would let everybody on the machine read it."""
    await store.append_to_stream("a-1", 0, [EventData("E", 1)])
    file = tmp_path / "export"
    mask = os.umask(0o022)
    try:
        await cli("export", str(file))
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(mask)


async def test_an_export_goes_on_where_it_was_cut(store: EventStore, cli: Cli, tmp_path: Path) -> None:
    """Wherever that was: within a line, within what follows the events; it comes to the same file. One that is
    complete, of another past, or no export at all, is left alone."""
    await filled(store)
    file = tmp_path / "file"
    await cli("export", str(file))
    whole = file.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == 10]
    for cut in [0, ends[0], ends[1] - 5, *ends[1::29], ends[-30] + 3, ends[-2], len(whole) - 1]:
        file.write_bytes(whole[:cut])
        done = json.loads((await cli("export", str(file), "--json")).stdout)
        assert file.read_bytes() == whole, cut
        assert done["resumed"] <= whole[:cut].count(b"\n")
    assert "is a complete export" in (await cli("export", str(file), code=1)).stderr
    assert file.read_bytes() == whole
    file.write_bytes(whole[: ends[4]])
    await cli("init", "--schema", "other")
    assert "of another store" in (await cli("export", str(file), "--schema", "other", code=1)).stderr
    for text in (b"x", b"hello\n", b'{"position": 1}\n'):
        file.write_bytes(text)
        await cli("export", str(file), code=1)
        assert file.read_bytes() == text


async def test_an_import_goes_on_where_it_stopped(
    store: EventStore, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of the file has come in: the rest follows, nothing comes twice, and the whole is verified."""
    monkeypatch.setattr("trunkline_ops.commands.transfer.TOGETHER_ITEMS", 3)
    await filled(store)
    file = tmp_path / "file"
    exported = json.loads((await cli("export", str(file), "--json")).stdout)
    whole = file.read_bytes().splitlines(keepends=True)
    for cut in range(2, len(whole), 19):
        await cli("init", "--schema", f"cut{cut}")
        beginning = b"".join(whole[:cut]) + b'{"cut'
        args = (
            "import",
            "-",
            "--schema",
            f"cut{cut}",
            "--json",
        )  # a file is checked first
        error = json.loads((await cli(*args, stdin=beginning, code=1)).stderr)
        assert error["line"] == cut + 1
        assert error["message"].endswith("the same import again goes on from there)")
        imported = json.loads((await cli("import", str(file), "--schema", f"cut{cut}", "--json")).stdout)
        assert imported["before"] == error["imported"]
        assert imported["digest"] == exported["digest"]
    again = json.loads((await cli("import", str(file), "--schema", "cut2", "--json")).stdout)
    assert again["before"] == exported["events"] + exported["links"]


async def test_a_killed_import_is_gone_on_with(store: EventStore, database: str, cli: Cli, tmp_path: Path) -> None:
    """SIGKILL in the middle of it: the next one finds the beginning, and does the rest."""
    for n in range(40):
        await store.append_to_stream(f"a-{n % 7}", ANY_VERSION, [EventData("E", "x" * 100) for _ in range(500)])
    file = tmp_path / "file"
    await cli("export", str(file))
    await cli("init", "--schema", "copy")
    with program(database, "import", str(file), "--schema", "copy") as process:
        async with EventStore(database, schema="copy") as copy:
            while not await copy.read_all_streams_forward(count=1):
                await asyncio.sleep(0.005)  # between two looks
        process.send_signal(signal.SIGKILL)
        process.wait()
    imported = json.loads((await cli("import", str(file), "--schema", "copy", "--json")).stdout)
    assert imported["before"] > 0
    assert imported["events"] == 20_000


async def test_what_is_not_the_same_is_refused(store: EventStore, database: str, cli: Cli, tmp_path: Path) -> None:
    """A store that holds something else; a file that was changed, shortened, or is none: one line, and what to do."""
    await filled(store)
    file, bad = tmp_path / "file", tmp_path / "bad"
    await cli("export", str(file))
    whole = file.read_bytes()
    for name in ("other", "fresh", "more"):
        await cli("init", "--schema", name)
    async with EventStore(database, schema="other") as other:
        await other.append_to_stream("x-1", ANY_VERSION, [EventData("E", 1)])
    assert "something else" in (await cli("import", str(file), "--schema", "other", code=1)).stderr
    bad.write_bytes(whole.replace(b'"Made"', b'"Nade"', 1))
    assert "damaged" in (await cli("import", str(bad), "--schema", "fresh", code=1)).stderr
    await cli("import", str(file), "--schema", "more")
    async with EventStore(database, schema="more") as more:
        await more.append_to_stream("x-1", ANY_VERSION, [EventData("E", 1)])
    assert "holds more" in (await cli("import", str(file), "--schema", "more", code=1)).stderr
    for text, said in (
        (b"", "no export"),
        (b"{}\n", "not of an export"),
        (b'{"export": {"format": 1}}\n', "missing"),
        (whole.replace(b'"format":1', b'"format":9', 1), "upgrade"),
        (b"\xff\n", "not of an export"),
    ):
        bad.write_bytes(text)
        error = (await cli("import", str(bad), "--schema", "fresh", code=1)).stderr
        assert (said in error, error.count("\n")) == (True, 1), error
    assert "No such file" in (await cli("import", str(tmp_path / "none"), code=1)).stderr


async def test_nothing_of_a_damaged_file_is_stored(
    store: EventStore, database: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is checked before its first event is stored, so the good one can be imported then; what comes from a pipe
    cannot be, and it is said that the store has to be emptied. Nobody is told that the same import would go on."""
    monkeypatch.setattr("trunkline_ops.commands.transfer.TOGETHER_ITEMS", 3)
    await filled(store)
    file, bad = tmp_path / "file", tmp_path / "bad"
    await cli("export", str(file))
    whole = file.read_bytes()
    await cli("init", "--schema", "copy")
    lines = whole.splitlines(keepends=True)
    for text, said in (
        (whole.replace(b'"Made"', b'"Nade"', 1), "damaged"),
        (b"".join([*lines[:-2], lines[-1]]), "damaged"),
        (b"".join([*lines[:9], b"x\n", *lines[9:]]), "line 10: not of an export"),
        (b"".join(lines[:-1]), "not complete"),
    ):
        bad.write_bytes(text)
        error = json.loads((await cli("import", str(bad), "--schema", "copy", "--json", code=1)).stderr)
        assert (said in error["message"], error["imported"]) == (True, 0), error
        async with EventStore(database, schema="copy") as copy:
            assert await copy.read_all_streams_forward() == []
    changed = whole.replace(b'"Old"', b'"Odd"', 1)
    told = (await cli("import", "-", "--schema", "copy", stdin=changed, code=1)).stderr
    assert "trunkline reset" in told
    assert "goes on" not in told
    await cli("reset", "--schema", "copy", "--yes")
    assert "verified" in (await cli("import", str(file), "--schema", "copy")).stdout


async def test_streams_that_were_deleted_meanwhile_are_no_hindrance(
    store: EventStore, database: str, cli: Cli, tmp_path: Path
) -> None:
    """A stream that was made and deleted after the export had begun, and one whose linked events were removed for good:
    the export is imported, and has the store's digest. A file that lists such a stream is imported without it."""
    for n in range(3):
        await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", n)])
    await store.append_to_stream("source", ANY_VERSION, [EventData("E", 1)])
    await store.link_to_stream("links-1", ANY_VERSION, await store.read_stream_forward("source"))
    await store.delete_stream("links-1", ANY_VERSION)
    await store.delete_stream("source", ANY_VERSION, hard=True)
    file = tmp_path / "file"
    await cli("export", str(file))
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))  # it has only begun
    await store.append_to_stream("b-1", ANY_VERSION, [EventData("E", 1)])
    await store.delete_stream("b-1", ANY_VERSION)
    await store.delete_stream("a-1", ANY_VERSION)
    exported = json.loads((await cli("export", str(file), "--json")).stdout)
    assert (exported["events"], exported["deleted"]) == (3, 1)
    await cli("init", "--schema", "copy")
    imported = json.loads((await cli("import", str(file), "--schema", "copy", "--json")).stdout)
    assert (imported["digest"], imported["left_out"]) == (exported["digest"], 0)

    *items, last = map(decode, file.read_bytes().splitlines())
    tally = Tally()
    items[4:4] = [Item(deleted=lines.Deleted(stream=name, deleted_at=LONG_AGO)) for name in ("0", "1")]
    for item in items:
        tally.add(item)
    assert last.end is not None
    file.write_bytes(b"".join(encode(item) + b"\n" for item in [*items, Item(end=tally.end)]))
    await cli("init", "--schema", "other")
    for before in (0, 3):
        imported = json.loads((await cli("import", str(file), "--schema", "other", "--json")).stdout)
        assert (imported["before"], imported["left_out"]) == (before, 2)


async def test_no_link_is_exported_without_its_event(database: str) -> None:
    """An event that is removed for good while the export runs takes its links with it, wherever those are read."""
    async with EventStore(database, serializer=AsStored()) as store:
        for n in range(5):
            await store.append_to_stream(f"a-{n}", ANY_VERSION, [EventData("E", b"1") for _ in range(1000)])
        await store.append_to_stream("source", ANY_VERSION, [EventData("E", b"1")])
        await store.link_to_stream("links", ANY_VERSION, await store.read_stream_forward("source"))
        items = in_order(store, await store.safe_position())
        found = [await anext(items)]
        await store.delete_stream("source", ANY_VERSION, hard=True)
        found += [item async for item in items]
        assert len(found) == 5000
        assert all(item.link is None for item in found)


async def test_metadata_of_any_kind_is_kept(store: EventStore, database: str, cli: Cli, tmp_path: Path) -> None:
    """Writers in SQL may have stored what is no object, or has line breaks, or is no Unicode: its text comes back as it
    was, and so does that of snapshots."""
    texts = ["[1]", "1.0", "null", '{"b": 1e2,\n"a": null}', '"\\ud800"', None]
    connection = await asyncpg.connect(database)
    for n, text in enumerate(texts):
        await connection.execute(
            "SELECT eventstore.append_v1('a-1', -1, ARRAY[$1::uuid], ARRAY['T'], ARRAY['{}'], ARRAY[$2])",
            *(UUID(int=n + 1), text),
        )
        await store.record_snapshot(Snapshot(f"s-{n}", n, "S", {}))
        await connection.execute("UPDATE eventstore.snapshots SET metadata = $2 WHERE source = $1", f"s-{n}", text)
    file = str(tmp_path / "file")
    await cli("export", file)
    await cli("init", "--schema", "copy")
    await cli("import", file, "--schema", "copy")
    for table, order in (("events", "position"), ("snapshots", "source")):
        rows = await connection.fetch(f"SELECT metadata::text FROM copy.{table} ORDER BY {order}")
        assert [row[0] for row in rows] == texts
    await connection.close()
    assert json.loads((await cli("import", file, "--schema", "copy", "--json")).stdout)["before"] == len(texts)


async def test_snapshots_are_read_by_bytes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large ones, as many at once as begin before the bound; all of them come, in their order."""
    monkeypatch.setattr("trunkline_ops.transfer.take_out.PAGE_BYTES", 1000)
    sizes = [400, 400, 400, 5000, 5000, 10, 10]
    pages: list[int] = []
    async with EventStore(database, serializer=AsStored("application/json")) as store:
        for n, size in enumerate(sizes):
            await store.record_snapshot(Snapshot(f"s-{n}", n, "S", b"1" * size))
        fetch = store.fetch

        async def counted(query: str, *args: object) -> list[asyncpg.Record]:
            rows = await fetch(query, *args)
            pages.append(len(rows))
            return rows

        monkeypatch.setattr(store, "fetch", counted)
        found = [item.snapshot.source async for item in besides(store, 0) if item.snapshot is not None]
    assert found == [f"s-{n}" for n in range(len(sizes))]
    assert pages == [0, 3, 1, 1, 2, 0]


async def test_an_error_without_a_name_of_its_own_keeps_the_place(
    store: EventStore, database: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever PostgreSQL says in the middle of an import: how far it is, and that it goes on."""
    monkeypatch.setattr("trunkline_ops.commands.transfer.TOGETHER_ITEMS", 3)
    for n in range(9):
        await store.append_to_stream("a-1", ANY_VERSION, [EventData(f"T{n}", n)])
    file = str(tmp_path / "file")
    await cli("export", file)
    await cli("init", "--schema", "copy")
    connection = await asyncpg.connect(database)
    await connection.execute("""
        CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE io_error USING MESSAGE = 'could not read block 7'; END $$;
        CREATE TRIGGER broken BEFORE INSERT ON copy.events FOR EACH ROW WHEN (NEW.type = 'T4')
            EXECUTE FUNCTION broken()""")
    error = json.loads((await cli("import", file, "--schema", "copy", "--json", code=1)).stderr)
    assert (error["error"], error["imported"]) == ("StoreUnavailable", 3)
    assert "could not read block 7: see the server's log (3 items are in the store; the same import" in error["message"]
    await connection.execute("DROP TRIGGER broken ON copy.events")
    await connection.close()
    assert json.loads((await cli("import", file, "--schema", "copy", "--json")).stdout)["before"] == 3


def test_a_line_is_one_thing_with_a_place() -> None:
    """What has no position, or two names, would not be stored, and is refused; so is a date that is none in UTC."""
    good = {"position": 1, "stream": "a", "stream_version": 1, "id": str(UUID(int=1)), "type": "T", "data": 1,
            "created_at": "2020-01-01T00:00:00Z"}  # fmt: skip
    assert decode(json.dumps(good).encode()).place == 1
    deleted = {"stream": "a", "deleted_at": good["created_at"]}
    for bad, said in (
        ({**good, "position": None}, "needs position"),
        ({"deleted": deleted, "snapshot": {"source": "s", "version": 1, "type": "T", "data": 1}}, "one thing"),
        ({**good, "created_at": "9999-12-31T23:59:59-12:00"}, "no date"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            decode(json.dumps(bad).encode())


async def test_versions_that_are_missing_are_closed_and_told(
    store: EventStore, database: str, cli: Cli, tmp_path: Path
) -> None:
    """Where linked events were erased, versions of the target begin anew; the order is kept, and it is said."""
    await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1)])
    await store.link_to_stream("all", ANY_VERSION, await store.read_stream_forward("a-1"))
    await store.append_to_stream("all", ANY_VERSION, [EventData("E", n) for n in range(2)])
    await store.delete_stream("a-1", ANY_VERSION, hard=True)
    await cli("export", str(tmp_path / "file"))
    await cli("init", "--schema", "copy")
    assert "2 have another version" in (await cli("import", str(tmp_path / "file"), "--schema", "copy")).stdout
    async with EventStore(database, schema="copy") as copy:
        assert [event.stream_version for event in await copy.read_stream_forward("all")] == [1, 2]


async def test_long_work_shows_a_bar(store: EventStore, database: str, cli: Cli, tmp_path: Path) -> None:
    """On a terminal, while it goes on."""
    await filled(store)
    file = os.fspath(tmp_path / "file")
    with terminal(database, "export", file) as (process, screen):
        assert "exporting" in shown_on(screen)
        assert process.wait() == 0
    await cli("init", "--schema", "copy")
    with terminal(database, "import", file, "--schema", "copy") as (process, screen):
        assert "importing" in shown_on(screen)
        assert process.wait() == 0


def event(stream: str, number: int, data: bytes = b"1") -> Item:
    return Item(stream=stream, id=UUID(int=number), type="T", created_at=LONG_AGO, position=number,
                stream_version=number, data_base64=data)  # fmt: skip


def link(stream: str, number: int) -> Item:
    return Item(link=Link(position=number, stream=stream, stream_version=number, id=UUID(int=number)))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_calls_keep_the_order(given: list[tuple[str, bool]]) -> None:
    """Put one behind the other they are the items; and each is what one statement stores in its order: links into one
    stream, or events of which each stream is one run."""
    items = [link(stream, n) if linked else event(stream, n) for n, (stream, linked) in enumerate(given)]
    found = calls(items)
    assert [item for call in found for item in call] == items
    for call in found:
        assert len({item.link is None for item in call}) == 1
        streams = [item.stream if item.link is None else item.link.stream for item in call]
        runs = [stream for n, stream in enumerate(streams) if n == 0 or streams[n - 1] != stream]
        assert len(runs) == len(set(runs))
        assert call[0].link is None or len(runs) == 1


@given(st.binary(max_size=40) | st.sampled_from([b'{"a": [1, 2.50]}', b'"\\ud800"', b"[1,\r\n2]", b"1 2", b"nul"]))
def test_data_come_back_byte_for_byte(data: bytes) -> None:
    """Whatever they are: as a part of the line where they can be one, else as base64."""
    for is_json in (True, False):
        item = event("a", 1)
        item.data, item.data_base64 = in_line(data, is_json=is_json)
        line = encode(item)
        assert b"\n" not in line
        assert lines.data_of(decode(line)) == data


def test_a_digest_is_of_what_and_in_which_order_not_of_numbers() -> None:
    """Positions and versions do not matter; order, stream, id, and each byte of data do; to the outline, data do
    not."""

    def end(*items: Item) -> lines.End:
        tally = Tally()
        for each in items:
            tally.add(each)
        return tally.end

    one, two = event("a", 1), event("b", 2)
    moved = event("a", 1)
    moved.position, moved.stream_version = 99, 98
    assert end(one, two) == end(moved, two)
    assert end(one, two).outline != end(two, one).outline
    other = event("a", 1, b"2")
    assert end(one).outline == end(other).outline
    assert end(one).digest != end(other).digest
    assert end(event("c", 1)).outline != end(one).outline
