"""What was stored by an earlier version is whole after the migration, and goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from msgspec import Raw
from sqlalchemy import Connection

from adapters.postgres.migrate import _config, _on_connection, migrate
from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from domain.job import JobId, JobStatus, Priority, RunOutcome
from domain.ports import JobFilter, Listing, Tally
from tests.factories import NOW, PROFILE, QUEUE, new_claim, new_id
from tests.moves import cancel, found, ids

A_MINUTE = timedelta(minutes=1)

PASTS: dict[str, tuple[str, list[str], list[str]]] = {
    # now:                            runs that ended,            what its history says
    "just submitted": ("pending", [], ["pending"]),
    "running": ("running", [], ["pending", "running"]),
    "completed": ("completed", ["completed"], ["pending", "running", "completed"]),
    "completed in the second run": (
        "completed",
        ["failed", "completed"],
        ["pending", "running", "pending", "running", "completed"],
    ),
    "failed": ("failed", ["failed"], ["pending", "running", "failed"]),
    "crashed, then running": ("running", ["crashed"], ["pending", "running", "pending", "running"]),
    "given back": ("pending", ["given_back"], ["pending", "running", "pending"]),
    "cancelled before it ran": ("cancelled", [], ["pending", "cancelled"]),
    "cancelled while it ran": ("cancelled", ["cancelled"], ["pending", "running", "cancelled"]),
    "cancelled between two runs": ("cancelled", ["released"], ["pending", "running", "pending", "cancelled"]),
    "cancelled while it ran, then retried by hand": (
        "pending",
        ["cancelled"],
        ["pending", "running", "cancelled", "pending"],
    ),
    "taken from its worker by hand": ("pending", ["retried"], ["pending", "running", "pending"]),
}


def upgrade_to_the_first_revision(connection: Connection) -> None:
    with connection.begin():
        command.upgrade(_config(connection), "0001")


def back_to_the_second_revision(connection: Connection) -> None:
    with connection.begin():
        command.downgrade(_config(connection), "0002")


async def store_as_the_first_version_did(
    connection: asyncpg.Connection, job_id: JobId, seq: int, status: str, outcomes: list[str]
) -> None:
    running, final = status == "running", status in {"completed", "failed", "cancelled"}
    await connection.execute(
        """
        INSERT INTO jobs (
            id, seq, run_at, updated_at, priority, max_attempts, due, status, queue, owner_service, task_type,
            model_profile, lease_token, lease_expires_at, worker_id, started_at, finished_at, error_code
        )
        VALUES ($1, $2, $3, $3, 3, 9, true, $4, $5, 'lion', 'llm_chat', $6, $7, $8, $9, $10, $11, $12)
        """,
        job_id,
        seq,
        NOW,
        status,
        QUEUE,
        PROFILE,
        uuid4() if running else None,
        NOW if running else None,
        "worker-1" if running else None,
        NOW if running or outcomes else None,
        NOW if final else None,
        "timeout" if status in {"failed", "cancelled"} else None,
    )
    await connection.execute(
        "INSERT INTO job_details VALUES ($1, $2, $3, 'lion', 'call/7', 'llm_chat', $4)",
        job_id,
        seq,
        NOW - A_MINUTE,
        PROFILE,
    )
    await connection.execute("INSERT INTO job_inputs VALUES ($1, $2)", job_id, b'{"user": "Hello"}')
    if status == "completed":
        await connection.execute("INSERT INTO job_results VALUES ($1, $2)", job_id, b"{}")
    for place, outcome in enumerate(outcomes):
        await connection.execute(
            "INSERT INTO runs VALUES ($1, $2, $3, $3, 'worker-1', $4)",
            job_id,
            uuid4(),
            NOW - A_MINUTE + timedelta(seconds=place),
            outcome,
        )


@pytest.fixture
def jobs() -> dict[str, JobId]:
    return {name: new_id() for name in PASTS}


@pytest.fixture
async def store(empty_database: str, jobs: dict[str, JobId]) -> AsyncIterator[PostgresJobStore]:
    """Over a database that was migrated with jobs in it."""
    await _on_connection(empty_database, upgrade_to_the_first_revision)
    connection = await asyncpg.connect(empty_database)
    for seq, (name, (status, outcomes, _)) in enumerate(PASTS.items(), start=1):
        await store_as_the_first_version_did(connection, jobs[name], seq, status, outcomes)
    await connection.execute("SELECT setval('jobs_seq', 100)")
    await connection.close()
    await migrate(empty_database)
    async with create_pool(empty_database, max_size=2, application_name="test") as pool:
        yield PostgresJobStore(pool)


async def test_every_job_is_there_with_all_that_it_had(store: PostgresJobStore, jobs: dict[str, JobId]):
    assert await found(store, newest_first=False) == [*jobs.values()]
    for name, job_id in jobs.items():
        job = await store.get(job_id)
        assert (job.status, job.created_at, job.owner_ref) == (PASTS[name][0], NOW - A_MINUTE, "call/7")
        assert (job.priority, job.queue, job.input) == (Priority.NORMAL, QUEUE, Raw(b'{"user": "Hello"}'))
        assert (job.result is not None) is (job.status is JobStatus.COMPLETED)
        assert (job.labels, job.batch_id, job.progress, job.lease_timeout) == ({}, None, None, None)


async def test_its_history_is_numbered_and_ends_in_the_state_that_it_is_in(
    store: PostgresJobStore, jobs: dict[str, JobId]
):
    for name, (status, outcomes, history) in PASTS.items():
        job, changes = await store.get(jobs[name]), await store.changes(jobs[name], 0)
        assert [change.status for change in changes] == history, name
        assert [change.number for change in changes] == [*range(1, job.number + 1)], name
        assert changes[-1].status == status
        runs = await store.runs(jobs[name])
        assert [run.outcome for run in runs if run.ended_at] == [RunOutcome(outcome) for outcome in outcomes]
        assert len(runs) == len(outcomes) + (status == "running")


async def test_they_are_counted(store: PostgresJobStore):
    tallies = await store.tallies()
    assert {tally.status for tally in tallies} == set(JobStatus)
    assert sum(tally.jobs for tally in tallies) == len(PASTS)
    assert all(isinstance(tally, Tally) and tally.queue == QUEUE for tally in tallies)


@pytest.mark.parametrize(
    "where",
    [
        JobFilter(owner_service=("lion",)),
        JobFilter(owner_ref=("call/7",)),
        JobFilter(queue=(QUEUE,)),
        JobFilter(priority=(Priority.NORMAL,)),
        JobFilter(status=tuple(JobStatus), created_from=NOW - A_MINUTE),
    ],
)
async def test_they_are_found(store: PostgresJobStore, jobs: dict[str, JobId], where: JobFilter):
    assert ids(await store.find(Listing(where=where, limit=99, newest_first=False))) == [*jobs.values()]


async def test_they_go_on(store: PostgresJobStore, jobs: dict[str, JobId]):
    await cancel(store, jobs["running"])
    await store.retry([jobs["running"], jobs["failed"], jobs["cancelled before it ran"]])
    claimed = (await store.exchange([], new_claim(limit=99))).claimed
    await store.exchange([held.complete(b"{}") for held in claimed], None)
    for held in claimed:
        changes = await store.changes(held.id, 0)
        assert [change.number for change in changes] == [*range(1, held.number + 2)]
        assert changes[-1].status is JobStatus.COMPLETED
    assert jobs["running"] in {held.id for held in claimed}
    before = sum(tally.jobs for tally in await store.tallies())
    assert await store.erase([jobs["completed"]]) == [jobs["completed"]]
    assert sum(tally.jobs for tally in await store.tallies()) == before - 1


async def test_what_waits_has_its_lane_and_what_runs_its_slot(store: PostgresJobStore, jobs: dict[str, JobId]):
    async with store._pool.acquire() as connection:
        lines = await connection.fetch("SELECT name, busy FROM lines")
        lanes = await connection.fetch("SELECT line, level, owner_service, asleep FROM lanes")
    assert [tuple(line) for line in lines] == [(QUEUE, 2)]
    assert [tuple(lane) for lane in lanes] == [(QUEUE, 3, "lion", True)]
    assert {(await store.get(job_id)).level for job_id in jobs.values()} == {3}


async def test_the_way_down_keeps_them_and_the_way_up_again_too(
    store: PostgresJobStore, jobs: dict[str, JobId], empty_database: str
):
    async with store._pool.acquire() as connection:
        await connection.execute("UPDATE runs SET outcome = 'preempted' WHERE outcome = 'released'")
        before = await connection.fetch("SELECT id, status, number, queue, priority FROM jobs ORDER BY seq")
    await store._pool.expire_connections()
    await _on_connection(empty_database, back_to_the_second_revision)
    await migrate(empty_database)
    async with create_pool(empty_database, max_size=1, application_name="test") as pool:
        again = PostgresJobStore(pool)
        assert await pool.fetch("SELECT id, status, number, queue, priority FROM jobs ORDER BY seq") == before
        assert await pool.fetchval("SELECT busy FROM lines") == 2
        assert [run.outcome for run in await again.runs(jobs["cancelled between two runs"])] == [RunOutcome.RELEASED]
        waiting = [jobs[name] for name, (status, _, _) in PASTS.items() if status == "pending"]
        assert [held.id for held in (await again.exchange([], new_claim(limit=99))).claimed] == waiting
