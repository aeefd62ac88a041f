"""PgBouncer in transaction mode: each transaction of a client may run on another connection of the server."""

import asyncio
import inspect
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.store.test_append import *  # noqa: F403 - the same tests, with the fixture `store` below
from tests.store.test_many import (  # noqa: F401 - as above
    test_it_can_be_a_part_of_the_callers_transaction,
    test_opposite_orders_never_meet_a_deadlock,
    test_several_streams_are_appended_to_at_once,
)
from tests.store.test_read import *  # noqa: F403
from trunkline_ops.servers import PostgresServer
from trunkline_ops.servers.pgbouncer import pgbouncer_server
from trunkline_store import ANY_VERSION, EventData, EventStore, InvalidArgument, StreamAppend

for _name, _test in [each for each in globals().items() if each[0].startswith("test_")]:
    if "bad" in _name or "store" not in inspect.signature(_test).parameters:
        del globals()[_name]  # what is refused before it reaches the database, or makes its own way there

CLIENTS = 20
SERVERS = 5


@pytest.fixture(scope="module")
def pgbouncer(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """One with its defaults, but for the pool's size."""
    with pgbouncer_server(postgres, settings={"default_pool_size": str(SERVERS)}) as server:
        yield server


@pytest.fixture
def pooled(pgbouncer: PostgresServer, database: str) -> str:
    """The DSN of a fresh database with an empty store, by way of PgBouncer."""
    return urlsplit(pgbouncer.dsn)._replace(path=urlsplit(database).path).geturl()


@pytest_asyncio.fixture
async def store(pooled: str) -> AsyncIterator[EventStore]:
    """An empty store, with the one setting that PgBouncer takes."""
    async with EventStore(pooled, statement_cache_size=0) as store:
        yield store


async def test_many_clients_share_a_few_connections(pooled: str, database: str) -> None:
    """Twenty stores on five connections append alone, coalesced, to several streams and in transactions of their own,
    and read meanwhile: every answer is that of its question, the order is one, and nobody sees a session of another."""
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        stores = [
            await stack.enter_async_context(EventStore(pooled, statement_cache_size=0, pool_size=2, timeout=30))
            for _ in range(CLIENTS)
        ]
        direct = await stack.enter_async_context(EventStore(database))
        counts = await asyncio.gather(*(client(store, number) for number, store in enumerate(stores)))

        events = await direct.read_all_streams_forward(count=100_000)
        assert len(events) == sum(counts)
        for number in range(CLIENTS):
            own = await direct.read_stream_forward(f"client-{number}", count=10_000)
            assert [e.data[0] for e in own] == [number] * len(own)
            assert [e.data[1] for e in own] == sorted(e.data[1] for e in own)
        servers = await direct.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        assert servers <= SERVERS + 1  # and one of the pool of `direct`


async def client(store: EventStore, number: int) -> int:
    """Does everything, checks each answer, and says how many events it has appended."""
    chance = random.Random(number)
    own, shared, seen = 0, 0, 0
    for turn in range(15):
        kind = chance.choice(["alone", "coalesced", "several", "transaction", "rolled back", "read"])
        if kind == "alone":
            events = [EventData("E", [number, turn]) for _ in range(chance.choice([1, 3, 40]))]
            appended = await store.append_to_stream(f"client-{number}", own, events)
            assert (appended.first_version, appended.last_version) == (own + 1, own + len(events))
            own += len(events)
        elif kind == "coalesced":
            streams = [f"shared-{n}" for n in range(5)]
            answers = await asyncio.gather(
                *(store.append_to_stream(s, ANY_VERSION, [EventData("E", [number, turn])]) for s in streams)
            )
            assert [answer.stream for answer in answers] == streams
            shared += 5
        elif kind == "several":
            parts = [
                StreamAppend(f"client-{number}", own, [EventData("E", [number, turn])]),
                StreamAppend(f"shared-{chance.randrange(5)}", ANY_VERSION, [EventData("E", [number, turn])]),
            ]
            assert [answer.stream for answer in await store.append_to_streams(parts)] == [part.stream for part in parts]
            own, shared = own + 1, shared + 1
        elif kind == "read":
            found = await store.read_all_streams_forward(count=100_000)
            positions = [event.position for event in found]
            assert positions == sorted(set(positions))
            assert len(found) >= seen
            seen = len(found)
        else:
            own += await transaction(store, number, turn, own, commit=kind == "transaction")
    return own + shared


async def transaction(store: EventStore, number: int, turn: int, version: int, *, commit: bool) -> int:
    """Two appends with a session setting between them, in one transaction."""
    try:
        async with store.transaction() as connection:
            assert await connection.fetchval("SHOW application_name") == "trunkline"
            await connection.execute(f"SET LOCAL application_name = 'client {number}'")
            one = [EventData("E", [number, turn])]
            await store.append_to_stream(f"client-{number}", version, one, connection=connection)
            two = [EventData("E", [number, turn])]
            await store.append_to_stream(f"client-{number}", version + 1, two, connection=connection)
            assert await connection.fetchval("SHOW application_name") == f"client {number}"
            if not commit:
                raise InterruptedError
    except InterruptedError:
        return 0
    return 2


async def test_an_open_append_of_another_client_holds_readers_back(pooled: str, store: EventStore) -> None:
    """P2: the lock is the transaction's, so a pooler does not lose it; and it is gone with the transaction."""
    async with EventStore(pooled, statement_cache_size=0) as other:
        async with other.transaction() as connection:
            first = await other.append_to_stream("a-1", 0, [EventData("E", 1)], connection=connection)
            second = await store.append_to_stream("b-1", 0, [EventData("E", 2)])
            assert first.first_position < second.first_position
            assert await store.safe_position() < first.first_position
            assert await store.read_all_streams_forward() == []
        assert [e.data for e in await store.read_all_streams_forward()] == [1, 2]


async def test_with_a_statement_cache_the_error_says_what_to_do(pooled: str) -> None:
    """P9: the setting is named, and nobody waits for it to heal."""
    with pytest.raises(InvalidArgument, match="statement_cache_size=0"):
        await EventStore(pooled).open()


@pytest.mark.parametrize(("size", "code"), [("0", 0), ("100", 1), ("-1", 2)])
def test_programs_have_the_setting_too(pooled: str, size: str, code: int) -> None:
    """As TRUNKLINE_STATEMENT_CACHE_SIZE, for every command that opens a store."""
    done = subprocess.run(
        [sys.executable, "-m", "trunkline_ops.cli", "append", "a-1", "E", "--json"],
        env={**os.environ, "TRUNKLINE_DSN": pooled, "TRUNKLINE_STATEMENT_CACHE_SIZE": size},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "STATEMENT_CACHE_SIZE" in json.loads(done.stderr)["message"]
