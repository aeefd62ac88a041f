"""Cancellation that is obeyed, also around libraries that swallow it."""

from __future__ import annotations

import asyncio


def obey_cancellation() -> None:
    """Raises `CancelledError` if the running task was asked to end.

    One cancellation in ten that falls into a connect is swallowed by aiormq, or comes out as an error of the broker
    (measured): whoever waits for the task to end would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
