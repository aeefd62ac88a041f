"""Counts and ages as people read them. Pure."""

from __future__ import annotations

from typing import Final

COUNTED: Final = 10_000
"""Up to which what waits is counted, where nothing else is said."""


def counted(count: int, *, or_more: bool | None = None) -> str:
    """`1,234`; `10,000 or more` where counting stopped there. or_more: whether it did, if that is known."""
    return f"{count:,} or more" if (count >= COUNTED if or_more is None else or_more) else f"{count:,}"


def events(count: int, *, or_more: bool | None = None) -> str:
    """As `counted`, of events: `1 event`, `10,000 events or more`."""
    number, *more = counted(count, or_more=or_more).split(" ", 1)
    return " ".join([number, "event" if number == "1" else "events", *more])


def age(seconds: float) -> str:
    """`1.2 s`, `40 s`, `12 min`, `5 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
