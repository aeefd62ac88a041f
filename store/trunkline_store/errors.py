"""Every error that the store raises, under one root.

    TrunklineError
    ├── InvalidArgument                bad input; nothing was sent to the database (also a ValueError)
    │   └── InvalidEvent               .field
    ├── Conflict                       the append was refused; nothing was written
    │   ├── WrongExpectedVersion       .stream .expected .actual
    │   │   └── StreamExists
    │   ├── DuplicateEvent             .stream .event_id
    │   └── EventNotFound              .stream .event_id
    ├── StreamNotFound                 .stream
    ├── StreamDeleted                  .stream
    ├── SnapshotNotFound               .source
    ├── QueueNotFound                  .queue
    ├── MessagesLost                   .queue .sent .found
    ├── UndecodableEvent               .stream .stream_version .position .type
    ├── SubscriptionAlreadyExists      .subscription
    ├── SubscriptionLost               .subscription
    │   └── SubscriptionDeleted
    ├── SubscriptionHalted             .subscription .position .attempts
    ├── SubscriptionNotHalted          .subscription
    ├── SubscriptionNotFound           .subscription
    ├── UnexpectedAck                  .subscription .position
    ├── LeaseLost                      .name
    ├── StoreNotReady                  the schema and this code do not fit
    │   ├── NotInitialised             .schema
    │   ├── MigrationPending           .schema .found .needed
    │   └── SchemaTooNew               .schema .found .needed
    ├── UnsafeRead                     the order of $all cannot be had on this connection
    ├── PermissionRefused              the login lacks a right; waiting does not help
    └── Unavailable                    trying again may help
        ├── StoreUnavailable           the database cannot be reached, or refuses the connection
        ├── HistoryChanged             the database was restored or replaced, or crashed, during a read
        ├── ConcurrencyFailure         a deadlock or serialization failure of the caller's own transaction
        ├── OperationTimeout
        └── BrokerUnavailable          the broker cannot be reached, or refuses us

The message says what happened and what to do; the attributes say it to a program.
"""

from __future__ import annotations

import ssl
from asyncio import CancelledError
from typing import Final, Self
from urllib.parse import unquote, urlsplit
from uuid import UUID

from trunkline_store.masking import shown

__all__ = [
    "BrokerUnavailable",
    "ConcurrencyFailure",
    "Conflict",
    "DuplicateEvent",
    "EventNotFound",
    "HistoryChanged",
    "InvalidArgument",
    "InvalidEvent",
    "LeaseLost",
    "MessagesLost",
    "MigrationPending",
    "NotInitialised",
    "OperationTimeout",
    "PermissionRefused",
    "QueueNotFound",
    "SchemaTooNew",
    "SnapshotNotFound",
    "StoreNotReady",
    "StoreUnavailable",
    "StreamDeleted",
    "StreamExists",
    "StreamNotFound",
    "SubscriptionAlreadyExists",
    "SubscriptionDeleted",
    "SubscriptionHalted",
    "SubscriptionLost",
    "SubscriptionNotFound",
    "SubscriptionNotHalted",
    "TrunklineError",
    "Unavailable",
    "UndecodableEvent",
    "UnexpectedAck",
    "UnsafeRead",
    "WrongExpectedVersion",
]


class TrunklineError(Exception):
    """The root of everything that Trunkline raises on purpose."""


class InvalidArgument(TrunklineError, ValueError):
    """An argument is outside its bounds. Nothing was sent to the database."""


class InvalidEvent(InvalidArgument):
    """An event cannot be stored as given; `field` names the part that is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Conflict(TrunklineError):
    """The append was refused. Nothing was written, and a caller's transaction is still usable: unless it is a
    `DuplicateEvent` of an id that another transaction was storing at the same moment."""


class WrongExpectedVersion(Conflict):
    """The stream is not at the expected version: read it again, decide again, append again."""

    def __init__(self, stream: str, expected: int | str, actual: int) -> None:
        super().__init__(f"stream {stream!r} is at version {actual}, expected {expected}")
        self.stream = stream
        self.expected = expected
        self.actual = actual


class StreamExists(WrongExpectedVersion):
    """NO_STREAM was expected, and the stream has events."""


class DuplicateEvent(Conflict):
    """An event id is taken: by another stream, by other content, or by a part of this append only."""

    def __init__(self, stream: str, event_id: UUID | None) -> None:
        which = f"event id {event_id}" if event_id else "an event id"
        super().__init__(f"{which} of the append to {stream!r} is already stored, and not as this same append")
        self.stream = stream
        self.event_id = event_id


class EventNotFound(Conflict):
    """An event that was to be linked is not stored."""

    def __init__(self, stream: str, event_id: UUID | None) -> None:
        super().__init__(f"event {event_id} cannot be linked to {stream!r}: it is not stored")
        self.stream = stream
        self.event_id = event_id


class SnapshotNotFound(TrunklineError):
    """No snapshot was recorded of the source."""

    def __init__(self, source: str) -> None:
        super().__init__(f"there is no snapshot of {source!r}")
        self.source = source


class QueueNotFound(TrunklineError):
    """The broker has no queue of this name, in the vhost of the URL."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"there is no queue {queue!r} in this vhost: its consumer declares it")
        self.queue = queue


class MessagesLost(TrunklineError):
    """A queue holds fewer messages than it confirmed: it was purged, drops its oldest, or a consumer took them."""

    def __init__(self, queue: str, sent: int, found: int) -> None:
        super().__init__(
            f"queue {queue!r} confirmed {sent} messages and holds {found} (it was purged, is full, or a consumer took "
            "them): make room and replay again from the start"
        )
        self.queue = queue
        self.sent = sent
        self.found = found


class _AboutStream(TrunklineError):
    def __init__(self, stream: str) -> None:
        super().__init__(f"stream {stream!r} {self._what}")
        self.stream = stream

    _what = ""


class StreamNotFound(_AboutStream):
    """No event was ever appended to the stream."""

    _what = "does not exist"


class StreamDeleted(_AboutStream):
    """The stream was deleted, and its name cannot be used again."""

    _what = "was deleted"


class UndecodableEvent(TrunklineError):
    """The serializer cannot decode an event; the ones before and after it can still be read."""

    def __init__(self, stream: str, stream_version: int, position: int, type: str, why: str) -> None:
        super().__init__(
            f"event {stream_version} of {stream!r} (position {position}, type {type!r}) cannot be decoded: {why}"
        )
        self.stream = stream
        self.stream_version = stream_version
        self.position = position
        self.type = type


class _AboutSubscription(TrunklineError):
    def __init__(self, subscription: str, message: str) -> None:
        super().__init__(f"subscription {subscription!r} {message}")
        self.subscription = subscription


class SubscriptionAlreadyExists(_AboutSubscription):
    """Another live subscriber owns the subscription."""

    def __init__(self, subscription: str) -> None:
        super().__init__(subscription, "has a live subscriber already: stop that one first")


class SubscriptionLost(_AboutSubscription):
    """The subscription has another owner, was reset, stopped or deleted: subscribe again."""

    def __init__(
        self, subscription: str, why: str = "now has another owner", what_to_do: str = "subscribe again"
    ) -> None:
        super().__init__(subscription, f"{why}; nothing more can be acknowledged here: {what_to_do}")


class SubscriptionDeleted(SubscriptionLost):
    """The subscription was deleted while it was followed. Subscribed to again it is a new one."""

    def __init__(self, subscription: str) -> None:
        super().__init__(subscription, "was deleted", "subscribed to again, it begins where its `start_from` says")


class SubscriptionHalted(_AboutSubscription):
    """A handler failed too often, and is to halt then. The cause is its last error; nothing of the batch is
    finished."""

    def __init__(self, subscription: str, position: int, attempts: int, error: str) -> None:
        times = "times, at last" if attempts > 1 else "time,"
        super().__init__(
            subscription, f"halted at position {position}: its handler failed {attempts} {times} with {error}"
        )
        self.position = position
        self.attempts = attempts


class SubscriptionNotHalted(_AboutSubscription):
    """The subscription cannot skip a batch: it is not halted, or not at this position."""

    def __init__(self, subscription: str, at: int | None = None) -> None:
        where = "" if at is None else f" at {at}, or no longer"
        super().__init__(subscription, f"is not halted{where}: `trunkline subscriptions show` says where it is")


class SubscriptionNotFound(_AboutSubscription):
    """There is no subscription of this name."""

    def __init__(self, subscription: str) -> None:
        super().__init__(subscription, "does not exist")


class UnexpectedAck(_AboutSubscription):
    """The acknowledged position is not in flight: not delivered yet, or acknowledged before."""

    def __init__(self, subscription: str, position: int) -> None:
        super().__init__(subscription, f"has no event {position} in flight")
        self.position = position


class LeaseLost(TrunklineError):
    """A lease ran out, or somebody else holds it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"lease {name!r} is no longer ours")
        self.name = name


class StoreNotReady(TrunklineError):
    """The schema in the database and this code do not fit together."""

    def __init__(self, schema: str, message: str) -> None:
        super().__init__(message)
        self.schema = schema


class NotInitialised(StoreNotReady):
    def __init__(self, schema: str) -> None:
        super().__init__(schema, f"there is no store in schema {schema!r}: run `trunkline create{_named(schema)}`")


def _named(schema: str) -> str:
    """The option that a command takes, unless it would mean this store anyway."""
    return "" if schema == "eventstore" else f" --schema {schema}"


class _WrongSchemaVersion(StoreNotReady):
    def __init__(self, schema: str, found: int, needed: int, message: str) -> None:
        super().__init__(schema, message)
        self.found = found
        self.needed = needed


class MigrationPending(_WrongSchemaVersion):
    def __init__(self, schema: str, found: int, needed: int) -> None:
        super().__init__(
            schema,
            found,
            needed,
            f"schema {schema!r} is at migration {found}, this code needs {needed}: "
            f"run `trunkline migrate{_named(schema)}`",
        )


class SchemaTooNew(_WrongSchemaVersion):
    def __init__(self, schema: str, found: int, needed: int) -> None:
        super().__init__(
            schema,
            found,
            needed,
            f"schema {schema!r} is at migration {found}, this code knows only {needed}: upgrade trunkline",
        )


class UnsafeRead(TrunklineError):
    """`$all` can only be read in order at READ COMMITTED, on a primary."""


class PermissionRefused(TrunklineError):
    """PostgreSQL refuses the login, the database, or what the login wants to do: trying again does not help.
    Nothing was changed; `trunkline roles` gives a login the role that it needs."""


class Unavailable(TrunklineError):
    """Something outside is not there, or busy. Trying again later may help."""


class StoreUnavailable(Unavailable):
    """The database cannot be reached."""


class HistoryChanged(Unavailable):
    """The database was restored or replaced, or crashed, since a position was learned. Positions in memory are void:
    read again from the last handled event."""


class ConcurrencyFailure(Unavailable):
    """PostgreSQL aborted the transaction (deadlock or serialization failure): run all of it again."""


class OperationTimeout(Unavailable):
    """The database, or the pool, did not answer in time. An append may or may not have been committed:
    send it again with the same event ids, and the answer is the original one."""


class BrokerUnavailable(Unavailable):
    """RabbitMQ cannot be reached, or refuses us."""

    @classmethod
    def because(cls, error: BaseException, url: str | None = None) -> Self:
        """For what the client library or the system raised: whether RabbitMQ cannot be reached, or wants nothing of us.

        The library's errors are known by their names, since the store does without the library. url: that of the
        connection, for its vhost's name.
        """
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "InvalidFrameError" in kinds and "Connection.OpenOk" in str(error):
            vhost = "" if url is None else f" {unquote(urlsplit(url).path.removeprefix('/')) or '/'!r}"
            return cls(f"RabbitMQ refuses the URL's vhost{vhost}: it does not exist, or is closed to this user")
        if kinds & _REFUSALS:
            return cls(f"RabbitMQ refuses us: {_words(error)}")
        return cls(tls_problem("RabbitMQ", "cafile", error) or f"RabbitMQ cannot be reached: {_words(error)}")


_REFUSALS: Final = frozenset({"ProbableAuthenticationError", "ChannelClosed"})
"""What aiormq raises where RabbitMQ answers, and says no: to the password, or to what is asked on a channel."""


_WORDLESS: Final = (StopAsyncIteration, EOFError, ConnectionResetError, CancelledError)


def tls_problem(server: str, parameter: str, error: BaseException) -> str | None:
    """What is wrong with a server's certificate, or with the files that its URL names, in words; else None.

    parameter: of the URL, which names the authorities to trust.
    """
    for each in (error, error.__cause__):
        match each:
            case ssl.SSLCertVerificationError():
                why = each.verify_message.rstrip(".")
                return (
                    f"{server} shows a certificate that is not trusted: {why} (the URL's {parameter} names a file with "
                    "the authority that signed it, and its host must be one that the certificate is for)"
                )
            case ssl.SSLError():
                return f"{server} cannot be reached by TLS: {each.reason or each} (is it another port?)"
            case FileNotFoundError():
                return f"{server} cannot be reached: a socket, or a file like the URL's {parameter}, is not there"
    return None


def _words(error: BaseException) -> str:
    if isinstance(error.__cause__, EOFError | ConnectionResetError):
        error = error.__cause__
    if isinstance(error, _WORDLESS) or type(error) is Exception:
        return "the connection was closed without an error"  # the client library's way to report it
    return shown(error)
