"""Asks, judges, and puts the findings in an order."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import httpx

from trunkline_ops.connect import managed
from trunkline_ops.doctor.broker_checks import broker_findings
from trunkline_ops.doctor.broker_facts import broker_facts, login_refusal
from trunkline_ops.doctor.database_checks import database_findings
from trunkline_ops.doctor.database_facts import database_facts
from trunkline_ops.doctor.finding import Finding, note
from trunkline_ops.doctor.mend import rabbitmqctl
from trunkline_ops.settings import Settings
from trunkline_store.errors import BrokerUnavailable


def _authenticate(settings: Settings) -> str:
    where = settings.management()
    assert where is not None
    return rabbitmqctl("authenticate_user", where.user)


async def examine(settings: Settings, *, patience: float) -> list[Finding]:
    """All findings, and notes behind them. patience: seconds for which a transaction may be open, or a relay or a
    subscription stand still. Raises `InvalidSettings`, `StoreUnavailable`, `PermissionRefused`; a broker that is away
    is a finding."""
    database = await database_facts(settings)
    found = list(database_findings(database, patience))
    seen = None if database.store is None else database.store.seen
    batch_bytes = 0 if database.store is None else database.store.batch_bytes
    try:
        async with managed(settings) as vhost:
            if vhost is None:
                found.append(
                    note(
                        "broker-not-named",
                        "RabbitMQ",
                        "it was not looked at",
                        "no management API is named",
                        "give --management-url or TRUNKLINE_MANAGEMENT_URL, such as http://host:15672",
                    )
                )
            else:
                where = settings.management()
                assert where is not None
                amqp = "" if settings.amqp_url is None else settings.broker()
                user = unquote(urlsplit(amqp).username or "") or where.user
                facts = await broker_facts(vhost, settings.store, where.user, user)
                found += broker_findings(facts, settings.store, seen, batch_bytes)
    except BrokerUnavailable as error:
        refused = isinstance(error.__cause__, httpx.HTTPStatusError)
        found.append(
            Finding(
                "management-refuses" if refused else "broker-unreachable",
                "RabbitMQ",
                str(error),
                "it was not looked at; programs that log in with this password may be refused, too"
                if refused
                else "it was not looked at; if it is away, relays wait and subscriptions read from PostgreSQL",
                f"give the user's present password in --management-url; to test one: {_authenticate(settings)}"
                if refused
                else "start it, or mend --management-url; the plugin: rabbitmq-plugins enable rabbitmq_management",
            )
        )
    if settings.amqp_url is not None and (refusal := await login_refusal(settings.broker())) is not None:
        user = unquote(urlsplit(settings.broker()).username or "")
        found.append(
            Finding(
                "login-refused",
                f"user {user!r}",
                refusal,
                "programs with this AMQP URL get no connection: relays wait, and subscriptions read from PostgreSQL",
                "give all programs RabbitMQ's password (TRUNKLINE_AMQP_URL), or set theirs in RabbitMQ: "
                f"{rabbitmqctl('change_password', user)}",
            )
        )
    return sorted(found, key=lambda each: each.level == "note")
