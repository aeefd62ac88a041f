"""What commands print on standard output: a line of JSON for programs, or a line for people, coloured on a terminal."""

import io
import json
import re
import sys
from base64 import b64encode
from datetime import UTC
from typing import Any

from msgspec import Raw
from rich.console import Console
from rich.text import Text

from trunkline_ops.json_text import on_one_line
from trunkline_ops.lines import written
from trunkline_store import RecordedEvent, SubscriptionInfo
from trunkline_store.subscriptions import halt_of

_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What could move the cursor, or turn the line around: events hold what others wrote."""


class Output:
    """Where the results of one command go."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._terminal = Console(highlight=False) if sys.stdout.isatty() else None
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know every character

    def result(self, sentence: str, **facts: Any) -> None:
        """What a command did: the sentence, or the facts."""
        if self.as_json:
            self._write_json(json.dumps(facts, default=str).encode())
        else:
            self._write(Text(visible(sentence)))
        self.flush()

    def paragraph(self, *parts: tuple[str, str], **facts: Any) -> None:
        """Some lines: parts with their styles, which are wrapped on a terminal; or the facts."""
        shown = [("\n".join(map(visible, text.split("\n"))), style) for text, style in parts]
        if self.as_json:
            self._write_json(json.dumps(facts, default=str).encode())
        elif self._terminal is None:
            sys.stdout.write("".join(text for text, _ in shown).rstrip() + "\n")
        else:
            self._terminal.print(Text.assemble(*shown))
        self.flush()

    def event(self, event: RecordedEvent, *, is_json: bool) -> None:
        """One line for an event, whose data is bytes, and JSON or not; on a terminal it ends where the screen does."""
        if self.as_json:
            self._write_json(written(event, is_json=is_json))
            return
        text, _ = on_one_line(event.data, is_json=is_json)
        shown = bytes(text) if isinstance(text, Raw) else b64encode(event.data)
        time = event.created_at.astimezone(UTC).replace(tzinfo=None)
        self._write(
            Text.assemble(
                (f"{event.position:>10}  ", "cyan"),
                (f"{time.isoformat(' ', 'milliseconds')}  ", "dim"),
                (visible(event.stream), "bold"),
                (f"@{event.stream_version}  ", "dim"),
                (f"{visible(event.type)}  ", "green"),
                visible(shown.decode()),
            )
        )

    def flush(self) -> None:
        """Hands over what was written. Raises `BrokenPipeError` where nobody reads it any more."""
        sys.stdout.flush()

    def _write_json(self, line: bytes) -> None:
        sys.stdout.buffer.write(line + b"\n")

    def _write(self, line: Text) -> None:
        if self._terminal is None:
            sys.stdout.write(f"{line.plain}\n")
        else:
            self._terminal.print(line, no_wrap=True, overflow="ellipsis")


def subscription_facts(info: SubscriptionInfo) -> dict[str, Any]:
    """For programs: `halted` is an object here, not its text."""
    halted = halt_of(info.halted)
    return {**info._asdict(), "halted": halted and halted._asdict(), "state": info.state}


def visible(text: str) -> str:
    """With what could steer a terminal escaped."""
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
