"""The face of the SDK."""

from __future__ import annotations

import asyncio
from typing import Self

from trunkline_consumer.subscription import ORIGIN, Options, Start, Subscription
from trunkline_store import EventStore


class Consumer:
    """Subscriptions to one store.

        async with EventStore(dsn) as store, Consumer(store, amqp_url) as consumer:
            async with consumer.subscribe_to_all_streams("example") as subscription:
                async for batch in subscription:
                    ...
                    await batch.ack()

    amqp_url: of the broker, with its virtual host. While it cannot be reached, subscriptions go on from PostgreSQL.
    """

    def __init__(self, store: EventStore, amqp_url: str) -> None:
        self._store = store
        self._url = amqp_url
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(subscription.stop() for subscription in self._subscriptions), return_exceptions=True)

    def subscribe_to_all_streams(
        self, name: str, *, start_from: Start | int = ORIGIN, options: Options | None = None
    ) -> Subscription:
        """A subscription to `$all`, to be entered with `async with`.

        start_from: ORIGIN, CURRENT, or a position (exclusive); counts only when the subscription is new.
        """
        subscription = Subscription(self._store, self._url, name, start_from=start_from, options=options or Options())
        self._subscriptions.append(subscription)
        return subscription
