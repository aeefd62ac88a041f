"""The file of an export: where a former try has stopped, and how to go on from there."""

from __future__ import annotations

from pathlib import Path
from typing import IO, NamedTuple

from trunkline_ops.lines import MAX_LINE_BYTES
from trunkline_ops.transfer.item import Head, Tally, decode
from trunkline_store import InvalidArgument


class Begun(NamedTuple):
    """A file that has begun: its head, what is in it in the order, how many bytes that is, and the last position."""

    head: Head
    tally: Tally
    size: int
    position: int


def begun(path: Path) -> Begun | None:
    """What can be gone on with; None where there is no file, or an empty one. Raises `InvalidArgument` where it is
    something else, or complete. A last line that is cut off, and all that stands after events and links, is not
    counted: it is written anew."""
    try:
        with path.open("rb") as file:
            return _begun(path, file)
    except FileNotFoundError:
        return None


def _begun(path: Path, file: IO[bytes]) -> Begun | None:
    tally, size, position, head, in_order = Tally(), 0, -1, None, True
    while line := file.readline(MAX_LINE_BYTES + 1):
        if not line.endswith(b"\n"):
            break  # the former try was killed within it
        item = decode(line)
        if head is None:
            head = item.export
            if head is None:
                raise InvalidArgument(f"{path} is no export: its first line says nothing of one; name another file")
        elif item.end is not None:
            raise InvalidArgument(f"{path} is a complete export: remove it, or name another file")
        elif (place := item.place) is not None:
            tally.add(item)
            position = place
        else:
            in_order = False
        size += len(line) if in_order else 0
    if head is None:
        if file.seek(0, 2):
            raise InvalidArgument(f"{path} is no export: its first line says nothing of one; name another file")
        return None
    return Begun(head, tally, size, position)
