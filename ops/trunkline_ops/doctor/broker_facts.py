"""What RabbitMQ's management API says of a vhost. What it does not tell this user, or not in this version, is None."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import aio_pika
import aiormq.exceptions
import httpx

from trunkline_ops.connect import Vhost
from trunkline_store import names
from trunkline_store.broker import asking_broker
from trunkline_store.errors import BrokerUnavailable

_REFUSED = (401, 403)
_SECONDS: Final = 5.0
_COLUMNS = (
    "name", "type", "exclusive", "auto_delete", "state", "arguments", "policy", "effective_policy_definition",
    "messages", "messages_ready", "message_bytes", "consumers", "members", "online",
)  # fmt: skip


class Exchange(NamedTuple):
    kind: str
    durable: bool
    auto_delete: bool


class Binding(NamedTuple):
    exchange: str
    queue: str
    key: str


class Queue(NamedTuple):
    """A queue. messages: the ready ones and those that a consumer holds; message_bytes: the size of both. arguments:
    those of its declaration. policy: the applied policy's name, and its definition. The lower of two limits counts."""

    name: str
    kind: str
    exclusive: bool
    state: str
    arguments: Mapping[str, Any]
    policy: str
    policy_sets: Mapping[str, Any]
    messages: int
    ready: int
    message_bytes: int
    consumers: int
    members: int
    online: int

    def setting(self, name: str) -> Any:
        """What counts: of two numbers the lower one, else the policy's, else the argument."""
        both = [each for each in (self.policy_sets.get(name), self.arguments.get(f"x-{name}")) if each is not None]
        if len(both) == 2 and all(isinstance(each, int) for each in both):
            return min(both)
        return both[0] if both else None


class Permission(NamedTuple):
    """Regular expressions of names."""

    user: str
    configure: str
    write: str
    read: str


class TopicPermission(NamedTuple):
    """The limit of a user on one topic exchange: routing keys that match `write`. Without a limit: all keys."""

    user: str
    exchange: str
    write: str


class Connection(NamedTuple):
    name: str
    state: str


class Node(NamedTuple):
    name: str
    running: bool
    memory_alarm: bool
    disk_alarm: bool
    partitions: list[str]


class BrokerFacts(NamedTuple):
    """asks: the user of the API; user: the one that the programs log in as, by the AMQP URL. there: whether the vhost
    is. topic_permissions, tags (of users): empty where `permissions` is None."""

    version: str
    vhost: str
    there: bool
    asks: str
    user: str
    exchanges: Mapping[str, Exchange]
    queues: list[Queue]
    bindings: list[Binding]
    permissions: list[Permission] | None
    topic_permissions: list[TopicPermission]
    tags: Mapping[str, list[str]]
    connections: list[Connection] | None
    nodes: list[Node] | None


async def broker_facts(vhost: Vhost, schema: str, asks: str, user: str) -> BrokerFacts:
    """Asks for all of it. Raises what httpx does."""
    api, name = vhost
    overview = await api.get("overview")
    nodes = await _unless_refused(api.get("nodes"))
    there = await _unless_missing(api.get("exchanges", name)) is not None
    exchanges = {}
    for each in (names.exchange(schema), names.links_exchange(schema)) if there else ():
        found = await _unless_missing(api.get("exchanges", name, each))
        if found is not None:
            exchanges[each] = Exchange(found["type"], found["durable"], found["auto_delete"])
    return BrokerFacts(
        version=overview["rabbitmq_version"],
        vhost=name,
        there=there,
        asks=asks,
        user=user,
        exchanges=exchanges,
        queues=[_queue(each) for each in await api.queue_columns(name, _COLUMNS)] if there else [],
        bindings=[
            Binding(each["source"], each["destination"], each["routing_key"])
            for each in (await api.get("bindings", name) if there else [])
            if each["destination_type"] == "queue"
        ],
        permissions=_permissions(await _unless_refused(api.get("vhosts", name, "permissions")) if there else None),
        topic_permissions=[
            TopicPermission(each["user"], each["exchange"], each["write"])
            for each in (await _unless_refused(api.get("vhosts", name, "topic-permissions")) if there else None) or ()
        ],
        tags={each["name"]: _tags(each["tags"]) for each in await _unless_refused(api.get("users")) or ()},
        connections=_connections(await _unless_refused(api.connections(name)) if there else None),
        nodes=None
        if nodes is None
        else [
            Node(
                each["name"],
                each.get("running", True),
                each.get("mem_alarm", False),
                each.get("disk_free_alarm", False),
                each.get("partitions", []),
            )
            for each in nodes
        ],
    )


async def login_refusal(url: str) -> str | None:
    """Return RabbitMQ's refusal of the password in this URL, or None if it accepts it."""
    try:
        with asking_broker(url):
            async with asyncio.timeout(_SECONDS), await aio_pika.connect(url):
                return None
    except BrokerUnavailable as error:
        return str(error) if isinstance(error.__cause__, aiormq.exceptions.ProbableAuthenticationError) else None


def _queue(found: Mapping[str, Any]) -> Queue:
    """Counters are not there for a queue that is seconds old, or down."""
    return Queue(
        name=found["name"],
        kind=found.get("type", "classic"),
        exclusive=found.get("exclusive", False) or found.get("auto_delete", False),
        state=found.get("state", "running"),
        arguments=found.get("arguments", {}),
        policy=found.get("policy") or "",
        policy_sets=found.get("effective_policy_definition") or {},
        messages=found.get("messages", 0),
        ready=found.get("messages_ready", 0),
        message_bytes=found.get("message_bytes", 0),
        consumers=found.get("consumers", 0),
        members=len(found.get("members", [])),
        online=len(found.get("online", [])),
    )


def _permissions(found: Any) -> list[Permission] | None:
    if found is None:
        return None
    return [Permission(each["user"], each["configure"], each["write"], each["read"]) for each in found]


def _tags(found: Any) -> list[str]:
    """Return a user's tags, which versions before 3.9 report as text with commas."""
    return [each for each in found.split(",") if each] if isinstance(found, str) else list(found)


def _connections(found: Any) -> list[Connection] | None:
    if found is None:
        return None
    return [Connection(each.get("user_provided_name") or "", each.get("state", "")) for each in found]


async def _unless_missing(asking: Any) -> Any:
    try:
        return await asking
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            return None
        raise


async def _unless_refused(asking: Any) -> Any:
    """Some things are told to users with the tag monitoring or administrator only."""
    try:
        return await asking
    except httpx.HTTPStatusError as error:
        if error.response.status_code in _REFUSED:
            return None
        raise
