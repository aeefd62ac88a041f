"""The four places where events can wait on their way to a handler, as the status page shows them. Pure.

An open transaction, the relay, RabbitMQ, the subscriptions' handlers: each says what is there, and whether it is late;
the first one that is, in the order in which events pass them, holds the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from trunkline_store.line import Depth, Waiting
from trunkline_store.overview import Overview
from trunkline_store.words import age, events

LATE_SECONDS: Final = 2.0
"""What waits for less is under way, and nobody holds it."""

Queues = Mapping[str, Depth] | str
"""By their names; or why they are not known."""


class Stage(NamedTuple):
    """One of the places. says: in a few words, what is there."""

    name: Literal["transactions", "relay", "broker", "handlers"]
    late: bool
    says: str


def is_late(waiting: Waiting) -> bool:
    """Whether it has waited for too long, or waits for a person."""
    return waiting.stage == "halted" or waiting.seconds is None or waiting.seconds >= LATE_SECONDS


def stages(seen: Overview, waiting: Sequence[Waiting], queues: Queues, *, led: bool, blocked: bool) -> list[Stage]:
    """In their order. waiting: what `trunkline_store.line` says; led: whether a relay leads; blocked: whether RabbitMQ
    has an alarm."""
    return [
        _transactions(seen),
        _relay(seen, led=led, blocked=blocked),
        _broker(waiting, queues, blocked=blocked),
        _handlers(seen, waiting),
    ]


def _transactions(seen: Overview) -> Stage:
    if seen.transaction is None:
        return Stage("transactions", False, "none is open that has appended")
    behind = f"; {events(seen.held_back)} wait behind it" if seen.held_back else ""
    late = seen.transaction.seconds is None or seen.transaction.seconds >= LATE_SECONDS
    return Stage("transactions", late, seen.transaction.words + behind)


def _relay(seen: Overview, *, led: bool, blocked: bool) -> Stage:
    lag, seconds = (seen.relay.lag_events, seen.relay.lag_seconds) if seen.relay else (0, 0.0)
    waits = f"{events(lag)} behind" + (f", {age(seconds)}" if lag else "")
    if not led:
        return Stage("relay", True, f"no relay leads; {waits}")
    return Stage("relay", lag > 0 and seconds >= LATE_SECONDS and not blocked, waits)


def _broker(waiting: Sequence[Waiting], queues: Queues, *, blocked: bool) -> Stage:
    if blocked:
        return Stage("broker", True, "RabbitMQ has an alarm, and takes nothing")
    if isinstance(queues, str):
        return Stage("broker", False, queues)
    if late := [each for each in waiting if each.stage == "broker" and is_late(each)]:
        return Stage("broker", True, _worst(late))
    ready, unacked = sum(queue.ready for queue in queues.values()), sum(queue.unacked for queue in queues.values())
    return Stage("broker", False, f"{_count(ready, 'message')} ready, {unacked:,} unacknowledged")


def _handlers(seen: Overview, waiting: Sequence[Waiting]) -> Stage:
    late = [each for each in waiting if each.stage in ("handler", "halted", "nobody") and is_late(each)]
    if late:
        return Stage("handlers", True, _worst(late))
    if not seen.subscriptions:
        return Stage("handlers", False, "no subscriptions")
    return Stage("handlers", False, f"{_count(len(seen.subscriptions), 'subscription')}, none late")


def _worst(late: Sequence[Waiting]) -> str:
    worst = max(late, key=lambda each: each.seconds or 0.0)
    more = f", and {len(late) - 1} more" if len(late) > 1 else ""
    behind = events(worst.events, or_more=worst.or_more)
    return f"{worst.subscription} is {behind} behind, {age(worst.seconds or 0.0)}{more}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
