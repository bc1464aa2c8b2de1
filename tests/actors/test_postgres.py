"""A worker as it is put together for production, on PostgreSQL and RabbitMQ, through the cuts that both may suffer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest
from dramatiq import Worker

from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from app.bootstrap import Application, build
from app.settings import from_env
from domain.job import JobId, JobStatus
from tests.actors.rig import Stage, until
from tests.factories import QUEUE, new_job

SLOTS = 4


@contextmanager
def working(dsn: str, amqp_url: str, stage: Stage) -> Iterator[Application]:
    settings = from_env(
        {
            "DATABASE_URL": dsn,
            "AMQP_URL": amqp_url,
            "AI_PROVIDER": "practice",
            "WORKER_CLAIM_LIMIT": str(SLOTS),
        }
    )
    application = build(settings, performers={"llm_chat": stage})
    worker = Worker(application.broker, queues={QUEUE}, worker_threads=SLOTS, worker_timeout=20)
    worker.start()
    yield application
    worker.stop(timeout=20_000)
    application.broker.close()


async def add(dsn: str, count: int) -> list[JobId]:
    async with create_pool(dsn, max_size=1, application_name="test") as pool:
        return [added.job.id for added in await PostgresJobStore(pool).add([new_job() for _ in range(count)])]


async def rows(dsn: str) -> list[tuple[str, int]]:
    """Status and attempts of every job."""
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch("SELECT status, attempts FROM jobs")]
    finally:
        await connection.close()


async def break_connections(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


@pytest.mark.parametrize("cuts", [0, 5])
def test_every_job_is_stored_once_however_often_postgres_cuts_its_connections(
    cuts: int, database: str, vhost: str
) -> None:
    stage = Stage()
    asyncio.run(add(database, 200))
    with working(database, vhost, stage) as application:
        for cut in range(cuts):
            until(lambda seen=cut: len(stage.ended) > seen * 30)  # type: ignore[misc]
            asyncio.run(break_connections(database))
        until(lambda: application.runtime.status().outcomes.get("completed", 0) >= 200, "the end of all jobs")

    assert set(asyncio.run(rows(database))) == {(JobStatus.COMPLETED.value, 1)}
    assert len(stage.started) == len(set(stage.started)) == 200


def test_a_worker_that_ends_in_good_order_leaves_nothing_running(database: str, vhost: str) -> None:
    stage = Stage(holds=True)
    asyncio.run(add(database, 10))
    with working(database, vhost, stage) as application:
        until(lambda: len(stage.started) == SLOTS)
        desk = application.runtime.desk(QUEUE)
        application.runtime._grace = 0
        assert desk.running == SLOTS

    assert set(asyncio.run(rows(database))) == {(JobStatus.PENDING.value, 0)}
    assert len(stage.stopped) == SLOTS
