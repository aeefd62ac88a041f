"""Carries appends to the database: together with others, again after a lost connection; and tells relays of them."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from trunkline_store import append, nudge
from trunkline_store.coalesce import Coalescer
from trunkline_store.connections import Connection, Connections, callers_transaction
from trunkline_store.translate import translated

if TYPE_CHECKING:
    from trunkline_store.store import EventStore


class Sender:
    """Of one store."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._nudger = nudge.Nudger(self._nudge)
        self._coalescer = Coalescer(self._at_once, self._one, self._many, connections=store.pool_size)

    async def coalesced(self, args: append.Arguments) -> asyncpg.Record:
        """The answer to a single append, which may share a transaction with others of this process."""
        return await self._coalescer.append(args)

    async def send(self, stream: str, query: str, args: Sequence[Any]) -> list[asyncpg.Record]:
        """Run a statement that appends by itself, and return its rows. After a lost connection, retry on a new one."""
        return self.told(
            await self._store.open_connections().run(lambda connection: self.run(connection, stream, query, args))
        )

    async def run(
        self,
        connection: Connection,
        stream: str,
        query: str,
        args: Sequence[Any],
        *,
        theirs: Connection | None = None,
    ) -> list[asyncpg.Record]:
        """Run a statement that appends, on a connection that may be the caller's (`theirs`), and return its rows.
        Raises `DuplicateEvent` if another transaction stored an id meanwhile."""
        store = self._store
        with translated(store.schema, theirs):
            try:
                rows: list[asyncpg.Record] = await connection.fetch(store.sql[query], *args)
                return rows
            except (asyncpg.UniqueViolationError, asyncpg.InternalServerError) as error:
                refusal = append.violation(stream, error, args)
                if refusal is None:
                    raise
                raise refusal from error

    async def theirs(
        self, connection: Connection, stream: str, query: str, args: Sequence[Any]
    ) -> list[asyncpg.Record]:
        """Do what `run` does, in the transaction of a caller's connection. Raises `InvalidArgument` if it has none."""
        connection = callers_transaction(connection)
        return await self.run(connection, stream, query, args, theirs=connection)

    def told(self, rows: list[asyncpg.Record]) -> list[asyncpg.Record]:
        """The answers of appends that were committed, of which relays are told."""
        for row in rows:
            if row[0] == "appended":
                self.committed()
                break
        return rows

    def committed(self) -> None:
        """Something was appended: relays are told soon."""
        if self._store.has_sessions:
            self._nudger.soon()

    async def drain(self) -> None:
        """Waits for what is under way, and tells relays of it."""
        await self._coalescer.drain()
        await self._nudger.drain()

    async def _one(self, args: append.Arguments) -> asyncpg.Record:
        return (await self.send(args[0], append.query(args), args))[0]

    def _at_once(self, args: append.Arguments) -> Coroutine[Any, Any, asyncpg.Record] | None:
        """As `_one`, where a connection is at hand; it is tried once only."""
        connections = self._store.open_connections()
        connection = connections.at_hand()
        return None if connection is None else self._with(connections, connection, args)

    async def _with(
        self, connections: Connections, connection: asyncpg.pool.PoolConnectionProxy, args: append.Arguments
    ) -> asyncpg.Record:
        generation = connections.generation
        try:
            rows = await self.run(connection, args[0], append.query(args), args)
        except BaseException as error:
            await connections.after(error, connection)
            raise
        await connections.done(connection, generation)
        return self.told(rows)[0]

    async def _many(self, appends: Sequence[append.Arguments]) -> Sequence[asyncpg.Record]:
        """Not again where the connection was lost: then each is sent by itself."""
        args = append.many_arguments(False, appends)
        async with self._store.open_connections().statement() as connection:
            rows = await self.run(connection, "", "append_many", args)
        return self.told(rows)

    async def _nudge(self, anyway: bool) -> bool:
        store, connections = self._store, self._store.open_connections()
        if not (anyway or connections.spare):
            return False
        async with connections.statement() as connection:
            await connection.fetch(store.sql["nudge"], nudge.channel(store.schema))
        return True
