"""How a subscription behaves, and how a handler is run: the limits and their defaults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypedDict

import msgspec

from trunkline_store import InvalidArgument

Handler = Callable[..., Awaitable[None]]
"""Called with a batch; with `tx`, with a connection too."""

_LONGEST: Final = 10 * 365 * 24 * 3600.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription behaves. Each can also be given to `subscribe_to_…` and `handler` by its name.

    - `buffer_size`: batches that are handed out or wait to be, and are not finished; `buffer_bytes`: of their data,
      though one batch is always let in.
    - `checkpoint_threshold`: events after which the checkpoint is written; `checkpoint_after`: seconds after which it
      is written all the same (None: only by the threshold, and at the end).
    - `lease`: seconds after which an owner that has vanished is replaced.
    - `transaction_idle`: seconds that a handler's transaction may wait between two statements, or for a lock: so long a
      paused one can hold up whoever takes over.
    - `idle`: seconds without progress after which the store is asked whether there is more; a tenth of it while the
      broker is away.
    - `prefetch`: messages that the broker may send ahead of their acknowledgement.
    - `queue_length`, `queue_bytes`: of the queue, which drops its oldest messages beyond; `queue_expires`: seconds
      without a consumer after which the broker removes it. What is dropped is read from the store.
    """

    buffer_size: int = 16
    buffer_bytes: int = 16 * 1024 * 1024
    checkpoint_threshold: int = 1
    checkpoint_after: float | None = 1.0
    lease: float = 15.0
    transaction_idle: float = 30.0
    idle: float = 1.0
    prefetch: int = 200
    queue_length: int = 100_000
    queue_bytes: int = 256 * 1024 * 1024
    queue_expires: float = 7 * 24 * 3600.0

    def __post_init__(self) -> None:
        for name in (
            "buffer_size", "buffer_bytes", "checkpoint_threshold", "prefetch", "queue_length", "queue_bytes"
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidArgument(f"{name}: {value!r} is not at least 1")
        if self.prefetch > 2000:
            raise InvalidArgument(f"prefetch: {self.prefetch} is over 2000, the most that quorum queues serve")
        for name, least in (
            ("lease", 0.1), ("idle", 0.01), ("queue_expires", 1), ("checkpoint_after", 0.01), ("transaction_idle", 0.1)
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name == "checkpoint_after":
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= _LONGEST:
                raise InvalidArgument(f"{name}: {value!r} is not between {least} and {_LONGEST:.0f} seconds")


class Limits(TypedDict, total=False):
    """The fields of `Options`, as keyword arguments."""

    buffer_size: int
    buffer_bytes: int
    checkpoint_threshold: int
    checkpoint_after: float | None
    lease: float
    transaction_idle: float
    idle: float
    prefetch: int
    queue_length: int
    queue_bytes: int
    queue_expires: float


def options_of(options: Options | None, limits: Limits) -> Options:
    """`options`, or the defaults, with what is given by name. Raises `InvalidArgument`."""
    unknown = limits.keys() - Options.__struct_fields__
    if unknown:
        raise InvalidArgument(f"{min(unknown)}: there is no such option")
    given: dict[str, Any] = dict(limits)
    return msgspec.structs.replace(options or Options(), **given)


class Handling(msgspec.Struct, frozen=True, kw_only=True):
    """How a handler is run.

    - `concurrency`: batches that are handled at once, of different keys.
    - `tx`: the handler gets a connection, in a transaction that also holds the checkpoint.
    - `attempts`: how often a batch is tried, in all. The pause between doubles from `wait_initial` seconds, with up
      to `wait_initial` more at random, and is `wait_max` at most.
    - `timeout`: seconds that one attempt may take.
    - `on_failure`: what is done with a batch whose attempts are used up. `halt`: the subscription ends, nothing of it
      is finished. `park`: it is put aside. `park_key`: as well, and later batches of its key wait behind it.
    - `grace`: seconds that running handlers have to come to their end, when the subscription is stopped.
    """

    concurrency: int = 1
    tx: bool = False
    attempts: int = 5
    wait_initial: float = 0.1
    wait_max: float = 5.0
    timeout: float | None = None
    on_failure: Literal["halt", "park", "park_key"] = "halt"
    grace: float = 5.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidArgument(f"{name}: {value!r} is not at least 1")
        if self.on_failure not in ("halt", "park", "park_key"):
            raise InvalidArgument(f"on_failure: {self.on_failure!r} is neither halt, park nor park_key")
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidArgument(f"timeout: {self.timeout!r} is not above 0")
        if not self.grace >= 0:
            raise InvalidArgument(f"grace: {self.grace!r} is not at least 0")
