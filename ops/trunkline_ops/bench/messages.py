"""Messages as the relay makes them of the sample."""

from __future__ import annotations

from typing import Final

from trunkline_ops.bench import sample
from trunkline_store.events import BLOCK, new_event_id
from trunkline_store.wire import Chain, Message, StoredEvent, encode

_HISTORY: Final = "00000000-0000-7000-8000-000000000000/7390000000000000000/16384/16500/00000001"
"""As long as a real one."""


def messages_of(events: int, events_each: int) -> list[Message]:
    """So many events, each message of a stream of its own."""
    return [_message(block, events_each) for block in range(1, events // events_each + 1)]


def _message(block: int, events: int) -> Message:
    stream, before = f"order-{block:08}", block * BLOCK - 1
    return encode(
        [_event(block * BLOCK + index, stream, index + 1) for index in range(events)],
        Chain(before, before, 0),
        store="eventstore",
        history=_HISTORY,
        epoch=1,
        content_type="application/json",
    )


def _event(position: int, stream: str, version: int) -> StoredEvent:
    data, metadata = sample.as_text(sample.data(position)), sample.as_text(sample.metadata())
    return StoredEvent(
        position=position,
        stream=stream,
        category="order",
        stream_version=version,
        event_id=str(new_event_id()),
        type=sample.TYPE,
        size=len(data) + len(metadata),
        data=data,
        metadata=metadata,
        correlation_id=None,
        causation_id=None,
        traceparent=None,
        time="2026-01-02T03:04:05.678901Z",
    )
