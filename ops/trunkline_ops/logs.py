"""What programs that run for long log to standard error: JSON for collectors, coloured lines on a terminal."""

import logging
import sys
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from trunkline_store.masking import masked

_SAID: Final = (
    ("aiormq.connection", "error when creating transport"),
    ("aiormq.connection", "Cancelling cause reader exited abnormally"),
    ("aiormq.connection", "Unexpected connection close from remote"),
    ("aiormq.channel", "Closing channel"),
    ("aiormq.channel", "Consumer %r cancelled by the broker"),
    ("asyncpg.pool", "Failed to restore the pool connection floor"),
)
"""Loggers, and how that begins what our own lines say as well, in a sentence: a server is away, or refuses us."""


def _is_news(record: logging.LogRecord) -> bool:
    return not any(record.name == name and str(record.msg).startswith(said) for name, said in _SAID)


def log_to_stderr(*, as_json: bool) -> None:
    """For this program, and for the warnings of the libraries that it uses. No password is shown, whoever logs it."""
    as_json = as_json or not sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: Any = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)  # others show variables
    )

    def masking(logger: Any, method: str, event: EventDict) -> str:
        return masked(render(logger, method, event))

    structlog.configure(
        processors=[*shared, masking],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, masking],
        )
    )
    handler.addFilter(_is_news)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
