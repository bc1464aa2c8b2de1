from __future__ import annotations

from datetime import timedelta

import pytest

from domain.errors import ErrorCode, Failure, LeaseLost
from domain.events import JobEvent
from domain.job import Job, JobStatus
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import (
    A_MINUTE,
    STATES,
    State,
    cancelled,
    completed,
    failed,
    lent,
    rescue_late,
    running,
    that_are,
    waiting,
)
from tests.factories import LEASE, new_id
from tests.moves import (
    cancel,
    each,
    give_back,
    ids,
    lease_of,
    lend_one,
    lent_ids,
    one,
    run_one,
    settle,
    several,
    statuses,
    take,
    taken_ids,
    try_again,
)

NOT_ENDED = that_are(JobStatus.PENDING, JobStatus.RUNNING)
RETRIABLE = that_are(JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.RUNNING)
TOO_LATE = Failure(ErrorCode.CANCELLED, "Its deadline passed.")


def event(job: Job, kind: str) -> JobEvent:
    """What is told of a job that was like this before."""
    return JobEvent(job.id, job.owner_service, job.task_type, job.queue, kind, job.number + 1)


class TestCancel:
    @pytest.mark.parametrize("state", NOT_ENDED)
    async def test_a_job_is_cancelled_as_the_domain_says_and_told(self, rig: Rig, state: State):
        before = await rig.store.get(await state(rig, owner_service="lion"))
        await rig.advance(A_MINUTE)
        assert await rig.store.cancel([before.id], TOO_LATE) == [event(before, "cancelled")]
        job = await rig.store.get(before.id)
        assert job == before.cancel(await rig.now(), TOO_LATE)
        assert (job.status, job.failure) == (JobStatus.CANCELLED, TOO_LATE)

    @pytest.mark.parametrize("state", NOT_ENDED)
    async def test_only_in_the_states_that_are_named(self, rig: Rig, state: State):
        before = await rig.store.get(await state(rig))
        assert await rig.store.cancel([before.id], TOO_LATE, [s for s in JobStatus if s is not before.status]) == []
        assert await rig.store.get(before.id) == before
        assert await rig.store.cancel([before.id], TOO_LATE, [before.status]) == [event(before, "cancelled")]

    @pytest.mark.parametrize("state", [state for state in STATES if state not in NOT_ENDED])
    async def test_a_job_that_has_ended_stays_as_it_is(self, rig: Rig, state: State):
        before = await rig.store.get(await state(rig))
        assert await rig.store.cancel([before.id], TOO_LATE) == []
        assert await rig.store.get(before.id) == before

    @pytest.mark.parametrize("state", [running, lent])
    async def test_the_lease_of_its_run_is_revoked(self, rig: Rig, state: State):
        before = await rig.store.get(await state(rig))
        await cancel(rig.store, before.id)
        assert await rig.store.renew([lease_of(before)], LEASE) == {lease_of(before)}
        with pytest.raises(LeaseLost):
            await rig.store.report(lease_of(before), None)

    async def test_a_cancelled_job_is_never_taken(self, rig: Rig):
        job_id = await waiting(rig)
        await cancel(rig.store, job_id)
        await rig.advance(60 * A_MINUTE)
        await rig.store.promote_due()
        assert (await taken_ids(rig.store), await lent_ids(rig.store)) == ([], [])


class TestRetry:
    @pytest.mark.parametrize("state", RETRIABLE)
    async def test_only_in_the_states_that_are_named(self, rig: Rig, state: State):
        before = await rig.store.get(await state(rig))
        assert await rig.store.retry([before.id], [s for s in JobStatus if s is not before.status]) == []
        assert await rig.store.get(before.id) == before
        assert await rig.store.retry([before.id], [before.status]) == [event(before, "pending")]

    @pytest.mark.parametrize("state", RETRIABLE)
    async def test_a_job_is_retried_as_the_domain_says_and_told(self, rig: Rig, state: State):
        before = await rig.store.get(await state(rig, owner_service="lion", deadline_at=await rig.now() + A_MINUTE))
        await rig.advance(A_MINUTE)
        assert await rig.store.retry([before.id]) == [event(before, "pending")]
        job = await rig.store.get(before.id)
        assert job == before.retry(await rig.now())
        assert job.deadline_at is None
        assert await taken_ids(rig.store) == [job.id]

    @pytest.mark.parametrize("state", [state for state in STATES if state not in RETRIABLE])
    async def test_a_job_that_is_pending_or_completed_stays_as_it_is(self, rig: Rig, state: State):
        before = await rig.store.get(await state(rig))
        assert await rig.store.retry([before.id]) == []
        assert await rig.store.get(before.id) == before

    async def test_what_was_counted_is_forgotten(self, rig: Rig):
        held = await run_one(rig.store, max_attempts=5)
        await settle(rig.store, try_again(held, timedelta(0)))
        await take(rig.store)
        await rescue_late(rig)
        [held] = await take(rig.store)
        await settle(rig.store, give_back(held))
        await cancel(rig.store, held.id)
        await rig.store.retry([held.id])
        job = await rig.store.get(held.id)
        assert (job.attempts, job.crashes, job.give_backs, job.failure) == (0, 0, 0, None)
        assert (job.finished_at, job.run_at, job.due) == (None, await rig.now(), True)

    @pytest.mark.parametrize("state", RETRIABLE)
    async def test_a_retried_job_keeps_its_old_place(self, rig: Rig, state: State):
        job_id = await state(rig)
        younger = await one(rig.store)
        await rig.store.retry([job_id])
        assert await taken_ids(rig.store, limit=9) == [job_id, younger.id]

    async def test_a_job_that_was_planned_for_later_starts_now(self, rig: Rig):
        job_id = await waiting(rig)
        await cancel(rig.store, job_id)
        await rig.store.retry([job_id])
        assert await taken_ids(rig.store) == [job_id]

    async def test_the_run_that_it_was_taken_from_is_lost(self, rig: Rig):
        job = await lend_one(rig.store)
        await rig.store.retry([job.id])
        assert await rig.store.renew([lease_of(job)], LEASE) == {lease_of(job)}
        with pytest.raises(LeaseLost):
            await rig.store.report(lease_of(job), None)


class TestMany:
    async def test_those_that_can_change_do_and_the_others_stay(self, rig: Rig):
        ended = await completed(rig)
        gone_wrong = await failed(rig)
        stopped = await cancelled(rig)
        outside = await lent(rig)
        inside = await running(rig)
        planned = await waiting(rig)
        everything = [ended, gone_wrong, stopped, outside, inside, planned, new_id()]
        told = await rig.store.retry(everything)
        assert {each.job_id for each in told} == {gone_wrong, stopped, outside, inside}
        told = await cancel(rig.store, *everything)
        assert {each.job_id for each in told} == {gone_wrong, stopped, outside, inside, planned}
        assert {each.kind for each in told} == {"cancelled"}
        assert (await rig.store.get(ended)).status is JobStatus.COMPLETED

    async def test_every_change_is_told_with_its_owner_task_queue_and_number(self, rig: Rig):
        jobs = await each(
            rig.store, {"owner_service": "lion"}, {"queue": None}, {"task_type": "transcribe", "queue": "gpu.speech"}
        )
        await take(rig.store)
        before = [await rig.store.get(job.id) for job in jobs]
        assert {*await cancel(rig.store, *ids(jobs))} == {event(job, "cancelled") for job in before}
        before = [await rig.store.get(job.id) for job in jobs]
        assert {*await rig.store.retry(ids(jobs))} == {event(job, "pending") for job in before}

    async def test_a_job_that_is_named_twice_changes_once(self, store: JobStore):
        job = await one(store)
        assert len(await cancel(store, job.id, job.id)) == 1
        assert len(await store.retry([job.id, job.id])) == 1
        assert (await store.get(job.id)).number == 3

    async def test_only_those_in_a_state_that_is_named_change(self, rig: Rig):
        """Whatever state they were in when somebody chose them."""
        stopped, gone_wrong, inside, planned = [await state(rig) for state in (cancelled, failed, running, waiting)]
        everything = [stopped, gone_wrong, inside, planned]
        told = await rig.store.cancel(everything, TOO_LATE, [JobStatus.PENDING, JobStatus.FAILED])
        assert [each.job_id for each in told] == [planned]
        assert await rig.store.cancel(everything, TOO_LATE, []) == []
        told = await rig.store.retry(everything, [JobStatus.FAILED, JobStatus.PENDING])
        assert [each.job_id for each in told] == [gone_wrong]
        assert await rig.store.retry(everything, []) == []
        assert await statuses(rig.store, [stopped, inside]) == {
            stopped: JobStatus.CANCELLED,
            inside: JobStatus.RUNNING,
        }

    async def test_nobody_is_nothing(self, store: JobStore):
        job = await one(store)
        assert (await cancel(store), await store.retry([]), await cancel(store, new_id())) == ([], [], [])
        assert await store.retry([new_id()]) == []
        assert await store.get(job.id) == job

    async def test_a_thousand_go_in_one(self, store: JobStore):
        jobs = ids(await several(store, 1_000))
        assert len(await cancel(store, *jobs)) == 1_000
        assert len(await store.retry(jobs)) == 1_000
        assert await taken_ids(store, limit=2_000) == jobs
