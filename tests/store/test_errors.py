"""Errors of PostgreSQL and of its client, as callers of the store see them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from trunkline_ops.servers import postgres_server
from trunkline_store import (
    ANY_VERSION,
    EventData,
    EventStore,
    InvalidArgument,
    InvalidEvent,
    StoreUnavailable,
    StreamAppend,
    UndecodableEvent,
)
from trunkline_store.lease import Keeper, Lease
from trunkline_store.migrate import initialise
from trunkline_store.wire import BadMessage, decode

TRANSLATED = any(Path("/usr/share/locale/de/LC_MESSAGES").glob("postgres-*.mo"))  # Debian's and Ubuntu's packages have
NO_COLUMN = "existiert nicht" if TRANSLATED else "does not exist"


async def until_held(lease: Lease, held: bool) -> None:
    async with asyncio.timeout(20):
        while lease.held is not held:
            await asyncio.sleep(0.01)  # a lease tells nobody that it ran out


@pytest_asyncio.fixture
async def refused(store: EventStore) -> AsyncIterator[EventStore]:
    """A store whose leases cannot be renewed: a trigger of the database's owner raises an unknown error."""
    await store.fetch(
        """CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'leases are frozen'; END $$"""
    )
    yield store


async def freeze(store: EventStore) -> None:
    await store.fetch(
        "CREATE TRIGGER frozen BEFORE UPDATE ON eventstore.leases FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )


async def test_an_unknown_error_of_our_own_statement_is_unavailable_and_logged(
    refused: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller that waits for the database then tries again, and the log holds the cause."""
    lease = await Lease.acquire(refused, "lease", uuid4(), 30)
    assert lease is not None
    await freeze(refused)
    with caplog.at_level(logging.ERROR, "trunkline.store"), pytest.raises(StoreUnavailable, match="leases are frozen"):
        await lease.renew()
    assert any(record.exc_info and "leases are frozen" in str(record.exc_info[1]) for record in caplog.records)


@pytest.mark.parametrize("together", [False, True])
async def test_a_lease_that_cannot_be_renewed_is_tried_again_until_it_can(refused: EventStore, together: bool) -> None:
    """An unknown error ends neither `Lease.keep` nor the keeper of all leases of a process."""
    lease = await Lease.acquire(refused, "lease", uuid4(), 0.4)
    assert lease is not None
    keeper = Keeper(refused)
    await freeze(refused)
    if together:
        keeper.add(lease)
    else:
        keeping = asyncio.create_task(lease.keep())
    await until_held(lease, False)
    await refused.fetch("DROP TRIGGER frozen ON eventstore.leases")
    await until_held(lease, True)
    await keeper.close()
    if not together:
        keeping.cancel()
        await asyncio.wait([keeping])


async def test_a_keeper_that_ends_takes_its_leases_along(store: EventStore, caplog: pytest.LogCaptureFixture) -> None:
    """Their owners are told that they lost them, and the log says why: nothing waits for a renewal that never comes."""
    lease = await Lease.acquire(store, "lease", uuid4(), 30)
    assert lease is not None
    keeper = Keeper(store)
    keeper.add(lease)
    assert keeper._keeping is not None
    keeper._keeping.cancel()
    async with asyncio.timeout(20):
        await lease.lost.wait()
    assert not lease.held
    assert "no longer renewed" in caplog.text


async def test_data_that_is_nested_too_deep_for_python_is_an_undecodable_event(store: EventStore) -> None:
    """SQL writers may store it. The event can be read except for its data, and so can its neighbours; a message that
    carries it is damaged."""
    deep = "[" * 3000 + "]" * 3000
    await store.fetch(
        "SELECT * FROM eventstore.append_v1('s', 0, ARRAY[$1, $2]::uuid[], ARRAY['E', 'E'], ARRAY[$3, '1'])",
        *(uuid4(), uuid4(), deep),
    )
    events = await store.read_all_streams_forward()
    assert events[1].data == 1
    with pytest.raises(UndecodableEvent, match=r"event 1 of .s. .*cannot be decoded"):
        _ = events[0].data
    with pytest.raises(BadMessage, match="nested too deep"):
        decode(f'[{{"data": {deep}}}]'.encode())


async def test_a_server_of_another_language_is_understood() -> None:
    """Errors are told apart by SQLSTATE: a database that takes no connections for a moment is unavailable, not unsafe
    to read. Without PostgreSQL's translations, the test runs in English."""
    with postgres_server(
        private=True, settings={"fsync": "off", "lc_messages": "C.UTF-8"}, environment={"LANGUAGE": "de"}
    ) as server:
        connection = await asyncpg.connect(server.dsn)
        with pytest.raises(asyncpg.UndefinedColumnError, match=NO_COLUMN):
            await connection.execute("SELECT no_such_column")
        await connection.execute("CREATE DATABASE other")
        dsn = server.dsn.removesuffix("/postgres") + "/other"
        inside = await asyncpg.connect(dsn)
        await initialise(inside)
        await inside.close()
        async with EventStore(dsn, pool_size=1) as store:
            await store.append_to_stream("s", ANY_VERSION, [EventData("E", 1)])
            await connection.execute("ALTER DATABASE other ALLOW_CONNECTIONS false")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'other'")
            for do in (
                lambda: store.append_to_stream("s", ANY_VERSION, [EventData("E", 2)]),
                store.read_all_streams_forward,
            ):
                with pytest.raises(StoreUnavailable, match="cannot be reached"):
                    await do()
            await connection.execute("ALTER DATABASE other ALLOW_CONNECTIONS true")
            assert (await store.append_to_stream("s", ANY_VERSION, [EventData("E", 2)])).last_version == 2
        await connection.close()


# --- connection=


async def writes(store: EventStore, connection: Any) -> AsyncIterator[Any]:
    """Yield every call that takes `connection=` and writes."""
    event = EventData("E", 1)
    yield lambda: store.append_to_stream("s", ANY_VERSION, [event], connection=connection)
    yield lambda: store.append_to_streams([StreamAppend("s", ANY_VERSION, [event])], connection=connection)
    yield lambda: store.link_to_stream("t", ANY_VERSION, [event.id], connection=connection)
    yield lambda: store.delete_stream("s", ANY_VERSION, connection=connection)


async def test_a_connection_that_is_in_no_transaction_is_refused(store: EventStore) -> None:
    """Each statement would commit by itself: the error says what to write, and nothing is stored."""
    async with store.acquire() as connection:
        async for write in writes(store, connection):
            with pytest.raises(InvalidArgument, match=r"async with connection.transaction\(\):"):
                await write()
    assert await store.read_all_streams_forward() == []


@pytest.mark.parametrize("foreign", [object(), "postgresql://localhost"])
async def test_an_object_that_is_no_connection_is_refused(store: EventStore, foreign: Any) -> None:
    """Writes and reads alike raise a typed error that names the class they need."""
    async for write in writes(store, foreign):
        with pytest.raises(InvalidArgument, match="is not an asyncpg connection"):
            await write()
    with pytest.raises(InvalidArgument, match="is not an asyncpg connection"):
        await store.read_stream_forward("s", connection=foreign)


async def test_a_transaction_that_has_failed_is_refused(store: EventStore) -> None:
    """The error says that the transaction has to be rolled back, whatever the statement."""
    async with store.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.execute("SELECT 1/0")
        async for write in writes(store, connection):
            with pytest.raises(InvalidArgument, match="roll back"):
                await write()
        with pytest.raises(InvalidArgument, match="roll back"):
            await store.read_stream_forward("s", connection=connection)
        await transaction.rollback()


async def test_two_statements_at_once_on_one_connection_are_refused(store: EventStore) -> None:
    """The error says to await one before the next, and does not invite a retry."""
    async with store.transaction() as connection:
        under_way = asyncio.create_task(connection.execute("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0)  # it is under way now
        async for write in writes(store, connection):
            with pytest.raises(InvalidArgument, match="it is running another statement"):
                await write()
        await under_way


# --- limits of the server


async def test_an_array_that_jsonb_cannot_hold_is_an_invalid_event(database: str) -> None:
    """PostgreSQL calls it an internal error, but the array can never be stored, so a retry would not help."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "in_jsonb", data_type="jsonb")
    await connection.close()
    async with EventStore(database, schema="in_jsonb", timeout=120) as store:
        with pytest.raises(InvalidEvent, match="elements"):
            await store.append_to_stream("s", ANY_VERSION, [EventData("E", [1] * (17 * 1024 * 1024))])
        assert (await store.append_to_stream("s", 0, [EventData("E", [1])])).last_version == 1


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [
        ("53100", StoreUnavailable),  # disk_full
        ("53200", StoreUnavailable),  # out_of_memory
        ("53400", StoreUnavailable),  # configuration_limit_exceeded
        ("54000", InvalidEvent),  # program_limit_exceeded
        ("54001", InvalidEvent),  # statement_too_complex
        ("XX000", StoreUnavailable),  # internal_error
        ("XX001", StoreUnavailable),  # data_corrupted
        ("XX002", StoreUnavailable),  # index_corrupted
    ],
)
async def test_what_the_server_lacks_or_cannot_do_is_a_typed_error(
    store: EventStore, sqlstate: str, error: type[Exception]
) -> None:
    """In SQLSTATE classes 53, 54 and XX, an error that may pass is unavailable, and data that never fits is an invalid
    event."""
    await store.fetch(
        f"""CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION SQLSTATE '{sqlstate}'; END $$"""
    )
    await store.fetch("CREATE TRIGGER fail BEFORE INSERT ON eventstore.events EXECUTE FUNCTION public.fail()")
    with pytest.raises(error):
        await store.append_to_stream("s", ANY_VERSION, [EventData("E", 1)])
