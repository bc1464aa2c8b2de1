from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from domain.errors import ErrorCode, Failure
from domain.events import JobEvent
from domain.job import JobStatus, LeasedJob, RunOutcome
from domain.ports import Claim
from domain.usecases.work import Work
from tests.domain.usecases.conftest import FAST, SLOW
from tests.factories import LEASE, PROFILE, QUEUE, leased_job, new_beat, new_claim
from tests.fakes import FakeClock, FragileStore, RecordingEvents
from tests.moves import cancel, one, several

UNSTORABLE = b'"unstorable"'


async def take(work: Work, jobs: int) -> tuple[LeasedJob, ...]:
    await several(work.jobs, jobs)
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
    second = await one(work.jobs)
    outcome = await work.exchange([work.completed(first, b"{}")], new_claim())
    assert [job.id for job in outcome.claimed] == [second.id]
    assert (await work.jobs.get(first.id)).status is JobStatus.COMPLETED


class TestRefusedResult:
    async def test_it_fails_its_own_run_and_no_other(self, work: Work, store: FragileStore):
        store.refuses = [UNSTORABLE]
        poisoned, neighbour = await take(work, 2)
        outcome = await work.exchange([work.completed(poisoned, UNSTORABLE), work.completed(neighbour, b"{}")], None)
        job = await store.get(poisoned.id)
        assert job.failure == Failure(ErrorCode.INTERNAL_ERROR, "The result cannot be stored: not storable")
        assert (job.status, job.attempts, job.run_at - job.updated_at) == (JobStatus.PENDING, 1, SLOW)
        assert (await store.get(neighbour.id)).status is JobStatus.COMPLETED
        assert (outcome.refused, outcome.lost) == ({}, frozenset())

    async def test_it_costs_no_claim_of_the_same_exchange(self, work: Work, store: FragileStore):
        store.refuses = [UNSTORABLE]
        [poisoned] = await take(work, 1)
        waiting = await one(store)
        outcome = await work.exchange([work.completed(poisoned, UNSTORABLE)], new_claim(limit=5))
        assert [job.id for job in outcome.claimed] == [waiting.id]

    async def test_every_run_that_no_longer_held_its_job_is_reported(self, work: Work, store: FragileStore):
        store.refuses = [UNSTORABLE]
        cancelled, poisoned = await take(work, 2)
        await cancel(store, cancelled.id, poisoned.id)
        ended = [work.completed(cancelled, b"{}"), work.completed(poisoned, UNSTORABLE)]
        assert (await work.exchange(ended, None)).lost == {cancelled.lease, poisoned.lease}


class TestEvents:
    async def test_the_start_of_every_run_is_told(self, work: Work, store: FragileStore, events: RecordingEvents):
        first, second = await take(work, 2)
        assert events.published == [
            JobEvent(job.id, "beeline", "llm_chat", QUEUE, "running", 2) for job in (first, second)
        ]

    async def test_every_end_is_told_as_what_its_job_came_to_and_before_the_next_start(
        self, work: Work, events: RecordingEvents
    ):
        completed, failed, again, released = await take(work, 4)
        events.published.clear()
        outcome = await work.exchange(
            [
                work.completed(completed, b"{}"),
                work.failed(failed, Failure(ErrorCode.BAD_INPUT)),
                work.failed(again, Failure(ErrorCode.TIMEOUT)),
                work.released(released),
            ],
            new_claim(),
        )
        assert [job.id for job in outcome.claimed] == [released.id]
        assert [(event.job_id, event.kind, event.number) for event in events.published] == [
            (completed.id, "completed", 3),
            (failed.id, "failed", 3),
            (again.id, "pending", 3),
            (released.id, "pending", 3),
            (released.id, "running", 4),
        ]

    async def test_the_numbers_are_those_of_the_jobs_history(
        self, work: Work, store: FragileStore, events: RecordingEvents
    ):
        [held] = await take(work, 1)
        [again] = (await work.exchange([work.released(held)], new_claim())).claimed
        await work.exchange([work.completed(again, b"{}")], None)
        told = [(event.number, event.kind) for event in events.published]
        assert told == [(change.number, change.status) for change in await store.changes(held.id, 1)]

    async def test_what_was_lost_is_no_news(self, work: Work, store: FragileStore, events: RecordingEvents):
        [held] = await take(work, 1)
        await cancel(store, held.id)
        events.published.clear()
        await work.exchange([work.completed(held, b"{}")], None)
        assert events.published == []

    async def test_a_refused_result_is_told_as_the_failure_that_it_became(
        self, work: Work, store: FragileStore, events: RecordingEvents
    ):
        store.refuses = [UNSTORABLE]
        poisoned, gone = await take(work, 2)
        await cancel(store, gone.id)
        events.published.clear()
        await work.exchange([work.completed(poisoned, UNSTORABLE), work.completed(gone, UNSTORABLE)], None)
        assert [(event.job_id, event.kind, event.number) for event in events.published] == [(poisoned.id, "pending", 3)]


async def test_jobs_are_kept_for_as_long_as_a_lease_of_this_worker_lasts(
    work: Work, store: FragileStore, clock: FakeClock
):
    kept, cancelled = await take(work, 2)
    await cancel(store, cancelled.id)
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
    claim = Claim("gpu.llm", ("llm_chat",), (PROFILE,), f"worker-{uuid4()}", LEASE, 1)
    job = await one(work.jobs)
    [held] = (await work.exchange([], claim)).claimed
    assert (held.id, (await work.jobs.get(job.id)).worker_id) == (job.id, claim.worker_id)


@pytest.mark.parametrize("claim", [None, new_claim()])
async def test_nothing_to_do_is_no_news(work: Work, events: RecordingEvents, claim: Claim | None):
    await work.exchange([], claim)
    assert events.published == []
