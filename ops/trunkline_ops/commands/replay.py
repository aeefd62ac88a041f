"""`replay`: history, once more, to one queue."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import asyncpg
import typer

from trunkline_ops.connect import opened
from trunkline_ops.failure import Misuse, ReplayStopped
from trunkline_ops.options import AmqpUrl, AsJson, Dsn, Schema
from trunkline_ops.output import Output
from trunkline_ops.progress import bar
from trunkline_ops.settings import Settings
from trunkline_store import TrunklineError
from trunkline_store.store import MAX_POSITION

if TYPE_CHECKING:
    from trunkline_relay import Replay

_REDRAW_SECONDS = 0.1


def replay(
    queue: Annotated[str, typer.Option("--to", metavar="QUEUE", help="The queue, which is there already.")],
    start: Annotated[
        int, typer.Option("--from", min=0, max=MAX_POSITION, metavar="N", help="Begin at this position, itself too.")
    ] = 0,
    end: Annotated[
        int | None,
        typer.Option(
            "--to-position", min=0, max=MAX_POSITION, metavar="N", help="End at this position, itself too; else now."
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only streams whose name up to the first - is this.")
    ] = None,
    stream: Annotated[
        str | None, typer.Option(metavar="STREAM", help="Only this stream, with what is linked into it.")
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only this type; can be given again.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish events that were published before once more, to one queue only.

    Use it for a plain consumer that found a hole, or is new. The messages have the header `replayed`, and their own
    chain, which shows the consumer whether all of them arrived. If it stops early, the error says where to continue. It
    fails if the queue holds fewer messages than it confirmed, unless a consumer takes them.
    """
    settings = Settings.of(dsn=dsn, store=schema, amqp_url=amqp_url)
    settings.database()
    settings.broker()
    if category is not None and stream is not None:
        raise Misuse("--category and --stream do not go together")
    if end is not None and end < start:
        raise Misuse("--to-position is before --from")
    if not queue or len(queue.encode(errors="surrogateescape")) > 255:
        raise Misuse("--to is the name of a queue, of 1 to 255 bytes")
    _Replaying(settings, Output(as_json=as_json)).run(queue, start, end, category, stream, types or [])


class _Replaying:
    """One replay, of which it is known how far it is, whatever ends it."""

    def __init__(self, settings: Settings, output: Output) -> None:
        self._settings = settings
        self._output = output
        self._replay: Replay | None = None

    def run(
        self, queue: str, start: int, end: int | None, category: str | None, stream: str | None, types: list[str]
    ) -> None:
        """Raises `ReplayStopped` where it had begun."""
        try:
            asyncio.run(self._run(queue, start, end, category, stream, types))
        except (TrunklineError, OSError, asyncpg.PostgresError, KeyboardInterrupt) as error:
            if self._replay is None or self._replay.position < start:
                raise  # nothing is done that would not be done again
            raise ReplayStopped(self._replay.position + 1, self._replay.events) from error
        replay = self._replay
        assert replay is not None
        self._output.result(
            f"replayed {_counted(replay.events, 'event')} in {_counted(replay.messages, 'message')} to {queue!r}, "
            f"up to position {replay.position}",
            queue=queue,
            events=replay.events,
            messages=replay.messages,
            position=replay.position,
            replay=replay.id,
        )

    async def _run(
        self, queue: str, start: int, end: int | None, category: str | None, stream: str | None, types: list[str]
    ) -> None:
        from trunkline_relay import Replay

        async with opened(self._settings, "replay") as store:
            replay = Replay(
                store,
                self._settings.broker(),
                queue,
                start=start,
                end=end,
                category=category,
                stream=stream,
                types=types,
            )
            self._replay = replay
            showing = asyncio.create_task(_show(replay), name="progress")
            try:
                await replay.run()
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)


async def _show(replay: "Replay") -> None:
    """A bar from the first position to the last one, until it is cancelled."""
    with bar("replaying") as advance:
        while True:
            total = None if replay.end is None else max(1, replay.end - replay.start + 1)
            words = f"position {max(replay.position, replay.start)}, {replay.events} events"
            advance(max(0, replay.position - replay.start + 1), total, words)
            await asyncio.sleep(_REDRAW_SECONDS)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
