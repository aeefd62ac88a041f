"""Takes a guard out of the program that it runs in. Nothing in the product has such a switch: it is replaced there.

A soak or a test that does not fail then shows nothing.
"""

from collections.abc import Callable
from typing import Final

from trunkline_consumer import follow
from trunkline_consumer.place import Verdict, verdict
from trunkline_store import EventStore
from trunkline_store.wire import Placement


def without_checkpoint_guard(store: EventStore) -> None:
    """The last statement of a handler's transaction checks neither owner, epoch nor place."""
    guarded = store.sql["finish"]
    unguarded = guarded.replace("RETURNING checkpoint", "OR subscription_id = $1 RETURNING checkpoint")
    assert unguarded != guarded
    store.sql = {**store.sql, "finish": unguarded}


def without_hole_detection(_: EventStore) -> None:
    """A message after a hole counts as the next one."""

    def blind(message: Placement, previous: int, delivered: int, looked: int, history: str) -> Verdict:
        found = verdict(message, previous, delivered, looked, history)
        return Verdict.NEXT if found is Verdict.HOLE else found

    assert follow.verdict is verdict  # type: ignore[attr-defined] # what is imported there is replaced there
    follow.verdict = blind  # type: ignore[attr-defined] # as above


CONTROLS: Final[dict[str, Callable[[EventStore], None]]] = {
    "checkpoint-guard": without_checkpoint_guard,
    "hole-detection": without_hole_detection,
}
