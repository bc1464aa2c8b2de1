"""Figures of very many jobs: what is looked at is bounded, and they are right all the same."""

from __future__ import annotations

import asyncpg
import pytest

from adapters.postgres.store import PostgresJobStore
from domain.job import JobStatus
from tests.factories import new_job

A_MINUTE_OF_RUNS = """
    INSERT INTO runs (job_id, lease_token, started_at, ended_at, worker_id, outcome, number, became)
    SELECT $1, gen_random_uuid(), now() - interval '61 s', now() - n * interval '10 ms', 'worker', 'released', 3, $2
    FROM generate_series(1, 6000) AS n
"""


async def test_a_pace_of_more_runs_than_are_looked_at_says_how_far_back_they_reach(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    [added] = await store.add([new_job(queue=None)])
    await pool.execute(A_MINUTE_OF_RUNS, added.job.id, JobStatus.PENDING)
    [pace] = await store.paces()
    assert pace.runs / pace.within == pytest.approx(100, rel=0.05)
