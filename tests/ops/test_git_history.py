import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.whole.flow import relay_running
from trunkline_store import EventData
from trunkline_store.events import check_stream

PROGRAM = Path(__file__).parents[2] / "ops" / "examples" / "git_history.py"
ODD = "odd\tname\nof a ü#file..*.txt"
NO_UTF8 = os.fsdecode(b"latin-\xe9.txt")
LONG = "long/" + "0123456789/" * 30 + "end.txt"


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("git_history", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


git_history = _loaded()


class Repository:
    """A git repository to try things in; nothing of the user's configuration reaches it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments: str, author: str = "Ann", date: str = "1700000000 +0000") -> str:
        """Runs git, and returns what it printed."""
        name = {"NAME": author, "EMAIL": f"{author}@example.org", "DATE": date}
        environment = {f"GIT_{who}_{what}": each for who in ("AUTHOR", "COMMITTER") for what, each in name.items()}
        environment |= {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    def write(self, name: str, text: str | bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def commit(self, subject: str, author: str = "Ann", date: str = "1700000000 +0000") -> str:
        """Commits all that is there, and returns the commit's id."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--allow-empty-message", "-m", subject, author=author, date=date)
        return self.git("rev-parse", "HEAD").strip()

    def lines_per_author(self) -> dict[str, tuple[int, int, int]]:
        """Added, removed and changes, as `git log --numstat` has them."""
        found: Counter[tuple[str, int]] = Counter()
        author = ""
        for line in self.git("log", "--numstat", "--format=@%aN").splitlines():
            if line.startswith("@"):
                author = line[1:]
            elif lines := re.match(r"(\d+|-)\t(\d+|-)\t", line):
                found[author, 0] += int(lines[1].replace("-", "0"))
                found[author, 1] += int(lines[2].replace("-", "0"))
                found[author, 2] += 1
        return {each: (found[each, 0], found[each, 1], found[each, 2]) for each, _ in found}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Several authors; files with odd names, a binary one, an empty one; renames, a merge, a commit of nothing."""
    it = Repository(tmp_path)
    it.write("a file.txt", "one\ntwo\nthree\n")
    it.write(ODD, "1\n2\n")
    it.write(NO_UTF8, "caf\xe9\n")
    it.write(LONG, "far away\n")
    it.write("picture.bin", b"\0\1\2\3")
    it.write("empty", "")
    it.commit("first", date="1577853000 +0530")
    it.git("mv", "a file.txt", "b file.txt")
    it.write("b file.txt", "one\ntwo\nthree\nfour\n")
    it.write("picture.bin", b"\0\1\2\3\4")
    (it.path / "empty").chmod(0o755)
    it.commit("", author="Zoë", date="1577939400 -0800")
    it.git("checkout", "--quiet", "-b", "side")
    it.write(ODD, "1\n3\n4\n")
    it.commit("on the side", author="Bob", date="1577939500 +0000")
    it.git("checkout", "--quiet", "main")
    (it.path / LONG).unlink()
    (it.path / "empty").unlink()
    (it.path / "empty").symlink_to("b file.txt")
    it.commit("ü: a link where a file was\n\nwith a body", author="Bob", date="1577939600 +0000")
    it.git("merge", "--quiet", "--no-ff", "-m", "merged", "side", author="Zoë")
    it.commit("nothing")
    return it


def history(repository: Repository) -> list[tuple[str, EventData]]:
    """All events, with their streams."""
    commits = git_history.history(str(repository.path))
    return [(stream, event) for commit in commits for stream, _, [event] in commit]


def test_every_kind_of_change_is_an_event_in_the_stream_of_its_file(repository: Repository) -> None:
    """Types, streams and lines are those of git's own listing, oldest commit first, under the author's date."""
    changes = history(repository)
    found = [(stream, event.type, event.data.get("added"), event.data.get("removed")) for stream, event in changes]
    no_utf8, long, odd = (git_history.stream_name(os.fsencode(name)) for name in (NO_UTF8, LONG, ODD))
    assert sorted(found[:6]) == sorted(
        [
            ("file-a file.txt", "FileAdded", 3, 0),
            (odd, "FileAdded", 2, 0),
            (no_utf8, "FileAdded", 1, 0),
            (long, "FileAdded", 1, 0),
            ("file-picture.bin", "FileAdded", None, None),
            ("file-empty", "FileAdded", 0, 0),
        ]
    )
    assert found[6:] == [
        ("file-a file.txt", "FileMovedAway", None, None),
        ("file-b file.txt", "FileRenamed", 1, 0),
        ("file-empty", "FileChanged", 0, 0),
        ("file-picture.bin", "FileChanged", None, None),
        (odd, "FileChanged", 2, 1),
        ("file-empty", "FileChanged", 1, 0),
        (long, "FileRemoved", 0, 1),
    ]
    renamed = changes[7][1]
    assert renamed.created_at == datetime.fromisoformat("2020-01-01T20:30:00-08:00")
    assert renamed.data | {"commit": ""} == {
        "path": "b file.txt",
        "from": "a file.txt",
        "commit": "",
        "author": "Zoë",
        "email": "Zoë@example.org",
        "authored_at": "2020-01-01T20:30:00-08:00",
        "subject": "",
        "added": 1,
        "removed": 0,
    }
    assert renamed.correlation_id == renamed.data["commit"]
    assert len({event.id for _, event in changes}) == len(changes)
    assert [event.id for _, event in history(repository)] == [event.id for _, event in changes]


@given(st.binary(min_size=1, max_size=400).map(lambda path: path.replace(b"\0", b"/")))
def test_any_path_has_a_stream(path: bytes) -> None:
    """The store takes the name that is made of a path, whatever the path is; most paths stand in it as they are."""
    name = git_history.stream_name(path)
    check_stream(name)
    assert name == f"file-{path.decode(errors='replace')}" or re.search(r"~[0-9a-f]{16}$", name)


def test_two_paths_that_look_alike_have_two_streams() -> None:
    """What cannot be shown is told apart by the hash."""
    paths = [b"a\tb", b"a\nb", b"a?b", b"a\xffb", b"a\\xffb", b"x" * 300, b"x" * 301]
    assert len({git_history.stream_name(path) for path in paths}) == len(paths)
    assert git_history.stream_name(b"src/a #1.py") == "file-src/a #1.py"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("0 +0000", "1970-01-01T00:00:00+00:00"),
        ("1577853000 -0730", "2019-12-31T21:00:00-07:30"),
        ("1577853000 +051800", "2020-01-01T04:30:00+00:00"),
        ("99999999999999 +0000", "9892-03-08T12:26:40+00:00"),
    ],
)
def test_impossible_dates_become_possible_ones(raw: str, expected: str) -> None:
    """Repositories hold time zones of several days, and dates that no calendar has."""
    assert git_history.author_date(raw).isoformat() == expected


@asynccontextmanager
async def _running(*arguments: str, environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), *arguments),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _run(*arguments: str, environment: dict[str, str]) -> str:
    async with _running(*arguments, environment=environment) as process:
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()


async def _projected(connection: asyncpg.Connection) -> dict[str, tuple[int, int, int]]:
    rows = await connection.fetch("SELECT author, added, removed, changes FROM git_lines_per_author")
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


async def test_the_projection_has_what_git_says(database: str, vhost: str, repository: Repository) -> None:
    """Imported, relayed, and counted as it comes, a history gives the lines of `git log --numstat`; to import it again
    changes nothing, nor does counting it again, and a new commit is all that is new."""
    environment = {"TRUNKLINE_DSN": database, "TRUNKLINE_AMQP_URL": vhost}
    connection = await asyncpg.connect(database)
    try:
        async with relay_running(database, vhost), _running("project", environment=environment) as live:
            printed = await _run("import", str(repository.path), environment=environment)
            assert re.match(r"13 events in \S+ s; 13 of them are new", printed)
            async with asyncio.timeout(20):
                while await _last_counted(connection) < await connection.fetchval(
                    "SELECT max(position) FROM eventstore.events"
                ):
                    await asyncio.sleep(0.05)  # between two looks
            live.send_signal(signal.SIGINT)
            assert await live.wait() == 130
            assert await _projected(connection) == repository.lines_per_author()

            printed = await _run("import", str(repository.path), environment=environment)
            assert re.match(r"13 events in \S+ s; 0 of them are new", printed)
            await connection.execute("UPDATE eventstore.subscriptions SET checkpoint = 0")
            await _run("project", "--once", environment=environment)
            assert await _projected(connection) == repository.lines_per_author()

            repository.write("new", "line\n")
            repository.commit("later", author="Eve")
            printed = await _run("import", str(repository.path), environment=environment)
            assert re.match(r"14 events in \S+ s; 1 of them are new", printed)
            printed = await _run("project", "--once", environment=environment)
            assert await _projected(connection) == repository.lines_per_author()
            assert re.search(r"1 \+ +0 -  Eve$", printed, re.MULTILINE)
    finally:
        await connection.close()


async def _last_counted(connection: asyncpg.Connection) -> int:
    if await connection.fetchval("SELECT to_regclass('git_lines_per_author')") is None:
        return 0
    position: int = await connection.fetchval("SELECT coalesce(max(position), 0) FROM git_lines_per_author")
    return position


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["import"], 2, "repository"),
        (["project", "--dsn", "postgresql://x"], 2, "--amqp-url"),
        (["import", "/", "--dsn", "postgresql://nobody@127.0.0.1:1/x"], 1, "PostgreSQL cannot be reached"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], code: int, says: str) -> None:
    """A mistake on the command line ends with 2, what fails later with 1."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    done: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stderr.startswith("git_history: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
