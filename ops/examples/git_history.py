#!/usr/bin/env python
"""Real input: the history of any git repository as events, and a projection of it.

    export TRUNKLINE_DSN=postgresql://... TRUNKLINE_AMQP_URL=amqp://...
    python ops/examples/git_history.py import PATH_OF_A_REPOSITORY
    python ops/examples/git_history.py project --once

One stream per file, one event per change of a file in a commit:

| event           | in the stream of | when                                                           |
|-----------------|------------------|----------------------------------------------------------------|
| `FileAdded`     | the file         | it is new                                                      |
| `FileChanged`   | the file         | its content, its mode or its type is another                   |
| `FileRemoved`   | the file         | it is gone                                                     |
| `FileRenamed`   | the new path     | git finds it to be a renamed one; `from` is the old path       |
| `FileMovedAway` | the old path     | of the same change: `to` is the new path; it counts no lines   |

Each has `path`, `commit`, `author`, `email`, `authored_at`, `subject`, and but for the last one `added` and `removed`:
lines, or null for a binary file. The correlation id is the commit, `created_at` the author's date. Merge commits bring
nothing, as `git log --numstat` shows nothing for them. Event ids are made of commit and path: to import a repository
again appends only what is new.
"""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from itertools import islice
from typing import IO, Annotated, Any, NamedTuple
from uuid import UUID, uuid5

import asyncpg
import typer

from trunkline_consumer import Batch, Consumer, Options
from trunkline_store import ANY_VERSION, EventData, EventStore, StreamAppend, TrunklineError

COMMITS_PER_TRANSACTION = 100
EVENTS_PER_APPEND = 1000
MAX_STREAM_BYTES = 255
SUBSCRIPTION = "git_lines_per_author"

_IDS = UUID("6d0b1c52-8a3f-5c0e-9d57-2f1f0a7b9e44")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LOG = (
    *("git", "-c", "log.showRoot=true", "log", "--reverse", "--date-order"),
    *("-z", "--raw", "--numstat", "--find-renames", "--no-abbrev", "--no-relative", "--no-ext-diff", "--no-textconv"),
    *("--no-show-signature", "--encoding=UTF-8", "--date=raw", "--format=tformat:%x00%H%x00%aN%x00%aE%x00%ad%x00%s"),
)
_TYPES = {b"A": "FileAdded", b"D": "FileRemoved", b"R": "FileRenamed"}  # M and T, of mode or type: FileChanged


class Commit(NamedTuple):
    """What git says of a commit."""

    id: str
    author: str
    email: str
    authored_at: datetime
    subject: str

    def event(self, type: str, path: bytes, **more: Any) -> StreamAppend:
        """What it did to one file: the event, and the stream that it goes to."""
        data = {
            "path": text(path),
            "commit": self.id,
            "author": self.author,
            "email": self.email,
            "authored_at": self.authored_at.isoformat(),
            "subject": self.subject,
            **more,
        }
        id = uuid5(_IDS, f"{self.id}:{path.decode('latin-1')}")  # each byte is a character there
        event = EventData(type, data, id=id, correlation_id=self.id, created_at=self.authored_at)
        return StreamAppend(stream_name(path), ANY_VERSION, [event])


# --- from git


def history(repository: str) -> Iterator[list[StreamAppend]]:
    """What each commit did, the oldest one first, read as git prints it: no more than a commit is in memory."""
    with subprocess.Popen([*_LOG], cwd=repository, stdout=subprocess.PIPE) as git:
        assert git.stdout is not None
        yield from parse(fields(git.stdout))
    if git.returncode != 0:
        raise OSError(f"git log failed with exit code {git.returncode}")


def fields(output: IO[bytes]) -> Iterator[bytes]:
    """What stands before each NUL."""
    rest = b""
    while chunk := output.read(64 * 1024):
        *complete, rest = (rest + chunk).split(b"\0")
        yield from complete


def parse(field: Iterator[bytes]) -> Iterator[list[StreamAppend]]:
    """An empty field begins a commit: five fields about it, then its files (`git log -z --raw --numstat`).

    The files come twice: first `:<modes and ids> <status>`, then `<added> TAB <removed> TAB <path>`; a renamed file has
    the old and the new path in two further fields.
    """
    begin = next(field, None)
    while begin is not None:
        id, author, email, date, subject = (text(next(field)) for _ in range(5))
        commit = Commit(id, author, email, author_date(date), subject)
        types: dict[bytes, str] = {}
        events: list[StreamAppend] = []
        while begin := next(field, None):
            entry = begin.removeprefix(b"\n")
            if entry.startswith(b":"):
                status, path = entry.rpartition(b" ")[2][:1], next(field)
                types[next(field) if status == b"R" else path] = _TYPES.get(status, "FileChanged")
                continue
            added, removed, path = entry.split(b"\t", 2)
            more: dict[str, Any] = {"added": number(added), "removed": number(removed)}
            if not path:
                old, path = next(field), next(field)
                more["from"] = text(old)
                events.append(commit.event("FileMovedAway", old, to=text(path)))
            events.append(commit.event(types[path], path, **more))
        yield events


def text(field: bytes) -> str:
    """Git promises UTF-8 for nothing: other bytes are shown as \\xNN."""
    return field.decode(errors="backslashreplace")


def number(field: bytes) -> int | None:
    """Lines; None for a binary file, where git prints a dash."""
    return None if field == b"-" else int(field)


def author_date(raw: str) -> datetime:
    """Of `<seconds> <+hhmm>`, in the author's time zone. Old histories hold impossible dates: those become possible."""
    seconds, offset = raw.split()
    minutes = int(offset[1:-2]) * 60 + int(offset[-2:])
    zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)) if minutes < 24 * 60 else UTC
    return datetime.fromtimestamp(min(int(seconds), 250_000_000_000), zone)


def stream_name(path: bytes) -> str:
    """`file-<path>`; where that is no stream's name, it is made one.

    Of a path that is no UTF-8, holds control characters or makes more than 255 bytes, as much is shown as can be; then
    come `~` and a hash of the path, so that two files never share a stream.
    """
    shown = "file-" + _CONTROL.sub("?", text(path))
    if shown.encode() == b"file-" + path and len(shown.encode()) <= MAX_STREAM_BYTES:
        return shown
    tail = "~" + sha256(path).hexdigest()[:16]
    return shown.encode()[: MAX_STREAM_BYTES - len(tail)].decode(errors="ignore") + tail


# --- into the store


async def import_history(store: EventStore, repository: str) -> tuple[int, int]:
    """Appends the events, a commit's together. Returns how many there are, and how many of them are new."""
    before, total, new = await store.safe_position(), 0, 0
    commits = history(repository)  # blocking: there is nobody else in this program who would have to wait for git
    while some := list(islice(commits, COMMITS_PER_TRANSACTION)):
        async with store.transaction() as connection:
            for events in some:
                for start in range(0, len(events), EVENTS_PER_APPEND):
                    part = events[start : start + EVENTS_PER_APPEND]
                    appended = await store.append_to_streams(part, connection=connection)
                    total += len(appended)
                    new += sum(each.first_position > before for each in appended)
    return total, new


# --- and out of it

_TABLE = """
    CREATE TABLE IF NOT EXISTS git_lines_per_author (
        author   text PRIMARY KEY,
        added    bigint NOT NULL,
        removed  bigint NOT NULL,
        changes  bigint NOT NULL,
        position bigint NOT NULL  -- of the last event that is counted
    )
"""

# Events come in order, and perhaps again. Those at or below the row's position are counted already.
_COUNT = """
    INSERT INTO git_lines_per_author AS l (author, added, removed, changes, position) VALUES ($1, $2, $3, 1, $4)
    ON CONFLICT (author) DO UPDATE
        SET added = l.added + excluded.added, removed = l.removed + excluded.removed,
            changes = l.changes + 1, position = excluded.position
        WHERE l.position < excluded.position
"""


async def count(connection: asyncpg.Connection, batch: Batch) -> None:
    """Counts a batch's lines, once, however often it comes; all of the batch or nothing."""
    rows = [
        (event.data["author"], event.data["added"] or 0, event.data["removed"] or 0, event.position)
        for event in batch
        if event.stream.startswith("file-") and event.type != "FileMovedAway"
    ]
    await connection.executemany(_COUNT, rows)


async def project(store: EventStore, consumer: Consumer, connection: asyncpg.Connection, *, once: bool) -> None:
    """Follows all streams; with `once`, up to the last event that is there now."""
    await connection.execute(_TABLE)
    last = await store.read_all_streams_backward(count=1) if once else []
    options = Options(checkpoint_threshold=1000, checkpoint_after=0.5)
    async with consumer.subscribe_to_all_streams(SUBSCRIPTION, options=options) as subscription:
        if once and (not last or subscription.checkpoint >= last[0].position):
            return
        async for batch in subscription:
            await count(connection, batch)
            await batch.ack()
            if once and batch[-1].position >= last[0].position:
                return


# --- the command line

app = typer.Typer(add_completion=False, help="Turns the history of a git repository into events, and counts lines.")
Dsn = Annotated[str, typer.Option(envvar="TRUNKLINE_DSN", help="The database.")]
AmqpUrl = Annotated[str, typer.Option(envvar="TRUNKLINE_AMQP_URL", help="RabbitMQ.")]
Schema = Annotated[str, typer.Option(envvar="TRUNKLINE_SCHEMA", help="The store.")]


@app.command("import")
def import_command(repository: str, dsn: Dsn, schema: Schema = "eventstore") -> None:
    """Append the history of REPOSITORY, up to the commit that is checked out there."""

    async def run() -> None:
        began = time.perf_counter()
        async with EventStore(dsn, schema=schema, application_name="git_history import") as store:
            total, new = await import_history(store, repository)
        print(f"{total} events in {time.perf_counter() - began:.1f} s; {new} of them are new")

    asyncio.run(run())


@app.command("project")
def project_command(
    dsn: Dsn,
    amqp_url: AmqpUrl,
    schema: Schema = "eventstore",
    once: Annotated[bool, typer.Option("--once", help="End when everything that is there is counted.")] = False,
) -> None:
    """Count lines added and removed per author, in the table git_lines_per_author."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        async with (
            EventStore(dsn, schema=schema, application_name="git_history project") as store,
            Consumer(store, amqp_url) as consumer,
        ):
            await project(store, consumer, connection, once=once)
        for row in await connection.fetch("SELECT * FROM git_lines_per_author ORDER BY added DESC LIMIT 20"):
            print(f"{row['added']:>9} + {row['removed']:>9} -  {row['author']}")
        await connection.close()

    asyncio.run(run())


def main() -> int:
    """Runs a command; errors are one line."""
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        print(f"git_history: {error.format_message()}", file=sys.stderr)
        return 2
    except (TrunklineError, asyncpg.PostgresError, OSError) as error:
        print(f"git_history: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
