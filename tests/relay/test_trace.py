"""OpenTelemetry: who follows a trace sees an event appended, published and handled."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.relay.plain import append, plain, recorded
from tests.relay.test_neighbours import until
from tests.whole.flow import QUICK, relay_running
from trunkline_consumer import Batch, Consumer
from trunkline_relay.trace import Spans
from trunkline_store import ANY_VERSION, EventData, EventStore, context
from trunkline_store.wire import Message

OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Tracing is set up, for one test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


async def test_a_parked_batch_has_a_span_when_it_is_handled_again(
    store: EventStore, vhost: str, exporter: InMemorySpanExporter
) -> None:
    """Linked to the append, as the first attempt's was."""
    mended = False
    async with Consumer(store, vhost) as consumer:

        @consumer.handler("parked", on_failure="park", attempts=1, options=QUICK)
        async def handle(batch: Batch) -> None:
            if not mended:
                raise RuntimeError("poison")

        running = asyncio.create_task(consumer.run())
        await append(store, "order-1", "Placed")
        await until(lambda: named(exporter, "process parked") != [])
        while await store.subscriptions.retry("parked") == 0:
            await asyncio.sleep(0.01)  # until it is parked
        mended = True
        await until(lambda: len(named(exporter, "process parked")) == 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    failed, handled = named(exporter, "process parked")
    assert (failed.status.status_code, handled.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert handled.links[0].context == failed.links[0].context


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


async def test_a_trace_leads_from_the_append_to_the_handler_and_on(
    store: EventStore, database: str, vhost: str, exporter: InMemorySpanExporter
) -> None:
    """The message's span is a child of the append's; the handler's is linked to it, and what is appended within it is
    its child: so the next message is found as well."""
    async with relay_running(database, vhost), Consumer(store, vhost) as consumer:

        @consumer.handler("traced", category="order", options=QUICK)
        async def handle(batch: Batch) -> None:
            await store.append_to_stream("bill-1", ANY_VERSION, [EventData("Billed", 1)])

        running = asyncio.create_task(consumer.run())
        [position] = await append(store, "order-1", "Placed", correlation_id="c")
        await until(lambda: len(named(exporter, "publish eventstore")) == 2 and named(exporter, "process traced") != [])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    appended, billed = (span for span in exporter.get_finished_spans() if span.name == "trunkline append")
    first, second = named(exporter, "publish eventstore")
    [processed] = named(exporter, "process traced")
    assert first.parent is not None
    assert first.context is not None
    assert appended.context is not None
    assert (first.parent.span_id, first.context.trace_id) == (appended.context.span_id, appended.context.trace_id)
    assert first.kind is SpanKind.PRODUCER
    assert dict(first.attributes or {}) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "eventstore",
        "messaging.rabbitmq.destination.routing_key": "order.Placed.order-1",
        "messaging.message.id": f"{position}-{position}",
        "messaging.message.body.size": (first.attributes or {})["messaging.message.body.size"],
        "messaging.message.conversation_id": "c",
        "trunkline.events": 1,
    }
    assert processed.kind is SpanKind.CONSUMER
    assert [link.context.span_id for link in processed.links] == [appended.context.span_id]
    assert billed.parent is not None
    assert billed.context is not None
    assert processed.context is not None
    assert billed.parent.span_id == processed.context.span_id
    assert second.parent is not None
    assert second.parent.span_id == billed.context.span_id


async def test_a_message_that_is_not_confirmed_is_a_failed_span(exporter: InMemorySpanExporter) -> None:
    """And one that is given up; one whose trace context is not W3C's begins a trace of its own."""
    spans = Spans()
    for tag, found in enumerate([(OTHER, OTHER.replace("b7ad", "c7ad")), ("nonsense",), ()], start=1):
        message = Message("a.E.a-1", [], f"{tag}-{tag}", None, "E", None, {}, b"", tag, tag, 1, traceparents=found)
        spans.begin(tag, message, "eventstore")
    spans.confirmed_before(2)
    spans.given_up([2], "refused")
    spans.end()
    one, two, three = named(exporter, "publish eventstore")
    assert [span.status.status_code for span in (one, two, three)] == [
        StatusCode.UNSET, StatusCode.ERROR, StatusCode.ERROR,
    ]  # fmt: skip
    assert one.parent is not None
    assert f"{one.parent.span_id:x}" == "b7ad6b7169203331"
    assert [f"{link.context.span_id:x}" for link in one.links] == ["c7ad6b7169203331"]
    assert (two.parent, three.parent) == (None, None)


async def test_without_tracing_there_are_no_spans(store: EventStore, database: str, vhost: str) -> None:
    """Nobody has set it up: messages carry no more than the events' own context, and nothing is kept of them."""
    async with plain(vhost, "#") as consumer, relay_running(database, vhost):
        with context(traceparent=OTHER):
            positions = await append(store, "a-1", "E")
        await recorded(store, positions[-1])
        await consumer.until(1)
    assert OTHER.encode() in consumer.messages[0].body
    assert not Spans()
