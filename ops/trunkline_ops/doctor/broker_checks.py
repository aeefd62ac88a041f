"""What of RabbitMQ's facts is not as it should be. Pure.

A queue of a subscription is a cache that its owner makes, and makes anew. All other queues that are bound to the
store's exchanges are plain consumers', who have only what reaches them: their traps are others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import quote

from trunkline_consumer.feed import Feed
from trunkline_ops.definitions import Login, User, rights
from trunkline_ops.doctor.broker_facts import BrokerFacts, Permission, Queue
from trunkline_ops.doctor.finding import Finding, note
from trunkline_ops.doctor.mend import rabbitmqctl
from trunkline_store import InvalidArgument, SubscriptionInfo, names
from trunkline_store.overview import Overview
from trunkline_store.words import age

_OLDEST: Final = (3, 10)
_DROPS_AFTER_RETURNS: Final = (4, 0)
_QUEUE: Final = {"queue-type": "quorum", "overflow": "drop-head"}
_LIMITS: Final = ("max-length", "max-length-bytes", "expires")
_MEDDLES: Final = ("max-length", "max-length-bytes", "overflow", "expires", "message-ttl", "delivery-limit")
_CHANGES_RIGHTS: Final = ("administrator", "policymaker")
_TRANSIENT: Final = "amq.gen-x"
_PROGRAMS: Final[tuple[User, ...]] = ("relay", "consumer")
_PLAIN_AGAIN: Final = "have plain consumers bind their queues again, and what they miss replayed: trunkline replay"
_SHORT_TIMEOUT: Final = 60_000
"""Milliseconds: a consumer that holds a message for longer loses its channel."""


def broker_findings(facts: BrokerFacts, schema: str, seen: Overview | None, batch_bytes: int) -> Iterator[Finding]:
    """seen: the store, as far as it could be looked at. batch_bytes: of its largest messages."""
    yield from _server(facts)
    if not facts.there:
        yield Finding(
            "vhost-missing",
            f"vhost {facts.vhost!r}",
            "it is not there",
            "no relay and no consumer can connect",
            rabbitmqctl("add_vhost", facts.vhost),
        )
        return
    yield from _exchanges(facts, schema, seen)
    subscriptions = {} if seen is None else {names.queue(schema, each.name): each for each in seen.subscriptions}
    bound = {each.queue for each in facts.bindings if each.exchange in _exchange_names(schema)}
    for queue in facts.queues:
        mine = queue.name.startswith(f"{schema}.")
        if queue.exclusive or not (mine or queue.name in bound):
            continue
        yield from _any_queue(facts, queue, batch_bytes)
        if queue.name in subscriptions:
            yield from _subscriptions_queue(facts, queue, subscriptions[queue.name], schema)
        elif mine and seen is not None:
            yield _orphan(facts, queue)
        elif queue.name in bound and not mine:  # its owner is unknown while the store cannot be read
            yield from _plain_queue(facts, queue)
    there = {queue.name for queue in facts.queues}
    for name, subscription in subscriptions.items():
        if name not in there and subscription.owner is not None:
            yield Finding(
                "queue-missing",
                f"subscription {subscription.name!r}",
                f"it is followed, and its queue {name!r} is not there",
                "it reads from PostgreSQL only, which is slower: its owner cannot reach RabbitMQ, or may not declare",
                "look at its program's log; it declares its queue by itself, within seconds",
            )
    yield from _permissions(facts, schema, subscriptions)
    yield from _publishers(facts, schema)
    yield from _connections(facts, schema)


def _version(facts: BrokerFacts) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", facts.version)[:2])


def _delete(facts: BrokerFacts, queue: Queue) -> str:
    return rabbitmqctl("delete_queue", queue.name, vhost=facts.vhost)


def _exchange_names(schema: str) -> tuple[str, str]:
    return names.exchange(schema), names.links_exchange(schema)


def _server(facts: BrokerFacts) -> Iterator[Finding]:
    if _version(facts) < _OLDEST:
        yield Finding(
            "rabbitmq-version",
            "RabbitMQ",
            f"it is {facts.version}",
            "trunkline is made for 3.10 and newer",
            "upgrade RabbitMQ",
        )
    if facts.nodes is None or facts.permissions is None or facts.connections is None:
        missing = [
            what
            for what, part in (
                ("alarms", facts.nodes),
                ("users' permissions", facts.permissions),
                ("connections", facts.connections),
            )
            if part is None
        ]
        if facts.there:
            yield note(
                "broker-not-looked-at",
                "RabbitMQ",
                f"{' and '.join(missing)} were not looked at",
                f"the management API does not tell user {facts.asks!r}: permissions take the tag administrator, the "
                "others monitoring",
                f"{rabbitmqctl('set_user_tags', facts.asks, 'administrator')}, or another user in --management-url",
            )
    for node in facts.nodes or ():
        for wrong, code, problem, mend in (
            (not node.running, "node-down", "it does not run", "start it: systemctl start rabbitmq-server"),
            (node.memory_alarm, "alarm-memory", "it has a memory alarm", "rabbitmq-diagnostics memory_breakdown"),
            (node.disk_alarm, "alarm-disk", "it has a disk alarm", "make room on its disk, or lower disk_free_limit"),
            (
                bool(node.partitions),
                "node-partitioned",
                f"it has lost sight of {', '.join(node.partitions)}",
                "rabbitmqctl cluster_status; restart the smaller side",
            ),
        ):
            if wrong:
                means = (
                    "RabbitMQ takes no messages from anybody: the relay waits"
                    if code.startswith("alarm")
                    else "quorum queues without a majority confirm nothing, and hold the relay up for its patience"
                )
                yield Finding(code, f"node {node.name}", problem, means, mend)


def _exchanges(facts: BrokerFacts, schema: str, seen: Overview | None) -> Iterator[Finding]:
    for name in _exchange_names(schema):
        found = facts.exchanges.get(name)
        subject = f"exchange {name!r}"
        if found is None:
            if seen is not None and seen.relay is not None and seen.relay.owner is not None:
                yield Finding(
                    "exchange-missing",
                    subject,
                    "it is not there, though a relay leads",
                    "nothing that is published arrives; all bindings went with it",
                    "start the relay anew: it declares its exchanges; owners of subscriptions bind their queues again; "
                    f"then {_PLAIN_AGAIN}",
                )
        elif found.kind != "topic" or not found.durable or found.auto_delete:
            wrong = found.kind if found.kind != "topic" else "not durable" if not found.durable else "auto-delete"
            yield Finding(
                "exchange-kind",
                subject,
                f"it is {wrong}, and must be a durable topic exchange",
                "the relay cannot declare it, and publishes nothing; bindings by pattern do not work",
                f"curl -u USER -X DELETE {{management}}/api/exchanges/{quote(facts.vhost, safe='')}/{name}; the relay "
                f"declares it anew; then {_PLAIN_AGAIN}",
            )


def _any_queue(facts: BrokerFacts, queue: Queue, batch_bytes: int) -> Iterator[Finding]:
    subject = f"queue {queue.name!r}"
    if queue.state not in ("running", "idle", "flow"):
        yield Finding(
            "queue-down",
            subject,
            f"it is {queue.state}",
            "it takes and gives nothing, and holds the relay up for its patience",
            f"start its node; if that is gone for good: {_delete(facts, queue)}; then start its consumer anew, "
            "and have what a plain one misses replayed: trunkline replay",
        )
    elif queue.members > 1 and queue.online * 2 <= queue.members:
        yield Finding(
            "queue-majority",
            subject,
            f"{queue.online} of its {queue.members} members are online",
            "without a majority it confirms nothing, and holds the relay up for its patience",
            "start the missing nodes: rabbitmqctl cluster_status",
        )
    room = queue.setting("max-length-bytes")
    if isinstance(room, int) and room < batch_bytes:
        yield Finding(
            "queue-too-small",
            subject,
            f"it has room for {room} bytes, and a message may have {batch_bytes}",
            "a large message is dropped at once, or drops all others",
            f"declare it with x-max-length-bytes of {16 * batch_bytes} or more",
        )
    lasts = queue.setting("message-ttl")
    if lasts is not None:
        yield Finding(
            "queue-ttl",
            subject,
            f"its messages expire after {lasts} ms",
            "a consumer that was away for longer finds a hole",
            f"take message-ttl out of policy {queue.policy!r}: {_policies(facts)}"
            if "message-ttl" in queue.policy_sets
            else "declare it without x-message-ttl",
        )
    patience = queue.setting("consumer-timeout")
    if isinstance(patience, int) and patience < _SHORT_TIMEOUT:
        yield Finding(
            "consumer-timeout",
            subject,
            f"who holds a message for {patience} ms loses his channel",
            "a handler that is busy for longer gets its messages again, and again",
            "declare it without x-consumer-timeout (RabbitMQ's own is half an hour), or with one of 10 minutes",
        )


def _subscriptions_queue(
    facts: BrokerFacts, queue: Queue, subscription: SubscriptionInfo, schema: str
) -> Iterator[Finding]:
    subject = f"queue {queue.name!r}"
    again = f"{_delete(facts, queue)}; the subscription's owner makes it anew"
    wrong = [
        f"{name} {queue.kind if name == 'queue-type' else queue.arguments.get(f'x-{name}', 'not set')}"
        for name, value in _QUEUE.items()
        if (queue.kind if name == "queue-type" else queue.arguments.get(f"x-{name}")) != value
    ] + [f"no {name}" for name in _LIMITS if f"x-{name}" not in queue.arguments]
    if wrong:
        yield Finding(
            "queue-arguments",
            subject,
            f"it has {', '.join(wrong)}",
            "somebody else declared it: its owner deletes it when it next connects, and till then it may grow without "
            "limit, refuse messages, or vanish with its node",
            again,
        )
    meddles = [name for name in _MEDDLES if name in queue.policy_sets]
    if meddles:
        yield Finding(
            "queue-policy",
            subject,
            f"policy {queue.policy!r} sets its {', '.join(meddles)}",
            "the lower limit counts: what is dropped early is read from PostgreSQL, which is slower",
            f"give it a pattern that leaves ^{schema}\\. out, or "
            f"{rabbitmqctl('clear_policy', queue.policy, vhost=facts.vhost)}",
        )
    try:
        feed = Feed.of(subscription.feed)
    except InvalidArgument:
        return  # of a newer version
    bound = {(each.exchange, each.key) for each in facts.bindings if each.queue == queue.name}
    for exchange, key in feed.bindings(schema):
        if (exchange, key) not in bound and exchange in facts.exchanges:
            yield Finding(
                "binding-missing",
                subject,
                f"it is not bound to {exchange!r} with {key!r}",
                "nothing reaches it: its subscription reads from PostgreSQL, which is slower",
                again,
            )


def _orphan(facts: BrokerFacts, queue: Queue) -> Finding:
    """It may be of a store in another database, which is called the same and uses the same vhost: to delete it is
    offered only where nobody consumes it, and under that condition."""
    subject, problem = f"queue {queue.name!r}", "no subscription of this store has this name"
    unless = "if no store of the same name, in another database, uses this vhost"
    if queue.consumers:
        return Finding(
            "queue-orphan",
            subject,
            f"{problem}, and somebody consumes it",
            "another store of this name, in another database, uses this vhost, and each gets the other's events; or a "
            "plain consumer's queue is named like a subscription's",
            f"leave the queue; give one of the two stores a vhost or a name of its own. Who consumes it: "
            f"{rabbitmqctl('list_consumers', vhost=facts.vhost)}",
        )
    if (lasts := queue.setting("expires")) is not None:
        return note(
            "queue-orphan",
            subject,
            f"{problem}, and nobody consumes it",
            f"a deleted subscription's goes by itself, {age(lasts / 1000)} after it was last used; or it is one of "
            "another store of this name, in another database, whose program is stopped",
            f"nothing is to be done; {unless}, it can go now: {_delete(facts, queue)}",
        )
    return Finding(
        "queue-orphan",
        subject,
        f"{problem}, and nobody consumes it",
        "it takes what nobody fetches, and has no expiry; it is a plain consumer's that is named like a "
        "subscription's, or of another store of this name, in another database",
        f"look whose it is; {unless}, and nobody wants it or the messages in it: {_delete(facts, queue)}",
    )


def _plain_queue(facts: BrokerFacts, queue: Queue) -> Iterator[Finding]:
    subject = f"queue {queue.name!r}, a plain consumer's"
    if queue.setting("max-length") is None and queue.setting("max-length-bytes") is None:
        yield Finding(
            "queue-unbounded",
            subject,
            "it has no limit",
            "while its consumer is away it fills the broker's disk, until RabbitMQ takes nothing from anybody",
            _limit(facts, queue),
        )
    if str(queue.setting("overflow") or "").startswith("reject-publish"):
        yield Finding(
            "queue-rejects",
            subject,
            "it refuses messages when it is full",
            "the relay, and so everybody, waits for it for its patience; then it misses messages all the same",
            "declare it with x-overflow drop-head: its consumer sees the hole, and has it replayed",
        )
    if queue.ready and not queue.consumers:
        yield Finding(
            "queue-idle",
            subject,
            f"{queue.ready} {'message waits' if queue.ready == 1 else 'messages wait'}, and nobody consumes it",
            "it fills; then it loses its oldest messages",
            f"start its consumer; if it is not wanted any more, with the messages in it: {_delete(facts, queue)}",
        )
    limit = queue.setting("delivery-limit")
    silent = queue.kind == "quorum" and queue.setting("dead-letter-exchange") is None
    if silent and isinstance(limit, int) and limit >= 0:
        yield Finding(
            "delivery-limit",
            subject,
            f"a message that was returned {limit} times is dropped without a word",
            "a consumer that fails at a message loses it: it finds a hole",
            "give it a dead-letter-exchange, or delivery-limit -1, by policy or by declaring it anew",
        )
    elif silent and limit is None and _version(facts) >= _DROPS_AFTER_RETURNS:
        yield note(
            "delivery-limit-default",
            subject,
            f"in RabbitMQ {facts.version} a message that was returned 20 times is dropped without a word",
            "a consumer that fails at a message loses it: it finds a hole",
            "give it a dead-letter-exchange, or delivery-limit -1, by policy or by declaring it anew",
        )


def _limit(facts: BrokerFacts, queue: Queue) -> str:
    """Return the command that limits a queue. RabbitMQ applies one policy to a queue, so a second one could switch off
    the first. A limit below the queue's contents would drop its oldest messages at once."""
    limits = json.dumps(
        {
            "max-length": max(100_000, 2 * queue.messages),
            "max-length-bytes": max(256 * 1024 * 1024, 2 * queue.message_bytes),
        }
    )
    if queue.policy:
        return f"set its policy {queue.policy!r} anew, with {limits} beside what it sets: {_policies(facts)}"
    words = (f"limit-{queue.name}", f"^{re.escape(queue.name)}$", limits)
    return rabbitmqctl("set_policy", *words, vhost=facts.vhost, apply_to="queues")


def _policies(facts: BrokerFacts) -> str:
    return rabbitmqctl("list_policies", vhost=facts.vhost)


def _permissions(facts: BrokerFacts, schema: str, subscriptions: Iterable[str]) -> Iterator[Finding]:
    """Report missing rights. subscriptions: their queues; the user may have the rights to only one of them."""
    if facts.permissions is None:
        return
    mine = next((each for each in facts.permissions if each.user == facts.user), None)
    exchange, links = _exchange_names(schema)
    there = (each.name for each in facts.queues if each.name.startswith(f"{schema}."))
    queues = {*there, *subscriptions, names.queue(schema, "a-subscription"), _TRANSIENT}
    relays = mine is not None and _may(mine, configure=(exchange, links), write=(exchange, links))
    consumes = mine is not None and any(
        _may(mine, configure=(name,), write=(name,), read=(exchange, name)) for name in queues
    )
    if not relays and not consumes:
        has = (
            f"configure {mine.configure!r}, write {mine.write!r}, read {mine.read!r}"
            if mine
            else "no permission at all"
        )
        yield Finding(
            "permissions",
            f"user {facts.user!r}",
            f"in vhost {facts.vhost!r} it has {has}: it may neither relay nor consume",
            "RabbitMQ refuses (403) what the program needs",
            "; ".join(
                f"for a {kind}: " + rabbitmqctl("set_permissions", facts.user, *rights(schema, kind), vhost=facts.vhost)
                for kind in _PROGRAMS
            ),
        )


def _publishers(facts: BrokerFacts, schema: str) -> Iterator[Finding]:
    """Report logins, other than the relay's, that may publish to the store's exchanges: a message is trusted for its
    exchange. Administrators are listed by their tag, since they can give themselves any right again."""
    relays = {Login(schema, "relay").name, facts.user}
    here = [each for each in facts.permissions or () if each.user not in relays]
    administrators = sorted(user for user, tags in facts.tags.items() if "administrator" in tags and user not in relays)
    for permission in here:
        into = [name for name in _exchange_names(schema) if _may_publish(facts, permission, name)]
        if into and permission.user not in administrators:
            yield Finding(
                "publisher",
                f"user {permission.user!r}",
                f"it is not the relay's, and may publish to {' and '.join(map(repr, into))}",
                "it is trusted like the relay: subscriptions and plain consumers believe what it publishes",
                f"if no relay uses it: {_without(facts, permission, schema)}",
            )
    makers = sorted(each.user for each in here if "policymaker" in facts.tags.get(each.user, ()))
    if by_tag := [*administrators, *(user for user in makers if user not in administrators)]:
        yield note(
            "publisher-by-tag",
            f"users {', '.join(map(repr, by_tag))}",
            "by the tag administrator or policymaker, they can enable themselves to publish to the store's exchanges",
            "an administrator grants any right; policies and parameters bring messages in by federation and shovels",
            "if a user does not need the tag: rabbitmqctl set_user_tags, without it",
        )


def _may_publish(facts: BrokerFacts, permission: Permission, exchange: str) -> bool:
    """Return True if the user may publish to `exchange`. A pattern that cannot be read here counts as a match."""
    limited = [each.write for each in facts.topic_permissions if each[:2] == (permission.user, exchange)]
    return _may(permission, write=(exchange,)) and not any(pattern in ("", "^$") for pattern in limited)


def _without(facts: BrokerFacts, permission: Permission, schema: str) -> str:
    """Return the command that takes only the store's exchanges from the user's write permission."""
    write = f"^(?!{re.escape(schema)}(-links)?$).*(?:{permission.write})"
    words = (permission.user, permission.configure, write, permission.read)
    return rabbitmqctl("set_permissions", *words, vhost=facts.vhost)


def _may(
    permission: Permission, *, configure: Sequence[str] = (), write: Sequence[str] = (), read: Sequence[str] = ()
) -> bool:
    """RabbitMQ searches for the pattern; an empty one fits nothing."""
    for pattern, objects in ((permission.configure, configure), (permission.write, write), (permission.read, read)):
        try:
            if not all(pattern and re.search(pattern, each) for each in objects):
                return False
        except re.error:  # of Erlang's own kind
            continue
    return True


def _connections(facts: BrokerFacts, schema: str) -> Iterator[Finding]:
    for each in facts.connections or ():
        if each.state in ("blocked", "blocking") and each.name.startswith(f"{schema} relay ("):
            yield Finding(
                "relay-blocked",
                f"connection {each.name!r}",
                f"it is {each.state}",
                "RabbitMQ has an alarm and takes nothing: the relay waits; writers do not",
                "rabbitmq-diagnostics alarms; then give it the memory or the disk that it lacks",
            )
