"""What a piece of work passes on to the events that it appends: correlation, causation, and W3C trace context.

The values are context variables: a task inherits those of the one that started it. What an event is given itself
always wins. With the OpenTelemetry API installed, the current span is the trace context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from uuid import UUID

from trunkline_store.events import MAX_ID_BYTES, RecordedEvent, check_text

try:
    from opentelemetry import trace
except ModuleNotFoundError:
    trace = None  # type: ignore[assignment] # extra: trunkline[tracing]


class Context(NamedTuple):
    """What is passed on; None where nothing is set."""

    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


_NOTHING: Final = Context()
_NO_SPAN: Final = nullcontext()
_current: ContextVar[Context] = ContextVar("trunkline_context", default=_NOTHING)


def current() -> Context:
    """The context of the running task."""
    return _current.get()


@contextmanager
def context(
    *,
    correlation_id: str | UUID | None = None,
    causation_id: str | UUID | None = None,
    traceparent: str | None = None,
) -> Iterator[None]:
    """Set the given values for the block; the others stay as they are around it. Raises `InvalidEvent`."""
    correlation_id = str(correlation_id) if isinstance(correlation_id, UUID) else correlation_id
    causation_id = str(causation_id) if isinstance(causation_id, UUID) else causation_id
    for name, value in (
        ("correlation_id", correlation_id),
        ("causation_id", causation_id),
        ("traceparent", traceparent),
    ):
        if value is not None:
            check_text(name, value, MAX_ID_BYTES)
    outer = _current.get()
    token = _current.set(
        Context(
            correlation_id if correlation_id is not None else outer.correlation_id,
            causation_id if causation_id is not None else outer.causation_id,
            traceparent if traceparent is not None else outer.traceparent,
        )
    )
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def caused_by(event: RecordedEvent) -> Iterator[None]:
    """For handling `event`: what is appended meanwhile has its correlation id (none, if it has none), and it as its
    cause."""
    token = _current.set(Context(event.correlation_id, str(event.event_id), _current.get().traceparent))
    try:
        yield
    finally:
        _current.reset(token)


def traceparent() -> str | None:
    """The W3C trace context (https://www.w3.org/TR/trace-context/#traceparent-header) to store with an event."""
    if trace is not None:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    return _current.get().traceparent


def tracer() -> Any | None:
    """OpenTelemetry's, where its API is installed and the program has set up tracing; else None."""
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace.get_tracer("trunkline")


def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:
    """An OpenTelemetry span around an operation of the store; nothing where nobody has set up tracing."""
    tracing = tracer()
    if tracing is None:
        return _NO_SPAN
    named = {f"trunkline.{key}": value for key, value in attributes.items()}
    started: AbstractContextManager[object] = tracing.start_as_current_span(f"trunkline {name}", attributes=named)
    return started


def span_contexts(traceparents: Iterable[str]) -> list[Any]:
    """Of those that are valid, each once: to start or to link spans from. The API must be installed."""
    from opentelemetry.context import Context as Nowhere
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    reader = TraceContextTextMapPropagator()
    found = []
    for text in dict.fromkeys(traceparents):
        each = trace.get_current_span(reader.extract({"traceparent": text}, Nowhere())).get_span_context()
        if each.is_valid:
            found.append(each)
    return found
