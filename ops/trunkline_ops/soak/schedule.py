"""Which faults happen when, and to whom: pure, and the same again for the same seed."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final, NamedTuple

MEAN_SECONDS: Final = 1.5
"""Between two faults; each takes its own time besides, so that some happen at once."""

SERVERS: Final = ("postgres", "rabbitmq")
NETWORKS: Final = ("to postgres", "to rabbitmq")


class Fault(NamedTuple):
    """At `at` seconds, `kind` happens to `target`, and lasts for `seconds` where it is something that lasts."""

    at: float
    kind: str
    target: str
    seconds: float = 0.0


class Kind(NamedTuple):
    """How often, in comparison with others; and for how long, as a range in leases."""

    weight: int
    leases: tuple[float, float] = (0.0, 0.0)


KINDS: Final = {
    "kill": Kind(10),
    "kill owner": Kind(6),
    "pause": Kind(3, (0.2, 2.5)),
    "pause owner": Kind(6, (0.2, 2.5)),
    "cut": Kind(4),
    "stall": Kind(2, (0.1, 2.0)),
    "refuse": Kind(2, (0.1, 2.0)),
    "sessions": Kind(2),
    "connections": Kind(2),
    "purge": Kind(4),
    "delete": Kind(4),
    "vhost": Kind(1, (0.0, 1.0)),
    "stop": Kind(1, (0.0, 1.0)),
    "crash": Kind(1, (0.0, 1.0)),
    "freeze": Kind(1, (0.2, 2.0)),
    "mend": Kind(4),
    "hang up": Kind(2, (0.2, 2.0)),
    "backlog": Kind(1, (0.5, 2.0)),
    "roll back": Kind(2, (0.0, 0.5)),
    "forge": Kind(3),
    "damage": Kind(3),
    "purge replay": Kind(2),
}
"""Programs are killed and paused: anyone, or the owner of a subscription. A network is cut, loses everything for a
while, or refuses. PostgreSQL's sessions are ended, RabbitMQ's connections closed. A queue is purged or deleted, the
vhost wiped. A server is stopped and started, crashes, or stands still. What was parked is mended, and retried. The
broker's address accepts and closes. Relays stand still, and come back to a backlog. PostgreSQL is killed right after an
append was rolled back. Messages are forged, or damaged. The queue that a replay fills is purged."""
PROMOTION: Final = "promote"
"""The last fault, if the servers are private: a standby is promoted, while the old primary still answers reads."""
TAKE_AWAY: Final = frozenset({"stop", "crash", "freeze", "roll back", PROMOTION})
"""What is done to servers."""


def schedule(
    seed: int,
    seconds: float,
    *,
    lease: float,
    actors: Sequence[str],
    subscriptions: Sequence[str],
    consumers: Sequence[str],
    only: Sequence[str] = (),
) -> Iterator[Fault]:
    """The faults of a soak of this length. consumers: whose queues suffer. only: those kinds, if there are any."""
    random = Random(seed)
    kinds = [kind for kind in KINDS if not only or kind in only]
    weights = [KINDS[kind].weight for kind in kinds]
    targets: dict[str, Sequence[str]] = {
        "kill": actors,
        "pause": actors,
        "kill owner": subscriptions,
        "pause owner": subscriptions,
        **dict.fromkeys(("cut", "stall", "refuse"), NETWORKS),
        "sessions": SERVERS[:1],
        **dict.fromkeys(("connections", "vhost"), SERVERS[1:]),
        **dict.fromkeys(("purge", "delete"), consumers),
        **dict.fromkeys(("stop", "crash", "freeze"), SERVERS),
        "mend": ("parking",),
        "hang up": NETWORKS[1:],
        "backlog": ("relays",),
        "roll back": SERVERS[:1],
        "forge": ("exchange", *subscriptions),
        "damage": ("exchange", *subscriptions),
        "purge replay": SERVERS[1:],
    }
    if not kinds:
        return
    at = random.expovariate(1 / MEAN_SECONDS)
    while at < seconds:
        (kind,) = random.choices(kinds, weights)
        shortest, longest = KINDS[kind].leases
        yield Fault(at, kind, random.choice(targets[kind]), lease * random.uniform(shortest, longest))
        at += random.expovariate(1 / MEAN_SECONDS)
