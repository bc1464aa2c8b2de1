"""The PostgreSQL store for the tests that every store has to pass: a real server, and a clock that obeys them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import asyncpg
import pytest

from adapters.postgres.queues import PostgresQueueStore
from adapters.postgres.store import PostgresJobStore
from adapters.postgres.uploads import PostgresUploadStore
from tests.adapters.rigs import OpenRig, Rig
from tests.factories import NOW

# Found before pg_catalog, so that every unqualified now() is this one.
SEARCH_PATH = "fake, pg_catalog, public"

FAKE_CLOCK = """
    CREATE SCHEMA IF NOT EXISTS fake;
    CREATE TABLE IF NOT EXISTS fake.clock (now timestamptz NOT NULL);
    CREATE OR REPLACE FUNCTION fake.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now FROM fake.clock';
"""

EMPTY = """
    DELETE FROM job_results;
    DELETE FROM job_inputs;
    DELETE FROM job_labels;
    DELETE FROM job_details;
    DELETE FROM job_progress;
    DELETE FROM job_changes;
    DELETE FROM runs;
    DELETE FROM upload_jobs;
    DELETE FROM uploads;
    DELETE FROM upload_chunks;
    DELETE FROM upload_leftovers;
    DELETE FROM jobs;
    DELETE FROM job_counts;
    DELETE FROM job_count_changes;
    DELETE FROM jobs_finished;
    DELETE FROM workers;
    DELETE FROM closing_slots;
    DELETE FROM lane_names;
    DELETE FROM line_names;
    DELETE FROM queues;
    DELETE FROM owners;
    DELETE FROM fake.clock;
"""
"""Faster than TRUNCATE, which makes new files for each table and index."""


class PostgresRig:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self.store = PostgresJobStore(pool)
        self.queues = PostgresQueueStore(pool)
        self.uploads = PostgresUploadStore(pool)
        self.pool = pool

    async def now(self) -> datetime:
        return await self.pool.fetchval("SELECT now()")  # type: ignore[no-any-return]  # what PostgreSQL's now() is

    async def advance(self, by: timedelta) -> None:
        await self.pool.execute("UPDATE fake.clock SET now = now + $1::interval", by)

    async def reset(self) -> None:
        await self.pool.execute(EMPTY)
        await self.pool.execute("INSERT INTO fake.clock VALUES ($1)", NOW)


def postgres_rig(request: pytest.FixtureRequest) -> OpenRig:
    return partial(open_postgres_rig, request.getfixturevalue("postgres_dsn"))


@asynccontextmanager
async def open_postgres_rig(dsn: str) -> AsyncIterator[Rig]:
    settings = {"search_path": SEARCH_PATH, "synchronous_commit": "off"}
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4, server_settings=settings, reset=_keep_as_it_is) as pool:
        await pool.execute(FAKE_CLOCK)
        rig = PostgresRig(pool)
        await rig.reset()
        yield rig


async def _keep_as_it_is(connection: asyncpg.Connection) -> None:
    """As in the service's own pools: the default reset is one more round trip after every statement."""
