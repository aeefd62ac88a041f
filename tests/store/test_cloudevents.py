"""Whatever is appended travels as a valid CloudEvent, by the `cloudevents` library and by the specification's types."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.cloudevents import problems
from tests.store.test_wire import encode, linked, stored
from trunkline_store import EventData, InvalidArgument
from trunkline_store.events import MAX_ID_BYTES, category_of, check_events, check_stream

ODD = "é😀\u0301\u202e\ufeff\u2028 %#.*/?&=\"'\\"
TEXT = st.text(min_size=1, max_size=60) | st.text(ODD, min_size=1, max_size=20) | st.just("x" * MAX_ID_BYTES)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DATES = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31, 23, 59, 59, 999_999))  # noqa: DTZ001 - UTC, as text
EARLIEST, LATEST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def time_of(moment: datetime) -> str:
    """As the relay's query writes it."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def read_by_library(event: dict[str, Any]) -> Any:
    """The library's event of one in JSON. Raises where it takes it for none."""
    return JSONFormat().read(None, json.dumps(event))


@given(
    stream=TEXT,
    type=TEXT,
    ids=st.tuples(st.none() | TEXT, st.none() | TEXT),
    metadata=st.none() | st.dictionaries(st.text(), VALUES, max_size=3),
    spaced=st.booleans(),
    data=VALUES | st.binary(max_size=40),
    moment=DATES,
    link=st.booleans(),
)
@example("a", "E", (None, None), {"\x7f\x9f\ufdd0\U0010ffff": "\n\t\x00\ufffe"}, True, None, EARLIEST, False)
@example("a-1", "E", (None, None), None, False, b"", LATEST, True)
def test_whatever_can_be_appended_is_a_cloudevent(
    stream: str,
    type: str,
    ids: tuple[str | None, str | None],
    metadata: dict[str, Any] | None,
    spaced: bool,
    data: Any,
    moment: datetime,
    link: bool,
) -> None:
    """Of all that an append accepts, any text and any date: attributes have the names and the types that CloudEvents
    allows, the library agrees, and what was given is what is read."""
    given_event = EventData(type, None, correlation_id=ids[0], causation_id=ids[1])
    try:
        check_stream(stream)
        check_events([given_event])
    except InvalidArgument:
        assume(False)
    try:
        text = None if metadata is None else json.dumps(metadata, ensure_ascii=False, indent=2 if spaced else None)
        body = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False)
        (text or "").encode()
        body if isinstance(body, bytes) else body.encode()
    except UnicodeEncodeError:
        assume(False)  # a lone surrogate, which the append refuses
    event = stored(
        stream=stream,
        category=category_of(stream),
        type=type,
        correlation_id=ids[0],
        causation_id=ids[1],
        metadata=text,
        data=body,
        time=time_of(moment),
    )
    media = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    message = encode([linked(4096, 7, event) if link else event], content_type=media)
    [sent] = json.loads(message.body)
    assert problems(sent) == []
    found = read_by_library(sent)
    assert (found.get_subject(), found.get_type(), found.get_time().replace(tzinfo=None)) == (
        stream,
        type,
        moment.replace(tzinfo=None),
    )
    assert (found.get_extension("correlationid"), found.get_extension("causationid")) == ids
    assert (None if text is None else json.loads(found.get_extension("metadata"))) == metadata


@pytest.mark.parametrize(
    "change",
    [
        {"Upper": "x"},
        {"under_score": "x"},
        {"toolongforaname" * 2: "x"},
        {"integer": 2**31},
        {"float": 1.5},
        {"object": {}},
        {"nothing": None},
        {"empty": ""},
        {"control": "\x85"},
        {"noncharacter": "\U0001ffff"},
        {"source": "/event store/ö"},
        {"time": "2026-02-30T00:00:00Z"},
        {"time": "2026-02-03 00:00:00"},
        {"type": ""},
        {"data_base64": "AA=="},
    ],
    ids=str,
)
def test_the_check_would_notice(change: dict[str, Any]) -> None:
    """The control: each rule that is checked refuses something."""
    [event] = json.loads(encode([stored()]).body)
    assert problems(event) == []
    assert problems({**event, **change})


def test_the_library_would_notice() -> None:
    """The control: without its id, an event is none."""
    [event] = json.loads(encode([stored()]).body)
    with pytest.raises(CloudEventValidationError):
        read_by_library({**event, "id": ""})


@pytest.mark.parametrize("text", ["a\x7f", "a\x85b", "\ufdd0", "a\uffff", "\U0010fffe"], ids=ascii)
def test_what_no_attribute_may_hold_is_refused_at_the_append(text: str) -> None:
    """P9: control characters and noncharacters, in a stream's name as in a type or an id: an error that names them."""
    with pytest.raises(InvalidArgument, match=r"U\+"):
        check_stream(text)
    for event in (EventData(text, 1), EventData("E", 1, correlation_id=text), EventData("E", 1, causation_id=text)):
        with pytest.raises(InvalidArgument, match=r"U\+"):
            check_events([event])
