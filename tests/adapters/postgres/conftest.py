from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.postgres.store import PostgresJobStore


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections to a migrated database, enough for a dozen claimers at once."""
    async with asyncpg.create_pool(database, min_size=0, max_size=16) as pool:
        yield pool


@pytest.fixture
def store(pool: asyncpg.Pool) -> PostgresJobStore:
    return PostgresJobStore(pool)
