"""Bring a database's schema to this version, or back to a former one; safe when several processes start at once.

Each revision names the oldest program that can use its schema, and the database keeps that name: so a program that
knows nothing of a newer revision learns whether it may go on beside it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from asyncpg.exceptions import _base
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

LOCK_TIMEOUT = "2s"
"""How long a change may wait for its table: whoever comes later waits as long, and no heartbeat must be missed."""

AWAY = "Check that PostgreSQL runs there."
UNREADABLE = (
    "it cannot be read; expected postgresql://user:password@host:5432/database, with any special characters in it "
    "percent-encoded."
)
IN_USE = "a table to be changed is held by another transaction (a dump?): let that end, then migrate again."

OLDEST_PROGRAM = "SELECT to_jsonb(v) ->> 'oldest_program' FROM alembic_version AS v"
"""As JSON: a database that no program of today has migrated has no such column."""


async def migrate(dsn: str, *, patience: float = 0.0) -> str:
    """Apply what is missing and return the revision that the database then has.

    Args:
        dsn: where the database is.
        patience: seconds to wait for a PostgreSQL that does not answer yet, or for a table that is in use.

    Raises:
        StartupError: it cannot be reached in time, refuses the changes, or a newer version made it unusable for
            this one.
    """
    return await _patiently(partial(_on_connection, dsn, _upgrade), patience)


async def migrate_back(dsn: str, to: str, *, patience: float = 0.0) -> str:
    """Undo the revisions above this one, with all that only they can keep, and return what the database then has.

    Raises:
        StartupError: it is no revision of this version's, the database is below it or of a newer version, or `migrate`
            would raise it.
    """
    return await _patiently(partial(_on_connection, dsn, partial(_downgrade, to=to)), patience)


async def losses(dsn: str, to: str) -> dict[str, str]:
    """What each revision above this one would take along, the newest first.

    Raises:
        StartupError: as `migrate_back`.
        StorageUnavailable: PostgreSQL cannot be reached.
    """
    found = await _on_connection(dsn, _current)
    return {script.revision: told(script, "loses") for script in _above(found, to)}


async def require_migrated(dsn: str, *, patience: float = 0.0) -> None:
    """Return once the database is at a revision that this version can use, or cannot be asked.

    Args:
        dsn: where the database is.
        patience: seconds that whoever is to migrate it gets.

    Raises:
        StartupError: it was not migrated in time, or a newer version made it unusable for this one.
    """
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        try:
            found, needed = await _on_connection(dsn, _usable), _newest()
        except StorageUnavailable:
            return
        if found == needed or found not in {None, *_known()}:
            return
        trouble = f"The database is at revision {found or 'none'}, and this version needs {needed}"
        if asyncio.get_running_loop().time() + LONGEST_WAIT > deadline:
            raise StartupError(f"{trouble}: run 'ai-service migrate', or leave MIGRATE_ON_START on.")
        log.warning("waiting for the database to be migrated", found=found, needed=needed)
        await asyncio.sleep(LONGEST_WAIT)


async def revision(dsn: str) -> tuple[str | None, str]:
    """The revision that the database has, and the one that this version needs.

    Raises:
        StorageUnavailable: PostgreSQL cannot be reached.
        StartupError: the DSN cannot be read, or a newer version made the database unusable for this one.
    """
    return await _on_connection(dsn, _usable), _newest()


async def _patiently(work: Callable[[], Awaitable[str]], patience: float) -> str:
    deadline = asyncio.get_running_loop().time() + patience
    wait = FIRST_WAIT
    while True:
        try:
            return await work()
        except StorageUnavailable as error:
            in_use = isinstance(error.__cause__, asyncpg.LockNotAvailableError)
            if asyncio.get_running_loop().time() + wait > deadline:
                raise StartupError(f"DATABASE_URL: {IN_USE if in_use else f'{error} {AWAY}'}") from error
            log.warning("waiting for a table" if in_use else "waiting for postgresql", reason=str(error), seconds=wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)


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
    except ssl.SSLCertVerificationError as error:
        raise StartupError(
            f"DATABASE_URL: the certificate of PostgreSQL is not trusted ({error.verify_message}): sslrootcert=FILE in "
            "it names the authorities that it may come from."
        ) from error
    except _base.ClientConfigurationError as error:
        raise StartupError(f"DATABASE_URL: {_trouble_with_tls(error) or UNREADABLE}") from error
    except ValueError as error:  # its text may quote the password
        raise StartupError(f"DATABASE_URL: {UNREADABLE}") from error


def _trouble_with_tls(error: _base.ClientConfigurationError) -> str | None:
    """What asyncpg says of certificates quotes no password; what it says of other parts may."""
    if "root certificate file" not in str(error):
        return None
    return (
        "sslmode=verify-ca and verify-full need sslrootcert=FILE: the authorities that the certificate may come from."
    )


def _upgrade(connection: Connection) -> str:
    with connection.begin():
        _take_turns(connection)
        found, newest = _usable(connection), _newest()
        if found is not None and (found == newest or found not in _known()):
            return found
        command.upgrade(_config(connection), "head")
        _note_oldest_program(connection, newest)
    log.info("database migrated", found=found, revision=newest)
    return newest


def _downgrade(connection: Connection, *, to: str) -> str:
    with connection.begin():
        _take_turns(connection)
        found = _current(connection)
        if not _above(found, to):
            return to
        command.downgrade(_config(connection), to)
        _note_oldest_program(connection, to)
    log.info("database migrated back", found=found, revision=to)
    return to


def _take_turns(connection: Connection) -> None:
    # Held to the end of the transaction: whoever waits here finds the work done. Works behind a pooler too.
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")


def _usable(connection: Connection) -> str | None:
    """The revision that the database has: one of ours, or a newer one that leaves this version what it needs."""
    found = _current(connection)
    if found is None or found in _known():
        return found
    if connection.exec_driver_sql(OLDEST_PROGRAM).scalar() not in _known():
        ours = _newest()
        raise StartupError(
            f"The database is at revision {found}, which a newer version of AI Service made, and this one, of revision "
            f"{ours}, cannot use it: start the newer version, or have it run 'ai-service migrate --to {ours}'."
        )
    log.info("database is newer than this version, which can use it", found=found, needed=_newest())
    return found


def _above(found: str | None, to: str) -> list[Script]:
    """The revisions that a database at this one has above that one, the newest first."""
    known = {script.revision: script for script in _scripts_newest_first()}
    if to not in known:
        raise StartupError(f"--to: there is no revision {to}; known: {', '.join(sorted(known))}.")
    if found is not None and found not in known:
        raise StartupError(
            f"The database is at revision {found}: only the newer version that made it can take it back."
        )
    if found is None or found < to:
        raise StartupError(f"The database is at revision {found or 'none'}, below {to}: run 'ai-service migrate'.")
    return [script for name, script in known.items() if to < name <= found]


def _note_oldest_program(connection: Connection, revision: str) -> None:
    [oldest] = [told(script, "oldest_program") for script in _scripts_newest_first() if script.revision == revision]
    connection.exec_driver_sql("ALTER TABLE alembic_version ADD COLUMN IF NOT EXISTS oldest_program text")
    connection.exec_driver_sql("UPDATE alembic_version SET oldest_program = $1", (oldest,))


def told(script: Script, name: str) -> str:
    """What a revision says of itself; one that says nothing can be used by its own program only."""
    return str(getattr(script.module, name, script.revision))


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
    return {script.revision for script in _scripts_newest_first()}


def _scripts_newest_first() -> list[Script]:
    return [*ScriptDirectory.from_config(_config()).walk_revisions()]
