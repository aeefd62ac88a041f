"""The event store: streams in PostgreSQL, one order for all of them, and what is needed to follow it."""

from trunkline_store import errors
from trunkline_store.append import StreamAppend
from trunkline_store.context import caused_by, context
from trunkline_store.errors import *  # noqa: F403 - the errors' own __all__ says which
from trunkline_store.events import (
    ANY_VERSION,
    NO_STREAM,
    STREAM_EXISTS,
    Appended,
    EventData,
    ExpectedVersion,
    RecordedEvent,
    new_event_id,
)
from trunkline_store.serialize import JsonSerializer, Serializer
from trunkline_store.snapshots import Snapshot
from trunkline_store.store import EventStore
from trunkline_store.streams import StreamInfo
from trunkline_store.subscriptions import CURRENT, ORIGIN, Move, Parked, Skipped, Start, SubscriptionInfo

__all__ = [
    "ANY_VERSION",
    "CURRENT",
    "NO_STREAM",
    "ORIGIN",
    "STREAM_EXISTS",
    "Appended",
    "EventData",
    "EventStore",
    "ExpectedVersion",
    "JsonSerializer",
    "Move",
    "Parked",
    "RecordedEvent",
    "Serializer",
    "Skipped",
    "Snapshot",
    "Start",
    "StreamAppend",
    "StreamInfo",
    "SubscriptionInfo",
    "caused_by",
    "context",
    "new_event_id",
]
__all__ += errors.__all__
