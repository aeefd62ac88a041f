"""The proof: tables and broker, page by page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

from trunkline_ops.depths import depths
from trunkline_ops.progress import Advance
from trunkline_ops.settings import Settings
from trunkline_ops.verify.feeds import Feed, Feeds, Ranges, words
from trunkline_ops.verify.versions import NAMED, Gap, Versions
from trunkline_store import EventStore, names
from trunkline_store.errors import BrokerUnavailable
from trunkline_store.line import Depth
from trunkline_store.overview import RELAY, overview
from trunkline_store.pages import Look
from trunkline_store.queries import for_store, parts_of

PAGE: Final = 10_000
_POLL_SECONDS: Final = 0.1


class Part(NamedTuple):
    """One thing that is proved, or is not: the sentence for people, the facts for programs. problem: of what is not,
    what it is and what to do, in a few words."""

    check: str
    ok: bool
    sentence: str
    facts: Mapping[str, Any]
    problem: str = ""


async def verify(
    store: EventStore,
    settings: Settings,
    advance: Advance,
    *,
    to: int | None = None,
    wait: float = 0.0,
    erased: bool = False,
    given_up_to: int = 0,
) -> list[Part]:
    """The parts of the proof up to position `to` (the last one that is safe to read, if it is not given).

    wait: seconds that relay and subscriptions have to come up to it, if they run. erased: streams may lack versions
    that were links to events which are removed for good. given_up_to: what the relay gave up below is known. RabbitMQ
    proves nothing: where its management API does not answer any more at the end, a part says so. Raises `Unavailable`,
    `UnsafeRead`.
    """
    sql = {name: for_store(text, store.schema, "json") for name, text in _QUERIES.items()}
    await depths(settings, store.schema)  # a wrong URL is told at once
    deadline = time.monotonic() + wait
    safe, history = await _look(store, to, deadline)
    end = safe if to is None else min(to, safe)
    end = int(await store.fetchval(store.sql["last_feed_position"], end, history))
    await _caught_up(store, end, history, deadline)
    published = await store.fetchrow(store.sql["see_relay"], RELAY)
    confirmed_to = 0 if published is None else published["position"]
    rows = await store.fetch(sql["subscriptions"])
    ranges = [Ranges((part.lower, part.upper) for part in row["finished"] if not part.isempty) for row in rows]
    highest = max([confirmed_to, *(row["checkpoint"] for row in rows), *(each.last for each in ranges)])
    # Asked after them, since they go on; a writer that was paused before it took its lock sets it back for a moment.
    known = (await _look(store, highest, deadline)).safe

    feeds, parking = Feeds(), {}
    every: list[Feed] = []
    for row, finished in zip(rows, ranges, strict=True):
        feed = Feed(row["name"], row["feed"], row["checkpoint"], finished, known)
        feeds.add(feed, row["stream_id"])
        every.append(feed)
        if row["parks"]:
            parking[row["subscription_id"]] = feed

    relay = Feed("relay", "$all", confirmed_to, Ranges(()), known)
    links = Feed("relay", "links", confirmed_to, Ranges(()), known)
    position = -1
    while page := await store.fetch(sql["page"], position, end, PAGE):
        for number, feed in parking.items():
            parked = await store.fetch(sql["parked"], number, page[0]["position"], page[-1]["position"])
            feed.parking = Ranges((first, last + 1) for first, last in parked)
        for position, stream_id, category, link in page:
            (links if link else relay).take(position)
            feeds.take(position, stream_id, category, link)
        advance(position, end, f"{relay.events} events")

    await _anchor([relay, *every], store, sql)
    versions, orphans = await _versions(store, sql, end, relay.events + links.events, advance)
    ends = await _ends(store, sql)
    ids = [each.stream_id for each in versions.gaps + versions.erasable_gaps]
    ids += [each.stream_id for each in versions.inversions]
    named = await _names(store, ids)
    led = (await overview(store)).relay
    leads = led is not None and led.owner is not None
    parts = [
        _store_part(to, safe, end, relay.events, links.events, ends.streams),
        _versions_part(versions, orphans, ends, named, erased=erased),
        _relay_part(
            relay, links, await _given_up(store, end), ever=published is not None, leads=leads, known=given_up_to
        ),
    ]
    queues = None
    try:
        queues = await depths(settings, store.schema)
    except BrokerUnavailable as error:
        parts.append(Part("queues", True, f"queues     were not looked at: {error}", {"problem": str(error)}))
    parts += [_subscription_part(feed, row, queues, store.schema) for row, feed in zip(rows, every, strict=True)]
    return parts


async def _look(store: EventStore, to: int | None, deadline: float) -> Look:
    while True:
        look = await store.look(follow=False)
        if to is None or look.safe >= to or time.monotonic() >= deadline:
            return look
        await asyncio.sleep(_POLL_SECONDS)


async def _anchor(feeds: Sequence[Feed], store: EventStore, sql: Mapping[str, str]) -> None:
    """Find the feeds whose checkpoint is not the position of an event in the store."""
    rows = await store.fetch(sql["held"], [feed.checkpoint for feed in feeds])
    held = {0, *(row["position"] for row in rows)}
    for feed in feeds:
        feed.anchored = feed.checkpoint in held


async def _caught_up(store: EventStore, end: int, history: str, deadline: float) -> None:
    """Wait for running feeds that are behind. A feed that has halted, or has no owner, is not waited for."""
    while time.monotonic() < deadline:
        seen = await overview(store)
        busy = seen.relay is not None and seen.relay.owner is not None and seen.relay.position < end
        for each in seen.subscriptions:
            left = await store.fetchval(store.sql["left_of"], each.name, end, history)
            busy = busy or bool(left and each.owner is not None and each.halted is None)
        if not busy:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def _versions(
    store: EventStore, sql: Mapping[str, str], end: int, count: int, advance: Advance
) -> tuple[Versions, list[tuple[int, int]]]:
    """And events whose stream is not there: readers of `$all` do not get them."""
    versions = Versions(end)
    orphans: list[tuple[int, int]] = []
    stream_id, version = 0, 0
    while page := await store.fetch(sql["versions"], stream_id, version, PAGE):
        ids = {row["stream_id"] for row in page}
        there = {row["stream_id"] for row in await store.fetch(store.sql["stream_names"], list(ids), None)}
        for row in page if ids - there else ():
            if row["stream_id"] not in there and row["position"] <= end and len(orphans) <= NAMED:
                orphans.append((row["stream_id"], row["position"]))
        linked = {row["stream_id"] for row in await store.fetch(sql["targets"], list(ids))}
        versions.take((number, version, position, number in linked) for number, version, position in page)
        stream_id, version, _ = page[-1]
        advance(versions.rows, count, f"{versions.rows} versions")
    return versions, orphans


class _Ends(NamedTuple):
    """Of so many streams, those whose row does not say the version that is there; apart from them, those that lack
    `missing` versions which may have been links to events that were removed for good."""

    streams: int
    wrong: list[str]
    erasable: list[str]
    missing: int


async def _ends(store: EventStore, sql: Mapping[str, str]) -> _Ends:
    wrong: list[str] = []
    erasable: list[str] = []
    streams = last = missing = 0
    while page := await store.fetch(sql["ends"], last, PAGE):
        streams, last = streams + len(page), page[-1]["stream_id"]
        for _, name, says, has, can in page:
            if says == has:
                continue
            removed = can and says > has
            missing += says - has if removed else 0
            told = erasable if removed else wrong
            if len(told) < NAMED:
                told.append(f"{name} says {says} and has {has}")
    return _Ends(streams, wrong, erasable, missing)


async def _names(store: EventStore, ids: list[int]) -> dict[int, str]:
    return {
        row["stream_id"]: row["stream"] for row in await store.fetch(store.sql["stream_names"], list(set(ids)), None)
    }


def _store_part(to: int | None, safe: int, end: int, events: int, links: int, streams: int) -> Part:
    problem = ""
    sentence = f"committed  {events} events and {links} links in {streams} streams, up to position {end}"
    if to is not None and to > safe:
        problem = f"above {safe} nothing can be said yet: a transaction is open, or nothing was appended"
        sentence += f"; {problem}"
    facts = {"committed": events, "links": links, "streams": streams, "position": end, "safe_position": safe}
    return Part("store", not problem, sentence, facts, problem)


def _versions_part(
    versions: Versions, orphans: list[tuple[int, int]], ends: _Ends, named: Mapping[int, str], *, erased: bool
) -> Part:
    def stream(number: int) -> str:
        return named.get(number, f"the stream with id {number}")

    def lacks(gap: Gap) -> str:
        which = f" {gap.first}" if gap.size == 1 else f"s {gap.first} to {gap.last}"
        return f"{stream(gap.stream_id)} lacks version{which}"

    missing, gaps, wrong = versions.missing, versions.gaps, ends.wrong
    allowed = versions.erasable + ends.missing if erased else 0
    if not erased:
        missing += versions.erasable
        gaps = sorted([*gaps, *versions.erasable_gaps])[:NAMED]
        wrong = [*wrong, *ends.erasable][:NAMED]
    inversions = [f"{stream(number)}@{version} at {position}" for number, version, position in versions.inversions]
    problems = []
    if missing:
        problems.append(f"{missing} versions are missing: {'; '.join(map(lacks, gaps))}")
    if versions.inverted:
        problems.append(f"{versions.inverted} are out of order: {'; '.join(inversions)}")
    if wrong:
        problems.append("; ".join(wrong))
    if orphans:
        problems.append(f"events without a stream, at {', '.join(str(position) for _, position in orphans[:NAMED])}")
    if not erased and (versions.erasable or ends.erasable):
        problems.append("if events that were linked were removed for good, use --erased")
    sentences = list(problems)
    if allowed:
        told = [*map(lacks, versions.erasable_gaps), *ends.erasable][:NAMED]
        sentences.append(f"{allowed} versions are missing, allowed by --erased: {'; '.join(told)}")
    facts = {
        "versions": versions.rows,
        "versions_missing": missing,
        "versions_erased": allowed,
        "out_of_order": versions.inverted,
        "gaps": [lacks(gap) for gap in gaps],
        "inversions": inversions,
        "ends": wrong,
        "orphans": [position for _, position in orphans[:NAMED]],
    }
    sentence = ". ".join(sentences) or "without holes, in the order of positions"
    return Part("versions", not problems, f"versions   {sentence}", facts, problems[0] if problems else "")


class _GivenUp(NamedTuple):
    """So many messages, between these positions."""

    messages: int
    first: int
    last: int


async def _given_up(store: EventStore, end: int) -> list[_GivenUp]:
    rows = await store.fetch(store.sql["given_up"], RELAY)
    return [_GivenUp(messages, first, last) for _, first, last, messages in rows if first <= end]


def _relay_part(relay: Feed, links: Feed, given_up: Sequence[_GivenUp], *, ever: bool, leads: bool, known: int) -> Part:
    """What the relay went on past is confirmed no more than what is above its position: some queue lacks it."""
    missing = relay.missing + links.missing
    sentence = f"confirmed  {relay.handled} events and {links.handled} links"
    named = sorted([*relay.named, *links.named])[:NAMED]
    problems = []
    if missing:
        sentence += f"; {missing} are not: {words(named, missing)}" if ever else "; no relay has ever run"
        why = "the relay is behind: give it time by --wait" if leads else "no relay leads: start `trunkline relay`"
        problems.append(f"{missing} of {relay.events + links.events} are not confirmed, and {why}")
    facts = {
        "confirmed": relay.handled,
        "confirmed_links": links.handled,
        "missing": missing,
        "positions": named,
        "beyond": relay.beyond,
        "anchored": relay.anchored,
        "given_up": [each._asdict() for each in given_up],
    }
    if beyond := _beyond(relay, "published"):
        problems.append(f"the relay: {beyond}")
        sentence += f"; {beyond}"
    sentence += _unanchored(relay)
    if given_up:
        count, first = sum(each.messages for each in given_up), min(each.first for each in given_up)
        last = max(each.last for each in given_up)
        messages = f"{count} messages" if count > 1 else "a message"
        sentence += f"; {messages} between positions {first} and {last} RabbitMQ refused or never confirmed"
    if any(each.last > known for each in given_up):
        problems.append(f"the relay gave up {messages}, up to position {last}, and some queue lacks them")
        sentence += (
            ", and some queue lacks them: `trunkline replay` brings a plain consumer's up to date, "
            f"--given-up {last} says that it was done"
        )
    return Part("relay", not problems, sentence, facts, problems[0] if problems else "")


def _beyond(feed: Feed, done: str) -> str:
    """As after a restore of an older backup."""
    if not feed.beyond:
        return ""
    above = f"it stands at {feed.stands}, {feed.beyond} above the safe position"
    return f"{above}: what is appended up to there is not {done}"


def _unanchored(feed: Feed) -> str:
    """Return a remark about such a checkpoint. It is no error by itself: only a person can know the cause."""
    if feed.anchored or feed.beyond:
        return ""
    return (
        f"; it stands at {feed.checkpoint}, where the store holds no event: it was reset to that number, "
        "or the event was erased or never stored"
    )


_HINTS: Final = {
    "halted": "`trunkline subscriptions show` says why",
    "behind": "give it time by --wait",
    "followed by nobody": "start its program",
}


def _subscription_part(feed: Feed, row: Any, queues: Mapping[str, Depth] | None, store: str) -> Part:
    sentence = f"handled    {feed.handled} of {feed.events} by {feed.name} ({feed.label})"
    problems = []
    if feed.missing:
        state = "halted" if row["halted"] else "behind" if row["followed"] else "followed by nobody"
        sentence += f"; {feed.missing} are not, it is {state}: {words(feed.named, feed.missing)}"
        problems.append(f"{feed.name} has not handled {feed.missing} of {feed.events}, and is {state}: {_HINTS[state]}")
    if feed.parked:
        sentence += f"; {feed.parked} are parked"
        problems.append(f"of {feed.name}, {feed.parked} are parked: `trunkline subscriptions parked` lists them")
    facts: dict[str, Any] = {
        "name": feed.name,
        "feed": feed.label,
        "events": feed.events,
        "handled": feed.handled,
        "parked": feed.parked,
        "missing": feed.missing,
        "positions": feed.named,
        "beyond": feed.beyond,
        "anchored": feed.anchored,
    }
    if beyond := _beyond(feed, "handled"):
        problems.append(f"{feed.name}: {beyond}")
        sentence += f"; {beyond}"
    sentence += _unanchored(feed)
    if queues is not None:
        depth = queues.get(names.queue(store, feed.name))
        facts["queue"] = None if depth is None else depth._asdict()
        sentence += (
            "; it has no queue" if depth is None else f"; in its queue {depth.ready} ready, {depth.unacked} unacked"
        )
    return Part("subscription", not problems, sentence, facts, problems[0] if problems else "")


_QUERIES = parts_of((files(__package__) / "queries.sql").read_text())
