"""The rate of log lines about an outage, and the back-off: pure."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trunkline_store.outage import REMIND_SECONDS, Outage, Pause


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["a: 1", "a: 2", "b", "over"])), max_size=50))
def test_each_kind_of_fault_is_told_once_and_then_once_a_minute(steps: list[tuple[float, str]]) -> None:
    """Each kind of fault is logged once a minute, however often it occurs; after the end of an outage, the next fault
    is logged at once."""
    outage, now, said = Outage(), 0.0, dict[str, float]()
    for seconds, step in steps:
        now += seconds
        if step == "over":
            assert (outage.over(now) is not None) is bool(said)
            said.clear()
            continue
        kind = step[0]  # two that differ in a number are of one kind
        due = now - said.get(kind, now - REMIND_SECONDS) >= REMIND_SECONDS
        assert outage.is_news(step, now) is due
        if due:
            said[kind] = now


def test_a_pause_doubles_up_to_its_ceiling_and_is_short_again_after_progress() -> None:
    """The jitter is at most half of the pause."""
    pause = Pause()
    seconds = [pause.next() for _ in range(12)]
    assert 0.05 <= seconds[0] <= 0.1
    assert all(later <= 4 * before for before, later in pairwise(seconds))
    assert all(2.5 <= each <= 5.0 for each in seconds[-5:])
    pause.reset()
    assert pause.next() <= 0.1
