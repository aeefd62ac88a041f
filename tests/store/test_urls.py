"""URLs of servers that a user may have written wrongly."""

import json

import asyncpg
import pytest

from trunkline_consumer import Consumer
from trunkline_relay import Relay
from trunkline_store import EventData, EventStore, InvalidArgument, Snapshot
from trunkline_store.urls import check_amqp_url, read_dsn

SECRET = "geheim"


@pytest.mark.parametrize("sign", ["#", "/", "?", "@", "[", "#12/", ":@", "\u2100"])
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(sign: str) -> None:
    """The library refuses the URL before a client library reads it, and shows no part of it."""
    password = f"{SECRET}{sign}{SECRET}" if sign != "#12/" else f"12/{SECRET}"
    for read, scheme in ((read_dsn, "postgresql"), (check_amqp_url, "amqp")):
        with pytest.raises(InvalidArgument, match="percent-encoded") as raised:
            read(f"{scheme}://user:{password}@host/name")
        assert SECRET not in str(raised.value)
        assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://host",
        "amqp://host:99999/",
        "amqp://host:x/",
        "amqp://one,two/",
        "amqp://a b/",
        None,
        5672,
    ],
)
async def test_a_bad_amqp_url_is_refused_at_construction(store: EventStore, url: str) -> None:
    """Neither a consumer nor a relay waits for a broker that can never be there."""
    for make in (Consumer, Relay):
        with pytest.raises(InvalidArgument, match="amqp_url"):
            make(store, url)


@pytest.mark.parametrize("dsn", ["", "localhost", "mysql://h/d", "postgresql://h:99999/d", "host=h dbname=d", None])
def test_a_bad_dsn_is_refused_at_construction(dsn: str) -> None:
    """A store that could never be opened is not made."""
    with pytest.raises(InvalidArgument, match="dsn"):
        EventStore(dsn)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://h/d",
        "postgres://u:p%40@h:5432,[::1]:5433/d?sslmode=require",
        "postgresql:///d?host=/run/postgresql",
    ],
)
def test_a_good_dsn_stays_as_it_is(dsn: str) -> None:
    """A valid DSN is not changed, also with several hosts, encoded passwords and sockets."""
    assert read_dsn(dsn).url == dsn


async def test_parameters_of_libpq_are_followed(database: str) -> None:
    """Parameters without a meaning for asyncpg are left out, and connect_timeout bounds connecting."""
    libpq = "connect_timeout=7&channel_binding=prefer&gssencmode=disable&client_encoding=utf8"
    libpq += "&fallback_application_name=x"
    assert read_dsn(f"{database}?{libpq}").timeout == 7
    async with EventStore(f"{database}?{libpq}&statement_timeout=5000") as store:
        assert await store.fetchval("SELECT current_setting('statement_timeout')") == "5s"
        assert await store.fetchval("SELECT current_setting('application_name')") == "trunkline"


@pytest.mark.parametrize(
    ("parameter", "instead"),
    [
        ("channel_binding=require", "verify-full"),
        ("gssencmode=require", "sslmode"),
        ("keepalives_idle=5", "tcp_keepalives_idle"),
        ("keepalives=1", "tcp_keepalives_idle"),
        ("connect_timeout=soon", "whole number"),
    ],
)
def test_a_parameter_of_libpq_that_cannot_be_followed_is_named(parameter: str, instead: str) -> None:
    """The error says what to write instead."""
    with pytest.raises(InvalidArgument, match=instead):
        EventStore(f"postgresql://host/database?{parameter}")


async def test_a_parameter_that_nobody_knows_is_refused_and_not_shown(database: str) -> None:
    """It may be a part of the password."""
    with pytest.raises(InvalidArgument, match="parameter") as raised:
        await EventStore(f"{database}?{SECRET}=1").open()
    assert SECRET not in str(raised.value)


# --- settings of the server and of the application's pool


async def test_another_default_isolation_does_not_matter(database: str) -> None:
    """A store's own connections ask for READ COMMITTED; an application's pool is refused, with what to do."""
    async with EventStore(database) as store:
        name = await store.fetchval("SELECT current_database()")
        await store.fetch(f"ALTER DATABASE {name} SET default_transaction_isolation = serializable")
    async with EventStore(database) as store:
        assert await store.read_all_streams_forward() == []
        async with store.transaction() as connection:
            assert await store.safe_position(connection=connection) >= 0
    async with asyncpg.create_pool(database, min_size=1) as pool:
        with pytest.raises(InvalidArgument, match="default_transaction_isolation"):
            await EventStore(pool).open()
    settings = {"default_transaction_isolation": "read committed"}
    async with asyncpg.create_pool(database, min_size=1, server_settings=settings) as pool, EventStore(pool) as store:
        assert await store.read_all_streams_forward() == []


@pytest.mark.parametrize("name", ["uuid", "timestamptz", "int8"])
async def test_a_codec_of_the_applications_that_would_disturb_is_named(database: str, name: str) -> None:
    """The codec is named when the store is opened, not later."""

    async def init(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=str, format="text")

    async with asyncpg.create_pool(database, min_size=1, init=init) as pool:
        with pytest.raises(InvalidArgument, match={"int8": "bigint"}.get(name, name)):
            await EventStore(pool).open()


async def test_a_codec_for_json_does_not_disturb(database: str) -> None:
    """A JSON codec is the most common one, and all of the store's JSON travels as text."""

    async def init(connection: asyncpg.Connection) -> None:
        for each in ("json", "jsonb"):
            await connection.set_type_codec(each, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)

    async with asyncpg.create_pool(database, min_size=1, init=init) as pool, EventStore(pool) as store:
        await store.append_to_stream("s", 0, [EventData("E", {"a": 1}, {"b": 2})])
        (event,) = await store.read_stream_forward("s")
        assert (event.data, event.metadata) == ({"a": 1}, {"b": 2})
        await store.record_snapshot(Snapshot("s", 1, "S", {"c": 3}, {"d": 4}))
        found = await store.read_snapshot("s")
        assert (found.data, found.metadata) == ({"c": 3}, {"d": 4})
