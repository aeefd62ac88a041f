"""Errors as text: no password, a bound, and linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline_store.masking import SHOWN_CHARS, TRACEBACK_CHARS, masked, named, shown, traced

SECRET = "geheim"
URLS = [
    f"amqp://user:{SECRET}@host/vhost",
    f"postgresql://user:{SECRET}#7/?@@host:5432/database",
    f"postgresql://host/database?user=me&password={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_the_password_of_a_url_is_masked(url: str) -> None:
    """A password is masked anywhere in the text, also one that should have been encoded."""
    text = masked(f"cannot reach '{url}' (again)")
    assert SECRET not in text
    assert "host" in text
    assert "***" in text
    assert text.endswith("(again)")


@pytest.mark.parametrize("url", URLS)
@given(before=st.integers(0, 3000), behind=st.integers(0, 3000))
def test_an_error_that_is_cut_shows_no_part_of_a_password(url: str, before: int, behind: int) -> None:
    """Wherever the cut falls, the text is within the bound, except for the added masks."""
    error = ValueError("x" * before + " " + url + " " + "y" * behind)
    for text in (shown(error), named(error)):
        assert not any(SECRET[:length] in text.replace("x", "").replace("y", "") for length in (3, 6))
        assert len(text) <= SHOWN_CHARS + 10


@pytest.mark.parametrize("text", [each * 150_000 for each in ("://a:", "a://b:c", "password=", "x", "@")])
def test_masking_takes_time_in_proportion_to_the_text(text: str) -> None:
    """Masking an error of 150 kB takes far less time than a lease, whatever its text."""
    began = time.monotonic()
    masked(text)
    for as_text in (shown, named, traced):
        assert len(as_text(ValueError(text))) <= TRACEBACK_CHARS + 10
    assert time.monotonic() - began < 2


def test_a_traceback_keeps_its_end_and_no_password() -> None:
    """The end shows the error; a line that is cut is left out, since its URL may lack the beginning."""
    text = traced(ValueError(f"{URLS[0]}\n" * 2000 + "the end"))
    assert text.endswith("the end\n")
    assert SECRET not in text
