"""A bar on standard error while something takes long, if a person looks on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[int, int | None, str], None]
"""advance(done, of how many (None: nobody knows), in words)"""


@contextmanager
def bar(what: str) -> Iterator[Advance]:
    """Within it, what is called to say how far it is; on no terminal nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda done, total, words: None
        return
    text, words = TextColumn("{task.description}"), TextColumn("{task.fields[words]}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(bar_width=None), words, TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, expand=True) as progress:  # the bar has what words leave
        task = progress.add_task(what, total=None, words="")
        yield lambda done, total, words: progress.update(task, completed=done, total=total, words=words)
