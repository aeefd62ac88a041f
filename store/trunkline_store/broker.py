"""RabbitMQ rules that relay, replay and subscribers share. The client library is theirs: nothing of it is imported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trunkline_store.cancellation import ends_program, obey_cancellation
from trunkline_store.errors import BrokerUnavailable, TrunklineError


@contextmanager
def asking_broker(url: str | None = None) -> Iterator[None]:
    """Turn everything that the client library raises within into `BrokerUnavailable`; obey a cancellation.

    No list of its errors would be complete. When a connection is closed without an error, aiormq raises a bare
    `Exception`, on uvloop a `StopAsyncIteration`, and a `CancelledError` in a caller that nobody cancelled. Only calls
    of the library belong within; our own errors pass.

    Args:
        url: The connection's URL; the message names its vhost.
    """
    try:
        yield
    except TrunklineError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        obey_cancellation()
        if ends_program(error):
            raise
        raise BrokerUnavailable.because(error, url) from error


async def declare_exchange(channel: Any, name: str) -> None:
    """Declare an exchange of a store. The relay does so, and a subscriber that starts before the first relay.

    Args:
        channel: A channel of aio-pika.
    """
    await channel.declare_exchange(name, "topic", durable=True)
