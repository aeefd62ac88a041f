"""How deep queues are, as RabbitMQ's management API says: seconds ago."""

from __future__ import annotations

from trunkline_ops.connect import Vhost, managed
from trunkline_ops.settings import Settings
from trunkline_store.line import Depth


async def depths(settings: Settings) -> dict[str, Depth] | None:
    """Of all queues of the vhost, by name; None where no management API is named. Raises `BrokerUnavailable`."""
    async with managed(settings) as vhost:
        if vhost is None:
            return None
        return await depths_of(vhost)


async def depths_of(vhost: Vhost) -> dict[str, Depth]:
    """The same, of an open API. Raises what httpx does."""
    return {
        each["name"]: Depth(
            each.get("messages_ready", 0), each.get("messages_unacknowledged", 0), each.get("consumers", 0)
        )
        for each in await vhost.api.queues(vhost.name)
    }
