from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.events import JobEvent
from domain.job import EXPIRED, JobStatus, LeasedJob, crash
from domain.ports import RescueTerms
from tests.adapters.rigs import Rig
from tests.adapters.store.states import (
    A_MOMENT,
    MAX_CRASHES,
    RETRY_DELAY,
    STATES,
    State,
    lent,
    rescue,
    rescue_late,
    running,
)
from tests.factories import LEASE, QUEUE
from tests.moves import each, lend, lend_one, lent_ids, one, run_one, several, statuses, take, taken_ids


def event(held: LeasedJob, kind: str, number: int = 3) -> JobEvent:
    return JobEvent(held.id, held.owner_service, held.task_type, held.queue, kind, number)


async def test_a_job_goes_back_when_its_lease_has_run_out(rig: Rig):
    held = await run_one(rig.store)
    before = await rig.store.get(held.id)
    assert await rescue_late(rig) == [event(held, "pending")]
    job = await rig.store.get(held.id)
    assert job == before.rescue(MAX_CRASHES, RETRY_DELAY, await rig.now())
    assert (job.status, job.crashes, job.attempts, job.due) == (JobStatus.PENDING, 1, 0, True)
    assert job.failure == crash(1, hopeless=False)


async def test_an_external_workers_job_is_tried_again_later_and_has_lost_an_attempt(rig: Rig):
    job = await lend_one(rig.store)
    assert await rescue_late(rig) == [event(job.leased(), "pending")]
    rescued, now = await rig.store.get(job.id), await rig.now()
    assert rescued == job.rescue(MAX_CRASHES, RETRY_DELAY, now)
    assert (rescued.status, rescued.crashes, rescued.attempts) == (JobStatus.PENDING, 0, 1)
    assert (rescued.failure, rescued.run_at, rescued.due) == (EXPIRED, now + RETRY_DELAY, False)


async def test_it_is_claimable_again_when_the_delay_is_over(rig: Rig):
    job = await lend_one(rig.store)
    await rescue_late(rig)
    await rig.advance(RETRY_DELAY - A_MOMENT)
    assert (await rig.store.promote_due(), await lent_ids(rig.store)) == ({}, [])
    await rig.advance(A_MOMENT)
    assert (await rig.store.promote_due(), await lent_ids(rig.store)) == ({QUEUE: 1}, [job.id])


async def test_without_a_delay_it_is_claimable_at_once(rig: Rig):
    job = await lend_one(rig.store)
    await rig.advance(LEASE + A_MOMENT)
    await rig.store.rescue(RescueTerms(MAX_CRASHES, timedelta(0)))
    assert await rig.store.get(job.id) == job.rescue(MAX_CRASHES, timedelta(0), await rig.now())
    assert await lent_ids(rig.store) == [job.id]


async def test_the_last_attempt_of_an_external_worker_fails_the_job(rig: Rig):
    job = await lend_one(rig.store, max_attempts=1)
    assert await rescue_late(rig) == [event(job.leased(), "failed")]
    failed = await rig.store.get(job.id)
    assert failed == job.rescue(MAX_CRASHES, RETRY_DELAY, await rig.now())
    assert (failed.status, failed.attempts, failed.failure) == (JobStatus.FAILED, 1, EXPIRED)


async def test_external_workers_that_vanish_never_count_as_crashes(rig: Rig):
    job = await one(rig.store, max_attempts=MAX_CRASHES + 1)
    for _ in range(MAX_CRASHES):
        await lend(rig.store)
        await rescue_late(rig)
        await rig.advance(RETRY_DELAY)
        await rig.store.promote_due()
    assert ((await rig.store.get(job.id)).status, (await rig.store.get(job.id)).crashes) == (JobStatus.PENDING, 0)
    assert (await rig.store.get(job.id)).attempts == MAX_CRASHES


async def test_an_external_lease_lasts_as_long_as_was_asked_and_a_built_in_one_too(rig: Rig):
    await several(rig.store, 2)
    [outside] = await lend(rig.store, lease=10 * LEASE)
    [inside] = await take(rig.store)
    assert [rescued.job_id for rescued in await rescue_late(rig)] == [inside.id]
    await rig.advance(9 * LEASE)
    assert [rescued.job_id for rescued in await rescue(rig.store)] == [outside.id]


async def test_a_live_lease_is_left_alone_to_its_last_moment(rig: Rig):
    held = await run_one(rig.store)
    before = await rig.store.get(held.id)
    await rig.advance(LEASE)
    assert await rescue(rig.store) == []
    assert await rig.store.get(held.id) == before


async def test_only_those_whose_lease_has_run_out_are_rescued(rig: Rig):
    await several(rig.store, 2)
    [short] = await take(rig.store, lease=LEASE)
    [long] = await take(rig.store, lease=2 * LEASE)
    assert await rescue_late(rig) == [event(short, "pending")]
    assert await statuses(rig.store, [short.id, long.id]) == {
        short.id: JobStatus.PENDING,
        long.id: JobStatus.RUNNING,
    }


async def test_a_job_whose_worker_dies_too_often_fails(rig: Rig):
    job = await one(rig.store)
    told = []
    for _ in range(MAX_CRASHES):
        await take(rig.store)
        told += await rescue_late(rig)
    job = await rig.store.get(job.id)
    assert [(event.kind, event.number) for event in told] == [("pending", 3), ("pending", 5), ("failed", 7)]
    assert (job.status, job.crashes, job.attempts) == (JobStatus.FAILED, MAX_CRASHES, 0)
    assert job.failure == crash(MAX_CRASHES, hopeless=True)
    assert (job.finished_at, job.lease, job.worker_id) == (await rig.now(), None, None)


async def test_every_rescue_is_told_with_its_owner_task_and_queue(rig: Rig):
    changes: list[dict[str, Any]] = [
        {},
        {"queue": "gpu.speech", "owner_service": "lion"},
        {"queue": None, "task_type": "their_own"},
    ]
    await each(rig.store, *changes)
    inside = [*await take(rig.store), *await take(rig.store, queue="gpu.speech")]
    [outside] = await lend(rig.store)
    told = await rescue_late(rig)
    assert len(told) == 3
    assert set(told) == {event(held, "pending") for held in (*inside, outside.leased())}


async def test_a_rescued_job_can_be_taken_at_once_in_its_old_place(rig: Rig):
    held = await run_one(rig.store)
    younger = await one(rig.store)
    await rescue_late(rig)
    assert await taken_ids(rig.store) == [held.id]
    assert await taken_ids(rig.store) == [younger.id]


@pytest.mark.parametrize("state", [running, lent])
async def test_nothing_is_rescued_twice(rig: Rig, state: State):
    await state(rig)
    assert len(await rescue_late(rig)) == 1
    assert await rescue(rig.store) == []


@pytest.mark.parametrize("state", [state for state in STATES if STATES[state] is not JobStatus.RUNNING])
async def test_a_job_that_does_not_run_needs_no_rescue(rig: Rig, state: State):
    before = await rig.store.get(await state(rig))
    assert await rescue_late(rig) == []
    assert await rig.store.get(before.id) == before
