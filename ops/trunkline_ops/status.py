"""The store, its relay, its broker and its subscriptions at a moment: facts for programs, and a screen for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trunkline_ops.connect import managed
from trunkline_ops.depths import depths_of
from trunkline_ops.output import subscription_facts, visible
from trunkline_ops.settings import Settings
from trunkline_store import EventStore, SubscriptionInfo, names
from trunkline_store.errors import BrokerUnavailable
from trunkline_store.line import Depth, Waiting, line
from trunkline_store.overview import Overview, overview, size
from trunkline_store.words import counted

_STYLES = {"following": "green", "halted": "bold red", "stopped": "yellow"}


class Broker(NamedTuple):
    """RabbitMQ, if it was asked. problem: why it could not tell. alarms: None where this user may not see them."""

    version: str
    alarms: list[str] | None
    queues: Mapping[str, Depth]
    problem: str | None = None


class Standing(NamedTuple):
    """All of it. bytes: of all tables; None while a lock keeps that from being told. rate: events per second since the
    look before, if there was one."""

    seen: Overview
    broker: Broker | None
    waiting: list[Waiting]
    rate: float | None
    bytes: int | None


async def standing(store: EventStore, settings: Settings, before: Standing | None = None) -> Standing:
    """How all is now. Raises `Unavailable`, `UnsafeRead`; a broker that does not answer is told, not raised."""
    seen = await overview(store)
    broker = await _broker(settings, store.schema)
    queues = None if broker is None or broker.problem is not None else broker.queues
    rate = None
    if before is not None and (seconds := (seen.at - before.seen.at).total_seconds()) > 0:
        rate = max(0, seen.inserted - before.seen.inserted) / seconds
    return Standing(seen, broker, line(seen, queues), rate, await size(store))


async def _broker(settings: Settings, store: str) -> Broker | None:
    try:
        async with managed(settings) as vhost:
            if vhost is None:
                return None
            version = (await vhost.api.get("overview"))["rabbitmq_version"]
            queues = await depths_of(vhost, store)
            try:
                nodes = await vhost.api.get("nodes")
            except httpx.HTTPStatusError:
                return Broker(version, None, queues)
            alarms = [
                f"{kind} of {node['name']}"
                for node in nodes
                for kind, name in (("memory", "mem_alarm"), ("disk", "disk_free_alarm"))
                if node.get(name)
            ]
            return Broker(version, alarms, queues)
    except BrokerUnavailable as error:
        return Broker("", None, {}, str(error))


def facts(now: Standing) -> dict[str, Any]:
    """For programs: names and values, none of which is a sentence but `who` and `problem`."""
    seen, broker = now.seen, now.broker
    store = {name: getattr(seen, name) for name in _STORE}
    return {
        "at": seen.at.isoformat(),
        "store": {**store, "bytes": now.bytes, "events_per_second": now.rate},
        "transaction": None if seen.transaction is None else seen.transaction._asdict(),
        "relay": None if seen.relay is None else seen.relay._asdict(),
        "broker": None
        if broker is None
        else {"version": broker.version or None, "alarms": broker.alarms, "problem": broker.problem},
        "subscriptions": [
            {**subscription_facts(each), "queue": _depth_facts(now, each)} for each in seen.subscriptions
        ],
        "line": [each._asdict() for each in now.waiting],
    }


_STORE = (
    "schema", "version", "history", "data_type", "content_type", "created_at", "safe_position", "last_position",
    "held_back", "events", "streams",
)  # fmt: skip


def screen(now: Standing) -> RenderableType:
    """For people: who holds the line comes first."""
    seen = now.seen
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim")
    head.add_column(overflow="fold")
    for name, value, style in rows(now):
        head.add_row(name, Text(visible(value), style=style))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("subscription", "feed", "state", "at", "behind", "parked", "ready", "unacked"):
        table.add_column(column, justify="left" if column in ("subscription", "feed", "state") else "right")
    for each in seen.subscriptions:
        depth = _depth(now, each)
        table.add_row(
            Text(visible(each.name)),
            Text(visible(each.feed)),
            Text(each.state, style=_STYLES[each.state]),
            str(each.checkpoint),
            Text(_behind(each), style="yellow" if each.behind else ""),
            Text(str(each.parked), style="red" if each.parked else ""),
            "" if depth is None else str(depth.ready),
            "" if depth is None else str(depth.unacked),
        )
    return Group(head, Text(), table) if seen.subscriptions else head


def lines(now: Standing) -> Iterator[str]:
    """The same without a screen: one fact a line."""
    for name, value, _ in rows(now):
        yield f"{name:<12}  {visible(value)}"
    for each in now.seen.subscriptions:
        depth = _depth(now, each)
        queue = "" if depth is None else f", {depth.ready} ready, {depth.unacked} unacked"
        yield (
            f"subscription  {visible(each.name)}  {visible(each.feed)}  {each.state}, at {each.checkpoint}, "
            f"{_behind(each)} behind, {each.parked} parked{queue}"
        )


def rows(now: Standing) -> Iterator[tuple[str, str, str]]:
    """Name, value and style of what is said of the whole."""
    seen, relay, broker = now.seen, now.seen.relay, now.broker
    for each in now.waiting:
        since = "" if each.seconds is None else f" since {each.seconds:.1f} s"
        whose = "" if each.subscription is None else f" of {each.subscription}"
        yield (
            "waiting",
            f"{counted(each.events, or_more=each.or_more)} events{whose} for the {_FOR[each.stage]}{since}: {each.who}",
            "yellow",
        )
    if not now.waiting:
        yield "waiting", "nothing", "green"
    rate = "" if now.rate is None else f", {now.rate:.0f} events/s"
    yield "store", f"{seen.schema}: {seen.events} events in {seen.streams} streams, {_size(now.bytes)}{rate}", ""
    yield "position", f"{seen.last_position}, safe up to {seen.safe_position}", ""
    if relay is None:
        yield "relay", "none has ever run", "dim"
    elif relay.owner is None:
        yield "relay", f"none leads; published up to {relay.position}, at {relay.updated_at:%Y-%m-%d %H:%M:%S}", "red"
    else:
        yield "relay", f"leads with epoch {relay.epoch}, published up to {relay.position}", "green"
    if broker is None:
        yield "RabbitMQ", "not asked: no --management-url", "dim"
    elif broker.problem is not None:
        yield "RabbitMQ", broker.problem, "red"
    else:
        alarms = "alarms not told" if broker.alarms is None else "; ".join(broker.alarms) or "no alarms"
        yield "RabbitMQ", f"{broker.version}, {alarms}", "red" if broker.alarms else "green"


_FOR = {
    "transaction": "end of a transaction",
    "relay": "relay",
    "broker": "broker",
    "handler": "handler",
    "halted": "person on call",
    "nobody": "start of its program",
}


def _depth(now: Standing, each: SubscriptionInfo) -> Depth | None:
    return None if now.broker is None else now.broker.queues.get(names.queue(now.seen.schema, each.name))


def _depth_facts(now: Standing, each: SubscriptionInfo) -> dict[str, int] | None:
    depth = _depth(now, each)
    return None if depth is None else depth._asdict()


def _behind(each: SubscriptionInfo) -> str:
    return f"{counted(each.behind, or_more=each.or_more)} ({each.seconds_behind:.1f} s)" if each.behind else "0"


def _size(count: int | None) -> str:
    if count is None:
        return "a locked table keeps the size from being told"
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
