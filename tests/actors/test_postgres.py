"""A worker as it is put together for production, on PostgreSQL and RabbitMQ, through the cuts that both may suffer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, unquote, urlsplit

import asyncpg
import pytest
from dramatiq import Worker
from msgspec.structs import replace

from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from adapters.rabbitmq.connection import connection_parameters
from adapters.rabbitmq.events import EXCHANGE, RabbitEvents
from app.bootstrap import Application, build
from app.settings import from_env
from domain.events import REVOKED, JobEvent
from domain.job import CANCELLED_BY_CALLER, JobId, JobStatus
from tests.actors.rig import Stage, until
from tests.factories import QUEUE, new_job
from tests.servers.rabbitmq import Broker

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
    try:
        yield application
    finally:
        worker.stop(timeout=20_000)
        application.broker.close()


async def add(dsn: str, count: int) -> list[JobId]:
    async with create_pool(dsn, max_size=1, application_name="test") as pool:
        return [added.job.id for added in await PostgresJobStore(pool).add([new_job() for _ in range(count)])]


async def cancel(dsn: str, *ids: JobId) -> list[JobEvent]:
    async with create_pool(dsn, max_size=1, application_name="test") as pool:
        return await PostgresJobStore(pool).cancel(ids, CANCELLED_BY_CALLER)


async def retry(dsn: str, *ids: JobId) -> list[JobEvent]:
    async with create_pool(dsn, max_size=1, application_name="test") as pool:
        return await PostgresJobStore(pool).retry(ids)


def bindings(rabbitmq: Broker, vhost: str) -> set[str]:
    """Which events somebody hears."""
    name = quote(unquote(urlsplit(vhost).path[1:]), safe="")
    found = rabbitmq.management("GET", f"/bindings/{name}")
    return {each["routing_key"] for each in found if each["source"] == EXCHANGE}


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


def test_what_happens_in_another_process_takes_a_job_from_its_run_at_once(
    database: str, vhost: str, rabbitmq: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.runtime.RENEWAL_INTERVAL", 3600.0)
    stage, bus = Stage(holds=True), RabbitEvents(connection_parameters(vhost))
    ids = asyncio.run(add(database, SLOTS))
    bus.start()
    with working(database, vhost, stage) as application:
        until(lambda: len(stage.started) == SLOTS)
        until(lambda: bindings(rabbitmq, vhost) == {"*.*.cancelled", "*.*.followed", "*.*.revoked"}, "the worker hears")
        until(bus._publisher.link.ready.is_set)
        began = time.monotonic()
        bus.publish(asyncio.run(cancel(database, *ids[:2])))
        bus.publish([replace(event, kind=REVOKED) for event in asyncio.run(retry(database, ids[2]))])
        until(lambda: len(stage.stopped) == 3, "three ends")
        took = time.monotonic() - began
        assert sorted(stage.stopped) == sorted(ids[:3])
        until(lambda: stage.started.count(ids[2]) == 2, "the second run of the one that was retried")
        application.runtime._grace = 0
    bus.stop()

    assert took < 0.7
    assert sorted(asyncio.run(rows(database))) == [("cancelled", 0)] * 2 + [("pending", 0)] * 2


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
