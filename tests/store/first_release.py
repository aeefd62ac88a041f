"""A store that the first migration made and that was in use since: what later migrations meet."""

import asyncpg
import pytest

from trunkline_store import migrate

USE = """
    SELECT eventstore.append_v1('order-' || n % 3, -1, ARRAY[md5(n::text)::uuid], ARRAY['Old'],
                                ARRAY[@data@], ARRAY['{"n":1}'])
        FROM generate_series(1, 10) AS n;
    INSERT INTO eventstore.subscriptions (name, feed, checkpoint, owner, epoch)
        SELECT 'projection', '$all', position, gen_random_uuid(), 3 FROM eventstore.events ORDER BY position
        LIMIT 1 OFFSET 4;
    INSERT INTO eventstore.leases VALUES ('relay', gen_random_uuid(), 7, '5s', now());
    INSERT INTO eventstore.relays (name, position) SELECT 'relay', max(position) FROM eventstore.events;
"""

EMPTY = """
    ALTER TABLE eventstore.events DISABLE TRIGGER ALL;
    TRUNCATE eventstore.events, eventstore.streams, eventstore.subscriptions, eventstore.leases, eventstore.relays;
    ALTER TABLE eventstore.events ENABLE TRIGGER ALL;
"""


async def make_first_release(connection: asyncpg.Connection, data_type: migrate.DataType = "json") -> None:
    """A store at migration 1, with events, a subscription and a relay in it."""
    first = migrate.migrations()[:1]
    with pytest.MonkeyPatch.context() as back_then:
        back_then.setattr(migrate, "migrations", lambda: first)
        await migrate.initialise(connection, data_type=data_type)
    data = """'{"n":' || n || '}'"""
    await connection.execute(USE.replace("@data@", f"convert_to({data}, 'UTF8')" if data_type == "bytea" else data))


async def make_migrated(connection: asyncpg.Connection) -> None:
    """An empty store that has been in use, and was migrated with the traces of that."""
    await make_first_release(connection)
    await connection.execute(EMPTY)
    await migrate.migrate(connection)
