"""The consumer SDK, beside what takes messages, reads events or writes transactions without it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from trunkline_ops.bench import alive, queued, stored
from trunkline_ops.bench.lab import Lab
from trunkline_ops.bench.rounds import Effort, Measure


async def measures(lab: Lab, effort: Effort) -> AsyncIterator[Measure]:
    """From the queue, from the store, and from both at once."""
    if effort.wants("live"):
        async for measure in queued.live(lab, effort, queued.SHAPES):
            yield measure
    if effort.wants("catch-up") or effort.wants("memory"):
        async with stored.backlog(lab, effort) as (room, url, events):
            if effort.wants("memory"):
                yield await stored.memory(room, url, events)
            if effort.wants("catch-up"):
                yield await stored.catch_up(room, url, events, effort)
    if effort.wants("transaction"):
        yield await stored.transactions(lab, effort)
    if effort.wants("many"):
        async for measure in alive.many(lab, effort):
            yield measure
    if effort.wants("joining"):
        async for measure in alive.joining(lab, effort):
            yield measure
