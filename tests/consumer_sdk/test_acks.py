"""The ack map, against a plain model."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from trunkline_consumer.acks import AckMap, Unit


@given(st.data())
def test_the_checkpoint_never_passes_an_event_that_is_not_finished(data: st.DataObject) -> None:
    """Deliveries, filtered events and acks in any order: the low-water mark is the last event below which all is
    acknowledged or filtered."""
    acks = AckMap(7)
    events: dict[int, str] = {}
    position = 7
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["deliver", "filter", "ack", "ack"])):
            case "deliver":
                first = position + data.draw(st.integers(1, 3))
                position = first + data.draw(st.integers(0, 3))
                acks.deliver(first, position)
                events.update(dict.fromkeys(range(first, position + 1), "delivered"))
            case "filter":
                position += data.draw(st.integers(1, 3))
                acks.filtered(position)
                events[position] = "filtered"
            case "ack":
                at = data.draw(st.integers(7, position + 2))
                in_flight = events.get(at) == "delivered"
                assert acks.ack(at) is in_flight
                if in_flight:
                    events.update({p: "acked" for p, was in events.items() if p <= at and was == "delivered"})
        expected = 7
        for p, was in sorted(events.items()):
            if was == "delivered":
                break
            expected = p
        assert acks.low_water == expected
        assert acks.finished == sum(was == "acked" for was in events.values())


def test_a_part_of_a_batch_moves_the_checkpoint_into_it() -> None:
    """Acks may be one by one; a batch that is finished in part still counts as in flight."""
    acks = AckMap(0)
    acks.deliver(10, 12)
    assert acks.ack(11)
    assert (acks.low_water, len(acks)) == (11, 1)
    assert not acks.ack(11)
    assert acks.ack(12)
    assert (acks.low_water, len(acks)) == (12, 0)


def test_broker_tags_are_released_up_to_the_durable_checkpoint_only() -> None:
    """In one multiple ack, never beyond; a channel that has gone takes its tags with it."""
    acks = AckMap(0)
    for tag, last in ((1, 10), (2, 20), (3, 15), (4, 30)):
        acks.received(tag, last)
    assert acks.settle(9) is None
    assert acks.settle(19) == 1
    assert acks.settle(20) == 3
    assert acks.settle(20) is None
    acks.forget_tags()
    assert acks.settle(99) is None


@given(st.lists(st.sampled_from(["deliver", "filter"]), min_size=1, max_size=15), st.randoms(use_true_random=False))
def test_units_tile_the_feed_and_may_be_finished_in_any_order(steps: list[str], random: Random) -> None:
    """Each begins where the one before it ended, whatever was filtered between: what is finished of them is one
    interval. The low-water mark is the end of the last one below which all is
    done."""
    acks, units, position = AckMap(3), list[tuple[Unit | None, int]](), 3
    for step in steps:
        first = position + random.randint(1, 5)
        before = next((last for unit, last in reversed(units) if unit is not None), acks.end)
        position = first + random.randint(0, 3)
        if step == "deliver":
            units.append((acks.deliver(first, position, size=7), position))
            assert units[-1][0] is not None
            assert (units[-1][0].start, acks.end) == (before, position)
        else:
            acks.filtered(position)
            units.append((None, position))
    unfinished = [unit for unit, _ in units if unit is not None]
    random.shuffle(unfinished)
    while True:
        expected = 3
        for unit, last in units:
            if unit in unfinished:
                break
            expected = last
        assert acks.low_water == expected
        assert (len(acks), acks.size) == (len(unfinished), 7 * len(unfinished))
        if not unfinished:
            return
        acks.finish(unfinished.pop())


def test_nothing_grows_behind_a_batch_that_takes_long() -> None:
    """P8: what is finished behind it is not kept one by one, and counts all the same when that one is finished."""
    acks = AckMap(0)
    stuck = acks.deliver(1, 1)
    for n in range(2, 20_000, 2):
        acks.finish(acks.deliver(n, n))
        acks.filtered(n + 1)
        assert len(acks._units) < 100
    assert (acks.low_water, len(acks), acks.finished) == (0, 1, 9_999)
    acks.finish(stuck)
    assert (acks.low_water, len(acks), acks.finished) == (19_999, 0, 10_000)
