"""Wakes those who wait for a fact. Between looking and waiting there must be no `await`: then no ring is missed."""

from __future__ import annotations

import asyncio


class Bell:
    """`while not fact(): await bell.wait()`, and `bell.ring()` where the fact may have changed."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wakes all who wait."""
        if self._waiting:
            for each in self._waiting:
                if not each.done():
                    each.set_result(None)
            self._waiting.clear()

    async def wait(self) -> None:
        """Until the next ring."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)
