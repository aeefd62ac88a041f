"""Cancellation that is obeyed, also around libraries that swallow it; and work that a cancellation must not end."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def obey_cancellation() -> None:
    """Raises `CancelledError` if the running task was asked to end.

    One cancellation in ten that falls into a connect is swallowed by aiormq, or comes out as an error of the broker
    (measured): whoever waits for the task to end would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def ends_program(error: BaseException) -> bool:
    """Return True if an error concerns more than the work that raised it.

    These are a cancellation that was requested of the running task, Ctrl-C, and the end of a generator. Everything else
    that a handler, a message or a client library raises is its own failure. That includes `SystemExit`, the exception
    of `pytest.fail`, and the `CancelledError` of something that it waited for.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | GeneratorExit)


@types.coroutine
def uncancelled(
    work: Coroutine[Any, Any, T], carry_on: Callable[[Coroutine[Any, Any, Any]], object]
) -> Generator[Any, None, T]:
    """Awaits `work` as a part of the running task. If that is cancelled it leaves at once, and `carry_on` is given the
    rest of the work, to make a task of it.

    As `asyncio.shield`, but a task is made only then: made each time, it took a tenth of what an append takes. The work
    must not look at its own task, as `asyncio.timeout` does.
    """
    loop = asyncio.get_running_loop()
    try:
        awaited = work.send(None)
        while True:
            # The task waits for a future of its own: what it waits for is cancelled with it.
            gate = loop.create_future()
            if awaited is None:
                loop.call_soon(_open, gate)
            else:
                awaited._asyncio_future_blocking = False  # as the task does with a future that it is given
                awaited.add_done_callback(lambda _, gate=gate: _open(gate))
            try:
                yield from gate
            except BaseException:
                carry_on(_rest(work, awaited))
                raise
            awaited = work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value


def _open(gate: asyncio.Future[None]) -> None:
    if not gate.done():
        gate.set_result(None)


async def _rest(work: Coroutine[Any, Any, T], awaited: Any) -> T:
    return await _from(work, awaited)


@types.coroutine
def _from(work: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, None, T]:
    try:
        while True:
            try:
                if awaited is not None:
                    awaited._asyncio_future_blocking = True
                yield awaited
            except BaseException as error:  # noqa: BLE001 - the work is told
                awaited = work.throw(error)
            else:
                awaited = work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
