"""Asks the tables what has become of every event: the store's own, the relay's row, and what the subscribers wrote."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from trunkline_ops.demo.audit import COMMITTED
from trunkline_ops.soak.forger import FORGED
from trunkline_ops.soak.plain import SUBSCRIBER
from trunkline_store import EventStore

_ACKNOWLEDGED = """
    SELECT count(*) FROM (SELECT DISTINCT generate_series(a.first, a.last) AS position
                          FROM unnest($1::bigint[], $2::bigint[]) AS a (first, last)) AS told
    WHERE NOT EXISTS (SELECT FROM eventstore.events AS e WHERE e.position = told.position)
"""

# Events can come again, so the order of their first occurrences counts. If several streams are handled at once, or some
# wait because they are parked, only the order within each stream counts. Events that fill a hole come at any time: a
# relay that was paused may resend what was lost. Events at the positions of a forged message may come late. A handler
# without a transaction may be given forged events; $3: true for a handler with one, for which they count.
_HANDLED = """
    WITH handled AS (
        SELECT position, stream, stream_version, min(seq) AS seq, count(*) - 1 AS again
        FROM soak.effects AS h WHERE subscriber = $1 AND NOT replayed AND (stream <> $2 OR $3) AND NOT EXISTS (
            SELECT FROM soak.holes WHERE $1 = 'amqp' AND above < h.position AND h.position <= up_to)
        GROUP BY position, stream, stream_version
    ), placed AS (
        SELECT *, lag(position, 1, 0::bigint) OVER (ORDER BY seq) AS before,
               lag(stream_version, 1, 0::bigint) OVER (PARTITION BY stream ORDER BY seq) AS version_before,
               EXISTS (SELECT FROM soak.forged AS f WHERE f.above < position AND position <= f.up_to) AS forged
        FROM handled
    )
    SELECT count(e.position) AS handled, coalesce(sum(again), 0)::bigint AS again,
           count(*) FILTER (WHERE e.position IS NULL) AS alien,
           count(*) FILTER (WHERE p.position < before AND NOT forged) AS out_of_all,
           count(*) FILTER (WHERE p.stream_version < version_before AND NOT forged) AS out_of_stream
    FROM placed AS p LEFT JOIN eventstore.events AS e USING (position)
"""

_MISSING = """
    SELECT e.position FROM eventstore.events AS e
    WHERE NOT EXISTS (SELECT FROM soak.effects AS h
                      WHERE h.subscriber = $1 AND h.position = e.position AND NOT h.replayed AND h.stream <> $2)
    ORDER BY e.position
"""

# What is missing, and neither in a hole that the consumer has seen, nor behind the last message that it got.
_UNSEEN = """
    WITH got AS (SELECT position FROM soak.effects WHERE subscriber = $1 AND NOT replayed)
    SELECT e.position FROM eventstore.events AS e
    WHERE NOT EXISTS (SELECT FROM got WHERE got.position = e.position)
      AND NOT EXISTS (SELECT FROM soak.holes AS h WHERE h.above < e.position AND e.position <= h.up_to)
      AND e.position < (SELECT coalesce(max(position), 0) FROM got)
    ORDER BY e.position
"""

_NOT_REPLAYED = """
    SELECT e.position FROM eventstore.events AS e
    WHERE NOT EXISTS (SELECT FROM soak.effects AS h WHERE h.subscriber = $1 AND h.position = e.position)
    ORDER BY e.position
"""

IN_ALL_ORDER = ("plain", "tx", SUBSCRIBER)
ONCE = ("tx", "concurrent", "parking")


class Figures(NamedTuple):
    """The figures that the soak reports at its end.

    - `committed`: events in the store; `confirmed`: those up to the relay's recorded position; `handled`: different
      ones that were handled, by the subscription that handled fewest.
    - `lost`: committed, but not confirmed, not handled by some subscription, or missing without a hole where there is
      no SDK; or told to a writer, but not committed. `out_of_order`: for the first time, after a later one.
    - `wrong_effects`: more than one of an event in the checkpoint's transaction, or one of no event.
    - `duplicates`: what came again where effects are no part of the checkpoint's transaction, which is no fault.
    - `holes_replayed`: events that the consumer without the SDK had missed, which its holes told.
    - `met`: how often each kind of fault happened; `language`: PostgreSQL's messages; `loop`: the subscribers'.
    - `longest_stall_seconds`: without any progress of some subscription that was behind. `crashes`: programs that ended
      by themselves, other than for a server that was away when they started.
    """

    committed: int
    confirmed: int
    handled: int
    lost: int
    out_of_order: int
    wrong_effects: int
    duplicates: int
    holes_replayed: int
    faults: int
    met: dict[str, int]
    language: str
    loop: str
    kills: int
    crashes: int
    longest_stall_seconds: float
    seconds: float
    seed: int
    ok: bool


class Findings(NamedTuple):
    """What the tables say: the counts of `Figures`, and in words what is wrong with whom, if something is."""

    counts: dict[str, int]
    details: Sequence[str]


async def missing(store: EventStore, subscriber: str) -> list[int]:
    """Positions of the events that a subscriber was not given, by the relay or from the store."""
    return [row[0] for row in await store.fetch(_MISSING, subscriber, FORGED)]


async def not_replayed(store: EventStore) -> list[int]:
    """Positions of the events that the consumer without the SDK has never been given."""
    return [row[0] for row in await store.fetch(_NOT_REPLAYED, SUBSCRIBER)]


async def audit(
    store: EventStore, subscriptions: Iterable[str], acknowledged: Mapping[str, array[int]], *, plain: bool
) -> Findings:
    """Once everything has come to rest. acknowledged: of each writer, first and last position of each append in turn.
    plain: whether there was a consumer without the SDK."""
    await store.fetch("ANALYZE eventstore.events, soak.effects")
    row = await store.fetchrow(COMMITTED)
    assert row is not None
    committed, confirmed = row
    counts = dict.fromkeys(("lost", "out_of_order", "wrong_effects", "duplicates"), 0)
    counts |= {"committed": committed, "confirmed": confirmed, "handled": committed}
    details: list[str] = []

    def found(what: str, count: int, whose: str, problem: str, at: Sequence[int] = ()) -> None:
        counts[what] += count
        if count:
            details.append(f"{whose}: {count} {problem}" + (f", at {[*at[:5]]}" if at else ""))

    found("lost", committed - confirmed, "relay", "not confirmed")
    for writer, ranges in acknowledged.items():
        unknown = await store.fetchval(_ACKNOWLEDGED, ranges[0::2].tolist(), ranges[1::2].tolist())
        found("lost", unknown, writer, "said to be committed, which they are not")
    for name in (*subscriptions, *([SUBSCRIBER] if plain else [])):
        row = await store.fetchrow(_HANDLED, name, FORGED, name in ONCE)
        assert row is not None
        handled, again, alien, out_of_all, out_of_stream = row
        if name == SUBSCRIBER:
            unseen = [each[0] for each in await store.fetch(_UNSEEN, name)]
            found("lost", len(unseen), name, "missing, and no hole tells of them", unseen)
            never = await not_replayed(store)
            found("lost", len(never), name, "not to be had by replaying its holes", never)
        else:
            counts["handled"] = min(counts["handled"], handled)
            lost = await missing(store, name)
            found("lost", len(lost), name, "lost", lost)
        found("out_of_order", out_of_all if name in IN_ALL_ORDER else out_of_stream, name, "out of order")
        found("wrong_effects", alien, name, "effects of no event")
        if name in ONCE:
            found("wrong_effects", again, name, "effects too many")
        else:
            counts["duplicates"] += again
    return Findings(counts, details)
