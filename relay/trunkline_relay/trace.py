"""A span for each message that is published, where the program has set up OpenTelemetry; else nothing.

From the writing to the confirm, as a child of the append whose events it carries; those of other appends are linked.
Names are those of https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trunkline_store.context import span_contexts, tracer
from trunkline_store.wire import Message


class Spans:
    """Of one publishing channel, by the messages' tags."""

    def __init__(self) -> None:
        self._tracer = tracer()
        self._open: dict[int, Any] = {}

    def __bool__(self) -> bool:
        """Whether there is tracing at all."""
        return self._tracer is not None

    def begin(self, tag: int, message: Message, exchange: str) -> None:
        """A message is being written."""
        assert self._tracer is not None
        from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, set_span_in_context

        contexts = span_contexts(message.traceparents)
        attributes: dict[str, str | int] = {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": exchange,
            "messaging.rabbitmq.destination.routing_key": message.routing_key,
            "messaging.message.id": message.message_id,
            "messaging.message.body.size": len(message.body),
            "trunkline.events": message.count,
        }
        if message.correlation_id is not None:
            attributes["messaging.message.conversation_id"] = message.correlation_id
        self._open[tag] = self._tracer.start_span(
            f"publish {exchange}",
            context=set_span_in_context(NonRecordingSpan(contexts[0])) if contexts else None,
            kind=SpanKind.PRODUCER,
            links=[Link(context) for context in contexts[1:]],
            attributes=attributes,
        )

    def confirmed_before(self, tag: int | None) -> None:
        """All messages with lower tags are settled; None: all."""
        self._end([each for each in self._open if tag is None or each < tag])

    def given_up(self, tags: Iterable[int], why: str) -> None:
        """The relay has gone on past them."""
        self._end(tags, why)

    def end(self) -> None:
        """What is not confirmed by now is published again."""
        self._end(list(self._open), "not confirmed")

    def _end(self, tags: Iterable[int], error: str | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        for tag in tags:
            span = self._open.pop(tag, None)
            if span is None:
                continue
            if error is not None:
                span.set_attribute("error.type", error)
                span.set_status(Status(StatusCode.ERROR))
            span.end()
