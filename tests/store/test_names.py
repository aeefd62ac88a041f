"""Routing keys and queues."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline_store.errors import InvalidArgument
from trunkline_store.names import MAX_KEY_BYTES, check_subscription, queue, routing_key

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@pytest.mark.parametrize(
    ("category", "type", "stream", "key"),
    [
        ("order", "OrderPlaced", "order-42", "order.OrderPlaced.order-42"),
        ("a.b", "v1.#*%", "a.b-1", "a%2Eb.v1%2E%23%2A%25.a%2Eb-1"),
        ("ü", "é", "ü-1", "ü.é.ü-1"),
    ],
)
def test_a_key_has_three_words(category: str, type: str, stream: str, key: str) -> None:
    """Category, type, stream; what topic exchanges treat specially is percent-escaped."""
    assert routing_key(category, type, stream) == key


@given(text, text, text)
def test_a_key_fits_and_has_no_wildcards(category: str, type: str, stream: str) -> None:
    """AMQP's 255 bytes; three words; no word that a binding would take for a wildcard."""
    key = routing_key(category, type, stream)
    assert len(key.encode()) <= MAX_KEY_BYTES
    assert len(key.split(".")) == 3
    assert not set("*#") & set(key)


def test_keys_that_are_cut_stay_different() -> None:
    """A hash of the whole ends them."""
    one, two = (routing_key("c", "t", "c-" + "x" * 252 + end) for end in "ab")
    assert one != two
    assert one.startswith("c.t.c-xxx")


def test_queues_are_readable_and_unique() -> None:
    """Plain names stay as they are; others keep what is allowed, and a hash."""
    assert queue("eventstore", "billing") == "eventstore.billing"
    assert queue("eventstore", "bill%ing").startswith("eventstore.bill_ing_")
    assert len({queue("s", name) for name in ("a%b", "a_b", "a*b", "é", "è", "x" * 128, "x" * 127)}) == 7


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 129, None])
def test_bad_subscription_names_are_refused(name: str) -> None:
    """A subscription's name is printable text of at most 128 bytes."""
    with pytest.raises(InvalidArgument):
        check_subscription(name)
