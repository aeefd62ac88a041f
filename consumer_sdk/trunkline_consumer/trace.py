"""A span around the handling of a batch, where the program has set up OpenTelemetry; else nothing.

It is linked to the appends of the events, and is no child of theirs: they may be of last year. Names are those of
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trunkline_consumer.batch import Batch
from trunkline_store import EventStore, names
from trunkline_store.context import span_contexts, tracer


@asynccontextmanager
async def processing(store: EventStore, subscription: str, batch: Batch) -> AsyncIterator[None]:
    """The current span is the handling's within: what is appended there is its child. Events carry no trace context out
    of the store, so while there is tracing it is asked for, once a batch. Raises `Unavailable`."""
    tracing = tracer()
    if tracing is None:
        yield
        return
    from opentelemetry.trace import Link, SpanKind

    rows = await store.fetch(store.sql["traceparents"], [event.position for event in batch.events])
    with tracing.start_as_current_span(
        f"process {subscription}",
        kind=SpanKind.CONSUMER,
        links=[Link(context) for context in span_contexts(row["traceparent"] for row in rows)],
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": names.queue(store.schema, subscription),
            "messaging.message.id": f"{batch.unit.first}-{batch.unit.last}",
            "trunkline.stream": batch.stream,
            "trunkline.events": len(batch.events),
        },
    ):
        yield
