"""Asks the tables what has become of every event: the store's own, the relay's row, and what the subscribers wrote."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

COMMITTED = """
    SELECT count(*) AS committed, count(*) FILTER (WHERE position <= relay.confirmed) AS confirmed
    FROM eventstore.events, (SELECT coalesce(max(position), 0) AS confirmed FROM eventstore.relays) AS relay
"""

# At least once means: what comes again has come before. So the order is that of the first occurrences.
_HANDLED = """
    WITH handled AS (
        SELECT subscriber, position, stream, stream_version, min(seq) AS seq, count(*) - 1 AS duplicates
        FROM demo.handled GROUP BY subscriber, position, stream, stream_version
    ), placed AS (
        SELECT *,
               lag(position, 1, 0::bigint) OVER (PARTITION BY subscriber ORDER BY seq) AS before,
               lag(stream_version, 1, 0::bigint) OVER (PARTITION BY subscriber, stream ORDER BY seq) AS version_before
        FROM handled
    )
    SELECT count(e.position) AS handled,
           coalesce(sum(duplicates), 0)::bigint AS duplicates,
           count(*) FILTER (WHERE p.position < before OR p.stream_version <> version_before + 1) AS out_of_order
    FROM (VALUES (1), (2)) AS s (subscriber)
    LEFT JOIN placed AS p USING (subscriber)
    LEFT JOIN eventstore.events AS e ON e.position = p.position
    GROUP BY subscriber
"""

_LOST = """
    SELECT count(*) FROM eventstore.events AS e
    WHERE position > (SELECT coalesce(max(position), 0) FROM eventstore.relays)
       OR NOT EXISTS (SELECT FROM demo.subscriber_1 AS h WHERE h.position = e.position)
       OR NOT EXISTS (SELECT FROM demo.subscriber_2 AS h WHERE h.position = e.position)
"""

_END_TO_END = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99
    FROM demo.subscriber_1
"""


class Figures(NamedTuple):
    """What the demo says at its end.

    - `committed`: events in the store; `confirmed`: those up to the relay's recorded position; `handled`: different
      ones that were handled, by the subscriber that handled fewest.
    - `lost`: committed, but not confirmed or not handled by each subscriber; or acknowledged to a writer, but not
      committed.
    - `out_of_order`: events of a subscriber that came after one of a higher position for the first time, or not after
      the version before; `duplicates`: what was handled once more.
    - `healed_from_store`: what the first subscriber read from the store because its queue was deleted.
    - end to end: from the beginning of the append to the handler, of the first subscriber: the second one begins late.
    """

    committed: int
    confirmed: int
    handled: int
    lost: int
    out_of_order: int
    duplicates: int
    conflicts: int
    healed_from_store: int
    append_p50_ms: float | None
    append_p99_ms: float | None
    end_to_end_p50_ms: float | None
    end_to_end_p99_ms: float | None
    seconds: float
    events_per_second: float

    @property
    def fault(self) -> str | None:
        """What is wrong, if something is."""
        if self.lost or self.out_of_order:
            return f"of {self.committed} events {self.lost} were lost and {self.out_of_order} out of order"
        return None


async def audit(
    database: asyncpg.Connection,
    *,
    acknowledged: int,
    conflicts: int,
    healed: int,
    append_ms: Sequence[float],
    seconds: float,
) -> Figures:
    """The figures, once everything has come to rest. `acknowledged` events were said to be committed to the writers."""
    await database.execute("ANALYZE eventstore.events, demo.subscriber_1, demo.subscriber_2")
    store = await database.fetchrow(COMMITTED)
    subscribers = await database.fetch(_HANDLED)
    end_to_end = await database.fetchrow(_END_TO_END)
    assert store is not None
    assert end_to_end is not None
    committed, confirmed = store
    return Figures(
        committed=committed,
        confirmed=confirmed,
        handled=min(row["handled"] for row in subscribers),
        lost=await database.fetchval(_LOST) + max(0, acknowledged - committed),
        out_of_order=sum(row["out_of_order"] for row in subscribers),
        duplicates=sum(row["duplicates"] for row in subscribers),
        conflicts=conflicts,
        healed_from_store=healed,
        append_p50_ms=percentile(append_ms, 50),
        append_p99_ms=percentile(append_ms, 99),
        end_to_end_p50_ms=_rounded(end_to_end["p50"]),
        end_to_end_p99_ms=_rounded(end_to_end["p99"]),
        seconds=round(seconds, 2),
        events_per_second=round(committed / seconds, 1),
    )


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The value below which so many percent of the values are; None of none."""
    return _rounded(sorted(values)[(len(values) - 1) * percent // 100]) if values else None


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 2)
