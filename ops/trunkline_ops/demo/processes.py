"""The demo's programs, each a process of its own that ends with the demo at the latest (`leash`)."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, Self, TypeVar

from trunkline_ops.demo.leash import STOP_SECONDS

T = TypeVar("T")
Report = dict[str, Any]

_LINE_BYTES = 4 * 1024 * 1024


class Died(Exception):
    """A program ended that was not told to, or could not do as it was told."""


class Processes:
    """The programs that run; they are stopped when the block is left."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._running: list[Process] = []

    async def __aenter__(self) -> Self:
        self._first_death: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(process.stop() for process in self._running), return_exceptions=True)
        self._first_death.cancel()

    async def start(
        self, name: str, module: str, *arguments: str, on_report: Callable[[Report], None] | None = None
    ) -> "Process":
        """Runs `python -m module arguments`.

        Each line of its standard output is a report, if somebody wants reports. The rest of what it prints is kept
        for the case that it dies.
        """
        process = Process(name, self._died)
        self._running.append(process)
        await process.start([module, *arguments], self._environment, on_report)
        return process

    async def during(self, story: Coroutine[Any, Any, T]) -> T:
        """Awaits `story`; raises `Died` as soon as a program has."""
        task = asyncio.create_task(story)
        try:
            await asyncio.wait([task, self._first_death], return_when=asyncio.FIRST_COMPLETED)
            if self._first_death.done():
                self._first_death.result()  # raises
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _died(self, death: Died) -> None:
        if not self._first_death.done():
            self._first_death.set_exception(death)


class Process:
    """One program."""

    def __init__(self, name: str, on_death: Callable[[Died], None]) -> None:
        self.name = name
        self._on_death = on_death
        self._told = False
        self._last_words: deque[str] = deque(maxlen=30)
        self._process: asyncio.subprocess.Process | None = None
        self._life: asyncio.Task[int] | None = None

    async def start(
        self, command: list[str], environment: Mapping[str, str], on_report: Callable[[Report], None] | None
    ) -> None:
        """Starts it, and begins to listen to it."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trunkline_ops.demo.leash", *command),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LINE_BYTES,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal reaches the demo only, which stops the others in order
        )
        self._life = asyncio.create_task(self._live(self._process, on_report), name=self.name)

    @property
    def pid(self) -> int:
        """Of the program, which must have been started."""
        assert self._process is not None
        return self._process.pid

    async def kill(self) -> None:
        """Ends it with SIGKILL, as a crash would."""
        assert self._process is not None
        assert self._life is not None
        self._told = True
        self._process.kill()
        await self._life

    async def stop(self) -> None:
        """Lets it finish what it is doing. Raises `Died` if it did not end well."""
        self._told = True
        if self._process is None or self._life is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS + 2):  # the leash has killed it by then, unless it is stopped
                code = await asyncio.shield(self._life)
        except TimeoutError:
            self._process.kill()
            code = await self._life
        if code not in (0, -SIGTERM):
            raise self._death(code)

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def send(self, number: Signals) -> None:
        """A signal, if it is still there."""
        if self.running:
            self._told = self._told or number == SIGKILL
            os.kill(self.pid, number)

    async def ended(self) -> None:
        """Waits until it has, and all that it has said was heard."""
        if self._life is not None:
            await asyncio.wait([self._life])

    async def _live(self, process: asyncio.subprocess.Process, on_report: Callable[[Report], None] | None) -> int:
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(self._listen(process.stdout, on_report), self._listen(process.stderr, None))
        code = await process.wait()
        if not self._told:
            self._on_death(self._death(code))
        return code

    async def _listen(self, output: asyncio.StreamReader, on_report: Callable[[Report], None] | None) -> None:
        async for line in output:
            if on_report is not None:
                with suppress(json.JSONDecodeError):
                    on_report(json.loads(line))
                    continue
            self._last_words.append(line.decode(errors="replace").rstrip())

    def _death(self, code: int) -> Died:
        return Died("\n  ".join([f"{self.name} ended with exit code {code}", *self._last_words]))
