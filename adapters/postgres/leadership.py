"""The scheduler's lead: a row that one holder keeps by renewing it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import asyncpg

from adapters.postgres.errors import translated
from adapters.postgres.pool import query


class PostgresLeadership:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def lead(self, holder: UUID, ttl: timedelta) -> bool:
        with translated():
            return bool(await self._pool.fetch(query("lead"), holder, ttl))

    async def resign(self, holder: UUID) -> None:
        with translated():
            await self._pool.execute(query("resign"), holder)
