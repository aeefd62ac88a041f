"""Where a message stands: one comparison."""

import pytest

from trunkline_consumer.place import Verdict, verdict
from trunkline_store.wire import Placement


@pytest.mark.parametrize(
    ("previous", "first", "last", "expected"),
    [
        (100, 101, 105, Verdict.NEXT),  # neighbours
        (90, 110, 115, Verdict.NEXT),  # nothing of the feed lies between
        (90, 95, 105, Verdict.NEXT),  # straddles: it is trimmed
        (95, 96, 100, Verdict.DUPLICATE),
        (101, 102, 105, Verdict.HOLE),
    ],
)
def test_one_comparison_tells_next_duplicate_and_hole(previous: int, first: int, last: int, expected: Verdict) -> None:
    """Delivered up to 100: what goes on, what is old, what reveals a hole."""
    message = Placement("h", "i", first, last, previous, 0, 0, 1)
    assert verdict(message, previous, 100, 100, "h/i") is expected
    assert verdict(message, previous, 100, 100, "another/i") is Verdict.FOREIGN
    assert verdict(message, previous, 100, 100, "h/another") is Verdict.FOREIGN


def test_what_the_store_was_read_past_is_no_hole() -> None:
    """A message is left out if, and only if, the store no longer held its events when it was read beyond them."""
    message = Placement("h", "i", 102, 105, 101, 0, 0, 1)
    assert verdict(message, 101, 100, 104, "h/i") is Verdict.HOLE
    assert verdict(message, 101, 100, 105, "h/i") is Verdict.STALE
    assert verdict(message, 100, 100, 105, "h/i") is Verdict.NEXT
