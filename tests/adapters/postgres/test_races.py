"""Statements that meet on the same rows: never a deadlock, never a job that two hold, never a fate that two decide."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from adapters.postgres.store import PostgresJobStore
from domain.errors import InvalidTransition
from domain.job import JobId, JobStatus, LeasedJob
from tests.factories import LEASE, new_beat, new_claim, new_job


async def stored(store: PostgresJobStore, how_many: int) -> list[JobId]:
    return [job.id for job in await store.add([new_job() for _ in range(how_many)])]


async def taken(store: PostgresJobStore, how_many: int) -> list[LeasedJob]:
    await stored(store, how_many)
    return list((await store.exchange([], new_claim(limit=how_many))).claimed)


async def history(pool: asyncpg.Pool, job_id: JobId) -> list[str]:
    return [row["outcome"] for row in await pool.fetch("SELECT outcome FROM runs WHERE job_id = $1", job_id)]


async def drain(store: PostgresJobStore, worker: str, limit: int) -> list[JobId]:
    """Take and complete until nothing is left, as a worker does: what ended goes with the next claim."""
    runs: list[JobId] = []
    held: tuple[LeasedJob, ...] = ()
    while True:
        outcome = await store.exchange([job.complete(b"{}") for job in held], new_claim(worker_id=worker, limit=limit))
        assert not outcome.lost
        held = outcome.claimed
        if not held:
            return runs
        runs += [job.id for job in held]


@pytest.mark.parametrize(("claimers", "jobs", "limit"), [(2, 1_000, 7), (16, 2_000, 8)])
async def test_claimers_share_no_job_and_leave_none(
    store: PostgresJobStore, pool: asyncpg.Pool, claimers: int, jobs: int, limit: int
):
    ids = await stored(store, jobs)
    runs = await asyncio.gather(*(drain(store, f"worker-{n}", limit) for n in range(claimers)))
    # SKIP LOCKED: who met only locked rows goes home early; what those held back is for the next look.
    late = await drain(store, "worker-late", limit)
    assert Counter(job for run in [*runs, late] for job in run) == Counter(ids)
    assert await pool.fetchval("SELECT count(*) FROM runs") == jobs
    assert set((await store.statuses(ids)).values()) == {JobStatus.COMPLETED}


async def test_renewals_and_settlements_of_the_same_jobs_never_deadlock(store: PostgresJobStore, pool: asyncpg.Pool):
    for _ in range(20):
        held = await taken(store, 64)
        leases = [job.lease for job in held]
        await asyncio.gather(
            store.renew(leases, LEASE),
            store.exchange([job.complete(b"{}") for job in held[:32]], None),
            store.renew(leases[::-1], LEASE),
            store.exchange([job.release() for job in reversed(held[32:])], None),
            store.rescue_expired(3),
        )
        await pool.execute("DELETE FROM jobs")


async def test_of_a_cancel_and_a_completion_one_wins(store: PostgresJobStore, pool: asyncpg.Pool):
    for held in await taken(store, 50):
        cancelled, completed = await asyncio.gather(
            store.cancel(held.id), store.exchange([held.complete(b"{}")], None), return_exceptions=True
        )
        assert not isinstance(completed, BaseException)
        job = await store.get(held.id)
        if completed.lost:
            assert (job.status, job.result, await history(pool, held.id)) == (JobStatus.CANCELLED, None, ["cancelled"])
        else:
            assert isinstance(cancelled, InvalidTransition)
            assert (job.status, await history(pool, held.id)) == (JobStatus.COMPLETED, ["completed"])


async def test_of_a_rescue_and_a_completion_one_wins(store: PostgresJobStore, pool: asyncpg.Pool):
    for _ in range(50):
        await stored(store, 1)
        [held] = (await store.exchange([], new_claim(lease=timedelta(microseconds=-1)))).claimed
        rescued, completed = await asyncio.gather(store.rescue_expired(3), store.exchange([held.complete(b"{}")], None))
        assert bool(rescued) is bool(completed.lost)
        assert await history(pool, held.id) == (["crashed"] if rescued else ["completed"])
        await pool.execute("DELETE FROM jobs")


async def test_a_job_is_claimed_or_cancelled_or_both_in_turn(store: PostgresJobStore, pool: asyncpg.Pool):
    for _ in range(50):
        [job_id] = await stored(store, 1)
        cancelled, outcome = await asyncio.gather(store.cancel(job_id), store.exchange([], new_claim()))
        job = await store.get(job_id)
        assert (cancelled.status, job.status, job.lease) == (JobStatus.CANCELLED, JobStatus.CANCELLED, None)
        assert await history(pool, job_id) == (["cancelled"] if outcome.claimed else [])


async def test_of_two_retries_by_hand_one_takes_the_job_back(store: PostgresJobStore, pool: asyncpg.Pool):
    for held in await taken(store, 30):
        answers = await asyncio.gather(store.retry(held.id), store.retry(held.id), return_exceptions=True)
        assert [isinstance(answer, InvalidTransition) for answer in answers].count(True) == 1
        assert await history(pool, held.id) == ["retried"]
        await store.cancel(held.id)


async def test_a_job_that_is_renewed_in_time_is_not_rescued_at_the_same_moment(store: PostgresJobStore):
    for _ in range(30):
        await stored(store, 1)
        [held] = (await store.exchange([], new_claim(lease=timedelta(microseconds=-1)))).claimed
        lost, _ = await asyncio.gather(store.renew([held.lease], LEASE), store.rescue_expired(3))
        job = await store.get(held.id)
        if job.lease == held.lease:
            assert lost == frozenset()
        else:
            assert job.status is JobStatus.PENDING
            assert await store.renew([held.lease], LEASE) == {held.lease}
        await store.cancel(held.id)


async def test_the_same_jobs_added_by_two_at_once_are_stored_once(store: PostgresJobStore):
    sent = [new_job() for _ in range(100)]
    first, second = await asyncio.gather(store.add(sent), store.add(sent))
    assert first == second


async def test_a_worker_row_of_another_version_does_not_stop_the_count(store: PostgresJobStore, pool: asyncpg.Pool):
    await store.beat(new_beat(slots_per_queue=4))
    await store.beat(new_beat(slots_per_queue=4))
    await pool.execute(
        "UPDATE workers SET running = '{\"gpu.llm\": null}' WHERE id = (SELECT min(id::text)::uuid FROM workers)"
    )
    [demand] = await store.demand(["gpu.llm"], LEASE)
    assert (demand.slots, demand.idle) == (8, 8)


async def test_a_plan_survives_a_change_of_the_tables_under_it(store: PostgresJobStore, pool: asyncpg.Pool):
    ids = await stored(store, 1)
    before = await store.get(ids[0])
    await pool.execute("ALTER TABLE jobs ADD COLUMN colour text")
    assert await store.get(ids[0]) == before
    [held] = (await store.exchange([], new_claim(worker_id=str(uuid4())))).claimed
    assert held.id == ids[0]
