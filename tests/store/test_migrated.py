"""Appending and reading again, in a store that was made by the first release, was in use, and was migrated."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest_asyncio

from tests.conftest import new_database
from tests.store.first_release import make_migrated
from tests.store.test_append import *  # noqa: F403 - the same tests, on the fixture below
from tests.store.test_read import *  # noqa: F403
from trunkline_ops.servers import PostgresServer
from trunkline_store.migrate import migrations

for _name in [name for name in globals() if name.startswith("test_") and "bad" in name]:
    del globals()[_name]  # what is refused before it reaches the database


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def template(postgres: PostgresServer) -> AsyncIterator[str]:
    """The name of a database with such a store: what `database` copies here."""
    async with new_database(postgres.dsn, template="template1") as dsn:
        connection = await asyncpg.connect(dsn)
        await make_migrated(connection)
        await connection.close()
        yield urlsplit(dsn).path.removeprefix("/")


async def test_these_tests_run_on_a_migrated_store(database: str) -> None:
    """Its sequence has been drawn from, and its migrations were not applied together."""
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT last_value FROM eventstore.blocks") > 10
    rows = await connection.fetch("SELECT xmin::text FROM eventstore.schema_migrations")
    assert len({row["xmin"] for row in rows}) == len(rows) == len(migrations())
    await connection.close()
