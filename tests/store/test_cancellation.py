"""Work that a caller's cancellation does not end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from trunkline_store.cancellation import uncancelled


class Work:
    """Waits twice for a fact, and once for nothing."""

    def __init__(self) -> None:
        self.first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.second: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.tasks: list[asyncio.Task[Any]] = []
        self.tasks_seen: set[asyncio.Task[Any] | None] = set()

    async def __call__(self) -> int:
        one = await self.first
        await asyncio.sleep(0)  # a step without a future
        self.tasks_seen.add(asyncio.current_task())
        return one + await self.second

    def carry_on(self, rest: Coroutine[Any, Any, Any]) -> None:
        self.tasks.append(asyncio.create_task(rest))


async def awaited(work: Work) -> int:
    return await uncancelled(work(), work.carry_on)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)  # a turn


async def test_it_is_a_part_of_the_callers_task() -> None:
    """Unless it is cancelled there is no other task, and its answer is the work's."""
    work = Work()
    caller = asyncio.create_task(awaited(work))
    await turns(3)
    work.first.set_result(1)
    await turns(5)
    work.second.set_result(2)
    assert await caller == 3
    assert (work.tasks, work.tasks_seen) == ([], {caller})


async def test_its_error_is_the_callers() -> None:
    """What the work raises comes out, and what it waits for may fail."""
    work = Work()
    work.first.set_exception(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError, match="gone"):
        await awaited(work)
    assert work.tasks == []


@pytest.mark.parametrize("when", range(9))
async def test_a_cancelled_caller_leaves_and_the_work_goes_on(when: int) -> None:
    """At once, however far the work is; what it waits for is not cancelled, and it comes to its end."""
    work = Work()
    caller = asyncio.create_task(awaited(work))
    steps = [lambda: work.first.set_result(1), lambda: work.second.set_result(2)]
    cancelled = False
    for turn in range(12):
        if turn == when + 1:
            cancelled = caller.cancel()
        if turn in (2, 6):
            steps.pop(0)()
        await asyncio.sleep(0)  # a turn
    if cancelled:
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert [await task for task in work.tasks] == [3]
    else:
        assert await caller == 3
    assert cancelled == (when <= 6)


async def test_the_rest_can_be_ended() -> None:
    """The task that carries on can be cancelled, and the work is told."""
    work = Work()
    caller = asyncio.create_task(awaited(work))
    await turns(2)
    caller.cancel()
    await turns(2)
    (task,) = work.tasks
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.first.cancelled()
