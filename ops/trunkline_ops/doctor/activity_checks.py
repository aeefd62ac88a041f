"""What of those who are at work in a store is not as it should be: transactions, leases, relay, subscriptions. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from trunkline_ops.doctor.database_facts import DatabaseFacts, LeaseRow, StoreFacts
from trunkline_ops.doctor.finding import Finding, note
from trunkline_ops.doctor.mend import relation, trunkline
from trunkline_store.events import BLOCK
from trunkline_store.overview import RELAY, Overview
from trunkline_store.rights import literal
from trunkline_store.words import age, events

_WAITS_LONG: Final = 1.0
"""The seconds after which a wait is reported. An append gives up after 15, so no wait of one is much longer."""


def transactions(facts: DatabaseFacts, patience: float) -> Iterator[Finding]:
    """Open ones that hold readers back, or VACUUM."""
    holder = None if facts.store is None or facts.store.seen is None else facts.store.seen.transaction
    if facts.store is not None and holder is not None and holder.pid is not None:
        seconds, does = holder.seconds, "is open"
        if seconds is None:  # not everybody may see its age: but everybody, since when events wait for it
            seconds, does = facts.store.held_seconds, "holds readers back"
        if seconds is not None and seconds > patience:
            yield Finding(
                "transaction-holds",
                _who(holder.pid, holder.application, holder.login),
                f"it has appended, and {does} for {seconds:.0f} s",
                "relays and subscriptions do not get past it: nothing that was committed after it is delivered",
                "end its program, or its session, which rolls back what it has appended: "
                f"{_terminate(holder.pid, None if holder.seconds is None else patience)}",
            )
    for each in facts.transactions:
        if each.seconds <= patience:
            continue
        if each.prepared is not None:
            name = literal(each.prepared)
            yield Finding(
                "transaction-prepared",
                f"transaction {each.prepared!r}",
                f"prepared by {each.login} for {each.seconds:.0f} s, and neither committed nor rolled back",
                "if it has appended, no reader gets past it; it also keeps VACUUM from its work, also after a restart",
                "ask the transaction manager that prepared it how the other parts ended: COMMIT PREPARED "
                f"{name} keeps what it has appended, ROLLBACK PREPARED {name} discards it",
            )
        elif (each.state or "").startswith("idle in transaction") and (holder is None or each.pid != holder.pid):
            yield Finding(
                "transaction-idle",
                _who(each.pid, each.application, each.login),
                f"it is open, and idle for {each.seconds:.0f} s",
                "it keeps its locks, and VACUUM from its work: tables that are updated often grow, and get slow",
                f"end its program, or its session, which rolls it back: {_terminate(each.pid, patience)}",
            )


def waits(facts: DatabaseFacts, patience: float) -> Iterator[Finding]:
    """Report sessions that block others, a standby that blocks commits, and exhausted connections."""
    late = [each for each in facts.waits if each.seconds > min(patience, _WAITS_LONG)]
    waiting = {each.pid for each in late}
    for pid in sorted({pid for each in late for pid in each.blockers if pid not in waiting}):
        behind = [each for each in late if pid in each.blockers]
        what, seconds = ", ".join(sorted({each.what for each in behind})), max(each.seconds for each in behind)
        session = facts.sessions.get(pid)
        names = () if session is None else (session.application, session.login)
        known = session is not None and session.seconds is not None
        yield Finding(
            "session-blocks",
            _who(pid, *names) if pid else "a prepared transaction",
            f"{_sessions(len(behind))} for what it holds ({what}), for {seconds:.0f} s",
            "appends, the relay or subscriptions that need it stand still until its transaction ends",
            "commit it or roll it back, as its transaction manager says: the finding transaction-prepared names it"
            if pid == 0
            else "end its program, or its session, which rolls it back: "
            f"{_terminate(pid, _WAITS_LONG if known else None)}",
        )
    if commits := [each for each in late if each.standby]:
        yield Finding(
            "standby-missing",
            "PostgreSQL",
            f"{_sessions(len(commits))} for a synchronous standby, for {max(each.seconds for each in commits):.0f} s",
            "nothing is committed: appends fail with OperationTimeout, and no lease is renewed",
            "start the standby; to go on without it, after which what it does not have is lost with this server: "
            "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()",
        )
    used = facts.connections
    here = 0 <= used.most_here <= used.used_here
    if used.used >= used.most or here:
        by = ", ".join(f"{count} by {application!r} ({login})" for application, login, count in used.by)
        yield Finding(
            "connections-exhausted",
            f"database {facts.server.database!r}" if here else "PostgreSQL",
            f"{used.used_here if here else used.used} connections are open, which is the limit: {by}",
            "programs that connect now fail with StoreUnavailable, and those that run cannot replace lost connections",
            "give these programs smaller pools, or put PgBouncer in between; or raise "
            + ("the database's CONNECTION LIMIT" if here else "max_connections"),
        )


def _sessions(count: int) -> str:
    return "1 session waits" if count == 1 else f"{count} sessions wait"


def _who(pid: int | None, *names: str) -> str:
    return f"process {pid} ({', '.join(name for name in names if name)})"


def _terminate(pid: int | None, seconds: float | None) -> str:
    """Return SQL that ends a session if its transaction is that old: when it is pasted, another session may have the
    same number. Without `seconds`, this login cannot see the age."""
    if seconds is None:
        return f"SELECT pg_terminate_backend({pid})"
    return (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {pid} "  # noqa: S608 - shown, never run
        f"AND xact_start < clock_timestamp() - interval '{seconds:g} seconds'"
    )


def leases(schema: str, store: StoreFacts) -> Iterator[Finding]:
    """Held by those who have vanished, or by nobody that there is."""
    for each in store.leases:
        whose = "relay" if each.name == RELAY else f"subscription {each.subscription or each.name!r}"
        if each.name != RELAY and each.name.startswith("subscription ") and each.subscription is None:
            yield Finding(
                "lease-orphan",
                f"lease {each.name!r}",
                "its subscription is not there",
                "it does no harm, and shows that rows were deleted by hand",
                f"DELETE FROM {relation(schema, 'leases')} WHERE name = {literal(each.name)}",  # noqa: S608 - shown, never run
            )
        elif each.left is not None and each.left > 2 * max(each.length, 1.0):
            yield Finding(
                "lease-future",
                f"lease of the {whose}",
                f"it runs out in {each.left:.0f} s, though it is one of {each.length:.0f} s",
                "the clock of the database's host was set back; whoever is next takes it all the same",
                f"keep the clock with NTP; look who holds it: {trunkline('status', schema)}",
            )
        elif each.left is not None and each.left < 0:
            yield Finding("lease-dead", f"lease of the {whose}", _vanished(each), *_nobody(schema, each))


def _vanished(each: LeaseRow) -> str:
    assert each.left is not None
    return f"its owner has not renewed it for {each.length - each.left:.0f} s, and nobody has taken it over"


def _nobody(schema: str, each: LeaseRow) -> tuple[str, str]:
    if each.name == RELAY:
        return "it was killed, or cannot reach the database: nothing is published", trunkline("relay", schema)
    name = each.subscription or ""  # without one, it is an orphan
    return "its process was killed, or cannot reach the database: its events wait", _start_or_delete(schema, name)


def _start_or_delete(schema: str, name: str) -> str:
    return f"start its program; if it is not wanted any more: {trunkline('subscriptions delete', schema, name)}"


def relay(facts: DatabaseFacts, store: StoreFacts, seen: Overview, patience: float) -> Iterator[Finding]:
    """Whether one leads, and gets on."""
    relay = seen.relay
    if relay is None:
        if seen.events:
            yield note(
                "relay-none",
                facts.schema,
                "no relay has ever run",
                "nothing is published; subscriptions read from PostgreSQL all the same",
                trunkline("relay", facts.schema),
            )
        return
    lease = next((each for each in store.leases if each.name == RELAY), None)
    if relay.owner is None and relay.lag_events and (lease is None or lease.left is None):
        yield Finding(
            "relay-absent",
            "relay",
            f"none leads, and {_wait(relay.lag_events, relay.lag_seconds)}",
            "it was stopped and not started again: nothing is published",
            trunkline("relay", facts.schema),
        )
    still = (seen.at - relay.updated_at).total_seconds()
    if relay.owner is not None and relay.lag_events and min(still, relay.lag_seconds) > patience:
        yield Finding(
            "relay-stalled",
            "relay",
            f"it leads, and stands at {relay.position} for {still:.0f} s, with {events(relay.lag_events)} ahead",
            "the broker takes nothing (an alarm, a full queue that refuses), or the relay hangs",
            "look at its log and at RabbitMQ's alarms: rabbitmq-diagnostics alarms; else start it anew",
        )
    last = _last(store)
    if last is not None and relay.position > last:
        yield Finding(
            "relay-ahead",
            "relay",
            f"it is at {relay.position}, and no position above {last} was ever given",
            "as after a restore of an older backup: what is appended now is not published, up to there",
            "stop the relays and have them publish everything again: UPDATE "  # noqa: S608 - shown, never run
            f"{relation(facts.schema, 'relays')} SET position = 0; "
            "then start them (a later position, up to which all is published for sure, spares consumers the rest)",
        )


def _wait(count: int, seconds: float) -> str:
    return f"{events(count)} {'waits' if count == 1 else 'wait'} since {age(seconds)}"


def _last(store: StoreFacts) -> int | None:
    """The highest position that can have been given."""
    if store.sequence is None or store.sequence.drawn is None:
        return None
    return max(store.sequence.drawn, store.used) * BLOCK + BLOCK - 1


def subscriptions(facts: DatabaseFacts, store: StoreFacts, seen: Overview, patience: float) -> Iterator[Finding]:
    """Halted, stopped, at a stand, with parked batches, or beyond the store's end."""
    schema, last = facts.schema, _last(store)
    dead = {each.subscription for each in store.leases if each.left is not None and each.left < 0}
    for each in seen.subscriptions:
        subject, ahead = f"subscription {each.name!r}", _wait(each.behind, each.seconds_behind)
        still = (seen.at - each.updated_at).total_seconds()
        if each.halted is not None:
            yield Finding(
                "subscription-halted",
                subject,
                f"its handler failed at what comes after {each.checkpoint}, and it has stopped",
                "nothing of it is handled until a person has looked",
                "mend the handler and start its program again; the error: "
                f"{trunkline('subscriptions show', schema, each.name)}; to go on without that batch: "
                f"{trunkline('subscriptions skip', schema, each.name)}",
            )
        elif (
            each.owner is None and each.behind and each.name not in dead and min(still, each.seconds_behind) > patience
        ):
            yield Finding(
                "subscription-stopped",
                subject,
                f"nobody follows it, and {ahead}",
                "its program was stopped and not started again",
                _start_or_delete(schema, each.name),
            )
        elif each.owner is not None and each.behind and min(still, each.seconds_behind) > patience:
            yield Finding(
                "subscription-stalled",
                subject,
                f"it is followed, its checkpoint stands at {each.checkpoint} for {still:.0f} s, and {ahead}",
                "its handler has been at one batch for so long, and may need that long, or it hangs; or its program "
                "writes checkpoints more seldom than that",
                f"look what its handler waits for: the log of {each.process or 'its program'}; where it may take that "
                "long, ask with a longer --patience",
            )
        if each.parked:
            yield Finding(
                "subscription-parked",
                subject,
                "1 batch is parked" if each.parked == 1 else f"{each.parked} batches are parked",
                "they could not be handled, or wait behind such a one; the rest goes on",
                f"{trunkline('subscriptions parked', schema, each.name)}; then retry them, or discard them for good",
            )
        if last is not None and each.checkpoint > last:
            yield Finding(
                "checkpoint-ahead",
                subject,
                f"it is at {each.checkpoint}, and no position above {last} was ever given",
                "as after a restore of an older backup: what is appended now is not handled, up to there",
                "have it go back to where it is sure to have handled everything, if in doubt to origin: "
                f"{trunkline('subscriptions reset', schema, each.name, to='origin')}",
            )
