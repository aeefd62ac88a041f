"""Group commit in a process: appends that arrive while one is under way are carried together by the next call.

A lone append goes at once and alone. While it is under way others wait, and then travel in one transaction, in which
each succeeds or fails on its own. Where many wait, they travel in two: while the database works on one, the callers of
the other are answered and append again. Such a call never waits for a stream that somebody else holds: that append
comes back `busy` and is sent alone, on one of a few other connections, while the rest is committed. Appends to one
stream keep their order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from trunkline_store.append import is_one
from trunkline_store.cancellation import uncancelled
from trunkline_store.errors import InvalidArgument, StoreUnavailable

MAX_EVENTS: Final = 1024
"""Of one call: one block."""
MAX_APPENDS: Final = 256
MAX_BYTES: Final = 1024 * 1024
SMALL_EVENTS: Final = 64
"""An append of more events, or of a quarter of `MAX_BYTES`, goes alone: small ones do not wait for it."""
ENOUGH: Final = 16
"""Appends that are worth a second call while another is under way."""
HELD_SECONDS: Final = 0.01
"""After which a lone append that has no answer yet no longer keeps others waiting."""

log = logging.getLogger("trunkline.store")

Row = asyncpg.Record
T = TypeVar("T")


class Pending:
    """An append that waits for its answer."""

    __slots__ = ("answer", "args", "events", "size", "stream")

    def __init__(self, args: list[Any], answer: asyncio.Future[Row]) -> None:
        self.stream: str = args[0]
        self.args = args
        self.events = 1 if is_one(args) else len(args[2])
        self.size = len(args[4]) if is_one(args) else sum(map(len, args[4]))
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

    at_once: what `one` gives, where that needs no waiting for a connection; else None.
    one: sends a single append and returns its row. many: sends several, of different streams, and returns their rows.
    connections: of the pool, of which one is left for others, for all of these may have to wait for a stream.
    """

    def __init__(
        self,
        at_once: Callable[[list[Any]], Coroutine[Any, Any, Row] | None],
        one: Callable[[list[Any]], Coroutine[Any, Any, Row]],
        many: Callable[[Sequence[list[Any]]], Awaitable[Sequence[Row]]],
        *,
        connections: int,
    ) -> None:
        self._at_once = at_once
        self._one = one
        self._many = many
        self._waiting: deque[Pending] = deque()
        self._most_calls = 2 if connections > 3 else 1
        self._alone = asyncio.Semaphore(max(1, connections - self._most_calls - 1))
        self._alone_now: dict[str, deque[Pending]] = {}  # by stream: what waits behind the one that is under way
        self._sending: set[object] = set()
        """The calls that the others wait for."""
        self._crowd = False
        """Whether the last call carried several: their callers are answered together, and append together again."""
        self._carried: set[str] = set()
        """The streams of these calls, but for those of a lone append."""
        self._lone: tuple[object, float] | None = None
        """Under way, and since when."""
        self._empty: asyncio.Future[None] | None = None
        self._watching = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def append(self, args: list[Any]) -> Row:
        """The answer's row, or the error. A caller that is cancelled does not cancel what is under way."""
        if not (self._crowd or self._sending or self._waiting or self._alone_now or self._alone.locked()):
            sent = self._at_once(args)
            if sent is not None:
                return await uncancelled(self._lonely(args, sent), self._start)
        pending = Pending(args, asyncio.get_running_loop().create_future())
        if pending.stream in self._alone_now:
            self._alone_now[pending.stream].append(pending)
        else:
            self._waiting.append(pending)
            self._send_soon()
        return await pending.answer

    async def _lonely(self, args: list[Any], sent: Coroutine[Any, Any, Row]) -> Row:
        """Nobody else is there: it needs no company, and no task. If its stream is held, the next ones do not wait."""
        me, stream = object(), args[0]
        self._sending.add(me)
        self._alone_now[stream] = deque()
        await self._alone.acquire()  # at once
        self._watch(me)
        try:
            return await sent
        except StoreUnavailable as lost:  # the connection was lost while it was at hand: once more, with another
            try:
                return await self._start(self._one(args))  # in a task, since it may wait for one
            except InvalidArgument:  # the store was closed meanwhile
                raise lost from None
        finally:
            self._alone.release()
            self._sending.discard(me)
            self._release(stream)

    async def drain(self) -> None:
        """Waits until everything has its answer."""
        while self._tasks or self._alone_now:
            if self._alone_now:
                if self._empty is None or self._empty.done():
                    self._empty = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._empty)
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it, or has left

    def _send_soon(self) -> None:
        """When all callers that can run have run: those who were answered together append together again."""
        if self._worth_a_call:
            me = object()
            self._sending.add(me)
            _ = self._start(self._send(me))

    @property
    def _worth_a_call(self) -> bool:
        """Whether what waits is to be sent, beside what is under way."""
        under_way = len(self._sending)
        return bool(self._waiting) and (
            not under_way or (under_way < self._most_calls and len(self._waiting) >= ENOUGH)
        )

    async def _send(self, me: object) -> None:
        """Sends what waits, then what came meanwhile, until there is nothing more."""
        try:
            while me in self._sending:
                self._sending.discard(me)
                if not self._worth_a_call:
                    return
                self._sending.add(me)
                group = self._next_group()
                self._crowd = len(group) > 1
                if len(group) == 1 and len(self._sending) == 1 and not self._alone.locked():
                    self._watch(me)
                    self._begin_alone(group[0].stream)
                    await self._send_alone(group[0])
                    if self._lone is not None and self._lone[0] is me:
                        self._lone = None
                elif group:
                    self._send_soon()  # what is left for a second call
                    await self._send_many(group)
                else:
                    return  # what waits, waits for the other call, or for streams that go alone
        except Exception as error:
            log.exception("group commit failed with an unknown error: its appends fail with StoreUnavailable")
            self._give_up(error)
        finally:
            self._sending.discard(me)

    def _give_up(self, cause: Exception) -> None:
        """Fail every append that waits, since nothing else will answer it."""
        waiting, self._waiting = self._waiting, deque()
        for pending in waiting:
            error = StoreUnavailable(f"the append was not sent: {cause!r}")
            error.__cause__ = cause
            pending.fail(error)

    def _watch(self, me: object) -> None:
        """From now on. One timer does for many appends: starting one for each took as long as all else here."""
        loop = asyncio.get_running_loop()
        self._lone = me, loop.time()
        if not self._watching:
            self._watching = True
            loop.call_later(HELD_SECONDS, self._look)

    def _look(self) -> None:
        self._watching = False
        if self._lone is not None:
            held_up, since = self._lone
            loop = asyncio.get_running_loop()
            if held_up not in self._sending:
                self._lone = None
            elif (left := since + HELD_SECONDS - loop.time()) > 0:
                self._watching = True
                loop.call_later(left, self._look)
            else:  # what waits no longer waits for it
                self._lone = None
                self._sending.discard(held_up)
                self._send_soon()

    def _next_group(self) -> list[Pending]:
        """As many as one call carries, each stream once; the others stay, in their order."""
        group: list[Pending] = []
        streams = set(self._carried)
        most = MAX_APPENDS
        if self._most_calls > 1 and not self._carried and len(self._waiting) >= 2 * ENOUGH:
            most = min(most, len(self._waiting) // 2)
        later: deque[Pending] = deque()
        events = size = 0
        while self._waiting:
            pending = self._waiting.popleft()
            if pending.stream in self._alone_now:
                self._alone_now[pending.stream].append(pending)
                continue
            full = len(group) == most or events + pending.events > MAX_EVENTS or size + pending.size > MAX_BYTES
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
        carried = {pending.stream for pending in group}
        self._carried |= carried
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
        finally:
            self._carried -= carried
        for pending, row in zip(group, rows, strict=True):
            if row[0] == "busy":
                _ = self._go_alone(pending)
            else:
                pending.succeed(row)

    def _go_alone(self, pending: Pending) -> asyncio.Task[None]:
        self._begin_alone(pending.stream)
        return self._start(self._send_alone(pending))

    def _begin_alone(self, stream: str) -> None:
        """What waits of it waits behind it from now on, before what comes later."""
        self._alone_now[stream] = deque(pending for pending in self._waiting if pending.stream == stream)
        if self._alone_now[stream]:
            self._waiting = deque(pending for pending in self._waiting if pending.stream != stream)

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
        if self._empty is not None and not self._alone_now and not self._empty.done():
            self._empty.set_result(None)
