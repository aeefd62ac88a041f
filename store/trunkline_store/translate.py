"""Turns what asyncpg raises into the errors of this package."""

from __future__ import annotations

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

HISTORY_CHANGED: Final = "TK001"
LEFT_BEHIND: Final = "TK002"
"""SQLSTATEs that our functions raise; classes from I on are free for this
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

STATEMENT_ERRORS: Final = (asyncpg.PostgresError, InterfaceError, InternalClientError, OSError, TimeoutError)
"""What any statement may raise while its connection goes."""

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
_BAD_DSN: Final = (
    ClientConfigurationError,
    asyncpg.UndefinedObjectError,  # a parameter that the server does not know
    ValueError,
)
_NOT_THERE: Final = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
)

_POOLER: Final = (
    "behind PgBouncer in transaction mode, give statement_cache_size=0 (programs: TRUNKLINE_STATEMENT_CACHE_SIZE=0)"
)


class translated:  # noqa: N801 - reads as a word: with translated(schema)
    """`with translated(schema):` around calls of asyncpg. Errors of our own SQL pass as they are."""

    __slots__ = ("_schema",)

    def __init__(self, schema: str) -> None:
        self._schema = schema

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            ours = translate(error, self._schema)
            if ours is not None:
                raise ours from error


def translate(error: BaseException, schema: str) -> TrunklineError | None:
    """Our error for one of asyncpg's or of the system's, or None where there is none."""
    match error:
        case asyncpg.PostgresError(sqlstate=found) if found == HISTORY_CHANGED:
            return HistoryChanged(f"the store's {_shown(error)}: read again from the last event that was handled")
        case asyncpg.PostgresError(sqlstate=found) if found == LEFT_BEHIND:
            return StoreUnavailable(f"PostgreSQL was replaced: {_shown(error)}; shut this one down")
        case asyncpg.DeadlockDetectedError() | asyncpg.SerializationError():
            return ConcurrencyFailure(f"{_shown(error)}: run the whole transaction again")
        case TimeoutError() | asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return OperationTimeout(f"the database did not answer in time: {_shown(error)}")
        case asyncpg.ObjectNotInPrerequisiteStateError() if "accepting connections" in str(error):
            return StoreUnavailable(f"PostgreSQL cannot be reached: {_shown(error)}")  # it is being replaced, say
        case asyncpg.InvalidCatalogNameError(detail=str()):  # this very moment; one that is missing has no detail
            return StoreUnavailable(f"PostgreSQL cannot be reached: {_shown(error)}")
        case asyncpg.ReadOnlySQLTransactionError():
            return StoreUnavailable(
                f"PostgreSQL is read-only: {_shown(error)}; it is a standby, or default_transaction_read_only is on"
            )
        case asyncpg.ObjectNotInPrerequisiteStateError():
            return UnsafeRead(_shown(error))
        case asyncpg.DataError() | DataError():
            return InvalidEvent("data", f"cannot be stored: {_shown(error)}")
        case asyncpg.InvalidSQLStatementNameError() | asyncpg.DuplicatePreparedStatementError():
            return InvalidArgument(f"{_shown(error)}: {_POOLER}")
        case asyncpg.ProtocolViolationError() if "startup parameter" in str(error):
            return InvalidArgument(f"{_shown(error)}: {_POOLER}")
        case asyncpg.InsufficientPrivilegeError():
            return PermissionRefused(f"PostgreSQL refuses: {_shown(error)}; `trunkline roles` gives a login its role")
        case _ if isinstance(error, _NOT_THERE):
            return NotInitialised(schema)
        case _ if isinstance(error, _REFUSED):
            return PermissionRefused(f"PostgreSQL refuses: {_shown(error)}")
        case _ if isinstance(error, _GONE):
            return StoreUnavailable(
                tls_problem("PostgreSQL", "sslrootcert", error) or f"PostgreSQL cannot be reached: {_shown(error)}"
            )
        case _:
            return None


@contextmanager
def dsn_checked() -> Iterator[None]:
    """Around connecting: what is wrong with the DSN itself, however it comes out, is an `InvalidArgument`."""
    try:
        yield
    except (ValueError, asyncpg.UndefinedObjectError, StoreUnavailable) as error:
        cause = error.__cause__ or error
        bad = isinstance(cause, _BAD_DSN) and not isinstance(cause, ssl.SSLError)  # of which some are ValueErrors
        if bad and not isinstance(error, InvalidArgument):
            raise InvalidArgument(f"dsn: {_shown(cause)}") from cause
        raise


def _shown(error: BaseException) -> str:
    """The first line: what follows it are details for the server's log."""
    return next(iter(str(error).splitlines()), type(error).__name__)
