"""What is appended: an event of 183 bytes of data and 58 of metadata, as JSON."""

from __future__ import annotations

import itertools
from typing import Any, Final

import msgspec

from trunkline_store import EventData

TYPE: Final = "OrderPlaced"

_numbers = itertools.count()


def data(number: int) -> dict[str, Any]:
    """The data of the event of that number."""
    return {
        "order": f"{number:010}",
        "customer": "customer-0042",
        "currency": "EUR",
        "lines": [{"sku": "SKU-1001", "quantity": 2, "price": 1999}, {"sku": "SKU-2002", "quantity": 1, "price": 4999}],
        "note": "express",
    }


def metadata() -> dict[str, Any]:
    """The metadata of any event."""
    return {"user": "user-00042", "ip": "192.0.2.17", "agent": "shop/4.2"}


def events(count: int) -> list[EventData]:
    """New events, each with objects of its own, as an application would make them."""
    return [EventData(TYPE, data(next(_numbers)), metadata()) for _ in range(count)]


def as_text(value: Any) -> str:
    """What the store makes of data or metadata."""
    return msgspec.json.encode(value).decode()


def appends(count: int, events_each: int) -> list[list[EventData]]:
    """The events of so many appends."""
    return [events(events_each) for _ in range(count)]
