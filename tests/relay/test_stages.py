"""The four places where events wait."""

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest

from trunkline_relay.stages import Queues, Stage, stages
from trunkline_store.line import Depth, line
from trunkline_store.overview import OpenTransaction, Overview, RelayInfo
from trunkline_store.subscriptions import SubscriptionInfo
from trunkline_store.words import age, counted, events

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = UUID(int=7)


def subscription(name: str, behind: int = 0, seconds: float = 0, *, halted: str | None = None) -> SubscriptionInfo:
    owner = OWNER if halted is None else None
    return SubscriptionInfo(name, "$all", 10, owner, 1, NOW, NOW, behind, seconds, 0, halted)


def seen(
    *subscriptions: SubscriptionInfo, lag: int = 0, seconds: float = 0, transaction: OpenTransaction | None = None
) -> Overview:
    relay = RelayInfo(100, OWNER, 3, NOW, lag, seconds)
    return Overview(
        *(NOW, "eventstore", 3, "h", "json", "application/json", NOW, 100, 100, 2 if transaction else 0, transaction),
        *(100, 1, 100, relay, subscriptions),
    )


def drawn(view: Overview, queues: Queues, *, led: bool = True, blocked: bool = False) -> list[Stage]:
    waiting = line(view, None if isinstance(queues, str) else queues)
    return stages(view, waiting, queues, led=led, blocked=blocked)


OPEN = OpenTransaction(7, "ann", "shop", None, 4.0)
QUEUES = {"eventstore.s": Depth(5, 0, 1)}


@pytest.mark.parametrize(
    ("view", "queues", "led", "blocked", "late"),
    [
        (seen(subscription("s")), {}, True, False, []),
        (seen(subscription("s", 9, 1.9)), {}, True, False, []),
        (seen(lag=9, seconds=1.9), {}, True, False, []),
        (seen(transaction=OPEN._replace(seconds=0.1)), {}, True, False, []),
        (seen(transaction=OPEN), {}, True, False, ["transactions"]),
        (seen(transaction=OPEN._replace(seconds=None)), {}, True, False, ["transactions"]),
        (seen(lag=9, seconds=2.0), {}, True, False, ["relay"]),
        (seen(), {}, False, False, ["relay"]),
        (seen(lag=9, seconds=60), {}, True, True, ["broker"]),
        (seen(subscription("s", 9, 60)), QUEUES, True, False, ["broker"]),
        (seen(subscription("s", 9, 60)), "not known", True, False, ["handlers"]),
        (seen(subscription("s", 0, 0, halted="{}")), {}, True, False, []),
        (seen(subscription("s", 1, 0, halted="{}")), {}, True, False, ["handlers"]),
        (seen(subscription("s", 9, 60), lag=9, seconds=3, transaction=OPEN), {}, True, False,
         ["transactions", "relay", "handlers"]),
    ],
)  # fmt: skip
def test_the_one_that_is_late_is_named(
    view: Overview, queues: Queues, led: bool, blocked: bool, late: list[str]
) -> None:
    """Four places in the order of the way; late are those that hold something up for two seconds, or need a person."""
    found = drawn(view, queues, led=led, blocked=blocked)
    assert [stage.name for stage in found] == ["transactions", "relay", "broker", "handlers"]
    assert [stage.name for stage in found if stage.late] == late


def test_they_say_what_is_there() -> None:
    """Who the transaction is, how far the relay is, what is in the queues, and which subscription is worst."""
    view = seen(subscription("a", 20_000, 70), subscription("b", 1, 7200), lag=1, seconds=0.25, transaction=OPEN)
    assert [stage.says for stage in drawn(view, {"x": Depth(1, 2_000, 1)})] == [
        "process 7 ('shop', ann), open for 4.0 s; 2 events wait behind it",
        "1 event behind, 0.2 s",
        "1 message ready, 2,000 unacknowledged",
        "b is 1 event behind, 2 h, and 1 more",
    ]
    assert drawn(seen(), "not known: why")[2].says == "not known: why"
    assert drawn(seen(), {}, led=False)[1].says == "no relay leads; 0 events behind"
    assert drawn(seen(), {})[3].says == "no subscriptions"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    """In the unit that fits."""
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("count", "or_more", "text"),
    [
        (0, None, "0 events"),
        (1, None, "1 event"),
        (9_999, None, "9,999 events"),
        (10_000, None, "10,000 events or more"),
        (1_000, True, "1,000 events or more"),
        (10_000, False, "10,000 events"),
        (1, True, "1 event or more"),
    ],
)
def test_a_count_says_where_counting_stopped(count: int, or_more: bool | None, text: str) -> None:
    """At 10,000 unless it is known better: of many subscriptions, fewer are counted each."""
    assert events(count, or_more=or_more) == text
    assert counted(count, or_more=or_more) == re.sub(" events?", "", text)
