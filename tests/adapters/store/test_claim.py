from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec import Raw
from msgspec.structs import replace

from domain.job import JobId, JobStatus, Priority
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, A_MOMENT, STATES, State, crashed, pending, released, retried
from tests.factories import LEASE
from tests.moves import each, ids, one, run_one, settle, several, take, taken_ids, try_again

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_profile_that_the_worker_does_not_serve_is_left_to_others(store: JobStore):
    foreign, own = await each(store, {"model_profile": "another"}, {})
    assert await taken_ids(store, limit=2) == [own.id]
    assert (await store.get(foreign.id)).status is JobStatus.PENDING


async def test_the_most_urgent_come_first_and_equals_in_their_order(store: JobStore):
    low, first, high, second = await each(store, {"priority": Priority.LOW}, {}, {"priority": Priority.HIGH}, {})
    assert await taken_ids(store, limit=9) == [high.id, first.id, second.id, low.id]


async def test_a_claim_takes_no_more_than_its_limit(store: JobStore):
    jobs = await several(store, 5)
    assert await taken_ids(store, limit=2) == ids(jobs)[:2]
    assert await taken_ids(store, limit=2) == ids(jobs)[2:4]


async def test_a_claim_of_nothing_gets_nothing(store: JobStore):
    job = await one(store)
    assert await taken_ids(store, limit=0) == []
    assert (await store.get(job.id)).status is JobStatus.PENDING


async def test_other_queues_are_left_alone(store: JobStore):
    await each(store, {"queue": "gpu.speech"}, {"queue": None})
    assert await taken_ids(store, limit=9) == []


async def test_only_these_task_types_are_taken(store: JobStore):
    chat, _, summary = await each(store, {}, {"task_type": "embedding"}, {"task_type": "transcript_summary"})
    assert await taken_ids(store, task_types=("transcript_summary", "llm_chat"), limit=9) == [chat.id, summary.id]


async def test_without_task_types_nothing_is_taken(store: JobStore):
    await one(store)
    assert await taken_ids(store, task_types=()) == []


async def test_a_running_job_is_not_taken_again(store: JobStore):
    await one(store)
    assert len(await take(store)) == 1
    assert await take(store) == []


async def test_not_even_when_its_lease_has_run_out(rig: Rig):
    await run_one(rig.store)
    await rig.advance(10 * LEASE)
    assert await take(rig.store) == []


async def test_a_job_that_is_not_due_is_not_taken(rig: Rig):
    await one(rig.store, run_at=await rig.now() + A_MOMENT)
    assert await take(rig.store) == []


CLAIMABLE = {pending, released, crashed, retried}


@pytest.mark.parametrize("state", STATES)
async def test_only_a_pending_job_that_is_due_is_taken(rig: Rig, state: State):
    job_id = await state(rig)
    assert await taken_ids(rig.store, limit=9) == ([job_id] if state in CLAIMABLE else [])


async def test_a_taken_job_runs_with_a_lease_from_now_on(rig: Rig):
    await one(rig.store)
    await rig.advance(A_MINUTE)
    [held] = await take(rig.store, worker_id="worker-7", lease=LEASE)
    job, now = await rig.store.get(held.id), await rig.now()
    assert (job.status, job.worker_id, job.lease) == (JobStatus.RUNNING, "worker-7", held.lease)
    assert (job.lease_expires_at, job.started_at, job.updated_at) == (now + LEASE, now, now)


async def test_its_worker_gets_what_a_run_needs(store: JobStore):
    held = await run_one(store, priority=Priority.HIGH, max_attempts=5, input=Raw(b'{"user": "Hi"}'))
    await settle(store, try_again(held, timedelta(0)))
    [again] = await take(store)
    known = (await store.get(held.id)).leased()
    assert again == replace(known, started_at=None, waited=again.waited)
    assert (again.attempts, again.max_attempts, again.lease != held.lease) == (1, 5, True)


async def test_every_run_has_its_own_token(store: JobStore):
    await several(store, 50)
    assert len({held.lease.token for held in await take(store, limit=50)}) == 50


async def test_claims_that_arrive_together_never_share_a_job(store: JobStore):
    jobs = await several(store, 60)
    claims = (taken_ids(store, worker_id=f"worker-{n}", limit=7) for n in range(10))
    taken = [job_id for claimed in await asyncio.gather(*claims) for job_id in claimed]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(ids(jobs))


async def test_a_worker_that_keeps_asking_gets_every_job(store: JobStore):
    jobs = await several(store, 25)
    taken: list[JobId] = []
    while claimed := await taken_ids(store, limit=4):
        taken += claimed
    assert taken == ids(jobs)


@pytest.mark.parametrize("state", [pending, released, crashed, retried])
async def test_a_run_knows_which_change_of_state_it_is(rig: Rig, state: State):
    before = await rig.store.get(await state(rig))
    [held] = await take(rig.store)
    assert held.number == before.number + 1 == (await rig.store.get(held.id)).number


async def test_a_built_in_run_has_no_lease_timeout_of_its_own(store: JobStore):
    held = await run_one(store)
    assert (await store.get(held.id)).lease_timeout is None


async def test_a_claim_tells_how_long_the_job_was_due_and_to_which_trace_it_belongs(rig: Rig):
    [job] = await each(rig.store, {"traceparent": TRACEPARENT, "run_at": await rig.now() + A_MINUTE})
    await rig.advance(2 * A_MINUTE)
    await rig.store.promote_due()
    [held] = await take(rig.store)
    assert (held.id, held.traceparent) == (job.id, TRACEPARENT)
    assert held.waited == pytest.approx(60, abs=5)
    assert held.started_at is None


async def test_a_job_of_nobodys_trace_is_claimed_without_one(store: JobStore):
    await one(store)
    [held] = await take(store)
    assert held.traceparent is None
    assert held.waited == pytest.approx(0, abs=5)
