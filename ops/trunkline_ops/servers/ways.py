"""The ways to a server are tried in order; where none is open, the error tells why each one failed."""

from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


class ServerError(Exception):
    """A server did not do what it was told; the message holds the end of its log."""


class Unavailable(ServerError):
    """There is no way to a server here, or this way is closed; the message says why."""


def first_open(what: str, advice: str, *ways: Callable[[], Found]) -> Found:
    """What the first of `ways` finds.

    A way says with `Unavailable` that it is closed. When all are, `Unavailable` lists them by the first line
    of their docstrings, each with its reason, and ends with `advice`.
    """
    tried = []
    for way in ways:
        try:
            return way()
        except Unavailable as reason:
            tried.append(f"  - {(way.__doc__ or way.__name__).splitlines()[0].rstrip('.')}: {reason}")
    raise Unavailable("\n".join([f"there is no {what} to be had here:", *tried, f"  {advice}"]))
