"""Turns what asyncpg raises into the errors of this package."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

import asyncpg
from asyncpg.exceptions._base import ClientConfigurationError, DataError, InterfaceError, InternalClientError

from trunkline_store.errors import (
    ConcurrencyFailure,
    HistoryChanged,
    InvalidArgument,
    InvalidEvent,
    NotInitialised,
    OperationTimeout,
    PermissionRefused,
    StoreUnavailable,
    TrunklineError,
    UnsafeRead,
    tls_problem,
)
from trunkline_store.masking import shown
from trunkline_store.urls import DSN_EXAMPLE

log = logging.getLogger("trunkline.store")

HISTORY_CHANGED: Final = "TK001"
LEFT_BEHIND: Final = "TK002"
"""SQLSTATEs that our functions raise. Classes from I on are free for applications
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

STATEMENT_ERRORS: Final = (asyncpg.PostgresError, InterfaceError, InternalClientError, OSError, TimeoutError)
"""What any statement may raise while its connection goes."""

_UNUSABLE: Final = frozenset(
    {
        "25006",  # read_only_sql_transaction: a former primary, or a standby
        "25P03",  # idle_in_transaction_session_timeout
        "25P04",  # transaction_timeout
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P04",  # database_dropped
        "57P05",  # idle_session_timeout
        LEFT_BEHIND,
    }
)
"""SQLSTATEs, besides class 08, after which a session and all sessions opened before it are not used again
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

_GONE: Final = (
    asyncpg.PostgresConnectionError,
    InterfaceError,
    InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    OSError,
)
_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_NOT_THERE: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
)

POOLER: Final = (
    "behind PgBouncer in transaction mode, give statement_cache_size=0 (programs: TRUNKLINE_STATEMENT_CACHE_SIZE=0)"
)


class translated:  # noqa: N801 - reads as a word: with translated(schema)
    """Turn what asyncpg raises within into errors of this package: `with translated(schema):` around our statements.

    An unknown error becomes `StoreUnavailable`, so that callers wait and try again, and is logged with its cause.

    Args:
        schema: The store's name.
        theirs: The caller's connection, if it is used: a wrong use of it is an `InvalidArgument`.
        unknown_pass: Let unknown errors pass: at a COMMIT they come from the application's own statements, such as a
            deferred constraint.
    """

    __slots__ = ("_schema", "_theirs", "_unknown_pass")

    def __init__(
        self,
        schema: str,
        theirs: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy | None = None,
        *,
        unknown_pass: bool = False,
    ) -> None:
        self._schema = schema
        self._theirs = theirs
        self._unknown_pass = unknown_pass

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, TrunklineError) or not isinstance(error, Exception):
            return
        if self._theirs is not None and _is_misuse(error) and is_alive(self._theirs):
            raise InvalidArgument(
                "connection: it is running another statement: await one statement before the next"
            ) from error
        ours = translate(error, self._schema)
        if ours is None and not self._unknown_pass:
            if isinstance(error, asyncpg.CheckViolationError):
                raise InvalidArgument(f"PostgreSQL refuses an argument: {_shown(error)}") from error
            log.error("a statement of the store failed with an unknown error", exc_info=error)
            ours = StoreUnavailable(f"PostgreSQL failed ({_kind(error)}): {_shown(error)}: see the server's log")
        if ours is not None:
            raise ours from error


def translate(error: BaseException, schema: str) -> TrunklineError | None:
    """Return our error for an error of asyncpg or the system, or None if it is unknown.

    Errors are told apart by SQLSTATE, never by message: servers speak many languages.
    """
    match error:
        case asyncpg.PostgresError(sqlstate=found) if found == HISTORY_CHANGED:
            return HistoryChanged(f"the store's {_shown(error)}: read again from the last handled event")
        case asyncpg.PostgresError(sqlstate=found) if found == LEFT_BEHIND:
            return StoreUnavailable(f"PostgreSQL was replaced: {_shown(error)}; shut this one down")
        case asyncpg.DeadlockDetectedError() | asyncpg.SerializationError():
            return ConcurrencyFailure(f"{_shown(error)}: run the whole transaction again")
        case TimeoutError() | asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return OperationTimeout(f"the database did not answer in time: {_shown(error)}")
        case asyncpg.ObjectNotInPrerequisiteStateError() if _ends_session(error):  # the database takes no connections:
            return StoreUnavailable(f"PostgreSQL cannot be reached: {_shown(error)}")  # it is being replaced, say
        case asyncpg.InvalidCatalogNameError(detail=str()):  # this very moment; one that is missing has no detail
            return StoreUnavailable(f"PostgreSQL cannot be reached: {_shown(error)}")
        case asyncpg.ReadOnlySQLTransactionError():
            return StoreUnavailable(
                f"PostgreSQL is read-only: {_shown(error)}; it is a standby, or default_transaction_read_only is on"
            )
        case asyncpg.ObjectNotInPrerequisiteStateError():
            return UnsafeRead(_shown(error))
        case asyncpg.InFailedSQLTransactionError():
            return InvalidArgument(
                "connection: an earlier statement of its transaction failed: roll back and run it all again"
            )
        case asyncpg.DataError() | DataError() | asyncpg.ProgramLimitExceededError():
            return InvalidEvent("data", f"cannot be stored: {_shown(error)}")
        case asyncpg.InvalidSQLStatementNameError() | asyncpg.DuplicatePreparedStatementError():
            return InvalidArgument(f"{_shown(error)}: {POOLER}")
        case asyncpg.InsufficientPrivilegeError():
            return PermissionRefused(f"PostgreSQL refuses: {_shown(error)}; `trunkline roles` gives a login its role")
        case _ if isinstance(error, _NOT_THERE):
            return NotInitialised(schema)
        case _ if isinstance(error, _REFUSED):
            return PermissionRefused(f"PostgreSQL refuses: {_shown(error)}")
        case asyncpg.InsufficientResourcesError() if not _ends_session(error):
            return StoreUnavailable(f"PostgreSQL lacks resources: {_shown(error)}")
        case _ if isinstance(error, _GONE):
            return StoreUnavailable(
                tls_problem("PostgreSQL", "sslrootcert", error) or f"PostgreSQL cannot be reached: {_shown(error)}"
            )
        case _:
            return None


def is_unusable(error: BaseException | None) -> bool:
    """Return True if `error` says that its connection is unusable: it is lost, or leads to a server that is read-only
    or left behind. Connections that were opened before it are suspect, too.

    asyncpg's internal errors mean that a connection is lost: they are raised when it is used while it is closing.
    """
    if isinstance(error, StoreUnavailable):
        error = error.__cause__
        if isinstance(error, OSError):
            return True
    match error:
        case asyncpg.PostgresError():
            return error.sqlstate is not None and (error.sqlstate in _UNUSABLE or error.sqlstate.startswith("08"))
        case InternalClientError():
            return True
    return False


def is_alive(connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy) -> bool:
    """Return True if a connection can still be used, as far as the client knows."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # it was lost, and the pool has taken it back
        return False


def _ends_session(error: asyncpg.PostgresError) -> bool:
    """Return True if the server refused a connection, or ended it. `severity_en` is never translated
    (https://www.postgresql.org/docs/current/protocol-error-fields.html); PgBouncer gives `severity` alone."""
    return (error.severity_en or error.severity) in ("FATAL", "PANIC")


def _is_misuse(error: Exception) -> bool:
    """Return True for an error of asyncpg about the wrong use of a live connection."""
    return isinstance(error, InterfaceError) and not isinstance(error, DataError | ClientConfigurationError)


def _kind(error: Exception) -> str:
    """Return the SQLSTATE, or the class name of an error that has none."""
    return getattr(error, "sqlstate", None) or type(error).__name__


@contextmanager
def connecting(schema: str) -> Iterator[None]:
    """Translate errors like `translated`, around connecting. Every error that a wrong DSN can cause becomes an
    `InvalidArgument`, which shows nothing of the DSN."""
    with translated(schema):
        try:
            yield
        except (InvalidArgument, ssl.SSLError):  # some SSLErrors are ValueErrors
            raise
        except asyncpg.UndefinedObjectError:
            raise InvalidArgument("dsn: it has a parameter that PostgreSQL does not know: leave it out") from None
        except ValueError:
            raise InvalidArgument(f"dsn: it, or a file that it names, cannot be read: write {DSN_EXAMPLE}") from None


def _shown(error: BaseException) -> str:
    """The first line: what follows it are details for the server's log."""
    return next(iter(shown(error).splitlines()), type(error).__name__)
