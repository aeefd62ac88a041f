"""Which batch may go next: pure."""

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from trunkline_consumer.lanes import Lanes


@given(st.data())
def test_two_of_a_key_are_never_taken_at_once_and_each_key_keeps_its_order(data: st.DataObject) -> None:
    """In any interleaving of arriving, taken and finished batches, nothing that may go is held back, and the oldest
    that may go goes first."""
    lanes: Lanes[int] = Lanes()
    taken: Hashable
    running: dict[str, int] = {}
    waiting: list[tuple[str, int]] = []
    for number in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["add", "take", "done"])):
            case "add":
                key = data.draw(st.sampled_from("abc"))
                lanes.add(key, number)
                waiting.append((key, number))
            case "take":
                found = lanes.take()
                free = [each for each in waiting if each[0] not in running]
                if found is None:
                    assert free == []
                else:
                    taken, batch = found
                    key = str(taken)
                    assert key not in running
                    assert (key, batch) == free[0]
                    waiting.remove((key, batch))
                    running[key] = batch
            case "done" if running:
                key = data.draw(st.sampled_from(sorted(running)))
                del running[key]
                lanes.done(key)
