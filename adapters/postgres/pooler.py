"""Connections that may lead to a pooler such as PgBouncer, which gives each transaction whatever session is free.

A session's prepared statements would be met by strangers there: another process's statement of the same name runs in
place of one's own. So a pooler has to be known before the first statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
import structlog

from adapters.postgres.errors import translated

T = TypeVar("T")

log = structlog.get_logger()

KEEPALIVES = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""Of a direct session: PostgreSQL ends it, and frees its locks, some 10 s after its client's machine has gone."""

ANSWER_TIMEOUT = 5.0
"""Seconds; a pooler whose sessions are all taken lets us wait longer."""

SETTLE_IN = (
    "SELECT "
    + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in KEEPALIVES.items())
    + " WHERE pg_backend_pid() = %d"
)
"""Not sent with the connection: poolers refuse parameters that they do not know."""

ARRAYS = """
    SELECT NULL::bigint[], NULL::boolean[], NULL::bytea[], NULL::float8[], NULL::integer[], NULL::interval[],
           NULL::jsonb[], NULL::smallint[], NULL::text[], NULL::timestamptz[], NULL::uuid[], NULL::varchar[]
"""
"""The types of arguments and columns that asyncpg asks PostgreSQL about when it first meets them."""


async def is_direct(connection: asyncpg.Connection) -> bool:
    """Whether this session is PostgreSQL's own; one that is gets TCP keepalives.

    A pooler tells its clients a process that does not exist. One round trip, and nothing is left with the pooler.
    """
    # A simple query: what is prepared here could stay with a session that others use.
    found = await connection.execute(SETTLE_IN % connection.get_server_pid(), timeout=ANSWER_TIMEOUT)
    return found == "SELECT 1"


Prepare = Callable[[asyncpg.Connection, bool], Awaitable[None]]
"""Is given a new connection, and whether it is direct."""


async def no_more(connection: asyncpg.Connection, direct: bool) -> None:
    """A connection that is used as it is."""


class Connect:
    """Opens a pool's connections, each as what stands before PostgreSQL needs it."""

    def __init__(self, *, pooled: bool, prepare: Prepare) -> None:
        self._pooled = pooled
        self._prepare = prepare

    async def __call__(self, *arguments: Any, **settings: Any) -> asyncpg.Connection:
        if not self._pooled:
            connection: asyncpg.Connection = await asyncpg.connect(*arguments, **settings)
            if await _or_ended(connection, is_direct(connection)):
                await _or_ended(connection, self._prepare(connection, True))
                return connection
            connection.terminate()
            if not self._pooled:
                log.warning("a pooler found before postgresql", advice="set DATABASE_DIRECT_URL")
            self._pooled = True
        # Without its cache, asyncpg sends each statement whole: it runs alike in whatever session it comes to.
        shared: asyncpg.Connection = await asyncpg.connect(*arguments, **settings, statement_cache_size=0)
        await _or_ended(shared, _learn_arrays(shared))
        await _or_ended(shared, self._prepare(shared, False))
        return shared


async def _or_ended(connection: asyncpg.Connection, work: Awaitable[T]) -> T:
    """What comes of it; a connection on which it fails is not left open."""
    try:
        return await work
    except BaseException:
        connection.terminate()
        raise


async def _learn_arrays(connection: asyncpg.Connection) -> None:
    """Now, and in a transaction: asyncpg turns jit off to ask, and on again, which later could be another's session."""
    async with asyncio.timeout(ANSWER_TIMEOUT), connection.transaction():
        await connection.fetch(ARRAYS)


async def trouble(dsn: str, direct_dsn: str) -> str | None:
    """Why the second DSN is not the way past a pooler that the first one may lead to, or None when it is.

    Raises:
        StorageUnavailable: one of them leads to no PostgreSQL.
    """
    with translated():
        place, _ = await _looked_up(dsn)
        direct_place, direct = await _looked_up(direct_dsn)
    if place != direct_place:
        return "DATABASE_DIRECT_URL leads to another database than DATABASE_URL"
    if not direct:
        return "it leads to a pooler: set DATABASE_DIRECT_URL to PostgreSQL itself"
    return None


async def _looked_up(dsn: str) -> tuple[asyncpg.Record | None, bool]:
    """Which database of which server a DSN leads to, and whether no pooler stands before it."""
    connection = await asyncpg.connect(
        dsn, timeout=ANSWER_TIMEOUT, command_timeout=ANSWER_TIMEOUT, statement_cache_size=0
    )
    try:
        place = await connection.fetchrow("SELECT current_database(), pg_postmaster_start_time()")
        return place, await is_direct(connection)
    finally:
        connection.terminate()
