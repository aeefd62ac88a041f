"""The face of the SDK."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, Literal, Self, TypeVar, Unpack
from uuid import uuid4

import msgspec

from trunkline_consumer.feed import Feed
from trunkline_consumer.handle import Runner, by_stream
from trunkline_consumer.options import Handler, Handling, Limits, Options, options_of
from trunkline_consumer.receive import delete_queue
from trunkline_consumer.sessions import Sessions
from trunkline_consumer.subscription import State, Subscription, Working, checked_start
from trunkline_consumer.tenure import Shape, Tenure
from trunkline_store import (
    CURRENT,
    ORIGIN,
    BrokerUnavailable,
    EventStore,
    InvalidArgument,
    RecordedEvent,
    Start,
    SubscriptionDeleted,
    SubscriptionLost,
    SubscriptionNotFound,
    Unavailable,
    names,
)
from trunkline_store.lease import Keeper
from trunkline_store.outage import Outage, Pause
from trunkline_store.urls import check_amqp_url

log = logging.getLogger("trunkline.consumer")

H = TypeVar("H", bound=Handler)
Selector = Callable[[RecordedEvent], bool]
Mapper = Callable[[RecordedEvent], Any]


class Consumer:
    """Subscriptions to one store.

        async with EventStore(dsn) as store, Consumer(store, amqp_url) as consumer:
            async with consumer.subscribe_to_all_streams("example") as subscription:
                async for batch in subscription:
                    ...
                    await batch.ack()

    amqp_url: the broker's AMQP URL, with its virtual host; any other text is an `InvalidArgument`. While the broker
    cannot be reached, subscriptions read from PostgreSQL.
    After `async with`, a consumer can be entered again, in any event loop; it is used in one loop at a time.

    All `subscribe_to_…` share these arguments. start_from: ORIGIN, CURRENT, or a position (of a stream: a version),
    exclusive; it counts only when the subscription is new. selector: chooses the events that are handed out; the others
    count as finished. mapper: makes the object that is handed out instead of each event. standby: wait until a living
    owner ends. Limits are those of `Options`.
    """

    def __init__(self, store: EventStore, amqp_url: str) -> None:
        self._store = store
        self._url = check_amqp_url(amqp_url)
        self._subscriptions: list[Subscription] = []
        self._handlers: list[Callable[[], Subscription]] = []
        self._handled: set[str] = set()
        self._working: Working | None = None

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """Those of this consumer, and of its handlers."""
        return tuple(self._subscriptions)

    @property
    def store(self) -> EventStore:
        """Whose events they are."""
        return self._store

    async def __aenter__(self) -> Self:
        self._in_this_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        working = self._in_this_loop()
        await asyncio.gather(*(subscription.stop() for subscription in self.subscriptions), return_exceptions=True)
        await working.keeper.close()
        await working.sessions.close()
        self._working = None

    def _in_this_loop(self) -> Working:
        """Return the state of the running event loop; make it if the consumer is not in use.

        Raises `InvalidArgument` while it is in use in another loop.
        """
        loop, working = asyncio.get_running_loop(), self._working
        if working is not None and working.loop is not loop:
            if not working.loop.is_closed():
                raise InvalidArgument(
                    "the consumer is in use in another event loop: leave it there, or make one consumer for each loop"
                )
            self._subscriptions.clear()  # the subscriptions ended with their loop
            working = None
        if working is None:
            working = self._working = Working(loop, Keeper(self._store), Sessions(self._store))
        return working

    # --- subscriptions that are iterated over

    def subscribe_to_all_streams(
        self,
        name: str,
        *,
        start_from: Start | int = ORIGIN,
        selector: Selector | None = None,
        mapper: Mapper | None = None,
        standby: bool = False,
        options: Options | None = None,
        **limits: Unpack[Limits],
    ) -> Subscription:
        """A subscription to `$all`, to be entered with `async with`."""
        shape = Shape(selector, mapper)
        return self._subscribe(name, Feed.all(), start_from, shape, options_of(options, limits), standby=standby)

    def subscribe_to_category(
        self,
        category: str,
        name: str,
        *,
        start_from: Start | int = ORIGIN,
        selector: Selector | None = None,
        mapper: Mapper | None = None,
        standby: bool = False,
        options: Options | None = None,
        **limits: Unpack[Limits],
    ) -> Subscription:
        """A subscription to the streams whose name up to the first `-` is `category`."""
        shape, feed = Shape(selector, mapper), Feed.category(category)
        return self._subscribe(name, feed, start_from, shape, options_of(options, limits), standby=standby)

    def subscribe_to_stream(
        self,
        stream: str,
        name: str,
        *,
        start_from: Start | int = ORIGIN,
        selector: Selector | None = None,
        mapper: Mapper | None = None,
        standby: bool = False,
        options: Options | None = None,
        **limits: Unpack[Limits],
    ) -> Subscription:
        """A subscription to one stream, which need not be there yet: its own events, and those linked into it."""
        shape, feed = Shape(selector, mapper), Feed.stream(stream)
        return self._subscribe(name, feed, start_from, shape, options_of(options, limits), standby=standby)

    def subscribe(
        self,
        stream: str | None = None,
        *,
        category: str | None = None,
        start_from: Start | int = CURRENT,
        selector: Selector | None = None,
        mapper: Mapper | None = None,
        options: Options | None = None,
        **limits: Unpack[Limits],
    ) -> Subscription:
        """A transient subscription, to all streams if none is named: it has no name, keeps no checkpoint, and its queue
        goes with it. Acks make room for more."""
        shape = Shape(selector, mapper)
        name, feed = f"transient-{uuid4().hex[:12]}", _feed(stream, category)
        return self._subscribe(name, feed, start_from, shape, options_of(options, limits), transient=True)

    def _subscribe(
        self, name: str, feed: Feed, start: Start | int, shape: Shape, options: Options, **more: Any
    ) -> Subscription:
        subscription = Subscription(
            self._store,
            self._in_this_loop,
            self._url,
            name,
            feed,
            start_from=start,
            options=options,
            shape=shape,
            forget=self._forget,
            **more,
        )
        over = State.HALTED, State.LOST
        self._subscriptions = [each for each in self._subscriptions if each.name != name or each.state not in over]
        self._subscriptions.append(subscription)
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    # --- ending them

    async def unsubscribe_from_all_streams(self, name: str) -> None:
        """Stop this consumer's subscription `name`, if there is one; its checkpoint is kept. Raises `InvalidArgument`
        if the subscription follows something else."""
        await self._stop(name, Feed.all())

    async def unsubscribe_from_category(self, category: str, name: str) -> None:
        """As `unsubscribe_from_all_streams`."""
        await self._stop(name, Feed.category(category))

    async def unsubscribe_from_stream(self, stream: str, name: str) -> None:
        """As `unsubscribe_from_all_streams`."""
        await self._stop(name, Feed.stream(stream))

    async def delete_all_streams_subscription(self, name: str) -> None:
        """Stops and removes a subscription, with its checkpoint and its queue, if it is there. Its owner elsewhere, if
        any, loses it. Raises `InvalidArgument` if the name follows something else, `Unavailable`."""
        await self._delete(name, Feed.all())

    async def delete_category_subscription(self, category: str, name: str) -> None:
        """As `delete_all_streams_subscription`."""
        await self._delete(name, Feed.category(category))

    async def delete_stream_subscription(self, stream: str, name: str) -> None:
        """As `delete_all_streams_subscription`."""
        await self._delete(name, Feed.stream(stream))

    async def _stop(self, name: str, feed: Feed) -> None:
        for subscription in self._subscriptions:
            if subscription.name == name and subscription.feed != feed:
                raise InvalidArgument(
                    f"subscription {name!r} follows {subscription.feed.label!r}, not {feed.label!r}: name that"
                )
        for subscription in [each for each in self._subscriptions if (each.name, each.feed) == (name, feed)]:
            await subscription.stop()
            self._forget(subscription)

    async def _delete(self, name: str, feed: Feed) -> None:
        with suppress(SubscriptionNotFound):
            found = await self._store.subscriptions.get(name)
            if found.feed != feed.label:
                raise InvalidArgument(f"subscription {name!r} follows {found.feed!r}, not {feed.label!r}")
        await self._stop(name, feed)
        await self._store.subscriptions.delete(name)
        try:
            await delete_queue(self._url, names.queue(self._store.schema, name))
        except BrokerUnavailable as error:
            log.warning("the queue of %s is left to expire: %s", name, error)

    # --- handlers

    def handler(
        self,
        name: str,
        *,
        stream: str | None = None,
        category: str | None = None,
        start_from: Start | int = ORIGIN,
        selector: Selector | None = None,
        mapper: Mapper | None = None,
        partition_by: Callable[[RecordedEvent], Hashable] | None = None,
        standby: bool = True,
        concurrency: int = 1,
        tx: bool = False,
        attempts: int = 5,
        wait_initial: float = 0.1,
        wait_max: float = 5.0,
        timeout: float | None = None,
        on_failure: Literal["halt", "park", "park_key"] = "halt",
        grace: float = 5.0,
        options: Options | None = None,
        **limits: Unpack[Limits],
    ) -> Callable[[H], H]:
        """Decorates a function that handles the batches of a subscription, to all streams unless a stream or a
        category is named; `run` runs it. Returning is the ack.

        It is called with a batch; with `tx`, also with a connection, in a transaction that holds the checkpoint as
        well. Of several programs with this handler one has the subscription, the others stand by. See `Handling` for
        the rest. Raises `InvalidArgument`.
        """
        if not isinstance(name, str):
            raise InvalidArgument('handler: a name is needed, as in @consumer.handler("billing")')
        names.check_subscription(name)
        checked_start(start_from)
        if name in self._handled:
            raise InvalidArgument(f"handler {name!r}: this consumer has one of that name")
        handling = Handling(
            concurrency=concurrency,
            tx=tx,
            attempts=attempts,
            wait_initial=wait_initial,
            wait_max=wait_max,
            timeout=timeout,
            on_failure=on_failure,
            grace=grace,
        )
        if (tx or on_failure != "halt") and self._store.pool_size < 3:
            what = "tx" if tx else on_failure
            raise InvalidArgument(
                f"{what}: the store needs a pool_size of at least 3, to read and renew leases meanwhile"
            )
        if partition_by is None and (concurrency > 1 or on_failure == "park_key"):
            partition_by = by_stream
        feed, given = _feed(stream, category), options_of(options, limits)
        if given.buffer_size < concurrency:
            given = msgspec.structs.replace(given, buffer_size=concurrency)
        shape = Shape(selector, mapper, partition_by)

        def decorated(function: H) -> H:
            _check_handler(name, function, tx=tx)

            def make() -> Subscription:
                async def work(tenure: Tenure) -> None:
                    runner = Runner(self._store, feed, function, handling, tenure, subscription.counts)
                    try:
                        await runner.run()
                    except BaseExceptionGroup as group:
                        error = _first(group)
                        raise error from error.__cause__  # which is the application's

                subscription = self._subscribe(
                    name, feed, start_from, shape, given, standby=standby, work=work, grace=grace
                )
                return subscription

            self._handlers.append(make)
            self._handled.add(name)
            return function

        return decorated

    async def run(self) -> None:
        """Run all handlers until cancelled; a cancellation gives running handlers their `grace`.

        A handler ends when it halts, or when its subscription is deleted or cannot be owned. That is logged at once,
        and does not stop the others; when all have ended, the first one's error is raised. A handler that was replaced
        subscribes again, and servers that are away are waited for. Raises `InvalidArgument` if there is no handler, or
        the consumer is in use in another loop.
        """
        if not self._handlers:
            raise InvalidArgument("the consumer has no handlers to run")
        self._in_this_loop()
        ended = await asyncio.gather(*(self._run(make) for make in self._handlers), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def _run(self, make: Callable[[], Subscription]) -> None:
        pause, outage = Pause(), Outage()
        while True:
            subscription = make()
            try:
                async with subscription:
                    pause.reset()
                    await subscription.ended()
                    return
            except Exception as error:
                if subscription.state is State.STOPPED:  # while it was starting
                    return
                if isinstance(error, Unavailable):
                    if outage.is_news(str(error), time.monotonic()):
                        log.warning("subscription %s: %s", subscription.name, error)
                    await asyncio.sleep(pause.next())
                    continue
                if isinstance(error, SubscriptionLost) and not isinstance(error, SubscriptionDeleted):
                    log.warning("%s", error)
                    await asyncio.sleep(0.1)
                    continue
                if subscription.state is State.STARTING:  # otherwise it has said so itself
                    log.error("subscription %s cannot be started: %s", subscription.name, error)
                    subscription.state = State.HALTED
                self._subscriptions.append(subscription)  # for whoever looks what has become of it
                raise


def _check_handler(name: str, function: Handler, *, tx: bool) -> None:
    """Raises `InvalidArgument` where it is sure that it cannot be called as a handler is."""
    takes = "(batch, tx), with tx=True" if tx else "(batch)"
    try:
        inspect.signature(function, follow_wrapped=False).bind(*(["batch", "tx"] if tx else ["batch"]))
    except ValueError:  # of some callables Python does not know it
        return
    except TypeError as error:
        raise InvalidArgument(f"handler {name!r}: it is called as {takes}: {error}") from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _feed(stream: str | None, category: str | None) -> Feed:
    if stream is not None and category is not None:
        raise InvalidArgument("a subscription follows a stream or a category, not both")
    if stream is not None:
        return Feed.stream(stream)
    return Feed.all() if category is None else Feed.category(category)
