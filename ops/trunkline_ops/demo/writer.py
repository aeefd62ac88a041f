"""A program that appends to accounts that others append to at the same time: python -m trunkline_ops.demo.writer RATE

Each command reads the account, decides, and appends at the version that it has read. Where somebody else was faster
that version is wrong, nothing is written, and the command begins again.
"""

import asyncio
import os
import random
import sys
import time
from contextlib import suppress
from uuid import uuid4

from trunkline_ops.demo.leash import report, told_to_stop
from trunkline_store import EventData, EventStore, RecordedEvent, StreamNotFound, WrongExpectedVersion

TASKS = 4
ACCOUNTS = 10
REPORT_SECONDS = 0.2


class Account:
    """What a writer knows of an account: its balance, and the version of the stream that it has seen."""

    def __init__(self, number: int) -> None:
        self.stream = f"account-{number}"
        self.version = 0
        self.balance = 0

    def apply(self, event: RecordedEvent) -> None:
        amount = event.data["amount"]
        self.balance += amount if event.type == "Deposited" else -amount
        self.version = event.stream_version

    async def read(self, store: EventStore) -> None:
        """Learns what has happened since."""
        with suppress(StreamNotFound):  # a stream exists from its first event on
            for event in await store.read_stream_forward(self.stream, start=self.version + 1):
                self.apply(event)

    def decide(self, entries: int) -> list[EventData]:
        """One command: entries that are appended together. No account goes below zero."""
        command, balance, events = f"command-{uuid4()}", self.balance, []
        metadata = {"begun": time.time()}  # from here on the subscribers count
        for _ in range(entries):
            amount = random.randint(1, 100)
            type = "Withdrawn" if amount <= balance and random.random() < 0.5 else "Deposited"
            balance += amount if type == "Deposited" else -amount
            events.append(EventData(type, {"amount": amount}, metadata, correlation_id=command))
        return events


class Figures:
    """What the demo wants to know."""

    def __init__(self) -> None:
        self.appended = 0
        self.conflicts = 0
        self.append_ms: list[float] = []

    def report(self) -> None:
        report(appended=self.appended, conflicts=self.conflicts, append_ms=self.append_ms)
        self.append_ms = []


class Pace:
    """Spreads events over time. Who has fallen behind makes up for a second of it, not more."""

    def __init__(self, events_per_second: float, stop: asyncio.Event) -> None:
        self._rate = events_per_second
        self._stop = stop
        self._next = time.monotonic()

    async def turn(self, events: int) -> None:
        """Returns when it is time for as many events, or time to stop."""
        now = time.monotonic()
        due = max(self._next, now - 1)
        self._next = due + events / self._rate
        with suppress(TimeoutError):
            async with asyncio.timeout(due - now):
                await self._stop.wait()


async def execute(store: EventStore, account: Account, entries: int, figures: Figures) -> None:
    """Executes one command, as often as it takes."""
    while True:
        await account.read(store)
        events = account.decide(entries)
        begun = time.perf_counter()
        try:
            await store.append_to_stream(account.stream, account.version, events)
        except WrongExpectedVersion:
            figures.conflicts += 1
            continue
        figures.append_ms.append(round((time.perf_counter() - begun) * 1000, 3))
        figures.appended += len(events)
        return


async def write(store: EventStore, pace: Pace, figures: Figures, stop: asyncio.Event) -> None:
    """Executes commands, one after the other, until it is time to stop."""
    accounts = [Account(number) for number in range(ACCOUNTS)]
    while not stop.is_set():
        entries = random.randint(1, 5)
        await pace.turn(entries)
        if not stop.is_set():
            await execute(store, random.choice(accounts), entries, figures)


async def main(rate: float) -> None:
    """Writes with several tasks at once until it is told to stop."""
    stop, figures = told_to_stop(), Figures()
    async with (
        EventStore(os.environ["TRUNKLINE_DSN"], application_name="demo writer") as store,
        asyncio.TaskGroup() as tasks,
    ):
        pace = Pace(rate, stop)
        for _ in range(TASKS):
            tasks.create_task(write(store, pace, figures, stop))
        while not stop.is_set():
            figures.report()
            await asyncio.sleep(REPORT_SECONDS)
    figures.report()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
