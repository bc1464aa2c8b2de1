"""What PostgreSQL's errors mean to the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from asyncpg.exceptions import _base

from domain.errors import StorageUnavailable

UNAVAILABLE = (
    OSError,  # refused, reset, unreachable, and TimeoutError
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting up, shutting down, the statement cancelled from outside
    asyncpg.PostgresSystemError,  # an I/O error of the server
    asyncpg.InsufficientResourcesError,  # too many connections, disk full, out of memory
    asyncpg.InvalidCatalogNameError,  # the database is not there (yet)
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, in the middle of a failover
    asyncpg.TransactionRollbackError,  # a deadlock; a conflict, where the server's default isolation is a stricter one
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,  # the connection closed under us
    asyncpg.InternalClientError,  # the server has said goodbye on it, and it is not closed yet
)

NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)

REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    _base.DataError,
)
"""The value's own fault: it would be refused again. `_base.DataError` is raised before anything is sent."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise `StorageUnavailable` for whatever means that PostgreSQL cannot serve us now.

    Everything is retried alike: whether the statement took effect before the connection broke is not known.
    """
    try:
        with _without_values():
            yield
    except REFUSED:
        raise
    except NOT_MIGRATED as error:
        message = f"The database is not at this version's revision ({type(error).__name__}): run 'ai-service migrate'."
        raise StorageUnavailable(message) from error
    except UNAVAILABLE as error:
        raise StorageUnavailable(f"PostgreSQL cannot serve this now ({type(error).__name__}).") from error


@contextmanager
def _without_values() -> Iterator[None]:
    """Errors that quote no row and no argument: inputs and results stand in them, and errors are logged."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, _base.DataError) as error:
        error.detail = None
        error.args = tuple(_ARGUMENT.sub(r"\1", each) if isinstance(each, str) else each for each in error.args)
        raise


_ARGUMENT = re.compile(r"(invalid input for query argument \$\d+).*", re.DOTALL)
