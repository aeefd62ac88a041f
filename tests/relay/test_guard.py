"""Who may see the status page."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline_relay.guard import Guard

TOKEN = "s3cret-of-sixteen"


def basic(password: str, user: str = "anybody") -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def refused(guard: Guard, **headers: str) -> int | None:
    """The status of the refusal; None where there is none."""
    refusal = guard.refusal(headers)
    return None if refusal is None else refusal.status.value


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_address_is_open_to_this_machine_only(host: str) -> None:
    """Under its own names, with any port; a name that somebody else points there is refused."""
    guard = Guard(host)
    assert not guard.closed
    for called in ("127.0.0.1:9464", "localhost", "LOCALHOST:1", "[::1]:9464"):
        assert refused(guard, host=called) is None
    assert refused(guard) is None, "no browser leaves the name out"
    for called in ("evil.example", "evil.example:9464", "127.0.0.1.evil.example", "", "[", "192.0.2.1"):
        assert refused(guard, host=called) == 421


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "relay.internal", ""])
def test_other_addresses_are_closed_without_a_token(host: str) -> None:
    """However it is called; unless that was asked for."""
    guard = Guard(host)
    assert guard.closed
    assert refused(guard, host="127.0.0.1") == 403
    assert refused(Guard(host, public=True), host="evil.example") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_with_a_token_nothing_else_counts(host: str) -> None:
    """As a bearer token or as the password that a browser asked for; everything else is asked for it."""
    guard = Guard(host, TOKEN, public=True)
    for right in (f"Bearer {TOKEN}", f"bearer {TOKEN} ", basic(TOKEN), basic(TOKEN, "")):
        assert refused(guard, authorization=right, host="status.example") is None
    wrong = [TOKEN, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", basic("x"), "Basic !", f"Digest {TOKEN}"]
    for each in wrong:
        assert refused(guard, authorization=each, host="127.0.0.1") == 401
    assert refused(guard, host="127.0.0.1") == 401
    challenge = guard.refusal({})
    assert challenge is not None
    assert challenge.headers["WWW-Authenticate"].startswith("Basic realm=")


@given(st.text(st.characters(max_codepoint=255)))
def test_no_other_text_opens_it(authorization: str) -> None:
    """Whatever comes is refused, and raises nothing."""
    assert refused(Guard("127.0.0.1", TOKEN), authorization=authorization) == 401


def test_a_token_may_have_any_characters_in_basic() -> None:
    """Browsers send what was typed as UTF-8, as the challenge asks them to."""
    assert refused(Guard("::", "schlüssel:zum:haus"), authorization=basic("schlüssel:zum:haus")) is None
