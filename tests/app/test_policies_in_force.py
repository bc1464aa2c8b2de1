"""Who puts the configured policies in force, and when, as processes are put together for production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asyncpg import Pool
from dramatiq import Worker

from adapters.postgres.pool import create_pool
from adapters.postgres.queues import PostgresQueueStore
from adapters.postgres.store import PostgresJobStore
from app.bootstrap import Application, build
from app.settings import from_env
from domain.policy import Policies, QueuePolicy
from tests.factories import QUEUE
from tests.moves import cancel, found, one

OTHER = "gpu.other"
SPEECH = "gpu.speech"
"""Of the practice provider."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ai_service.toml"
    configure(path, 3)
    return path


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with create_pool(database, max_size=1, application_name="test") as pool:
        yield pool


@pytest.fixture
def application(database: str, file: Path) -> Application:
    return build(from_env({"DATABASE_URL": database, "AI_PROVIDER": "practice", "AI_SERVICE_CONFIG": str(file)}))


def configure(path: Path, concurrency: int) -> None:
    path.write_text("".join(f'[queues."{queue}"]\nconcurrency = {concurrency}\n' for queue in (QUEUE, OTHER)))


async def in_force(pool: Pool) -> dict[str, int | None]:
    """The concurrency of each queue that is known."""
    return {state.name: state.policy.concurrency for state in await PostgresQueueStore(pool).states()}


async def test_a_worker_that_starts_puts_in_force_what_nobody_has_and_leaves_the_rest(
    application: Application, pool: Pool
) -> None:
    await PostgresQueueStore(pool).configure(Policies({QUEUE: QueuePolicy(concurrency=1)}), [])
    worker = Worker(application.broker, queues={QUEUE}, worker_threads=1, worker_timeout=20)
    await asyncio.to_thread(worker.start)
    try:
        assert await in_force(pool) == {QUEUE: 1, OTHER: 3, SPEECH: None}
    finally:
        await asyncio.to_thread(worker.stop, 20_000)
        application.broker.close()


async def test_who_takes_the_lead_puts_in_force_what_its_file_says(application: Application, pool: Pool) -> None:
    await PostgresQueueStore(pool).configure(Policies({QUEUE: QueuePolicy(concurrency=1)}), [])
    async with application.core(hears=False) as core:
        await core.scheduler.tick()
        assert await in_force(pool) == {QUEUE: 3, OTHER: 3, SPEECH: None}
        await core.scheduler.stop()


async def test_of_two_that_are_there_the_leaders_file_counts(
    application: Application, database: str, pool: Pool, tmp_path: Path
) -> None:
    configure(tmp_path / "other.toml", 7)
    other = build(from_env({"DATABASE_URL": database, "AI_SERVICE_CONFIG": str(tmp_path / "other.toml")}))
    async with application.core(hears=False) as leads, other.core(hears=False) as stands_by:
        await leads.scheduler.tick()
        await stands_by.scheduler.tick()
        assert await in_force(pool) == {QUEUE: 3, OTHER: 3, SPEECH: None}
        await leads.scheduler.stop()
        await stands_by.scheduler.tick()
        assert await in_force(pool) == {QUEUE: 7, OTHER: 7}
        await stands_by.scheduler.stop()


async def test_who_leads_prunes_by_what_its_file_says_of_the_owner(
    application: Application, file: Path, pool: Pool
) -> None:
    store = PostgresJobStore(pool)
    jobs = [await one(store, owner_service=owner) for owner in ("beeline", "lion")]
    await cancel(store, *(job.id for job in jobs))
    await pool.execute(
        "UPDATE jobs SET created_at = created_at - interval '2 days', finished_at = finished_at - interval '2 days'"
    )
    await pool.execute("UPDATE job_details SET created_at = created_at - interval '2 days'")
    async with application.core(hears=False) as core:
        await core.scheduler.tick()
        await asyncio.to_thread(file.write_text, '[owners.beeline]\nretention = {cancelled = "1d"}\n')
        async with asyncio.timeout(10):
            while len(await found(store)) > 1:
                await core.scheduler.tick()
                await asyncio.sleep(0.05)
        await core.scheduler.stop()
    assert await found(store) == [jobs[1].id]
