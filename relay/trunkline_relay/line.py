"""Who holds the line between a commit and its last handler: an open transaction, the relay, the broker, a handler. Pure.

Each of the four is a place where events wait, and each knows its own lag; the first one that is late, in the order in
which events pass them, is who the others wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from trunkline_relay.status import Holder
from trunkline_store import SubscriptionInfo

LATE_SECONDS: Final = 2.0
"""Less than that is under way, and held by nobody."""


class Queue(NamedTuple):
    """A subscription's queue, as the broker knows it: messages that wait there, and such that a consumer has."""

    ready: int
    unacked: int
    consumers: int


class Relayed(NamedTuple):
    """How far the relay is. led: whether anybody leads. blocked: whether the broker has an alarm."""

    events: int
    seconds: float
    led: bool
    blocked: bool


class Stage(NamedTuple):
    """One of the four places. late: whether it holds the line. says: in a few words, what is there."""

    name: Literal["transactions", "relay", "broker", "handlers"]
    late: bool
    says: str


def stages(
    holder: Holder | None,
    relayed: Relayed,
    subscriptions: Sequence[SubscriptionInfo],
    queues: Mapping[str, Queue] | str,
) -> list[Stage]:
    """The four places, in the order in which events pass them. queues: by their names, or why they are not known."""
    return [_transactions(holder), _relay(relayed), _broker(relayed, queues), _handlers(relayed, subscriptions)]


def _transactions(holder: Holder | None) -> Stage:
    if holder is None:
        return Stage("transactions", False, "none is open that has appended")
    who = f"prepared transaction {holder.prepared!r}" if holder.pid is None else f"pid {holder.pid}"
    of = " ".join(filter(None, [holder.application, f"({holder.login})" if holder.login else ""]))
    return Stage("transactions", holder.age >= LATE_SECONDS, f"{who}{f' of {of}' if of else ''}, {_age(holder.age)}")


def _relay(relayed: Relayed) -> Stage:
    waits = f"{_events(relayed.events)}, {_age(relayed.seconds)}"
    if not relayed.led:
        return Stage("relay", True, f"nobody leads; {waits}")
    late = relayed.events > 0 and relayed.seconds >= LATE_SECONDS and not relayed.blocked
    return Stage("relay", late, waits)


def _broker(relayed: Relayed, queues: Mapping[str, Queue] | str) -> Stage:
    if relayed.blocked:
        return Stage("broker", True, "RabbitMQ has an alarm, and takes nothing")
    if isinstance(queues, str):
        return Stage("broker", False, queues)
    ready, unacked = sum(queue.ready for queue in queues.values()), sum(queue.unacked for queue in queues.values())
    return Stage("broker", False, f"{ready:,} messages wait, {unacked:,} are with consumers")


def _handlers(relayed: Relayed, subscriptions: Sequence[SubscriptionInfo]) -> Stage:
    waiting = {each.name: waits_for(each, relayed) for each in subscriptions}
    late = [each for each in subscriptions if waiting[each.name] in ("handler", "owner", "operator")]
    if not late:
        return Stage("handlers", False, f"{len(subscriptions)} subscriptions, none late")
    worst = max(late, key=lambda each: each.seconds_behind)
    more = f", and {len(late) - 1} more" if len(late) > 1 else ""
    return Stage("handlers", True, f"{worst.name}: {_events(worst.behind)}, {_age(worst.seconds_behind)}{more}")


Wait = Literal["nothing", "relay", "handler", "owner", "operator"]


def waits_for(subscription: SubscriptionInfo, relayed: Relayed) -> Wait:
    """What a subscription needs to get on: nothing, the relay (its first event is not published yet), its handler, a
    process that follows it, or an operator (it has halted, or has parked batches)."""
    if subscription.halted is not None:
        return "operator"
    if not subscription.behind or subscription.seconds_behind < LATE_SECONDS:
        return "operator" if subscription.parked else "nothing"
    if subscription.owner is None:
        return "owner"
    return "relay" if relayed.events and subscription.seconds_behind <= relayed.seconds else "handler"


def _events(count: int) -> str:
    many = f"{count:,} or more" if count >= 10_000 else f"{count:,}"
    return f"{many} event{'s' if count != 1 else ''}"


def _age(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
