"""The relay's life: become leader, publish what is ahead, record what is confirmed; again after every fault."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import uuid4

import structlog

from trunkline_relay.confirms import Window
from trunkline_relay.metrics import Metrics
from trunkline_relay.observe import observe
from trunkline_relay.patience import Patience
from trunkline_relay.publish import Publisher, Refused
from trunkline_relay.status import Status
from trunkline_relay.tail import Tail
from trunkline_store import EventStore
from trunkline_store.errors import (
    BrokerUnavailable,
    HistoryChanged,
    InvalidArgument,
    LeaseLost,
    PermissionRefused,
    StoreNotReady,
    TrunklineError,
    Unavailable,
)
from trunkline_store.lease import Lease
from trunkline_store.outage import Outage, Pause
from trunkline_store.overview import RELAY
from trunkline_store.urls import check_amqp_url

LEASE_SECONDS: Final = 5.0
WINDOW: Final = 1000
PATIENCE_SECONDS: Final = 30.0
POLL_SECONDS: Final = (0.002, 0.1)
"""Between two looks for new events: while they come, and when none has come for a while. A nudge comes before that."""
BETWEEN_SECONDS: Final = (0.002, 0.05)
"""Between two looks, however often the relay is nudged: at least, and at most. In between it is as long as the last one
took, since a relay that looks less often takes more at a time, and each event costs less."""
STANDBY_SECONDS: Final = 0.2
"""Between two tries of a standby to become leader."""
RECORD_SECONDS: Final = 0.05
"""Between two writes of the confirmed position. After a crash, as much is published again."""
STOP_SECONDS: Final = 3.0
"""From `stop` on, what was published has so long to be confirmed; what is not is sent again by the next leader."""
HAND_OVER_SECONDS: Final = 1.0
"""After that, for PostgreSQL to record what was confirmed; and as long again to take the lease back."""
log = structlog.get_logger("trunkline.relay")


class Relay:
    """The publisher of one store's events while it is the leader; a standby otherwise.

    amqp_url: the broker's AMQP URL, with its virtual host; any other text is an `InvalidArgument`.
    start_from: where a relay begins that has never run: a position (exclusive), 0 for the origin, or None for the
    current end. lease: seconds after which a leader that has vanished is replaced. window: messages that may be
    outstanding. patience: seconds for which a queue that refuses, or never confirms, may hold up the others; then the
    relay goes on without it. poll: seconds between two looks for new events, while they come and when none has come for
    a while; writers' nudges wake it in between. metrics, status: where it counts, and says how it is; by default its
    own.
    """

    def __init__(
        self,
        store: EventStore,
        amqp_url: str,
        *,
        start_from: int | None = 0,
        lease: float = LEASE_SECONDS,
        window: int = WINDOW,
        patience: float = PATIENCE_SECONDS,
        poll: tuple[float, float] = POLL_SECONDS,
        metrics: Metrics | None = None,
        status: Status | None = None,
    ) -> None:
        self.store = store
        self.owner = uuid4()
        self._url = check_amqp_url(amqp_url)
        self._start_from = start_from
        self._lease = lease
        self._window = window
        self._patience = Patience(patience)
        self.metrics = metrics or Metrics(store.schema)
        self.status = status or Status(store.schema)
        self._loop: asyncio.AbstractEventLoop | None = None  # the loop in which it runs
        self._begin_anew()
        self._poll = poll
        self._history = ""
        self._store_outage, self._broker_outage = Outage(), Outage()
        self._allowed = window  # messages in flight: one after a refusal, then twice as many with each success

    def _begin_anew(self) -> None:
        """Make the events of one run: once waited for, an event is bound to its loop."""
        self.leading = asyncio.Event()
        """Set while this relay is the leader."""
        self._stop = asyncio.Event()
        self._woken = asyncio.Event()  # set by a nudge, or to stop

    def stop(self) -> None:
        """Asks `run` to finish, in a few seconds at most: what is confirmed is recorded, and the lease handed over."""
        self._stop.set()
        self._woken.set()

    async def run(self) -> None:
        """Run until `stop`. Faults of the database or the broker are logged and waited out.

        A relay that has ended can run again, in any event loop. Raises `StoreNotReady` if the schema does not fit, and
        `PermissionRefused`: both need a person. Raises `InvalidArgument` while it is running, in any event loop.
        """
        if self._loop is not None:
            if not self._loop.is_closed():
                raise InvalidArgument("the relay is already running: stop it first, or make another one")
            self._begin_anew()  # the last run ended with its loop
        self._loop = asyncio.get_running_loop()
        try:
            await self._run()
        finally:
            self._loop = None
            self._begin_anew()

    async def _run(self) -> None:
        watching = asyncio.create_task(observe(self.store, self.owner, self.metrics, self.status), name="relay observe")
        try:
            async with self._bounded(STOP_SECONDS + HAND_OVER_SECONDS):
                await self._until_stopped()
        except TimeoutError:
            log.warning("stopped while PostgreSQL did not answer", hint="the lease may have to run out")
        finally:
            await _ended([watching])
            self.metrics.forget()

    async def _until_stopped(self) -> None:
        pause = Pause()
        while not self._stop.is_set():
            try:
                lease = await Lease.acquire(self.store, RELAY, self.owner, self._lease)
                self._store_outage.over(time.monotonic())
                if lease is None:
                    log.debug("standby", owner=str(self.owner))
                    self.status.blame(None)
                    await self._sleep(min(STANDBY_SECONDS, self._lease / 4))
                    continue
                await self._lead(lease, pause)
            except (StoreNotReady, PermissionRefused):
                raise
            except LeaseLost:
                log.warning("replaced", owner=str(self.owner))
            except HistoryChanged:
                self.metrics.retries.inc()
            except Unavailable as error:
                if self._store_outage.is_news(str(error), time.monotonic()):
                    log.warning("store unavailable", error=str(error))
                self.metrics.database_faults.inc()
                self.status.blame(str(error))
                await self._sleep(pause.next())
            except Exception:
                log.exception("failed", owner=str(self.owner))  # a bug must not stop the line for good
                await self._sleep(pause.next())

    async def _lead(self, lease: Lease, pause: Pause) -> None:
        log.info("leading", epoch=lease.epoch, owner=str(lease.owner))
        self.leading.set()
        self.status.lead(True)
        self.metrics.leader.set(1)
        keeper = asyncio.create_task(lease.keep(), name="relay lease")
        listening = asyncio.create_task(self.store.listen(self._woken.set), name="relay listen")
        tasks = [keeper]
        try:
            while not self._stop.is_set() and lease.held:
                work = asyncio.create_task(self._publish(lease, pause), name="relay publish")
                tasks = [keeper, work]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if keeper.done():
                    keeper.result()  # raises LeaseLost
                try:
                    await work
                except BrokerUnavailable as error:
                    if self._broker_outage.is_news(str(error), time.monotonic()):
                        log.warning("broker unavailable", error=str(error))
                    self.metrics.broker_faults.inc()
                    self.metrics.retries.inc()
                    self.status.blame(str(error))
                    await self._sleep(pause.next())
        finally:
            self.leading.clear()
            self.status.lead(False)
            self.metrics.leader.set(0)
            self.metrics.blocked.set(0)
            await _ended([*tasks, listening])
            with suppress(TrunklineError, TimeoutError):  # what ended it is worth telling, or is met again
                async with asyncio.timeout(HAND_OVER_SECONDS):
                    await lease.release()

    async def _publish(self, lease: Lease, pause: Pause) -> None:
        """Publish from the recorded position on, until `stop` or a fault."""
        store = self.store
        look = await store.look()
        if self._history not in ("", look.history):
            log.warning("history changed", was=self._history, now=look.history)
        self._history = look.history
        start = self._start_from
        if start is None:
            start = int(await store.fetchval(store.sql["last_feed_position"], *look))
        fence = RELAY, lease.owner, lease.epoch, start, self._history
        row = await store.fetchrow(store.sql["fence_relay"], *fence)
        if row is None:
            raise LeaseLost(lease.name)
        position: int = row["position"]
        publisher = Publisher(
            self._url, store.schema, position, window=self._allowed, patience=self._patience, metrics=self.metrics
        )
        try:
            async with self._bounded(STOP_SECONDS), publisher:
                log.info("publishing", position=position, exchange=store.schema)
                self.status.blame(None)
                self.metrics.connected.set(1)
                recorder = asyncio.create_task(self._record(lease, publisher, position, pause), name="relay record")
                try:
                    await self._pump(lease, publisher, Tail(store, self._history, position, lease.epoch), recorder)
                    await publisher.flush()
                finally:
                    await _ended([recorder])
                    self.metrics.connected.set(0)
        except BrokerUnavailable as fault:
            self._allowed = 1 if isinstance(fault, Refused) else self._allowed
            await self._record_once(lease, publisher.window)  # what was confirmed is not sent again
            raise
        except TimeoutError:
            if not self._stop.is_set():
                raise
            if len(publisher.window):
                log.warning("stopped before all was confirmed", outstanding=len(publisher.window))
        await self._record_once(lease, publisher.window)

    @asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        """Ends what is done within by a `TimeoutError` when it goes on for longer after `stop`: a server may hang."""
        async with asyncio.timeout(None) as limit:

            async def stopping() -> None:
                await self._stop.wait()
                limit.reschedule(asyncio.get_running_loop().time() + seconds)

            watching = asyncio.create_task(stopping(), name="relay stop")
            try:
                yield
            finally:
                await _ended([watching])

    async def _pump(self, lease: Lease, publisher: Publisher, tail: Tail, recorder: asyncio.Task[None]) -> None:
        store = self.store
        shortest, longest = self._poll
        looked = -1  # the safe position of the last look; there is nothing new until it moves
        wait = shortest
        while not self._stop.is_set():
            self._woken.clear()  # whatever comes from here on may be missed by this look
            begun = time.monotonic()
            safe, history = await store.look()
            if history != self._history:
                raise HistoryChanged(f"the history is {history}, not {self._history}")
            if lease.fault is not None and lease.lapsed:
                raise lease.fault  # a database may answer, and be read-only
            self.metrics.safe_position.set(safe)
            moved = False
            if safe != looked:
                async for messages in tail.until(safe):
                    await publisher.publish(messages)
                    moved = True
                    if recorder.done():
                        recorder.result()
                    if not lease.held:
                        raise LeaseLost(lease.name)
                    if self._stop.is_set():
                        return
                looked = safe
            if recorder.done():
                recorder.result()
            wait = shortest if moved else min(longest, wait * 1.5)
            least, most = BETWEEN_SECONDS
            pause = max(least, min(most, time.monotonic() - begun))
            await asyncio.sleep(pause)
            if wait > pause:
                await self._until_woken(wait - pause)

    async def _record(self, lease: Lease, publisher: Publisher, position: int, pause: Pause) -> None:
        while True:
            await publisher.beyond(position)
            await asyncio.sleep(RECORD_SECONDS)
            position = await self._record_once(lease, publisher.window)
            pause.reset()
            self._broker_outage.over(time.monotonic())
            publisher.limit = self._allowed = min(self._window, self._allowed * 2)

    async def _record_once(self, lease: Lease, window: Window) -> int:
        """Returns the position that was recorded."""
        position = window.position
        gone = window.passed(position)
        row = await self.store.fetchrow(
            self.store.sql["record_relay"],
            *(RELAY, lease.owner, lease.epoch, position, self._history),
            *(gone or (0, 0, 0)),
        )
        if row is None:
            raise LeaseLost(lease.name)
        window.noted(position)
        self.metrics.position.set(row["position"])
        return position

    async def _until_woken(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Ends tasks, whatever came of them. A cancellation of the caller is obeyed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
