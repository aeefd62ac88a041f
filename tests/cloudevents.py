"""What a CloudEvent may be, by the specification's own words: the `cloudevents` library checks little of it."""

import re
from datetime import datetime
from typing import Any

NAME = re.compile(r"[a-z0-9]{1,20}")
"""Context Attributes, Naming Conventions: lower-case letters or digits; not more than 20 of them is a SHOULD."""
URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?#]|%[0-9A-Fa-f]{2})+")
"""RFC 3986, 4.1, as far as its characters go."""
TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
"""RFC 3339, 5.6."""
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
REQUIRED = ("id", "source", "specversion", "type")
DATA = ("data", "data_base64")


def problems(event: Any) -> list[str]:
    """Where an event in JSON is no CloudEvent 1.0: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md,
    "Type System" and "Context Attributes", and formats/json-format.md."""
    if not isinstance(event, dict):
        return ["it is no object"]
    found = [f"{name} is missing" for name in REQUIRED if not event.get(name)]
    if "data" in event and "data_base64" in event:
        found.append("data and data_base64 go not together")
    if not isinstance(base64 := event.get("data_base64", ""), str) or not BASE64.fullmatch(base64):
        found.append("data_base64 is no base64")
    for name, value in event.items():
        if name not in DATA:
            found += [f"{name}: {problem}" for problem in _of_attribute(name, value)]
    return found


def _of_attribute(name: str, value: object) -> list[str]:
    found = [] if NAME.fullmatch(name) else ["the name is none"]
    if isinstance(value, bool):
        return found
    if isinstance(value, int):
        return found if -(2**31) <= value < 2**31 else [*found, "an Integer has 32 bits"]
    if not isinstance(value, str):
        return [*found, f"{type(value).__name__} is not in the type system"]
    if any(_disallowed(ord(character)) for character in value):
        found.append("it holds a character that no String may hold")
    if not value:
        found.append("it is empty")
    if name in ("source", "dataref") and not URI_REFERENCE.fullmatch(value):
        found.append("no URI-reference")
    if name == "time":
        try:
            right = TIMESTAMP.fullmatch(value) is not None and datetime.fromisoformat(value).tzinfo is not None
        except ValueError:
            right = False
        found += [] if right else ["no Timestamp"]
    return found


def _disallowed(point: int) -> bool:
    """Control characters, surrogates (a pair in JSON is one character here), and noncharacters."""
    return (
        point <= 0x1F
        or 0x7F <= point <= 0x9F
        or 0xD800 <= point <= 0xDFFF
        or 0xFDD0 <= point <= 0xFDEF
        or point & 0xFFFE == 0xFFFE
    )
