"""A replay whose queue is purged meanwhile, and its consumer, which checks the replay's chain (relay/README.md)."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel

from trunkline_relay import Replay
from trunkline_store import EventStore, MessagesLost

_SECONDS: Final = 15.0
_START: Final = """
    SELECT coalesce((SELECT position FROM eventstore.events ORDER BY position DESC OFFSET 500 LIMIT 1), 1)
"""


async def purge_replay(store: EventStore, url: str) -> bool | None:
    """Replay the last events to a queue, and purge it meanwhile. Return True if the consumer notices the loss, and None
    if nothing was lost."""
    name = f"soak.replay-{uuid4().hex[:8]}"
    async with (
        asyncio.timeout(_SECONDS),
        await aio_pika.connect(url) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue(name, exclusive=False, auto_delete=False, durable=True)
        try:
            start = await store.fetchval(_START)
            replay = Replay(store, url, name, start=start)
            purged = 0

            async def purge() -> None:
                nonlocal purged
                while not purged:
                    purged = (await queue.purge()).message_count or 0

            purging = asyncio.create_task(purge())
            try:
                with suppress(MessagesLost):  # the command notices the loss too, unless a consumer is there
                    await replay.run()
            finally:
                purging.cancel()
                await asyncio.gather(purging, return_exceptions=True)
            return not _is_whole(await _taken(channel, name), start - 1, replay.end or 0) if purged else None
        finally:
            await queue.delete(if_unused=False, if_empty=False)


async def _taken(channel: AbstractChannel, name: str) -> list[dict[str, Any]]:
    """Return the headers of all messages in the queue."""
    queue, found = await channel.get_queue(name, ensure=False), []
    while (message := await queue.get(no_ack=True, fail=False)) is not None:
        found.append(dict(message.headers))
    return found


def _is_whole(messages: Sequence[dict[str, Any]], place: int, end: int) -> bool:
    """Return True if a consumer takes these for a whole replay: each continues at its place, and the last is marked."""
    for headers in messages:
        if headers["previous_in_replay"] > place:
            return False
        place = headers["replay_end"] if headers.get("replay_last") else headers["last_position"]
    return place >= end
