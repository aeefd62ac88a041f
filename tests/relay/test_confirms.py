"""The window of publisher confirms, against a plain model."""

from hypothesis import given
from hypothesis import strategies as st

from trunkline_relay.confirms import Window


@given(st.integers(1, 30), st.data())
def test_the_position_is_the_highest_below_which_all_is_confirmed(count: int, data: st.DataObject) -> None:
    """Acks in any order, single and multiple, with nacks that overtake them: the position never passes a message that
    is outstanding or was refused, and never moves back."""
    window = Window(5)
    positions = {window.sent(tag * 10, size=1): tag * 10 for tag in range(1, count + 1)}
    state = dict.fromkeys(positions, "sent")
    before = window.position
    for _ in range(data.draw(st.integers(0, 40))):
        outstanding = [tag for tag, was in state.items() if was == "sent"]
        if not outstanding:
            break
        tag = data.draw(st.sampled_from(outstanding))
        multiple = data.draw(st.booleans())
        settled = [t for t in outstanding if t == tag or (multiple and t < tag)]
        if data.draw(st.integers(0, 5)):
            window.ack(tag, multiple=multiple)
            state.update(dict.fromkeys(settled, "acked"))
        else:
            window.nack(tag, multiple=multiple)
            state.update(dict.fromkeys(settled, "refused"))
        confirmed = 5
        for t, position in positions.items():
            if state[t] != "acked":
                break
            confirmed = position
        assert window.position == confirmed >= before
        assert window.bytes == len(window) == count - confirmed // 10, "what is outstanding is counted"
        assert (window.refused is not None) == ("refused" in state.values())
        before = window.position
