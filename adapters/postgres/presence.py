"""The session of a worker process: it says over it that it lives, and holds a lock as long as it lasts."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import structlog

from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore

log = structlog.get_logger()


@asynccontextmanager
async def presence(dsn: str) -> AsyncIterator[PostgresJobStore]:
    """Where a worker says that it lives, over one connection that nothing else uses.

    Args:
        dsn: of PostgreSQL itself: a pooler would hand the lock to somebody else.
    """
    async with create_pool(
        dsn, max_size=1, application_name="ai-service heartbeat", lasting=True, prepare=_take_lock
    ) as pool:
        yield PostgresJobStore(pool)


async def _take_lock(connection: asyncpg.Connection, direct: bool) -> None:
    """Take an advisory lock under a fresh number, which the beats of this session then carry.

    Fresh: that of a connection that died silently may be held for a while.
    """
    if not direct:
        log.warning(
            "no lock behind a pooler: a worker that dies is noticed after 15 s, not after 3",
            hint="set DATABASE_DIRECT_URL to PostgreSQL itself",
        )
        return
    key = secrets.randbits(63)
    await connection.execute("SELECT pg_advisory_lock($1)", key)
    await connection.execute("SELECT set_config('ai_service.lock_key', $1, false)", str(key))
