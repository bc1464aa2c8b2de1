from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from domain.errors import ErrorCode, Failure
from domain.job import JobStatus, LeasedJob, RunOutcome
from domain.ports import Claim
from domain.retry import RetryPolicy
from domain.usecases.work import Work
from tests.factories import LEASE, PROFILE, QUEUE, leased_job, new_beat, new_claim, new_job
from tests.fakes import FakeClock, FragileStore

FAST, SLOW = timedelta(seconds=7), timedelta(seconds=77)


@pytest.fixture
def work(store: FragileStore) -> Work:
    return Work(store, RetryPolicy(FAST, SLOW), random=lambda: 0.0, lease=LEASE)


async def take(work: Work, jobs: int) -> tuple[LeasedJob, ...]:
    await work.jobs.add([new_job() for _ in range(jobs)])
    return (await work.exchange([], new_claim(limit=jobs))).claimed


def test_a_completed_run_asks_to_store_its_result(work: Work):
    job = leased_job()
    ended = work.completed(job, b"{}")
    assert (ended.job, ended.settlement) == (job, job.complete(b"{}"))


def test_a_failed_run_asks_for_what_the_retry_table_says(work: Work):
    ended = work.failed(leased_job(), Failure(ErrorCode.TIMEOUT))
    assert (ended.settlement.outcome, ended.settlement.delay) == (RunOutcome.FAILED, FAST)


def test_a_run_given_back_waits_with_the_jitter_it_was_dealt(work: Work):
    ended = work.failed(leased_job(), Failure(ErrorCode.RATE_LIMITED))
    assert (ended.settlement.outcome, ended.settlement.delay) == (RunOutcome.GIVEN_BACK, timedelta(seconds=0.5))


def test_a_released_run_asks_to_count_nothing(work: Work):
    job = leased_job()
    assert work.released(job).settlement == job.release()


async def test_runs_are_ended_and_new_ones_taken_in_one_go(work: Work):
    [first] = await take(work, 1)
    [second] = await work.jobs.add([new_job()])
    outcome = await work.exchange([work.completed(first, b"{}")], new_claim())
    assert [job.id for job in outcome.claimed] == [second.id]
    assert (await work.jobs.get(first.id)).status is JobStatus.COMPLETED


async def test_a_result_that_is_refused_fails_its_own_run_and_no_other(work: Work, store: FragileStore):
    store.refuses = [b'"unstorable"']
    poisoned, neighbour = await take(work, 2)
    outcome = await work.exchange([work.completed(poisoned, b'"unstorable"'), work.completed(neighbour, b"{}")], None)
    job = await store.get(poisoned.id)
    assert job.failure == Failure(ErrorCode.INTERNAL_ERROR, "The result cannot be stored: not storable")
    assert (job.status, job.attempts, job.run_at - job.updated_at) == (JobStatus.PENDING, 1, SLOW)
    assert (await store.get(neighbour.id)).status is JobStatus.COMPLETED
    assert (outcome.refused, outcome.lost) == ({}, frozenset())


async def test_a_refused_result_costs_no_claim_of_the_same_exchange(work: Work, store: FragileStore):
    store.refuses = [b'"unstorable"']
    [poisoned] = await take(work, 1)
    [waiting] = await store.add([new_job()])
    outcome = await work.exchange([work.completed(poisoned, b'"unstorable"')], new_claim(limit=5))
    assert [job.id for job in outcome.claimed] == [waiting.id]


async def test_every_run_that_no_longer_held_its_job_is_reported(work: Work, store: FragileStore):
    store.refuses = [b'"unstorable"']
    cancelled, poisoned = await take(work, 2)
    await store.cancel(cancelled.id)
    await store.cancel(poisoned.id)
    ended = [work.completed(cancelled, b"{}"), work.completed(poisoned, b'"unstorable"')]
    assert (await work.exchange(ended, None)).lost == {cancelled.lease, poisoned.lease}


async def test_jobs_are_kept_for_as_long_as_a_lease_of_this_worker_lasts(
    work: Work, store: FragileStore, clock: FakeClock
):
    kept, cancelled = await take(work, 2)
    await store.cancel(cancelled.id)
    clock.advance(LEASE / 2)
    assert await work.renew([kept.lease, cancelled.lease]) == {cancelled.lease}
    assert (await store.get(kept.id)).lease_expires_at == clock.now() + LEASE


async def test_a_beat_makes_a_worker_count(work: Work, store: FragileStore):
    await work.beat(new_beat(slots_per_queue=3))
    [demand] = await store.demand([QUEUE], timedelta(seconds=15))
    assert demand.slots == 3


async def test_what_this_worker_never_heard_of_goes_back(work: Work):
    known, orphan = await take(work, 2)
    assert await work.release_orphans("worker-1", QUEUE, [known.lease]) == 1
    assert (await work.jobs.get(orphan.id)).status is JobStatus.PENDING


async def test_a_worker_that_leaves_no_longer_counts(work: Work, store: FragileStore):
    beat = new_beat()
    await work.beat(beat)
    await work.leave(beat.id)
    [demand] = await store.demand([QUEUE], timedelta(seconds=15))
    assert demand.slots == 0


async def test_a_claim_goes_to_the_store_as_it_is(work: Work):
    await take(work, 0)
    claim = Claim("gpu.llm", ("llm_chat",), (PROFILE,), f"worker-{uuid4()}", LEASE, 1)
    [job] = await work.jobs.add([new_job()])
    [held] = (await work.exchange([], claim)).claimed
    assert (held.id, (await work.jobs.get(job.id)).worker_id) == (job.id, claim.worker_id)
