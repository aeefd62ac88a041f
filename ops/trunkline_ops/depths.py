"""How deep a store's queues are, as RabbitMQ's management API says: seconds ago."""

from __future__ import annotations

from typing import Final

from trunkline_ops.connect import Vhost, managed
from trunkline_ops.settings import Settings
from trunkline_store.line import Depth

_COUNTS: Final = ("messages_ready", "messages_unacknowledged", "consumers")


async def depths(settings: Settings, store: str) -> dict[str, Depth] | None:
    """Of the store's queues, by name; None where no management API is named. Raises `BrokerUnavailable`."""
    async with managed(settings) as vhost:
        return None if vhost is None else await depths_of(vhost, store)


async def depths_of(vhost: Vhost, store: str, most: int | None = None) -> dict[str, Depth]:
    """The same, of an open API; `most`: of so many, the first by name. Counts are not there for a queue that is seconds
    old, or down. Raises what httpx does, and `ValueError` where what answers is no management API."""
    try:
        found = await vhost.api.queue_columns(vhost.name, ["name", *_COUNTS], pattern=rf"^{store}\.", most=most)
        return {each["name"]: Depth(*(int(each.get(count) or 0) for count in _COUNTS)) for each in found}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("of another shape") from error
