"""Asks, judges, and puts the findings in an order."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from trunkline_ops.connect import managed
from trunkline_ops.doctor.broker_checks import broker_findings
from trunkline_ops.doctor.broker_facts import broker_facts
from trunkline_ops.doctor.database_checks import database_findings
from trunkline_ops.doctor.database_facts import database_facts
from trunkline_ops.doctor.finding import Finding, note
from trunkline_ops.settings import Settings
from trunkline_store.errors import BrokerUnavailable


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
        found.append(
            Finding(
                "broker-unreachable",
                "RabbitMQ",
                str(error),
                "it was not looked at; if it is away, relays wait and subscriptions read from PostgreSQL",
                "start it, or mend --management-url; the plugin: rabbitmq-plugins enable rabbitmq_management",
            )
        )
    return sorted(found, key=lambda each: each.level == "note")
