"""Many workers from outside and from within, and very many jobs: each runs once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg

from adapters.postgres.store import PostgresJobStore
from domain.job import JobId, JobStatus, LeasedJob
from domain.ports import JobFilter
from tests.factories import new_claim, new_job
from tests.moves import lend

JOBS = 20_000
OUTSIDE, INSIDE = 16, 2
KINDS: list[dict[str, Any]] = [
    {},
    {"queue": "gpu.speech"},
    {"queue": None},
    {"queue": None, "owner_service": "lion", "task_type": "theirs"},
]


async def work_outside(store: PostgresJobStore, worker: str) -> list[JobId]:
    runs: list[JobId] = []
    while claimed := await lend(store, worker_id=worker, limit=100):
        runs += [job.id for job in claimed]
        outcome = await store.exchange([job.leased().complete(b"{}") for job in claimed], None)
        assert not outcome.lost
    return runs


async def work_inside(store: PostgresJobStore, worker: str) -> list[JobId]:
    runs: list[JobId] = []
    held: tuple[LeasedJob, ...] = ()
    while True:
        outcome = await store.exchange([job.complete(b"{}") for job in held], new_claim(worker_id=worker, limit=64))
        assert not outcome.lost
        held = outcome.claimed
        if not held:
            return runs
        runs += [job.id for job in held]


async def test_sixteen_external_workers_and_two_of_our_own_run_twenty_thousand_jobs_each_once(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    added = await store.add([new_job(**KINDS[place % len(KINDS)]) for place in range(JOBS)])
    outside = [work_outside(store, f"theirs-{n}") for n in range(OUTSIDE)]
    inside = [work_inside(store, f"worker-{n}") for n in range(INSIDE)]

    runs = await asyncio.gather(*outside, *inside)

    assert Counter(job_id for each in runs for job_id in each) == Counter(each.job.id for each in added)
    assert all(runs)
    assert await store.count(JobFilter(status=(JobStatus.COMPLETED,))) == JOBS
    assert await pool.fetchval("SELECT count(*) FROM runs") == JOBS
