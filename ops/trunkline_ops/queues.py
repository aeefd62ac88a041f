"""What the status page knows of the broker: the management API, asked with the login that there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from trunkline_ops.connect import Vhost, answering
from trunkline_ops.settings import Settings

if TYPE_CHECKING:  # they take a quarter of a second, which only the relay has
    from trunkline_relay.view import Broker
    from trunkline_store.line import Depth

_SECONDS: Final = 2.0
"""For an answer: the page shows what else there is."""


@asynccontextmanager
async def known_broker(settings: Settings) -> AsyncIterator[Broker]:
    """The broker of the settings, with links and numbers where TRUNKLINE_MANAGEMENT_URL is set."""
    from trunkline_ops.depths import depths_of
    from trunkline_ops.management import Management
    from trunkline_relay.view import SUBSCRIPTIONS, Broker

    vhost, login = settings.vhost(), settings.management()
    if login is None:
        yield Broker(None, vhost, None)
        return
    async with Management(*login) as management:

        async def ask(store: str) -> Mapping[str, Depth]:
            with answering(login):
                async with asyncio.timeout(_SECONDS):
                    return await depths_of(Vhost(management, vhost), store, SUBSCRIPTIONS)

        yield Broker(ask, vhost, login.url)
