"""What things are called on the broker: exchanges, routing keys, queues."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from typing import Final

from trunkline_store.errors import InvalidArgument

MAX_KEY_BYTES: Final = 255
"""AMQP 0-9-1 sends a routing key as a short string."""
MAX_CATEGORY_WORD: Final = 64
MAX_TYPE_WORD: Final = 96

_STORE = re.compile(r"[a-z][a-z0-9_]{0,47}")
_RESERVED = re.compile("amq|information_schema|pg_.*")
"""Names that a store cannot have. RabbitMQ reserves queue names that begin with `amq.`
(https://www.rabbitmq.com/docs/queues#names); the other schemas are PostgreSQL's
(https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-CATALOG)."""
_QUEUE_UNSAFE = re.compile(r"[^A-Za-z0-9_.:@#,/+-]")
_ESCAPES: Final = {ord(c): f"%{ord(c):02X}" for c in "%.*#"}


def check_store(name: str) -> str:
    """Returns the name if a store (schema and exchange) can have it, else raises `InvalidArgument`."""
    if not isinstance(name, str) or not _STORE.fullmatch(name):
        raise InvalidArgument(
            f"schema {name!r}: use 1 to 48 lower-case letters, digits and _, beginning with a letter (not pg_)"
        )
    if _RESERVED.fullmatch(name):
        raise InvalidArgument(f"schema {name!r} is reserved by RabbitMQ or PostgreSQL: use another name")
    return name


def exchange(store: str) -> str:
    """The topic exchange of a store's events."""
    return store


def links_exchange(store: str) -> str:
    """Return the name of the topic exchange of a store's links.

    No exchange of another store can have this name, since no schema has a `-`; nor can a subscription's queue. Rights
    are name patterns, which hold for queues and exchanges alike.
    """
    return f"{store}-links"


def app_id(store: str) -> str:
    """What a store's messages say of who published them."""
    return f"trunkline/{store}"


@lru_cache(maxsize=4096)
def word(text: str, limit: int) -> str:
    """`text` as one word of a routing key, at most `limit` bytes: `.`, `*`, `#` and `%` are percent-escaped, and
    what is too long is cut and ends with `~` and a hash of the whole."""
    escaped = text.translate(_ESCAPES)
    if len(escaped) <= limit and escaped.isascii():
        return escaped
    if len(escaped.encode()) <= limit:
        return escaped
    tail = "~" + sha256(text.encode()).hexdigest()[:16]
    head = escaped.encode()[: limit - len(tail)].decode(errors="ignore")
    return re.sub(r"%[0-9A-F]?$", "", head) + tail


def routing_key(category: str, type: str, stream: str) -> str:
    """`<category>.<type>.<stream>`, at most 255 bytes."""
    first = f"{word(category, MAX_CATEGORY_WORD)}.{word(type, MAX_TYPE_WORD)}."
    return first + word(stream, MAX_KEY_BYTES - len(first.encode()))


def links_key(stream: str) -> str:
    """The routing key of links into `stream`: one word."""
    return word(stream, MAX_KEY_BYTES)


def queue(store: str, subscription: str) -> str:
    """The queue of a subscription. Only characters that clients accept; unique, also where some were replaced."""
    safe = _QUEUE_UNSAFE.sub("_", subscription)
    if safe != subscription or len(safe) > 150:
        safe = f"{safe[:130]}_{sha256(subscription.encode()).hexdigest()[:12]}"
    return f"{store}.{safe}"


def check_subscription(name: str) -> str:
    """Returns the name if a subscription can have it, else raises `InvalidArgument`."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name.encode()) > 128:
        raise InvalidArgument(f"subscription {name!r}: use 1 to 128 bytes of printable text")
    return name
