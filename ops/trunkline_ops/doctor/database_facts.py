"""What PostgreSQL says of itself, of the schema, and of who may do and does what in it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from trunkline_ops.connect import connected, opened
from trunkline_ops.doctor.promised import Key, Right, rights
from trunkline_ops.settings import Settings
from trunkline_store import (
    InvalidArgument,
    PermissionRefused,
    StoreNotReady,
    Unavailable,
    UnsafeRead,
)
from trunkline_store.migrate import latest
from trunkline_store.overview import Overview, overview
from trunkline_store.queries import for_store, parts_of
from trunkline_store.rights import ROLES, Role, role_name
from trunkline_store.translate import translated

_SECONDS: Final = 5.0
"""The timeout of statements that read the store's tables, which a session may have locked."""
_PATIENCE: Final = 1.5
"""The time after which an unfinished look at the store counts as waiting."""
_Row = TypeVar("_Row", bound=tuple[Any, ...])


class Server(NamedTuple):
    version: int
    replica: bool
    database: str
    login: str
    fsync: bool
    full_page_writes: bool
    isolation: str
    sees_all: bool
    there: bool


class Creator(NamedTuple):
    """A role that may create objects in a schema of the search path."""

    schema: str
    role: str


class Sequence(NamedTuple):
    """drawn: its last block; 0 where none was drawn since a restart, None where we may not know."""

    cache: int
    increment: int
    cycle: bool
    drawn: int | None


class Relation(NamedTuple):
    name: str
    kind: str
    valid: bool


class Foreign(NamedTuple):
    """A right of a role that is not the owner. columns: the columns of a table to which it is limited."""

    role: str
    privilege: str
    kind: str
    name: str
    columns: str


class Login(NamedTuple):
    login: str
    group: str
    settings: list[str]


class Transaction(NamedTuple):
    """pid: None where it is prepared, under a name. seconds: its age."""

    pid: int | None
    login: str
    application: str
    state: str | None
    prepared: str | None
    seconds: float


class Session(NamedTuple):
    """A session that blocks others. seconds: the age of its transaction; None without one, or if this login may not see
    it."""

    pid: int
    login: str
    application: str
    seconds: float | None


class Wait(NamedTuple):
    """A session of the store that waits for a synchronous standby, or for locks of other sessions. blockers: the
    process ids of these; 0 is a prepared transaction."""

    pid: int
    standby: bool
    what: str
    seconds: float
    blockers: list[int]


class Connections(NamedTuple):
    """The open connections and their limits: on the server, without those reserved for superusers, and in this database
    (-1: no limit). by: the applications with the most connections: name, login, count."""

    most: int
    used: int
    most_here: int
    used_here: int
    by: list[tuple[str, str, int]]


class LeaseRow(NamedTuple):
    """left: seconds until it runs out; None: it was released. subscription: whose it is, if that is there."""

    name: str
    epoch: int
    length: float
    subscription: str | None
    left: float | None


class StoreFacts(NamedTuple):
    """Of a store whose schema fits this code. held_seconds: how long the first event waits that is committed and cannot
    be read yet; None without one."""

    sequence: Sequence | None
    used: int
    rows: int
    batch_bytes: int
    relations: list[Relation]
    keys: frozenset[Key]
    functions: frozenset[str]
    triggers: Mapping[str, bool]
    open_tables: frozenset[str]
    groups: Mapping[Role, str]
    made: frozenset[str]
    missing: list[Right]
    unusable: frozenset[str]
    foreign: list[Foreign]
    logins: list[Login]
    leases: list[LeaseRow]
    seen: Overview | None
    held_seconds: float | None


class DatabaseFacts(NamedTuple):
    """found: the schema's version, None where there is no store; needed: this code's. store: None unless they agree
    and it could be looked at; unseen: why it could not. sessions: those that others wait for."""

    schema: str
    server: Server
    creators: list[Creator]
    found: int | None
    needed: int
    transactions: list[Transaction]
    waits: list[Wait]
    sessions: Mapping[int, Session]
    connections: Connections
    store: StoreFacts | None
    unseen: str


async def database_facts(settings: Settings) -> DatabaseFacts:
    """Asks for all of it. Raises `InvalidSettings`, `StoreUnavailable`, `PermissionRefused`."""
    schema = settings.store
    sql = {name: for_store(text, schema, "json") for name, text in _FACTS.items()}
    async with connected(settings, "doctor") as connection:
        with translated(schema):
            server = Server(**dict(await _row(connection, sql["server"])))
            creators = await _rows(Creator, connection, sql["creators"])
            found = None
            if server.there:
                async with asyncio.timeout(_SECONDS):
                    found = (await _row(connection, sql["schema_version"]))["version"]
            looking = asyncio.create_task(_overview(settings) if found == latest() else _nothing())
            try:
                await asyncio.wait([looking], timeout=_PATIENCE)  # if it waits too, it shows up among the waits
                waits = await _rows(Wait, connection, sql["waits"])
                pids = [pid for each in waits for pid in each.blockers]
                sessions = {each.pid: each for each in await _rows(Session, connection, sql["sessions"], pids)}
                by = [tuple(row) for row in await connection.fetch(sql["connected_by"])]
                connections = Connections(**dict(await _row(connection, sql["connections"])), by=by)
                transactions = await _rows(Transaction, connection, sql["transactions"])
                seen, unseen = await looking
            finally:
                looking.cancel()
            store = None
            if found == latest():
                try:
                    async with asyncio.timeout(_SECONDS):
                        store = await _store_facts(connection, sql, schema, server, seen)
                except TimeoutError:
                    unseen = "a table of the store is locked"
    work = transactions, waits, sessions, connections
    return DatabaseFacts(schema, server, creators, found, latest(), *work, store, unseen)


async def _nothing() -> tuple[None, str]:
    return None, ""


async def _store_facts(
    connection: asyncpg.Connection,
    sql: Mapping[str, str],
    schema: str,
    server: Server,
    seen: Overview | None,
) -> StoreFacts:
    relations = await _rows(Relation, connection, sql["relations"])
    tables = {each.name for each in relations if each.kind == "table"}
    groups: dict[Role, str] = {role: role_name(server.database, schema, role) for role in ROLES}
    names = list(groups.values())
    made = frozenset(row["name"] for row in await connection.fetch(sql["roles"], names))
    wanted = sorted(right for right in rights() if groups[right.role] in made)
    granted = {
        row["number"]: row["granted"]
        for row in await connection.fetch(
            sql["rights"], [groups[right.role] for right in wanted], *_columns(wanted)[1:]
        )
    }
    mine = await _row(connection, sql["store_rows"]) if "store" in tables else None
    sequences = await _rows(Sequence, connection, sql["sequence"])
    return StoreFacts(
        sequence=sequences[0] if sequences else None,
        used=(await _row(connection, sql["used"]))["block"] if {"events", "links"} <= tables else 0,
        rows=mine["count"] if mine else 0,
        batch_bytes=(mine["batch_bytes"] or 0) if mine else 0,
        relations=relations,
        keys=frozenset(
            Key(row["table"], row["kind"], tuple(row["columns"])) for row in await connection.fetch(sql["keys"])
        ),
        functions=frozenset(row["name"] for row in await connection.fetch(sql["functions"])),
        triggers={row["name"]: row["enabled"] for row in await connection.fetch(sql["triggers"])},
        open_tables=frozenset(row["name"] for row in await connection.fetch(sql["open_tables"])),
        groups=groups,
        made=made,
        missing=[right for number, right in enumerate(wanted, 1) if granted.get(number) is False],
        unusable=frozenset(row["role"] for row in await connection.fetch(sql["schema_usage"], sorted(made))),
        foreign=await _rows(Foreign, connection, sql["foreign_rights"]),
        logins=await _rows(Login, connection, sql["logins"], names, f"{groups['consumer']}."),
        leases=await _rows(LeaseRow, connection, sql["leases"]) if {"leases", "subscriptions"} <= tables else [],
        seen=seen,
        held_seconds=None if seen is None else await connection.fetchval(sql["held_since"], seen.safe_position),
    )


async def _overview(settings: Settings) -> tuple[Overview | None, str]:
    """None, and the reason, where something is so wrong that the store itself cannot be used."""
    try:
        async with opened(settings, "doctor") as store:
            return await overview(store), ""
    except (StoreNotReady, UnsafeRead, PermissionRefused, InvalidArgument, Unavailable) as error:
        return None, str(error)
    except AssertionError as error:  # a store without its row
        return None, str(error) or "the store is not whole"


def _columns(wanted: list[Right]) -> list[list[str]]:
    return [[getattr(right, field) for right in wanted] for field in Right._fields]


async def _row(connection: asyncpg.Connection, query: str) -> asyncpg.Record:
    row = await connection.fetchrow(query)
    assert row is not None
    return row


async def _rows(kind: type[_Row], connection: asyncpg.Connection, query: str, *args: object) -> list[_Row]:
    return [kind(**dict(row)) for row in await connection.fetch(query, *args)]


_FACTS = parts_of((files(__package__) / "facts.sql").read_text())
