"""Pruning beside those who work: it waits for nobody, takes nothing that is wanted, and leaves no half of a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from domain.errors import StorageUnavailable
from domain.job import JobId, JobStatus
from domain.retention import FINAL, PastJob, Retention, Walk
from domain.usecases.prune import Pruned, Sweep
from tests.factories import new_claim
from tests.moves import cancel, complete, fail, found, settle, several, statuses, take

NOW = timedelta(0)
AT_ONCE = Retention(dict.fromkeys(FINAL, NOW))
"""Whatever is final goes."""

TABLES = ("jobs", "job_details", "job_inputs", "job_results", "job_labels", "job_changes", "runs")
WAITING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pruner' AND wait_event_type = 'Lock'"


async def ended(store: PostgresJobStore, how_many: int) -> list[JobId]:
    """Jobs that completed and failed by turns, with all that a job can leave behind."""
    await several(store, how_many, labels={"team": "red"})
    held = await take(store, limit=how_many)
    await settle(store, *(complete(job) if place % 2 else fail(job) for place, job in enumerate(held)))
    return [job.id for job in held]


async def old(store: PostgresJobStore) -> list[PastJob]:
    return [job for status in FINAL for job in (await store.walk(Walk(NOW, status), None, 1_000)).jobs]


async def swept(store: PostgresJobStore) -> int:
    sweep, pruned = Sweep(store, AT_ONCE), Pruned()
    while not sweep.over:
        pruned += await sweep.step()
    return pruned.total()


async def rows(pool: asyncpg.Pool) -> dict[str, int]:
    return {table: await pool.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


@asynccontextmanager
async def locking(pool: asyncpg.Pool, statement: str, *arguments: object) -> AsyncIterator[None]:
    """Somebody is in the middle of something."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(statement, *arguments)
        yield


@pytest.fixture
async def pruner(database: str) -> AsyncIterator[PostgresJobStore]:
    """A store of a process of its own."""
    async with create_pool(database, max_size=1, application_name="pruner") as pool:
        yield PostgresJobStore(pool)


async def test_nothing_of_a_pruned_job_is_left_in_any_table(store: PostgresJobStore, pool: asyncpg.Pool):
    await ended(store, 4)
    assert await swept(store) == 4
    assert set((await rows(pool)).values()) == {0}


async def test_a_job_that_somebody_holds_is_passed_over_and_found_the_next_time(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    held, *others = await ended(store, 5)
    async with locking(pool, "SELECT FROM jobs WHERE id = $1 FOR UPDATE", held):
        assert await asyncio.wait_for(swept(store), 5) == len(others)
    assert await swept(store) == 1


async def test_two_leaders_that_prune_at_once_remove_each_job_once(store: PostgresJobStore, pruner: PostgresJobStore):
    await ended(store, 1_200)
    assert sum(await asyncio.gather(swept(store), swept(pruner))) + await swept(store) == 1_200
    assert await found(store) == []


async def test_a_job_that_is_retried_meanwhile_survives_whole(store: PostgresJobStore, pruner: PostgresJobStore):
    for _ in range(5):
        failed = [job_id for place, job_id in enumerate(await ended(store, 100)) if place % 2 == 0]
        retried, pruned = await asyncio.gather(
            asyncio.gather(*(store.retry(failed[start : start + 5]) for start in range(0, 50, 5))), swept(pruner)
        )
        survivors = [event.job_id for events in retried for event in events]
        assert set(await found(store)) == set(survivors)
        assert pruned == 100 - len(survivors)
        assert set((await statuses(store, survivors)).values()) <= {JobStatus.PENDING}
        for job_id in survivors:
            assert (await store.get(job_id)).input is not None
            assert len(await store.runs(job_id)) == 1
        await cancel(store, *survivors)
        await swept(store)


async def test_a_prune_that_is_killed_leaves_nothing_half_done_and_holds_nobody_up(
    store: PostgresJobStore, pruner: PostgresJobStore, pool: asyncpg.Pool
):
    jobs = await ended(store, 10)
    await several(store, 2)
    before = await rows(pool)
    async with locking(pool, "SELECT FROM job_details WHERE job_id = $1 FOR UPDATE", jobs[-1]):
        pruning = asyncio.create_task(pruner.prune(await old(store)))
        async with asyncio.timeout(5):
            while not (pids := await pool.fetch(WAITING)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len((await store.exchange([], new_claim(limit=2))).claimed) == 2
        assert await pool.fetchval("SELECT pg_terminate_backend($1)", pids[0]["pid"])
        with pytest.raises(StorageUnavailable):
            await pruning
    assert await rows(pool) == before
    assert await swept(store) == 10
