"""Makes the faults of a schedule happen; those of one target one after the other."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import httpx
from aio_pika.exceptions import AMQPError

from trunkline_ops.servers import Server, standby_of
from trunkline_ops.servers.proxy import Proxy
from trunkline_ops.soak.cast import Actor, Cast
from trunkline_ops.soak.forger import damage, forge
from trunkline_ops.soak.plain import QUEUE, SUBSCRIBER
from trunkline_ops.soak.purger import purge_replay
from trunkline_ops.soak.schedule import Fault
from trunkline_ops.soak.stage import Stage
from trunkline_store import Unavailable, names

OWNER: Final = "SELECT pid FROM soak.effects WHERE subscriber = $1 ORDER BY seq DESC LIMIT 1"
_END_SESSIONS: Final = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_MEND: Final = "UPDATE soak.mended SET position = (SELECT coalesce(max(position), 0) FROM eventstore.events)"
_NOT_NOW: Final = (
    Unavailable, httpx.HTTPError, TimeoutError, OSError, AMQPError, asyncpg.PostgresError, asyncpg.InterfaceError,
    RuntimeError,  # raised by aiormq for a closed channel
)  # fmt: skip
ASK_SECONDS: Final = 5.0
"""For a question to a server that may be away."""


class Faults:
    """The faults of a run. survived: how often each kind happened. unnoticed: replays that lost messages without a
    break in their chain."""

    def __init__(self, stage: Stage, cast: Cast, tell: Callable[[str], None]) -> None:
        self.survived: Counter[str] = Counter()
        self.unnoticed = 0
        self._stage = stage
        self._cast = cast
        self._tell = tell
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def happen(self, schedule: Iterable[Fault]) -> None:
        """All of them, in their time. When it returns, nothing stands still or is away any more."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for fault in schedule:
                await asyncio.sleep(max(0, begun + fault.at - loop.time()))
                tasks.create_task(self._happen(fault))

    async def _happen(self, fault: Fault) -> None:
        async with self._busy[fault.target]:
            what = f"{fault.kind} {fault.target}" + (f" for {fault.seconds:.1f} s" if fault.seconds else "")
            try:
                done = await self._do(fault)
            except _NOT_NOW as error:
                self._tell(f"{what}: not now ({type(error).__name__})")
                return
            self._tell(what if done else f"{what}: there was nobody")
            self.survived[fault.kind] += done

    async def _do(self, fault: Fault) -> bool:
        stage, actors = self._stage, self._cast.actors
        match fault.kind:
            case "kill":
                return actors[fault.target].kill()
            case "pause":
                return await actors[fault.target].pause(fault.seconds)
            case "kill owner":
                owner = await self._owner(fault.target)
                return owner is not None and owner.kill()
            case "pause owner":
                owner = await self._owner(fault.target)
                return owner is not None and await owner.pause(fault.seconds)
            case "cut" | "stall" | "refuse" | "hang up":
                await _break(getattr(stage, fault.target.replace(" ", "_")), fault)
            case "sessions":
                async with asyncio.timeout(ASK_SECONDS):
                    return bool(await stage.store.fetchval(_END_SESSIONS))
            case "connections":
                return bool(await stage.management.close_connections(stage.name))
            case "purge":
                await stage.management.purge_queue(stage.name, queue_of(fault.target))
            case "delete":
                await stage.management.delete_queue(stage.name, queue_of(fault.target))
            case "vhost":
                await stage.management.delete_vhost(stage.name)
                await asyncio.sleep(fault.seconds)
                await stage.management.create_vhost(stage.name)
            case "backlog":
                relays = [actor for name, actor in actors.items() if name.startswith("relay")]
                return any(await asyncio.gather(*(relay.pause(fault.seconds) for relay in relays)))
            case "forge" | "damage":
                async with asyncio.timeout(ASK_SECONDS):
                    queue = None if fault.target == "exchange" else queue_of(fault.target)
                    await {"forge": forge, "damage": damage}[fault.kind](stage.store, stage.amqp_url, queue)
            case "purge replay":
                noticed = await purge_replay(stage.store, stage.amqp_url)
                self.unnoticed += noticed is False
                return noticed is not None
            case "roll back":
                await _roll_back(stage, fault)
            case "stop" | "crash" | "freeze":
                await _take_away(getattr(stage, fault.target), fault)
            case "mend":
                async with asyncio.timeout(ASK_SECONDS):
                    return bool(await mend(stage))
            case _:
                raise ValueError(fault.kind)
        return True

    async def _owner(self, subscription: str) -> Actor | None:
        async with asyncio.timeout(ASK_SECONDS):
            return self._cast.of(await self._stage.store.fetchval(OWNER, subscription))


def queue_of(subscriber: str) -> str:
    """Of a subscription, or of the consumer without the SDK."""
    return QUEUE if subscriber == SUBSCRIBER else names.queue("eventstore", subscriber)


async def mend(stage: Stage) -> int:
    """Nothing that is there now is poison any more; what was parked is to be tried again. Returns how much that is."""
    await stage.store.fetch(_MEND)
    return await stage.store.subscriptions.retry("parking")


async def _break(network: Proxy, fault: Fault) -> None:
    match fault.kind:
        case "cut":
            await network.cut()
        case "stall":
            network.stall()
            await asyncio.sleep(fault.seconds)
            network.resume()
        case "hang up":
            await network.hang_up()
            await asyncio.sleep(fault.seconds)
            network.answer()
        case "refuse":
            await network.refuse()
            await asyncio.sleep(fault.seconds)
            await network.accept()


async def _roll_back(stage: Stage, fault: Fault) -> None:
    """Draw a number in an append that rolls back, and kill PostgreSQL. The number is drawn again, unless a commit came
    between: after a checkpoint, the first draw is logged, but a rollback does not flush the log."""
    async with _connected(stage.dsn) as connection:
        await connection.execute("CHECKPOINT; BEGIN")
        await connection.execute("SELECT eventstore.append_one_v1('lost', -1, gen_random_uuid(), 'Lost', '1')")
        await connection.execute("ROLLBACK")
    await _take_away(stage.postgres, fault._replace(kind="crash"))


@asynccontextmanager
async def promoted(stage: Stage) -> AsyncIterator[None]:
    """Promote a standby that has every commit, while the old primary still answers reads. Open connections stay with
    the old one, and new connections lead to the new one."""
    with standby_of(stage.postgres, settings={"max_connections": "200"}) as standby:
        async with _connected(stage.postgres.dsn) as old:
            await _set(old, "synchronous_standby_names", "standby")
            await _until(old, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
            await _set(old, "default_transaction_read_only", "on")
            await _until(old, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL)")
            at = await old.fetchval("SELECT pg_current_wal_flush_lsn()")
            await _until(old, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE replay_lsn >= $1)", at)
        async with _connected(standby.dsn) as new:
            await new.execute("SELECT pg_promote()")
        for way in (stage.to_postgres, stage.audit_to_postgres):
            way.lead_to(standby.dsn)
        await stage.audit_to_postgres.cut()
        yield


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn, timeout=ASK_SECONDS)
    try:
        yield connection
    finally:
        connection.terminate()


async def _set(connection: asyncpg.Connection, name: str, value: str) -> None:
    await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await connection.execute("SELECT pg_reload_conf()")


async def _until(connection: asyncpg.Connection, question: str, *args: object) -> None:
    async with asyncio.timeout(30):
        while not await connection.fetchval(question, *args):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)


async def _take_away(server: Server, fault: Fault) -> None:
    leave, come_back = {
        "stop": (server.stop, server.start),
        "crash": (server.kill, server.start),
        "freeze": (server.pause, server.resume),
    }[fault.kind]
    await asyncio.to_thread(leave)
    await asyncio.sleep(fault.seconds)
    await asyncio.to_thread(come_back)
