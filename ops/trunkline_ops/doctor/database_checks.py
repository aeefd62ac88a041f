"""What of the database's facts is not as it should be: server, schema, sequence, rights. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trunkline_ops.doctor.activity_checks import leases, relay, subscriptions, transactions, waits
from trunkline_ops.doctor.database_facts import DatabaseFacts, StoreFacts
from trunkline_ops.doctor.finding import Finding, note
from trunkline_ops.doctor.mend import relation, trunkline
from trunkline_ops.doctor.promised import promise, rights
from trunkline_store.events import BLOCK
from trunkline_store.queries import for_store
from trunkline_store.rights import identifier, literal

_OLDEST = 140000
_APPENDED = ("events", "links", "streams", "blocks")
_LOGIN_SETTINGS = ("idle_in_transaction_session_timeout", "tcp_user_timeout")


def database_findings(facts: DatabaseFacts, patience: float) -> Iterator[Finding]:
    """patience: seconds for which a transaction may be open, or a relay or checkpoint stand still, before that is a
    finding."""
    yield from _server(facts)
    yield from waits(facts, patience)
    yield from _creators(facts)
    yield from transactions(facts, patience)
    yield from _schema(facts)
    unseen = facts.unseen if facts.store is None or facts.store.seen is None else ""
    if unseen:
        yield Finding(
            "store-not-looked-at",
            facts.schema,
            f"relay and subscriptions were not looked at: {unseen}",
            "the store, or this login, cannot be used as it is: there may be more problems than these",
            "mend the other findings, then run doctor again",
        )
    if facts.store is not None:
        yield from _sequence(facts, facts.store)
        yield from _objects(facts, facts.store)
        yield from _row_security(facts.schema, facts.store)
        yield from _rights(facts, facts.store)
        yield from leases(facts.schema, facts.store)
        if facts.store.seen is not None:
            yield from relay(facts, facts.store, facts.store.seen, patience)
            yield from subscriptions(facts, facts.store, facts.store.seen, patience)


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
            "point --dsn at the primary; only where that is stopped for good: SELECT pg_promote()",
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
    if server.isolation != "read committed":
        yield Finding(
            "isolation-default",
            "PostgreSQL",
            f"transactions are {server.isolation} by default",
            "a store refuses an application's pool, and a pooler, whose transactions begin like that",
            f"ALTER DATABASE {identifier(server.database)} RESET default_transaction_isolation; then start "
            "all programs anew",
        )
    if not server.sees_all:
        yield note(
            "transactions-not-looked-at",
            "PostgreSQL",
            f"{server.login} may not see what others do",
            "others' transactions were not looked at, but for one that has held readers back for long",
            f"GRANT pg_read_all_stats TO {identifier(server.login)}",
        )


def _creators(facts: DatabaseFacts) -> Iterator[Finding]:
    """Report roles that may create objects in the search path. PostgreSQL up to 14 lets everybody create in `public`,
    and an upgraded database keeps that."""
    for schema, role in facts.creators:
        everybody = role == "PUBLIC"
        found = Finding(
            "search-path-open",
            f"schema {schema}",
            f"{'everybody' if everybody else role} may create objects in it, and it is in the search path",
            "functions and operators put there run with the rights of applications whose statements find them",
            f"REVOKE CREATE ON SCHEMA {identifier(schema)} FROM {role if everybody else identifier(role)}",
        )
        yield found if everybody else found._replace(level="note")


def _schema(facts: DatabaseFacts) -> Iterator[Finding]:
    schema, found, needed = facts.schema, facts.found, facts.needed
    if found is None:
        yield Finding(
            "schema-missing",
            schema,
            "there is no store in this schema",
            "nothing can be appended or read",
            "if it has had events, restore it from a backup (ops/README.md, the runbook); a new one: "
            f"{trunkline('create', schema)}",
        )
    elif found < needed:
        yield Finding(
            "schema-old",
            schema,
            f"it is at migration {found}, this trunkline needs {needed}",
            "programs of this version refuse to start",
            trunkline("migrate", schema),
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
    schema, sequence = facts.schema, store.sequence
    name, blocks = f"sequence {schema}.blocks", relation(schema, "blocks")
    if sequence is None:
        return  # then there is no store, by schema_there
    if sequence.cache != 1:
        yield Finding(
            "sequence-cache",
            name,
            f"it has CACHE {sequence.cache}",
            "positions are not drawn in the order of time: readers skip events",
            "stop all programs, since a session keeps its cached numbers: "
            f"ALTER SEQUENCE {blocks} CACHE 1; then start them, and {_hand_out_again(schema)}",
        )
    if sequence.increment != 1 or sequence.cycle:
        problem = f"it has INCREMENT {sequence.increment}" if sequence.increment != 1 else "it has CYCLE"
        yield Finding(
            "sequence-options",
            name,
            problem,
            "positions must grow, by one block each time",
            f"ALTER SEQUENCE {blocks} INCREMENT 1 NO CYCLE",
        )
    used = max(store.used, 1)  # init draws the first one
    if sequence.drawn is not None and sequence.drawn < used:
        yield Finding(
            "sequence-behind",
            name,
            f"it is at block {sequence.drawn}, and block {used} is in use",
            "as after a restore of data alone: events are not given to readers or skipped by them, and appends fail",
            f"stop all programs: SELECT setval({literal(blocks)}, "  # noqa: S608 - shown, never run
            f"greatest(pg_sequence_last_value({literal(blocks)}), 1, "
            f"(SELECT max(position) FROM {relation(schema, 'events')}) / {BLOCK}, "
            f"(SELECT max(feed_position) FROM {relation(schema, 'links')}) / {BLOCK})); "
            f"then start them, and {_hand_out_again(schema)}",
        )


def _hand_out_again(schema: str) -> str:
    """Return the mend for events below a checkpoint that a subscription never received: nothing records which they
    are."""
    return (
        "have each subscription go back to where it is sure to have handled everything, if in doubt to origin: "
        f"{trunkline('subscriptions reset', schema, 'NAME', to='origin')}"
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
    unguarded = "queries that use it read whole tables; where it is unique, nothing guards what it guards"
    indexes = {each.name: each.valid for each in store.relations if each.kind == "index"}
    for name, statement in sorted(promised.indexes.items()):
        if name not in indexes:
            yield Finding(
                "index-missing",
                f"index {schema}.{name}",
                "it is not there",
                unguarded,
                sql(statement).replace("INDEX", "INDEX CONCURRENTLY", 1),  # without, nobody appends meanwhile
            )
    for key, name in sorted(promised.keys.items()):
        if key.table in there and key not in store.keys:
            table, columns, constraint = relation(schema, key.table), ", ".join(key.columns), identifier(name)
            yield Finding(
                "index-missing",
                f"table {schema}.{key.table}",
                f"it has no {key.kind} ({columns})",
                unguarded,
                f"CREATE UNIQUE INDEX CONCURRENTLY {constraint} ON {table} ({columns}); "
                f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {key.kind} USING INDEX {constraint}",
            )
    ours = {*promised.indexes, *promised.keys.values()}
    for name in sorted(name for name, valid in indexes.items() if not valid):
        yield Finding(
            "index-invalid",
            f"index {schema}.{name}",
            "it is not valid: what makes it CONCURRENTLY has failed, or is still at it",
            "it costs each append, and serves no query",
            f"{'REINDEX' if name in ours else 'DROP'} INDEX CONCURRENTLY {relation(schema, name)}",
        )
    for name, (table, statement) in sorted(promised.triggers.items()):
        enabled = store.triggers.get(name)
        if not enabled:
            yield Finding(
                "trigger-missing" if enabled is None else "trigger-disabled",
                f"trigger {name} of {schema}.{table}",
                "it is not there" if enabled is None else "it is disabled",
                "nothing keeps recorded events from being changed or deleted",
                sql(statement) if enabled is None else f"ALTER TABLE {relation(schema, table)} ENABLE TRIGGER {name}",
            )


def _row_security(schema: str, store: StoreFacts) -> Iterator[Finding]:
    for table in sorted(promise().row_security & store.open_tables):
        yield Finding(
            "row-security-off",
            f"table {schema}.{table}",
            "its row-level security is off",
            "every consumer can move or take other consumers' subscriptions, and the relay's lease",
            f"ALTER TABLE {relation(schema, table)} ENABLE ROW LEVEL SECURITY",
        )


def _rights(facts: DatabaseFacts, store: StoreFacts) -> Iterator[Finding]:
    schema = facts.schema
    roles = trunkline("roles", schema)
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
    promised = {(each.role, each.privilege, each.kind, each.name, each.columns) for each in rights()}
    for each in store.foreign:
        columns = ", ".join(sorted(each.columns.split(", ")))
        what = f"{each.privilege} ({each.columns})" if each.columns else each.privilege
        revoke = f"REVOKE {what} ON {each.kind.upper()} {relation(schema, each.name)} FROM "
        if each.role == "PUBLIC":
            yield Finding(
                "rights-public",
                f"{each.kind} {schema}.{each.name}",
                f"everybody has {what}",
                "whoever can log in to the database can do it",
                f"{revoke}PUBLIC",
            )
        elif (groups.get(each.role), each.privilege, each.kind, each.name, columns) not in promised:
            yield Finding(
                "rights-bypass",
                f"role {each.role}",
                f"it has {what} on {each.kind} {schema}.{each.name}",
                "its members append, delete or move checkpoints beside the store's own roles"
                if each.kind == "function" or each.name not in _APPENDED
                else "what is not written by the store's functions is skipped by readers, or breaks the order",
                roles if each.role in groups else f"{revoke}{identifier(each.role)}",
            )
    for login in store.logins:
        lacking = [setting for setting in _LOGIN_SETTINGS if setting not in login.settings]
        if lacking:
            role = groups.get(login.group, "consumer")
            pattern = login.group.removeprefix(f"{store.groups['consumer']}.")
            narrow = {} if login.group in groups else {"subscriptions": pattern}
            yield Finding(
                "login-settings",
                f"login {login.login}",
                f"it has no {lacking[0]}",
                "a transaction that its program forgets, or a host that vanishes, holds readers back for hours",
                trunkline("roles", schema, login=login.login, as_=role, **narrow),
            )
