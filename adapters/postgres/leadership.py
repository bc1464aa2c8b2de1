"""The scheduler's lead: a row that one holder keeps by renewing it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import asyncpg

from adapters.postgres.pool import HEARTBEAT_TIMEOUT, fetch, query


class PostgresLeadership:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def lead(self, holder: UUID, ttl: timedelta) -> timedelta | None:
        rows = await fetch(self._pool, query("lead"), [holder, ttl], within=HEARTBEAT_TIMEOUT)
        return next((row["steady"] for row in rows), None)

    async def resign(self, holder: UUID) -> None:
        await fetch(self._pool, query("resign"), [holder], within=HEARTBEAT_TIMEOUT)
