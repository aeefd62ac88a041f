"""What happens in a soak, from the first program's start to the audit."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any, Final, NamedTuple

from trunkline_ops.demo.processes import Died, Report
from trunkline_ops.soak.audit import Figures, audit, missing, not_replayed
from trunkline_ops.soak.cast import Cast, Role
from trunkline_ops.soak.faults import ASK_SECONDS, OWNER, Faults, mend, promoted
from trunkline_ops.soak.plain import QUEUE, SUBSCRIBER
from trunkline_ops.soak.schedule import PROMOTION, Fault
from trunkline_ops.soak.stage import Stage, spoken
from trunkline_ops.soak.subscriber import LOOPS, MIX
from trunkline_relay import Replay
from trunkline_store import BrokerUnavailable, MessagesLost, QueueNotFound, SubscriptionNotFound, Unavailable

Happen = Callable[[Faults, Cast], Coroutine[Any, Any, None]]

SETTLE_SECONDS: Final = 300
"""Without any progress, before the audit is made all the same."""
LOOK_SECONDS: Final = 0.25
PROMOTED_LEASES: Final = 3
TELL_SECONDS: Final = 10

_STANDING: Final = """
    SELECT (SELECT coalesce(max(position), 0) FROM eventstore.events) AS last,
           (SELECT coalesce(max(position), 0) FROM eventstore.relays) AS relayed,
           (SELECT count(*) FROM eventstore.parked) AS parked,
           (SELECT json_object_agg(name, checkpoint) FROM eventstore.subscriptions)::text AS checkpoints
"""

_HOLES: Final = """
    SELECT above + 1, up_to FROM soak.holes
    UNION ALL
    SELECT coalesce((SELECT max(position) FROM soak.effects WHERE subscriber = $1 AND NOT replayed), 0) + 1,
           coalesce((SELECT max(position) FROM eventstore.events), 0)
"""


class Company(NamedTuple):
    """How many programs of each kind: subscribers by the kind, which is their subscription's name; and consumers
    without the SDK."""

    writers: int
    relays: int
    subscribers: Mapping[str, int]
    plain: int


EVERYBODY: Final = Company(2, 2, {"plain": 1, "tx": 2, "concurrent": 2, "parking": 1}, 1)
OWNERS: Final = Company(1, 1, {"tx": 3, "concurrent": 3}, 0)
"""For killing owners: there is always one that waits."""


class Standing(NamedTuple):
    """How far everybody is: last position, the relay's, what is parked, and checkpoints by subscription."""

    last: int
    relayed: int
    parked: int
    checkpoints: dict[str, int]


def stalled(before: dict[str, tuple[int, float]], standing: Standing, now: float) -> float:
    """Seconds for which the subscription that stands still longest has done so while it is behind; 0 if none does.
    before: of each, where it was, and since when; it is brought up to date."""
    longest = 0.0
    for name, checkpoint in standing.checkpoints.items():
        position, since = before.get(name, (-1, now))
        if checkpoint != position or checkpoint >= standing.last:
            before[name] = checkpoint, now
        longest = max(longest, now - since) if position >= 0 and position < standing.last else longest
    return longest


class Soak:
    """One run. tell: is told what happens."""

    def __init__(
        self,
        stage: Stage,
        *,
        lease: float,
        rate: float,
        seed: int,
        without: str | None,
        loop: str,
        promotion: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._stage = stage
        self._lease = lease
        self._rate = rate
        self._seed = seed
        self._without = [without] if without is not None else []
        self._loop = loop
        self._promotion = promotion
        self._tell = tell
        self._acknowledged: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        self._longest_stall = 0.0

    async def play(self, company: Company, happen: Happen) -> tuple[Figures, Sequence[str]]:
        """Everybody works while `happen` lasts. Returns the figures, and what is wrong, if something is."""
        roles, stage, began = self._roles(company), self._stage, time.monotonic()
        language = await spoken(stage)
        async with AsyncExitStack() as stack:
            cast = await stack.enter_async_context(Cast(roles, stage.environment, self._tell, self._reported))
            faults = Faults(stage, cast, self._tell)
            looking = asyncio.create_task(self._look(faults))
            try:
                await self._until(lambda standing: standing.checkpoints.keys() == {*company.subscribers}, "begin")
                await happen(faults, cast)
                if self._promotion:
                    await stack.enter_async_context(promoted(stage))
                    self._tell("a standby was promoted; the old primary still answers")
                    faults.survived[PROMOTION] += 1
                    await asyncio.sleep(PROMOTED_LEASES * self._lease)  # the programs work on meanwhile
                self._tell("the faults are over, the writers stop")
                await cast.leave(*(name for name in roles if name.startswith("writer")))
                await self._settle()
            finally:
                looking.cancel()
            replayed = await self._replay() if company.plain else 0
            crashes = cast.crashes
            await cast.leave(*roles)
            found = await audit(stage.store, company.subscribers, self._acknowledged, plain=company.plain > 0)
            if faults.unnoticed:
                found.counts["lost"] += faults.unnoticed
                found = found._replace(details=[*found.details, f"{faults.unnoticed} replays lost messages unnoticed"])
        figures = Figures(
            **found.counts,
            holes_replayed=replayed,
            faults=faults.survived.total(),
            met={kind: count for kind, count in sorted(faults.survived.items()) if count},
            language=language,
            loop=self._loop,
            kills=cast.kills,
            crashes=crashes,
            longest_stall_seconds=round(self._longest_stall, 1),
            seconds=round(time.monotonic() - began, 1),
            seed=self._seed,
            ok=not found.details,
        )
        return figures, found.details

    async def kill_owners(self, subscriptions: Iterable[str], kills: int, faults: Faults, cast: Cast) -> None:
        """So many, of each subscription one after the other, at some moment after they have begun to write."""

        async def one_after_the_other(subscription: str, random: Random) -> None:
            owner = 0
            while cast.kills < kills:
                owner = await self._owner(subscription, but=owner)
                await asyncio.sleep(random.uniform(0, 0.05))  # at any moment
                await faults.happen([Fault(0, "kill owner", subscription)])

        async with asyncio.TaskGroup() as tasks:
            for number, subscription in enumerate(subscriptions):
                tasks.create_task(one_after_the_other(subscription, Random(self._seed + number)))

    def _roles(self, company: Company) -> dict[str, Role]:
        lease = f"{self._lease}"
        roles = [
            *_several("writer", company.writers, "trunkline_ops.soak.writer", f"{self._rate / company.writers}"),
            *_several("relay", company.relays, "trunkline_ops.cli", "relay", "--lease", lease),
            *_several(SUBSCRIBER, company.plain, "trunkline_ops.soak.plain"),
        ]
        for kind, count in company.subscribers.items():
            for number in range(1, count + 1):
                loop = LOOPS[len(roles) % len(LOOPS)] if self._loop == MIX else self._loop
                arguments = (kind, lease, loop, *self._without)
                roles.append(Role(f"{kind}-{number}", "trunkline_ops.soak.subscriber", arguments))
        return {role.name: role for role in roles}

    def _reported(self, name: str, report: Report) -> None:
        for first, last in report["acknowledged"]:
            self._acknowledged[name].extend((first, last))

    async def _standing(self) -> Standing:
        async with asyncio.timeout(ASK_SECONDS):
            row = await self._stage.store.fetchrow(_STANDING)
        assert row is not None
        last, relayed, parked, checkpoints = row
        return Standing(last, relayed, parked, json.loads(checkpoints or "{}"))

    async def _look(self, faults: Faults) -> None:
        """How long somebody stands still; and now and then it is told how far everybody is."""
        before: dict[str, tuple[int, float]] = {}
        due = time.monotonic() + TELL_SECONDS
        while True:
            with suppress(Unavailable, TimeoutError):
                standing, now = await self._standing(), time.monotonic()
                self._longest_stall = max(self._longest_stall, stalled(before, standing, now))
                if now >= due:
                    due = now + TELL_SECONDS
                    behind = {name: standing.last - each for name, each in standing.checkpoints.items()}
                    blocks = ", ".join(f"{name} {each // 1024}" for name, each in behind.items() if each)
                    self._tell(f"{faults.survived.total()} faults; blocks behind: {blocks or 'none'}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _until(self, fact: Callable[[Standing], bool], what: str) -> None:
        """Raises `Died` where there is no progress any more."""
        seen, moved = None, time.monotonic()
        while True:
            with suppress(Unavailable, TimeoutError):
                standing = await self._standing()
                if fact(standing):
                    return
                if standing != seen:
                    seen, moved = standing, time.monotonic()
            if time.monotonic() - moved > SETTLE_SECONDS:
                raise Died(f"there was no progress for {SETTLE_SECONDS} s, and they do not {what}: {seen}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _settle(self) -> None:
        """Until all is confirmed and handled; what is parked is mended. Without progress, the audit says what is
        wrong."""

        def settled(standing: Standing) -> bool:
            everybody = (standing.relayed, *standing.checkpoints.values())
            return min(everybody) >= standing.last and not standing.parked

        mending = asyncio.create_task(self._keep_mending())
        try:
            await self._until(settled, "settle")
        except Died as stuck:
            self._tell(str(stuck))
        finally:
            mending.cancel()

    async def _keep_mending(self) -> None:
        while True:
            with suppress(Unavailable, SubscriptionNotFound):
                await mend(self._stage)
            await asyncio.sleep(1)

    async def _replay(self) -> int:
        """What the consumer without the SDK has missed, by the holes that it saw, and what is behind its last message.
        Returns how many events that are."""
        stage, count = self._stage, len(await missing(self._stage.store, SUBSCRIBER))
        for start, end in await stage.store.fetch(_HOLES, SUBSCRIBER):
            for _ in range(30):
                try:
                    await Replay(stage.store, stage.amqp_url, QUEUE, start=start, end=end).run()
                    break
                except (BrokerUnavailable, MessagesLost, QueueNotFound):
                    await asyncio.sleep(0.5)  # until its consumer has connected again, and made it
        with suppress(TimeoutError):  # then the audit says what is wrong
            async with asyncio.timeout(SETTLE_SECONDS):
                while await not_replayed(stage.store):  # noqa: ASYNC110 - another program writes them
                    await asyncio.sleep(LOOK_SECONDS)
        return count

    async def _owner(self, subscription: str, *, but: int) -> int:
        """Waits until a program other than `but` has written. Raises `Died` where none does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while True:
                    with suppress(Unavailable):
                        found = await self._stage.store.fetchval(OWNER, subscription)
                        if found is not None and found != but:
                            return int(found)
                    await asyncio.sleep(0.02)
        raise Died(f"nobody has taken {subscription} over for {SETTLE_SECONDS} s")


def _several(name: str, count: int, module: str, *arguments: str) -> list[Role]:
    return [Role(f"{name}-{number}", module, arguments) for number in range(1, count + 1)]
