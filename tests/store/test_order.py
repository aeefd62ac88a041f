"""P2 and P3: no committed event is skipped, and everybody sees one order, however transactions interleave."""

import asyncio
import random
import re
import time
from collections import Counter, defaultdict
from typing import Any

import asyncpg
import pytest

from trunkline_store import ANY_VERSION, ConcurrencyFailure, EventData, EventStore, UnsafeRead
from trunkline_store.events import BLOCK
from trunkline_store.migrate import initialise
from trunkline_store.queries import statements

WRITERS = 20

NAIVE = "SELECT position FROM eventstore.events WHERE position > $1 ORDER BY position"
ONE_STATEMENT = """
    WITH snapshot AS MATERIALIZED (SELECT pg_sleep(0.003)),  -- a busy server comes to the next line as late as that
         safe AS MATERIALIZED (SELECT eventstore.safe_position_v1() AS position FROM snapshot)
    SELECT e.position FROM eventstore.events AS e, safe
    WHERE e.position > $1 AND e.position <= safe.position ORDER BY e.position"""


class Writers:
    """Writers that do everything a transaction can do around an append."""

    def __init__(self, dsn: str, store: EventStore, seed: int) -> None:
        self.done = Counter[str]()
        self._dsn = dsn
        self._store = store
        self._random = random.Random(seed)
        self._stop = False

    async def run(self, seconds: float) -> None:
        tasks = [asyncio.create_task(self._write(n)) for n in range(WRITERS)]
        await asyncio.sleep(seconds)  # the load lasts for a time by its nature
        self._stop = True
        await asyncio.gather(*tasks)

    async def _write(self, number: int) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            turn = 0
            while not self._stop:
                turn += 1
                try:
                    await self._transaction(connection, f"w{number}-{turn}")
                except ConcurrencyFailure:
                    self.done["deadlock"] += 1
        finally:
            await connection.close()

    async def _transaction(self, connection: Any, name: str) -> None:
        rnd = self._random
        kind = rnd.choices(["plain", "commit", "rollback", "prepare"], [4, 4, 1, 1])[0]
        if kind == "plain":
            async with connection.transaction():
                await self._append(connection)
            self.done["plain"] += 1
            return
        await connection.execute("BEGIN")
        try:
            for _ in range(rnd.randint(1, 3)):
                savepoint = rnd.choice(["none", "release", "rollback"])
                if savepoint != "none":
                    await connection.execute("SAVEPOINT s")
                await self._append(connection)
                await asyncio.sleep(rnd.choice([0, 0.002, 0.03]))  # how long a caller's transaction stays open
                if savepoint == "release":
                    await connection.execute("RELEASE SAVEPOINT s")
                elif savepoint == "rollback":
                    await connection.execute("ROLLBACK TO SAVEPOINT s")
                    self.done["savepoint rolled back"] += 1
        except ConcurrencyFailure:
            await connection.execute("ROLLBACK")
            raise
        if kind == "prepare":
            await connection.execute(f"PREPARE TRANSACTION '{name}'")
            await asyncio.sleep(rnd.choice([0, 0.02]))  # how long it stays prepared
            await connection.execute(f"{rnd.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])} PREPARED '{name}'")
        else:
            await connection.execute(kind.upper())
        self.done[kind] += 1

    async def _append(self, connection: Any) -> None:
        count = self._random.choices([1, 5, 100, 1500], [60, 25, 14, 1])[0]
        stream = f"s-{self._random.randrange(30)}"
        args = ANY_VERSION, [EventData("E", 1) for _ in range(count)]
        await self._store.append_to_stream(stream, *args, connection=connection)


class Reader:
    """Follows `$all` with one of the ways to do it, the right one or a wrong one."""

    def __init__(self, store: EventStore) -> None:
        self.seen: list[int] = []
        self.polls: list[int] = []
        self._store = store
        self._stop = asyncio.Event()

    async def follow(self) -> None:
        last = poll = 0
        async with self._store.acquire() as connection:
            while True:
                stopping = self._stop.is_set()
                poll += 1
                positions = await self.read(connection, last)
                self.seen += positions
                self.polls += [poll] * len(positions)
                last = positions[-1] if positions else last
                if stopping and not positions:
                    return
                await asyncio.sleep(0)  # gives the writers of this process a turn

    async def read(self, connection: Any, last: int) -> list[int]:
        safe = await connection.fetchval(self._store.sql["safe_position"])
        rows = await connection.fetch(self._store.sql["read_all_forward"], last + 1, safe, 10**9, 10**12, None)
        return [row["position"] for row in rows]

    def stop(self) -> None:
        self._stop.set()


class WrongReader(Reader):
    def __init__(self, store: EventStore, query: str) -> None:
        super().__init__(store)
        self._query = query

    async def read(self, connection: Any, last: int) -> list[int]:
        return [row["position"] for row in await connection.fetch(self._query, last)]


async def stress(
    dsn: str, seconds: float, seed: int
) -> tuple[Reader, list[Reader], list[asyncpg.Record], Counter[str]]:
    """Writers for so many seconds, beside the right reader and two wrong ones; then all events, and what was done."""
    async with EventStore(dsn) as store:
        right = Reader(store)
        wrong: list[Reader] = [WrongReader(store, NAIVE), WrongReader(store, ONE_STATEMENT)]
        following = [asyncio.create_task(reader.follow()) for reader in (right, *wrong)]
        writers = Writers(dsn, store, seed)
        await writers.run(seconds)
        for reader in (right, *wrong):
            reader.stop()
        await asyncio.gather(*following)
        async with store.acquire() as connection:
            events = await connection.fetch(
                "SELECT position, stream_id, stream_version FROM eventstore.events ORDER BY position"
            )
    return right, wrong, events, writers.done


def check(right: Reader, wrong: list[Reader], events: list[asyncpg.Record]) -> None:
    """The claims of P2 and P3, and that the wrong readers break them."""
    committed = [event["position"] for event in events]
    assert right.seen == committed, "the reader skips nothing, repeats nothing, and keeps the order"

    polls: dict[int, set[int]] = defaultdict(set)
    for position, poll in zip(right.seen, right.polls, strict=True):
        polls[position // BLOCK].add(poll)
    assert all(len(seen_in) == 1 for seen_in in polls.values()), "no block is seen partly"

    versions: dict[int, int] = defaultdict(int)
    for event in events:
        versions[event["stream_id"]] += 1
        assert event["stream_version"] == versions[event["stream_id"]], "positions and versions agree"

    for reader, what in zip(wrong, ("position > last", "safe position and rows in one statement"), strict=True):
        skipped = set(committed) - set(reader.seen)
        print(f"{what}: {len(skipped)} of {len(committed)} skipped")
        assert skipped, f"the test does not bite: {what} skipped nothing"


@pytest.mark.parametrize(("seconds", "seed"), [(12, 1)])
async def test_nothing_is_skipped_or_inverted_under_writers_of_every_kind(
    database: str, seconds: float, seed: int
) -> None:
    """Twenty writers with holds, savepoints, rollbacks and prepared transactions, on an empty store: the reader sees
    all, in order, in whole blocks; the two wrong readers beside it do skip."""
    right, wrong, events, done = await stress(database, seconds, seed)
    print(dict(done), len(events), "events")
    assert min(done[kind] for kind in ("plain", "commit", "rollback", "prepare", "savepoint rolled back")) > 0
    assert any(position % BLOCK == BLOCK - 1 for position in right.seen), "appends of more than one block took part"
    check(right, wrong, events)


async def test_the_order_holds_where_the_lock_keys_wrap_around(database: str) -> None:
    """The lock's key carries 31 bits of the block: the same across 2^31."""
    connection = await asyncpg.connect(database)
    await connection.execute("SELECT setval('eventstore.blocks', 2147483648 - 60)")
    await connection.close()
    started = time.monotonic()
    right, wrong, events, _ = await stress(database, 4, 2)
    assert events[0]["position"] // BLOCK < 2**31 < events[-1]["position"] // BLOCK, time.monotonic() - started
    check(right, wrong, events)


async def test_the_first_appends_of_a_virgin_store_are_not_passed_over(database: str) -> None:
    """A safe position that is taken during the very first append is below it, also where nobody ever drew from the
    sequence."""
    async with EventStore(database) as store, store.acquire() as one, store.acquire() as other:
        for drawn in (True, False):
            if not drawn:
                await other.execute("ALTER SEQUENCE eventstore.blocks RESTART WITH 100")
            transaction = one.transaction()
            await transaction.start()
            first = await store.append_to_stream(f"a-{drawn}", 0, [EventData("E", 1)], connection=one)
            during = await store.safe_position()
            second = await store.append_to_stream(f"b-{drawn}", 0, [EventData("E", 1)])
            after_second = await store.safe_position()
            await transaction.commit()
            assert first.first_position < second.first_position
            assert max(during, after_second) < first.first_position
            assert await store.safe_position() >= second.last_position


async def test_two_stores_in_one_transaction_both_hold_their_readers_back(database: str) -> None:
    """Each store takes its own lock; the control, whose second store takes none, skips."""
    connection = await asyncpg.connect(database)
    await initialise(connection, "second")
    async with EventStore(database) as first, EventStore(database, schema="second") as second:
        for locked in (True, False):
            if not locked:
                await connection.execute(
                    "CREATE OR REPLACE FUNCTION second.hold_readers_back() RETURNS boolean RETURN true"
                )
            async with connection.transaction():
                a = await first.append_to_stream(f"a-{locked}", 0, [EventData("E", 1)], connection=connection)
                b = await second.append_to_stream(f"b-{locked}", 0, [EventData("E", 1)], connection=connection)
                await second.append_to_stream(f"c-{locked}", 0, [EventData("E", 1)])
                assert await first.safe_position() < a.first_position
                assert (await second.safe_position() < b.first_position) is locked
            assert await second.safe_position() >= b.last_position
    await connection.close()


@pytest.mark.parametrize("drawn", [1000, 2**31 + 1000])
async def test_no_value_of_the_setting_hides_an_event(database: str, drawn: int) -> None:
    """Readers are held back whatever a writer puts into the setting: its transaction's id, other text, an earlier or
    later block, or a number whose low 31 bits are those of a later block."""
    far = 2**31
    numbers = [0, 1, drawn, drawn + 1, drawn + 5, drawn + far, drawn - far, drawn - far + 1, drawn - far + 5, -1, 2**63]
    values = ["pg_current_xact_id()::text", *(f"'{value}'" for value in ("", "on", "1e3", " 7", "9" * 30, *numbers))]
    async with EventStore(database) as store, store.acquire() as connection:
        events = await connection.fetchval("SELECT 'eventstore.events'::regclass::oid")
        setting = f"trunkline.drawing_{events}"
        await connection.execute(f"SELECT setval('eventstore.blocks', {drawn})")
        for value in values:
            async with connection.transaction():
                await connection.execute(f"SELECT set_config('{setting}', {value}, true)")
                first = await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1)], connection=connection)
                await connection.execute(f"SELECT set_config('{setting}', {value}, true)")
                await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1)], connection=connection)
                for _ in range(8):  # the sequence passes what was put in
                    await store.append_to_stream("b-1", ANY_VERSION, [EventData("E", 1)])
                assert await store.safe_position() < first.first_position, value


async def test_a_savepoint_that_is_rolled_back_does_not_disarm_the_lock(database: str) -> None:
    """The lock goes with the savepoint, and so does the memory of it: the next append takes it again."""
    async with EventStore(database) as store, store.acquire() as connection, connection.transaction():
        inner = connection.transaction()
        await inner.start()
        await store.append_to_stream("a-1", 0, [EventData("E", 1)], connection=connection)
        await inner.rollback()
        appended = await store.append_to_stream("a-2", 0, [EventData("E", 1)], connection=connection)
        assert await store.safe_position() < appended.first_position


async def test_a_long_import_takes_one_lock(database: str) -> None:
    """All appends of one transaction hold one lock, and so do 24,000 retakes of it, in savepoints too: no import fills
    the lock table."""
    async with EventStore(database) as store, store.acquire() as connection, connection.transaction():
        for _ in range(100):
            await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1)], connection=connection)
            async with connection.transaction():
                await store.append_to_stream("a-1", ANY_VERSION, [EventData("E", 1)], connection=connection)
        await connection.execute(
            """DO $$ BEGIN FOR i IN 1..240 LOOP
                   BEGIN
                       PERFORM eventstore.hold_readers_back() FROM generate_series(1, 100);
                   EXCEPTION WHEN division_by_zero THEN NULL;  -- makes it a savepoint
                   END;
               END LOOP; END $$"""
        )
        assert await connection.fetchval("SELECT version FROM eventstore.streams WHERE stream = 'a-1'") == 200
        locks = await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() "
            "AND classid = 'eventstore.events'::regclass::oid"
        )
        assert locks == 1


async def test_no_statement_reads_the_row_of_a_sequence(database: str) -> None:
    """While nextval writes its log record, a read of the sequence's row without a lock is 32 too high, once in half a
    million reads. So all of our SQL uses pg_sequence_last_value()."""
    connection = await asyncpg.connect(database)
    functions = await connection.fetch(
        "SELECT proname AS name, prosrc AS text FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace"
    )
    texts = {row["name"]: row["text"] for row in functions} | statements("eventstore")
    await connection.close()
    assert "pg_sequence_last_value" in texts["safe_position_v1"]
    reading = re.compile(r'(FROM|JOIN)\s+("?eventstore"?\.)?"?blocks\b', re.IGNORECASE)
    assert reading.search('SELECT last_value FROM "eventstore".blocks'), "the control"
    assert [name for name, text in texts.items() if reading.search(text)] == []


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_all_cannot_be_read_where_the_snapshot_is_older_than_the_safe_position(
    database: str, isolation: Any
) -> None:
    """At REPEATABLE READ and SERIALIZABLE rows are those of an earlier snapshot: refused, with a typed error."""
    async with EventStore(database) as store, store.acquire() as connection:
        async with connection.transaction(isolation=isolation):
            with pytest.raises(UnsafeRead, match="READ COMMITTED"):
                await store.read_all_streams_forward(connection=connection)


async def test_an_open_transaction_without_an_append_holds_nobody_back(database: str) -> None:
    """Only transactions that have drawn positions count: neither writers of other tables nor idle ones."""
    async with EventStore(database) as store, store.acquire() as connection, connection.transaction():
        await connection.execute("CREATE TABLE public.application (x int)")
        await connection.execute("INSERT INTO public.application VALUES (1)")
        appended = await store.append_to_stream("a-1", 0, [EventData("E", 1)])
        assert await store.safe_position() >= appended.last_position
