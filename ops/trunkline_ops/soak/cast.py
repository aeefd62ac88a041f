"""The soak's programs, each a process of its own that is started again whenever it ends, as a service manager would."""

import asyncio
import os
from collections.abc import Callable, Mapping
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Final, NamedTuple, Self

from trunkline_ops.demo.processes import Died, Process, Report
from trunkline_ops.soak.writer import AWAY

_AGAIN_SECONDS: Final = 0.2


class Role(NamedTuple):
    """A program, and what it is told."""

    name: str
    module: str
    arguments: tuple[str, ...]


class Actor:
    """One role, and the processes that play it one after the other."""

    def __init__(
        self,
        role: Role,
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        on_report: Callable[[Report], None],
    ) -> None:
        self.name = role.name
        self.kills = 0
        self.crashes = 0
        """How often it ended by itself, other than because a server was away when it started."""
        self._role = role
        self._environment = environment
        self._tell = tell
        self._on_report = on_report
        self._process = Process(role.name, self._died)
        self._leaving = False
        self._playing = asyncio.create_task(self._play(), name=role.name)

    @property
    def pid(self) -> int | None:
        """Of the process that plays it now."""
        return self._process.pid if self._process.running else None

    def kill(self) -> bool:
        """With SIGKILL. Returns whether there was anybody."""
        there = self._process.running
        self._process.send(SIGKILL)
        self.kills += there
        return there

    async def pause(self, seconds: float) -> bool:
        """With SIGSTOP, for so long. Returns whether there was anybody."""
        process = self._process
        there = process.running
        process.send(SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.send(SIGCONT)
        return there

    async def leave(self) -> None:
        """Ends it in good order. Raises `Died` where it does not end so."""
        self._leaving = True
        try:
            await self._process.stop()
        finally:
            await asyncio.wait([self._playing])

    async def _play(self) -> None:
        while not self._leaving:
            self._process = process = Process(self.name, self._died)
            await process.start([self._role.module, *self._role.arguments], self._environment, self._on_report)
            if self._leaving:  # meanwhile
                await process.stop()
            await process.ended()
            await asyncio.sleep(0 if self._leaving else _AGAIN_SECONDS)

    def _died(self, death: Died) -> None:
        if f"exit code {AWAY}" not in str(death):
            self.crashes += 1
            self._tell(str(death))


class Cast:
    """All actors, by name: they play while the block lasts."""

    def __init__(
        self,
        roles: Mapping[str, Role],
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        on_report: Callable[[str, Report], None],
    ) -> None:
        passed_on = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        self._roles = roles
        self._environment = {**passed_on, **environment}
        self._tell = tell
        self._on_report = on_report
        self.actors: dict[str, Actor] = {}

    async def __aenter__(self) -> Self:
        for name, role in self._roles.items():
            self.actors[name] = Actor(
                role,
                self._environment,
                self._tell,
                lambda report, name=name: self._on_report(name, report),  # type: ignore[misc]
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave(*self.actors)

    async def leave(self, *names: str) -> None:
        """These, all at once; what they die of is told."""
        for death in await asyncio.gather(*(self.actors[name].leave() for name in names), return_exceptions=True):
            if isinstance(death, BaseException):
                self._tell(str(death))

    @property
    def kills(self) -> int:
        """How often anybody was killed."""
        return sum(actor.kills for actor in self.actors.values())

    @property
    def crashes(self) -> int:
        """How often anybody ended by itself."""
        return sum(actor.crashes for actor in self.actors.values())

    def of(self, pid: int | None) -> Actor | None:
        """Who plays in this process, if anybody does."""
        return next((actor for actor in self.actors.values() if pid is not None and actor.pid == pid), None)
