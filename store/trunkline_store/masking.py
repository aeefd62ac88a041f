"""Errors as text for people: without passwords, and cut to a bound.

Every error that becomes text (in another error, a log line or a stored row) becomes it here. All of it takes linear
time, and the text is cut first: an error may hold a whole message.
"""

from __future__ import annotations

import re
import traceback
from typing import Final

SHOWN_CHARS: Final = 2_000
TRACEBACK_CHARS: Final = 20_000

_WORD: Final = re.compile(r"\S+")
_PARAMETER: Final = re.compile(r"(?i)(password=)(?!\*{3})[^\s&]+")


def masked(text: str) -> str:
    """Return `text` with *** in place of the passwords of its URLs."""
    if "://" in text:
        text = _WORD.sub(_masked_word, text)
    return _PARAMETER.sub(r"\1***", text)


def shown(error: BaseException, limit: int = SHOWN_CHARS) -> str:
    """Return the message of `error`, or its class name if it has none: masked, at most `limit` characters."""
    return masked(_cut(str(error), limit)) or type(error).__name__


def named(error: BaseException, limit: int = SHOWN_CHARS) -> str:
    """Return the class and the arguments of `error`, as `repr` does: masked, at most `limit` characters."""
    return masked(_cut(repr(error), limit))


def traced(error: BaseException, limit: int = TRACEBACK_CHARS) -> str:
    """Return the end of the traceback of `error`: masked, at most `limit` characters."""
    text = "".join(traceback.format_exception(error))
    if len(text) > limit:
        text = text[-limit:].partition("\n")[2]  # the first line may lack the beginning of a URL
    return masked(text)


def _masked_word(word: re.Match[str]) -> str:
    """Mask all between the user and the last @: a password can hold any character, encoded or not."""
    text = word[0]
    begin, end = text.find("://") + 3, text.rfind("@")
    if begin < 3 or end < begin:
        return text
    user, colon, _ = text[begin:end].partition(":")
    return f"{text[:begin]}{user}:***{text[end:]}" if colon else text


def _cut(text: str, limit: int) -> str:
    """Return the beginning of `text`, without a URL that is cut off: its password cannot be told from its host."""
    if len(text) <= limit:
        return text
    text = text[: limit - 1]
    last = re.search(r"\S*\Z", text[-limit:])
    assert last
    word = last[0].rpartition("://")
    return f"{text[: len(text) - len(last[0])]}{word[0] + word[1] if word[1] else last[0]}…"
