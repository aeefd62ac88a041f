"""What of the database's facts is not as it should be. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trunkline_ops.doctor.database_facts import DatabaseFacts, LeaseRow, StoreFacts, Transaction
from trunkline_ops.doctor.finding import Finding, note
from trunkline_ops.doctor.promised import promise
from trunkline_store.events import BLOCK
from trunkline_store.overview import RELAY, Overview
from trunkline_store.queries import for_store

_OLDEST = 140000
_LOGIN_SETTINGS = ("idle_in_transaction_session_timeout", "tcp_user_timeout")


def database_findings(facts: DatabaseFacts, patience: float) -> Iterator[Finding]:
    """patience: seconds for which a transaction may be open, or a relay stand still, before that is a finding."""
    yield from _server(facts)
    yield from _transactions(facts, patience)
    yield from _schema(facts)
    if facts.store is not None:
        yield from _sequence(facts, facts.store)
        yield from _objects(facts, facts.store)
        yield from _rights(facts, facts.store)
        yield from _leases(facts.schema, facts.store)
        if facts.store.seen is not None:
            yield from _relay(facts, facts.store, facts.store.seen, patience)
            yield from _subscriptions(facts, facts.store, facts.store.seen)
        else:
            yield note(
                "store-not-looked-at",
                facts.schema,
                f"relay and subscriptions were not looked at: {facts.store.unseen}",
                "the store itself cannot be used as it is",
                "mend what else is found, then ask again",
            )


def _server(facts: DatabaseFacts) -> Iterator[Finding]:
    server = facts.server
    if server.version < _OLDEST:
        yield Finding(
            "postgres-version",
            "PostgreSQL",
            f"it is {server.version // 10000}",
            "trunkline is made for 14 and newer",
            "upgrade PostgreSQL",
        )
    if server.replica:
        yield Finding(
            "database-replica",
            "PostgreSQL",
            "this is a replica",
            "nothing can be appended here, and the order of $all cannot be read",
            "point --dsn at the primary; after a failover: SELECT pg_promote()",
        )
    if not server.fsync or not server.full_page_writes:
        setting = "fsync" if not server.fsync else "full_page_writes"
        yield Finding(
            "durability-off",
            "PostgreSQL",
            f"{setting} is off",
            "a crash of the host can destroy the database, events and all",
            f"ALTER SYSTEM SET {setting} = on; SELECT pg_reload_conf()",
        )
    if not server.synchronous_commit:
        yield Finding(
            "commit-asynchronous",
            "PostgreSQL",
            "synchronous_commit is off",
            "a crash loses appends that writers were told are committed",
            f'ALTER DATABASE "{server.database}" SET synchronous_commit = on',
        )
    if server.isolation != "read committed":
        yield Finding(
            "isolation-default",
            "PostgreSQL",
            f"transactions are {server.isolation} by default",
            "the order of $all can only be read at READ COMMITTED: relays and subscriptions stand still",
            f'ALTER DATABASE "{server.database}" RESET default_transaction_isolation',
        )
    if not server.sees_all:
        yield note(
            "transactions-not-looked-at",
            "PostgreSQL",
            f"{server.login} may not see what others do",
            "how long others' transactions are open was not looked at",
            f'GRANT pg_read_all_stats TO "{server.login}"',
        )


def _transactions(facts: DatabaseFacts, patience: float) -> Iterator[Finding]:
    for each in facts.transactions:
        age = "" if each.seconds is None else f" for {each.seconds:.0f} s"
        long = each.seconds is not None and each.seconds > patience
        if each.prepared is not None and long:
            quoted = each.prepared.replace("'", "''")
            yield Finding(
                "transaction-prepared",
                f"transaction {each.prepared!r}",
                f"prepared by {each.login}{age}, and neither committed nor rolled back",
                "if it has appended, no reader gets past it; it also keeps VACUUM from its work, also after a restart",
                f"COMMIT PREPARED '{quoted}' or ROLLBACK PREPARED '{quoted}'",
            )
        elif each.holds and (long or each.seconds is None):
            yield Finding(
                "transaction-holds",
                _who(each),
                f"it has appended, and is open{age}",
                "relays and subscriptions do not get past it: nothing that was committed after it is delivered",
                f"SELECT pg_terminate_backend({each.pid})",
            )
        elif long and (each.state or "").startswith("idle in transaction"):
            yield Finding(
                "transaction-idle",
                _who(each),
                f"it is open, and idle{age}",
                "it keeps its locks, and VACUUM from its work: tables that are updated often grow, and get slow",
                f"SELECT pg_terminate_backend({each.pid})",
            )


def _who(each: Transaction) -> str:
    return f"process {each.pid} ({', '.join(part for part in (each.application, each.login) if part)})"


def _schema(facts: DatabaseFacts) -> Iterator[Finding]:
    schema, found, needed = facts.schema, facts.found, facts.needed
    if found is None:
        yield Finding(
            "schema-missing",
            schema,
            "there is no store in this schema",
            "nothing can be appended or read",
            f"trunkline init --schema {schema}",
        )
    elif found < needed:
        yield Finding(
            "schema-old",
            schema,
            f"it is at migration {found}, this trunkline needs {needed}",
            "programs of this version refuse to start",
            f"trunkline migrate --schema {schema}",
        )
    elif found > needed:
        yield Finding(
            "schema-new",
            schema,
            f"it is at migration {found}, this trunkline knows only {needed}",
            "programs of this version refuse to start",
            "upgrade trunkline here, and ask again",
        )


def _sequence(facts: DatabaseFacts, store: StoreFacts) -> Iterator[Finding]:
    sequence, name = store.sequence, f"sequence {facts.schema}.blocks"
    if sequence is None:
        return  # then there is no store, by schema_there
    if sequence.cache != 1:
        yield Finding(
            "sequence-cache",
            name,
            f"it has CACHE {sequence.cache}",
            "positions are not drawn in the order of time: readers skip events",
            f"ALTER SEQUENCE {facts.schema}.blocks CACHE 1, then start all programs anew",
        )
    if sequence.increment != 1 or sequence.cycle:
        problem = f"it has INCREMENT {sequence.increment}" if sequence.increment != 1 else "it has CYCLE"
        yield Finding(
            "sequence-options",
            name,
            problem,
            "positions must grow, by one block each time",
            f"ALTER SEQUENCE {facts.schema}.blocks INCREMENT 1 NO CYCLE",
        )
    if sequence.drawn is not None and sequence.drawn < store.used:
        yield Finding(
            "sequence-behind",
            name,
            f"it is at block {sequence.drawn}, and there are events in block {store.used}",
            "as after a restore of data alone: those events are not given to readers, and appends will fail",
            f"SELECT setval('{facts.schema}.blocks', {store.used}), then start all programs anew",
        )


def _objects(facts: DatabaseFacts, store: StoreFacts) -> Iterator[Finding]:
    schema, promised = facts.schema, promise()

    def sql(statement: str) -> str:
        return for_store(statement, schema, "json").rstrip(";")

    if store.rows != 1:
        yield Finding(
            "store-row",
            f"table {schema}.store",
            f"it has {store.rows} rows, not 1",
            "what the store is, is not known: no program can open it",
            "restore the table from a backup",
        )
    there = {each.name for each in store.relations if each.kind == "table"}
    for table in sorted(promised.tables - there):
        yield Finding(
            "table-missing",
            f"table {schema}.{table}",
            "it is not there",
            "the store is not whole: what needs the table fails",
            "restore the store from a backup (ops/README.md, the runbook)",
        )
    for function in sorted(promised.functions - store.functions):
        yield Finding(
            "function-missing",
            f"function {schema}.{function}",
            "it is not there",
            "what calls it fails, perhaps all appends",
            "restore the schema from a backup, or from a fresh store: pg_dump --schema-only",
        )
    indexes = {each.name: each.valid for each in store.relations if each.kind == "index"}
    for name, statement in sorted(promised.indexes.items()):
        if name not in indexes:
            yield Finding(
                "index-missing",
                f"index {schema}.{name}",
                "it is not there",
                "queries that use it read whole tables; where it is unique, nothing guards what it guards",
                sql(statement),
            )
        elif not indexes[name]:
            yield Finding(
                "index-invalid",
                f"index {schema}.{name}",
                "it is not valid, as after a REINDEX CONCURRENTLY that failed",
                "it costs each append, and serves no query",
                f"REINDEX INDEX {schema}.{name}",
            )
    for name, (table, statement) in sorted(promised.triggers.items()):
        enabled = store.triggers.get(name)
        if not enabled:
            yield Finding(
                "trigger-missing" if enabled is None else "trigger-disabled",
                f"trigger {name} of {schema}.{table}",
                "it is not there" if enabled is None else "it is disabled",
                "nothing keeps recorded events from being changed or deleted",
                sql(statement) if enabled is None else f"ALTER TABLE {schema}.{table} ENABLE TRIGGER {name}",
            )


def _rights(facts: DatabaseFacts, store: StoreFacts) -> Iterator[Finding]:
    schema = facts.schema
    roles = f"trunkline roles --schema {schema}"
    if not store.made:
        yield note(
            "roles-none",
            schema,
            "it has no roles of its own",
            "every program that uses it is its owner, or a superuser, and may do anything",
            roles,
        )
    for role, name in store.groups.items():
        if store.made and name not in store.made:
            yield Finding(
                "role-missing",
                f"role {name}",
                "it is not there",
                f"no login can be given the rights of a {role}",
                roles,
            )
        missing = [right for right in store.missing if right.role == role]
        unusable = role == "reader" and name in store.unusable  # the others have it from him
        if missing or unusable:
            what = "USAGE on the schema" if unusable else f"{missing[0].privilege} on {missing[0].name}"
            more = f", and {len(missing) - 1} other rights" if len(missing) > 1 else ""
            yield Finding(
                "rights-missing",
                f"role {name}",
                f"it lacks {what}{more}",
                f"programs that log in as a {role} fail with PermissionRefused",
                roles,
            )
    groups = {name: role for role, name in store.groups.items()}
    guarded = {"events", "links", "streams"}
    for each in store.foreign:
        kind = f"{each.kind.upper()} " if each.kind == "function" else ""
        revoke = f"REVOKE {each.privilege} ON {kind}{schema}.{each.name} FROM "
        if each.role == "PUBLIC":
            yield Finding(
                "rights-public",
                f"{each.kind} {schema}.{each.name}",
                f"everybody has {each.privilege}",
                "whoever can log in to the database can do it",
                f"{revoke}PUBLIC",
            )
        elif each.name in guarded:
            yield Finding(
                "rights-bypass",
                f"role {each.role}",
                f"it has {each.privilege} on {schema}.{each.name}",
                "what is not written by the store's functions is skipped by readers, or breaks the order",
                roles if each.role in groups else f'{revoke}"{each.role}"',
            )
    for login in store.logins:
        lacking = [setting for setting in _LOGIN_SETTINGS if setting not in login.settings]
        if lacking:
            role = groups[login.group]
            yield Finding(
                "login-settings",
                f"login {login.login}",
                f"it has no {lacking[0]}",
                "a transaction that its program forgets, or a host that vanishes, holds readers back for hours",
                f"{roles} --login {login.login} --as {role}",
            )


def _leases(schema: str, store: StoreFacts) -> Iterator[Finding]:
    for each in store.leases:
        whose = "relay" if each.name == RELAY else f"subscription {each.subscription or each.name!r}"
        if each.name != RELAY and each.name.startswith("subscription ") and each.subscription is None:
            yield Finding(
                "lease-orphan",
                f"lease {each.name!r}",
                "its subscription is not there",
                "it does no harm, and shows that rows were deleted by hand",
                f"DELETE FROM {schema}.leases WHERE name = '{each.name}'",  # noqa: S608 - shown, never run
            )
        elif each.left is not None and each.left > 2 * max(each.length, 1.0):
            yield Finding(
                "lease-future",
                f"lease of the {whose}",
                f"it runs out in {each.left:.0f} s, though it is one of {each.length:.0f} s",
                "the clock of the database's host was set back; whoever is next takes it all the same",
                "keep the clock with NTP; look who holds it: trunkline status",
            )
        elif each.left is not None and each.left < 0:
            yield Finding("lease-dead", f"lease of the {whose}", _vanished(each), *_nobody(each))


def _vanished(each: LeaseRow) -> str:
    assert each.left is not None
    return f"its owner has not renewed it for {each.length - each.left:.0f} s, and nobody has taken it over"


def _nobody(each: LeaseRow) -> tuple[str, str]:
    if each.name == RELAY:
        return "it was killed, or cannot reach the database: nothing is published", "trunkline relay"
    return (
        "its process was killed, or cannot reach the database: its events wait",
        f"start its program; if it is not wanted any more: trunkline subscriptions delete {each.subscription}",
    )


def _relay(facts: DatabaseFacts, store: StoreFacts, seen: Overview, patience: float) -> Iterator[Finding]:
    relay = seen.relay
    if relay is None:
        if seen.events:
            yield note(
                "relay-none",
                facts.schema,
                "no relay has ever run",
                "nothing is published; subscriptions read from PostgreSQL all the same",
                f"trunkline relay --schema {facts.schema}",
            )
        return
    lease = next((each for each in store.leases if each.name == RELAY), None)
    if relay.owner is None and relay.lag_events and (lease is None or lease.left is None):
        yield Finding(
            "relay-absent",
            "relay",
            f"none leads, and {relay.lag_events} events wait since {relay.lag_seconds:.0f} s",
            "it was stopped and not started again: nothing is published",
            f"trunkline relay --schema {facts.schema}",
        )
    still = (seen.at - relay.updated_at).total_seconds()
    if relay.owner is not None and relay.lag_events and min(still, relay.lag_seconds) > patience:
        yield Finding(
            "relay-stalled",
            "relay",
            f"it leads, and stands at {relay.position} for {still:.0f} s, with {relay.lag_events} events ahead",
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
            f"stop the relays; UPDATE {facts.schema}.relays SET position = {seen.last_position}; "  # noqa: S608 - shown
            "start them again",
        )


def _last(store: StoreFacts) -> int | None:
    """The highest position that can have been given."""
    if store.sequence is None or store.sequence.drawn is None:
        return None
    return max(store.sequence.drawn, store.used) * BLOCK + BLOCK - 1


def _subscriptions(facts: DatabaseFacts, store: StoreFacts, seen: Overview) -> Iterator[Finding]:
    last = _last(store)
    dead = {each.subscription for each in store.leases if each.left is not None and each.left < 0}
    for each in seen.subscriptions:
        subject, schema = f"subscription {each.name!r}", f" --schema {facts.schema}"
        if each.halted is not None:
            yield Finding(
                "subscription-halted",
                subject,
                f"its handler failed at what comes after {each.checkpoint}, and it has stopped",
                f"nothing of it is handled until a person has looked: {each.halted[:200]}",
                f"mend the handler and start its program again; the error: trunkline subscriptions show {each.name}"
                f"{schema} --json",
            )
        elif each.owner is None and each.behind and each.name not in dead:
            yield Finding(
                "subscription-stopped",
                subject,
                f"nobody follows it, and {each.behind} events wait since {each.seconds_behind:.0f} s",
                "its program was stopped and not started again",
                f"start its program; if it is not wanted any more: trunkline subscriptions delete {each.name}{schema}",
            )
        if each.parked:
            yield Finding(
                "subscription-parked",
                subject,
                f"{each.parked} batches are parked",
                "they could not be handled, or wait behind such a one; the rest goes on",
                f"trunkline subscriptions parked {each.name}{schema}; then retry or discard them",
            )
        if last is not None and each.checkpoint > last:
            yield Finding(
                "checkpoint-ahead",
                subject,
                f"it is at {each.checkpoint}, and no position above {last} was ever given",
                "as after a restore of an older backup: what is appended now is not handled, up to there",
                f"trunkline subscriptions reset {each.name} --to {seen.last_position}{schema}",
            )
