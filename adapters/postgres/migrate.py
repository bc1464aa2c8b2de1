"""Bring a database's schema to this version; safe when several processes start at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, pool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.postgres.errors import translated
from domain.errors import StartupError, StorageUnavailable

T = TypeVar("T")

log = structlog.get_logger()

LOCK = 0x6169_6A6F_6273
"""The advisory lock that migrating processes take turns on: "aijobs" in ASCII."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0


async def migrate(dsn: str, *, patience: float = 0.0) -> str:
    """Apply what is missing and return the revision that the database then has.

    Args:
        dsn: where the database is.
        patience: seconds to wait for a PostgreSQL that does not answer yet.

    Raises:
        StartupError: it cannot be reached in time, refuses the changes, or was migrated by a newer version.
    """
    deadline = asyncio.get_running_loop().time() + patience
    wait = FIRST_WAIT
    while True:
        try:
            return await _on_connection(dsn, _upgrade)
        except StorageUnavailable as error:
            if asyncio.get_running_loop().time() + wait > deadline:
                raise StartupError(f"DATABASE_URL: {error} Check that PostgreSQL runs there.") from error
            log.warning("waiting for postgresql", reason=str(error), seconds=wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)


async def revision(dsn: str) -> tuple[str | None, str]:
    """The revision that the database has, and the one that this version needs.

    Raises:
        StorageUnavailable: PostgreSQL cannot be reached.
        StartupError: the DSN cannot be read.
    """
    return await _on_connection(dsn, _current), _newest()


async def _on_connection(dsn: str, work: Callable[[Connection], T]) -> T:
    # The DSN goes to asyncpg as it is: SQLAlchemy would read some of its forms otherwise.
    engine = create_async_engine("postgresql+asyncpg://", poolclass=pool.NullPool, async_creator=lambda: _connect(dsn))
    try:
        with translated(), _unwrapped():
            async with engine.connect() as connection:
                return await connection.run_sync(work)
    except asyncpg.PostgresError as error:
        raise StartupError(f"DATABASE_URL: PostgreSQL refused to migrate its database: {error.args[0]}.") from error
    finally:
        await engine.dispose()


@contextmanager
def _unwrapped() -> Iterator[None]:
    """asyncpg's own errors, without the two layers that SQLAlchemy puts around those of its statements."""
    try:
        yield
    except DBAPIError as error:
        raise (error.orig and error.orig.__cause__) or error from error


class _Unnamed(asyncpg.Connection):
    """Leaves no prepared statement behind: the connection may lead to a pooler all the same."""

    async def prepare(self, query: str, **options: Any) -> Any:
        return await super().prepare(query, **{**options, "name": ""})


async def _connect(dsn: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(dsn, timeout=5, statement_cache_size=0, connection_class=_Unnamed)
    except ValueError as error:  # its text may quote the password
        raise StartupError(
            "DATABASE_URL cannot be read: expected postgresql://user:password@host:5432/database, with any special "
            "characters in it percent-encoded."
        ) from error


def _upgrade(connection: Connection) -> str:
    newest = _newest()
    with connection.begin():
        # Held to the end of the transaction: whoever waits here finds the work done. Works behind a pooler too.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        found = _current(connection)
        if found is not None and found not in _known():
            raise StartupError(
                f"The database is at revision {found}, which a newer version of AI Service made: start that version."
            )
        command.upgrade(_config(connection), "head")
    if found != newest:
        log.info("database migrated", found=found, revision=newest)
    return newest


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()))
    config.attributes["connection"] = connection
    return config


def _scripts() -> Path:
    spec = find_spec("migrations")
    if spec is None or spec.origin is None:
        raise StartupError("The migrations are missing from this installation: install it anew.")
    return Path(spec.origin).parent


def _newest() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise StartupError("The migrations are missing from this installation: install it anew.")
    return head


def _known() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
