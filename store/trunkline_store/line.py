"""Who holds the line: where, on the way from a commit to a handler, events wait, and for whom. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from trunkline_store import names
from trunkline_store.overview import Overview
from trunkline_store.subscriptions import SubscriptionInfo
from trunkline_store.words import COUNTED

Stage = Literal["transaction", "relay", "broker", "handler", "halted", "nobody"]
"""Whom events wait for: an open `transaction` of somebody's; the `relay`; the `broker`, in whose queue messages lie
that it hands to nobody; the subscription's `handler`; a person, since it has `halted`; an owner, of which there is
none."""


class Depth(NamedTuple):
    """A queue: messages that are ready, and that are handed out and not acknowledged; who consumes it."""

    ready: int
    unacked: int
    consumers: int


class Waiting(NamedTuple):
    """What waits at one place. who: in words. subscription: None before the ways part. events: as many as were counted;
    or_more: they were counted no further. seconds: how long the first of them waits, as far as that is known."""

    stage: Stage
    who: str
    events: int
    seconds: float | None
    subscription: str | None = None
    or_more: bool = False


def line(seen: Overview, queues: Mapping[str, Depth] | None = None) -> list[Waiting]:
    """All places where something waits, in the order of the way. queues: by their names; None where nobody can tell."""
    found = []
    if seen.held_back:
        who = "a transaction that has ended meanwhile" if seen.transaction is None else seen.transaction.words
        seconds = None if seen.transaction is None else seen.transaction.seconds
        found.append(Waiting("transaction", who, seen.held_back, seconds, or_more=seen.held_back >= COUNTED))
    relay = seen.relay
    if relay is not None and relay.lag_events:
        who = "no relay leads" if relay.owner is None else f"relay of epoch {relay.epoch}, at {relay.position}"
        or_more = relay.lag_events >= COUNTED
        found.append(Waiting("relay", who, relay.lag_events, relay.lag_seconds, or_more=or_more))
    for subscription in seen.subscriptions:
        if subscription.behind:
            depth = None if queues is None else queues.get(names.queue(seen.schema, subscription.name))
            stage, who = _held(subscription, seen, depth)
            behind, seconds = subscription.behind, subscription.seconds_behind
            found.append(Waiting(stage, who, behind, seconds, subscription.name, subscription.or_more))
    return found


def _held(subscription: SubscriptionInfo, seen: Overview, queue: Depth | None) -> tuple[Stage, str]:
    """Whom a subscription that is behind waits for. An owner reads the store by itself when its queue gives it nothing
    for a second: so the relay and the broker hold it up for so long at most, but show where to look."""
    if subscription.halted is not None:
        return "halted", "its handler failed, and it waits for a person"
    if subscription.owner is None:
        return "nobody", "no process follows it"
    if seen.relay is not None and seen.relay.lag_events and subscription.checkpoint >= seen.relay.position:
        return "relay", "all that is published is handled"
    if queue is not None and queue.ready and not queue.unacked:
        return "broker", f"{queue.ready} messages are ready, and none is handed out to its {queue.consumers} consumers"
    if queue is not None and (queue.ready or queue.unacked):
        return "handler", f"it has {queue.unacked} messages at hand, {queue.ready} more wait in the queue"
    return "handler", "it has the events at hand, or reads them from the store"
