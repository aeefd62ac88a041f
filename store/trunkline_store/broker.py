"""How relay, replay and subscribers treat RabbitMQ alike. The client library is theirs: nothing of it is imported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trunkline_store.cancellation import ends_program, obey_cancellation
from trunkline_store.errors import BrokerUnavailable, TrunklineError


@contextmanager
def asking_broker(url: str | None = None) -> Iterator[None]:
    """Turn whatever the client library raises within into `BrokerUnavailable`; obey a cancellation.

    No list of its errors would be complete: a connection that is closed without a word makes aiormq raise a bare
    `Exception`, on uvloop a `StopAsyncIteration`, and a `CancelledError` in a caller that nobody cancelled. Only calls
    of the library belong within, and our own errors pass.

    Args:
        url: that of the connection, for the name of its vhost in the message.
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
    """Declare an exchange of a store: the relay does it, and a subscriber that comes before the first relay.

    Args:
        channel: one of aio-pika.
    """
    await channel.declare_exchange(name, "topic", durable=True)
