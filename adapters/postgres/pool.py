"""Connections to PostgreSQL, and the statements that travel over them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import asyncpg

from adapters.postgres.errors import translated
from adapters.postgres.pooler import Connect, Prepare, no_more

ACQUIRE_TIMEOUT = 5.0
STATEMENT_TIMEOUT = 30.0
"""Seconds after which a statement counts as lost; the hot ones take milliseconds."""

HEARTBEAT_TIMEOUT = 4.0
"""Seconds for what keeps a lease or the lead: after a connection that died silently there is time for another try."""

IDLE_IN_TRANSACTION = "SET LOCAL idle_in_transaction_session_timeout = '10s'"
"""A process that is cut off in the middle of a transaction must not hold its locks until TCP notices, hours later."""

DEADLOCK_TRIES = 5

LASTING: Mapping[str, Any] = {"max_queries": sys.maxsize, "max_inactive_connection_lifetime": 0}

UNUSABLE = (TimeoutError, asyncpg.InternalClientError)
"""After these a connection is of no use any more."""

Run = Callable[[str, Sequence[object]], Awaitable[list[asyncpg.Record]]]
"""Runs a statement with its arguments."""


def create_pool(
    dsn: str,
    *,
    max_size: int,
    application_name: str,
    pooled: bool = False,
    lasting: bool = False,
    prepare: Prepare = no_more,
) -> asyncpg.Pool:
    """A pool bound to the running event loop. It connects at first use: PostgreSQL may come up later than we do.

    Args:
        pooled: the DSN leads to a pooler. One that nobody told of is found out, at the cost of a first connection.
        lasting: its connections are kept however rarely or often they are used; else they are exchanged now and then.
        prepare: is given each new connection before its first use, and whether it is PostgreSQL's own.
    """
    return asyncpg.create_pool(
        dsn,
        connect=Connect(pooled=pooled, prepare=prepare),
        min_size=0,
        max_size=max_size,
        command_timeout=STATEMENT_TIMEOUT,
        timeout=ACQUIRE_TIMEOUT,
        reset=_keep_as_it_is,
        server_settings={"application_name": application_name},
        **(LASTING if lasting else {}),
    )


async def _keep_as_it_is(connection: asyncpg.Connection) -> None:
    """We never change a session's state, and the default reset is a second round trip after every statement."""


async def fetch(
    pool: asyncpg.Pool, statement: str, arguments: Sequence[object], *, within: float = STATEMENT_TIMEOUT
) -> list[asyncpg.Record]:
    """Run a statement. The victim of a deadlock was rolled back, and is tried again.

    Raises:
        StorageUnavailable: PostgreSQL cannot serve it, or has not within so many seconds.
    """
    with translated():
        async with pool.acquire() as connection:
            for tries_left in reversed(range(DEADLOCK_TRIES)):
                try:
                    return await connection.fetch(statement, *arguments, timeout=within)
                except asyncpg.DeadlockDetectedError:
                    if not tries_left:
                        raise
                except UNUSABLE:
                    await _give_up(pool, connection)
                    raise
    raise AssertionError("a statement returns or raises")


async def fetch_planned_for(pool: asyncpg.Pool, statement: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
    """Run a statement with a plan made for these very arguments.

    A prepared statement's plan soon serves every argument alike: a list of what is rare would then be looked for in the
    order that suits what is common, among all jobs.

    Raises:
        StorageUnavailable: PostgreSQL cannot serve it.
    """
    async with transaction(pool) as run:
        await run("SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)", [])
        return await run(statement, arguments)


def runner(pool: asyncpg.Pool) -> Run:
    """Runs each statement in a transaction of its own."""
    return partial(fetch, pool)


@asynccontextmanager
async def transaction(pool: asyncpg.Pool) -> AsyncIterator[Run]:
    """Runs statements in one transaction, which an exception rolls back.

    Raises:
        StorageUnavailable: PostgreSQL cannot serve it; nothing was done.
    """
    with translated():
        async with pool.acquire() as connection:
            try:
                async with connection.transaction():
                    await connection.execute(IDLE_IN_TRANSACTION)
                    yield lambda statement, arguments: connection.fetch(statement, *arguments)
            except UNUSABLE:
                await _give_up(pool, connection)
                raise


async def _give_up(pool: asyncpg.Pool, connection: asyncpg.pool.PoolConnectionProxy) -> None:
    """Drop a connection that does not answer, or makes no sense.

    Else asyncpg waits half a minute for a word about the statement's end; and the pool's others have most likely died
    with this one.
    """
    connection.terminate()
    await pool.expire_connections()


@cache
def query(name: str) -> str:
    """The statement in `queries/NAME.sql`."""
    return (Path(__file__).parent / "queries" / f"{name}.sql").read_text(encoding="utf-8")
