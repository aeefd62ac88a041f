"""Group commit in a process: appends that arrive while one is under way are carried together by the next call.

A lone append goes at once and alone. While it is under way others wait, and then travel in one transaction, in which
each succeeds or fails on its own. Such a call never waits for a stream that somebody else holds: that append comes back
`busy` and is sent alone, on one of a few other connections, while the rest is committed. Appends to one stream keep
their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import asyncpg

from trunkline_store.errors import StoreUnavailable

MAX_EVENTS: Final = 1024
"""Of one call: one block."""
MAX_APPENDS: Final = 256
MAX_BYTES: Final = 1024 * 1024
SMALL_EVENTS: Final = 64
"""An append of more events, or of a quarter of `MAX_BYTES`, goes alone: small ones do not wait for it."""
HELD_SECONDS: Final = 0.01
"""After which a lone append that has no answer yet no longer keeps others waiting."""

Row = asyncpg.Record


class Pending:
    """An append that waits for its answer."""

    __slots__ = ("answer", "args", "events", "size", "stream")

    def __init__(self, args: list[Any], answer: asyncio.Future[Row]) -> None:
        self.stream: str = args[0]
        self.args = args
        self.events = len(args[2])
        self.size = sum(map(len, args[4]))
        self.answer = answer

    def succeed(self, row: Row) -> None:
        if not self.answer.done():
            self.answer.set_result(row)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    @property
    def small(self) -> bool:
        return self.events <= SMALL_EVENTS and self.size <= MAX_BYTES // 4


class Coalescer:
    """Carries appends to the database.

    one: sends a single append and returns its row. many: sends several, of different streams, and returns their rows.
    alone: connections that appends of busy streams, and large ones, may take at once.
    """

    def __init__(
        self,
        one: Callable[[list[Any]], Awaitable[Row]],
        many: Callable[[Sequence[list[Any]]], Awaitable[Sequence[Row]]],
        *,
        alone: int,
    ) -> None:
        self._one = one
        self._many = many
        self._waiting: deque[Pending] = deque()
        self._alone = asyncio.Semaphore(alone)
        self._alone_now: dict[str, deque[Pending]] = {}  # by stream: what waits behind the one that is under way
        self._sending: asyncio.Task[None] | None = None
        """Makes the calls that the others wait for."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, args: list[Any]) -> Row:
        """The answer's row, or the error. A caller that is cancelled does not cancel what is under way."""
        pending = Pending(args, asyncio.get_running_loop().create_future())
        if pending.stream in self._alone_now:
            self._alone_now[pending.stream].append(pending)
        else:
            self._waiting.append(pending)
            self._send_soon()
        return await pending.answer

    async def drain(self) -> None:
        """Waits until everything has its answer."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _send_soon(self) -> None:
        """When all callers that can run have run: those who were answered together append together again."""
        if self._waiting and self._sending is None:
            self._sending = self._start(self._send())

    async def _send(self) -> None:
        """Sends what waits, then what came meanwhile, until there is nothing more."""
        me = self._sending
        try:
            while self._waiting and self._sending is me:
                group = self._next_group()
                if len(group) == 1 and not self._alone.locked():
                    # Nobody else is there: it needs no company. If its stream is held, the next ones do not wait.
                    patience = asyncio.get_running_loop().call_later(HELD_SECONDS, self._pass_on, me)
                    self._alone_now[group[0].stream] = deque()
                    await self._send_alone(group[0])
                    patience.cancel()
                elif group:
                    await self._send_many(group)
        finally:
            if self._sending is me:
                self._sending = None

    def _pass_on(self, held_up: asyncio.Task[None] | None) -> None:
        """What waits no longer waits for it."""
        if self._sending is held_up:
            self._sending = None
            self._send_soon()

    def _next_group(self) -> list[Pending]:
        """As many as one call carries, each stream once; the others stay, in their order."""
        group: list[Pending] = []
        streams: set[str] = set()
        later: deque[Pending] = deque()
        events = size = 0
        while self._waiting:
            pending = self._waiting.popleft()
            if pending.stream in self._alone_now:
                self._alone_now[pending.stream].append(pending)
                continue
            full = len(group) == MAX_APPENDS or events + pending.events > MAX_EVENTS or size + pending.size > MAX_BYTES
            if pending.stream in streams or (group and full):
                later.append(pending)
                streams.add(pending.stream)  # what comes after it to the same stream waits as well
                continue
            if not pending.small:
                _ = self._go_alone(pending)
                continue
            streams.add(pending.stream)
            group.append(pending)
            events += pending.events
            size += pending.size
        self._waiting = later
        return group

    async def _send_many(self, group: list[Pending]) -> None:
        try:
            rows = await self._many([pending.args for pending in group])
        except asyncio.CancelledError:
            for pending in group:
                pending.fail(StoreUnavailable("the store was closed while the append was under way"))
            raise
        except Exception:  # noqa: BLE001 - one of them, or the way there: each finds out by itself
            for pending in group:
                _ = self._go_alone(pending)
            return
        for pending, row in zip(group, rows, strict=True):
            if row[0] == "busy":
                _ = self._go_alone(pending)
            else:
                pending.succeed(row)

    def _go_alone(self, pending: Pending) -> asyncio.Task[None]:
        self._alone_now[pending.stream] = deque()
        return self._start(self._send_alone(pending))

    async def _send_alone(self, pending: Pending) -> None:
        try:
            async with self._alone:
                pending.succeed(await self._one(pending.args))
        except asyncio.CancelledError:
            pending.fail(StoreUnavailable("the store was closed while the append was under way"))
            raise
        except Exception as error:  # noqa: BLE001 - it is the caller's
            pending.fail(error)
        finally:
            self._release(pending.stream)

    def _release(self, stream: str) -> None:
        """The stream is free again: what waited for it goes on, in its order."""
        self._waiting.extend(self._alone_now.pop(stream))
        self._send_soon()
