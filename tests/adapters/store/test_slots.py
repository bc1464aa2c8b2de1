"""Slots of a queue: never more busy than its limit, and busy until the call that holds one is known to be closed."""

from __future__ import annotations

import pytest

from domain.job import JobStatus, LeasedJob, Priority, RunOutcome
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from domain.ports import Demand
from domain.queue import Hold
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, A_MOMENT, rescue_late
from tests.factories import LEASE, QUEUE, new_beat, new_claim
from tests.moves import cancel, complete, each, ids, lend, lent_ids, one, settle, several, take, taken_ids

OTHER = "gpu.speech"


async def limited(rig: Rig, **policy: object) -> None:
    await rig.queues.configure(Policies(queues={QUEUE: QueuePolicy(**policy)}), [QUEUE])  # type: ignore[arg-type]


async def busy(rig: Rig, queue: str = QUEUE) -> int:
    return next((state.busy for state in await rig.queues.states() if state.name == queue), 0)


async def settle_late(rig: Rig, held: LeasedJob) -> None:
    """Its worker tells that the call is closed, though the job is no longer its own."""
    assert (await rig.store.exchange([held.release()], None)).lost == {held.lease}


async def test_claims_of_all_workers_together_keep_to_the_limit(rig: Rig):
    await limited(rig, concurrency=3)
    jobs = ids(await several(rig.store, 9))
    assert await taken_ids(rig.store, limit=2) == jobs[:2]
    assert await lent_ids(rig.store, limit=5) == jobs[2:3]
    assert (await taken_ids(rig.store), await lent_ids(rig.store)) == ([], [])
    assert await busy(rig) == 3


async def test_other_queues_and_jobs_without_one_are_not_bound_by_it(rig: Rig):
    await limited(rig, concurrency=1)
    await several(rig.store, 2)
    others = ids(await each(rig.store, {"queue": OTHER}, {"queue": None}, {"queue": None}))
    await take(rig.store)
    assert await lent_ids(rig.store, limit=9) == others


@pytest.mark.parametrize("how", ["cancel", "retry"])
@pytest.mark.parametrize("outside", [False, True])
async def test_a_run_that_lost_its_job_keeps_its_slot_until_its_worker_tells(rig: Rig, how: str, outside: bool):
    await limited(rig, concurrency=1)
    jobs = ids(await several(rig.store, 2))
    held = (await lend(rig.store))[0].leased() if outside else (await take(rig.store))[0]
    await (cancel(rig.store, held.id) if how == "cancel" else rig.store.retry([held.id]))
    assert (await taken_ids(rig.store), await busy(rig)) == ([], 1)
    await settle_late(rig, held)
    assert await busy(rig) == 0
    assert await taken_ids(rig.store) == (jobs[1:] if how == "cancel" else jobs[:1])


async def test_a_slot_whose_worker_is_gone_is_free_when_its_lease_runs_out(rig: Rig):
    await limited(rig, concurrency=1)
    await several(rig.store, 2)
    [held] = await take(rig.store)
    await cancel(rig.store, held.id)
    await rig.advance(LEASE)
    assert (await rig.store.free_abandoned_slots(), await taken_ids(rig.store)) == (0, [])
    await rig.advance(A_MOMENT)
    assert (await rig.store.free_abandoned_slots(), await busy(rig)) == (1, 0)
    assert len(await take(rig.store)) == 1


async def test_a_lost_lease_that_is_renewed_keeps_its_slot(rig: Rig):
    await one(rig.store)
    [held] = await take(rig.store)
    await cancel(rig.store, held.id)
    await rig.advance(LEASE)
    assert await rig.store.renew([held.lease], LEASE) == {held.lease}
    await rig.advance(LEASE)
    assert (await rig.store.free_abandoned_slots(), await busy(rig)) == (0, 1)


async def test_a_rescue_frees_the_slot_at_once(rig: Rig):
    await several(rig.store, 2)
    await take(rig.store)
    await lend(rig.store)
    assert await busy(rig) == 2
    await rescue_late(rig)
    assert await busy(rig) == 0


async def test_a_settlement_and_the_next_claim_share_the_slot(rig: Rig):
    await limited(rig, concurrency=1)
    jobs = ids(await several(rig.store, 2))
    [held] = await take(rig.store)
    outcome = await rig.store.exchange([complete(held)], new_claim())
    assert [each.id for each in outcome.claimed] == jobs[1:]
    assert await busy(rig) == 1


async def test_an_owner_runs_no_more_than_it_may_over_all_queues(rig: Rig):
    await rig.queues.configure(Policies(owners={"beeline": OwnerPolicy(max_running=2)}), [])
    jobs = ids(await each(rig.store, {}, {"queue": OTHER}, {}, {"owner_service": "lion"}, {"queue": OTHER}))
    assert await taken_ids(rig.store) == jobs[:1]
    assert await lent_ids(rig.store, limit=9, queues=(OTHER,)) == jobs[1:2]
    assert await taken_ids(rig.store, limit=9) == jobs[3:4]
    assert await lent_ids(rig.store, limit=9) == []


@pytest.mark.parametrize("hold", [{"paused": True}, {"stopped": True}])
async def test_a_held_queue_starts_nothing_and_its_workers_are_told(rig: Rig, hold: dict[str, bool]):
    job = await one(rig.store)
    await rig.queues.hold([QUEUE], **hold)
    assert (await taken_ids(rig.store), await lent_ids(rig.store)) == ([], [])
    assert await rig.store.beat(new_beat(queues=(QUEUE, OTHER))) == {QUEUE}
    [demand] = await rig.store.demand([QUEUE], LEASE)
    assert (demand.held, demand.startable) == (Hold.PAUSED, 0)
    await rig.queues.hold([QUEUE], **dict.fromkeys(hold, False))
    assert await rig.store.beat(new_beat()) == frozenset()
    assert await taken_ids(rig.store) == [job.id]


async def test_demand_tells_what_could_start(rig: Rig):
    await limited(rig, concurrency=3)
    await several(rig.store, 9)
    await take(rig.store)
    await rig.store.beat(new_beat(slots_per_queue=8, running={QUEUE: 1}))
    [demand, other] = await rig.store.demand([QUEUE, OTHER], LEASE)
    assert demand == Demand(QUEUE, due=8, slots=8, idle=7, room=2)
    assert (demand.startable, other.room) == (2, None)


async def test_a_job_that_is_too_late_to_start_is_not_claimed_and_then_cancelled(rig: Rig):
    late = await one(rig.store, deadline_at=await rig.now() + A_MINUTE)
    in_time = await one(rig.store, deadline_at=await rig.now() + 2 * A_MINUTE)
    await rig.advance(A_MINUTE)
    assert await taken_ids(rig.store, limit=9) == [in_time.id]
    assert await lent_ids(rig.store, limit=9) == []
    [event] = await rig.store.expire_deadlines()
    assert (event.job_id, event.kind) == (late.id, JobStatus.CANCELLED)
    assert await rig.store.expire_deadlines() == []


async def test_a_job_that_was_started_in_time_may_be_started_again_after_its_deadline(rig: Rig):
    job = await one(rig.store, deadline_at=await rig.now() + A_MINUTE)
    [held] = await take(rig.store)
    await settle(rig.store, held.release())
    await rig.advance(2 * A_MINUTE)
    assert await rig.store.expire_deadlines() == []
    assert await taken_ids(rig.store) == [job.id]


async def full_of_low_jobs(rig: Rig, how_many: int, **policy: object) -> list[LeasedJob]:
    await limited(rig, concurrency=how_many, preempt=True, **policy)
    await rig.store.beat(new_beat(slots_per_queue=8))
    await several(rig.store, how_many, priority=Priority.LOW)
    held = []
    for _ in range(how_many):
        held += await take(rig.store)
        await rig.advance(A_MOMENT)
    return held


async def test_a_high_job_takes_the_slot_of_the_low_run_that_began_last(rig: Rig):
    first, last = await full_of_low_jobs(rig, 2)
    high = await one(rig.store, priority=Priority.HIGH)
    [event] = await rig.store.preempt(QUEUE, LEASE)
    job = await rig.store.get(last.id)
    assert (event.job_id, event.kind, job.status, job.due) == (last.id, JobStatus.PENDING, JobStatus.PENDING, True)
    assert (job.attempts, job.crashes, job.give_backs, job.failure) == (0, 0, 0, None)
    assert [run.outcome for run in await rig.store.runs(last.id)] == [RunOutcome.PREEMPTED]
    assert (await rig.store.preempt(QUEUE, LEASE), await taken_ids(rig.store)) == ([], [])
    await settle_late(rig, last)
    assert await taken_ids(rig.store, limit=2) == [high.id]
    await settle(rig.store, complete(first))
    assert await taken_ids(rig.store) == [last.id]


async def test_no_more_are_preempted_than_high_jobs_wait(rig: Rig):
    held = await full_of_low_jobs(rig, 4)
    await several(rig.store, 2, priority=Priority.HIGH)
    await one(rig.store)
    preempted = await rig.store.preempt(QUEUE, LEASE)
    assert {event.job_id for event in preempted} == {each.id for each in held[2:]}


async def test_nothing_is_preempted_where_a_slot_is_free_or_the_policy_is_silent_or_the_run_is_outside(rig: Rig):
    await full_of_low_jobs(rig, 2)
    assert await rig.store.preempt(QUEUE, LEASE) == []
    await one(rig.store, priority=Priority.HIGH)
    await limited(rig, concurrency=3, preempt=True)
    assert await rig.store.preempt(QUEUE, LEASE) == []
    await limited(rig, concurrency=2)
    assert await rig.store.preempt(QUEUE, LEASE) == []
    await limited(rig, concurrency=2, preempt=True)
    await rig.queues.hold([QUEUE], paused=True)
    assert await rig.store.preempt(QUEUE, LEASE) == []


async def test_nothing_is_preempted_where_a_worker_has_a_free_slot_although_external_workers_are_busy(rig: Rig):
    await rig.queues.configure(Policies(queues={QUEUE: QueuePolicy(preempt=True)}), [QUEUE])
    await rig.store.beat(new_beat(slots_per_queue=2))
    await several(rig.store, 3, priority=Priority.LOW)
    await lend(rig.store, limit=2)
    await take(rig.store)
    await several(rig.store, 2, priority=Priority.HIGH)
    assert len(await rig.store.preempt(QUEUE, LEASE)) == 1  # one of the two has a slot


async def test_nothing_is_preempted_for_an_owner_who_runs_as_many_as_it_may(rig: Rig):
    await full_of_low_jobs(rig, 2)
    policies = Policies(
        queues={QUEUE: QueuePolicy(concurrency=2, preempt=True)}, owners={"beeline": OwnerPolicy(max_running=2)}
    )
    await rig.queues.configure(policies, [QUEUE])
    await one(rig.store, priority=Priority.HIGH)
    assert await rig.store.preempt(QUEUE, LEASE) == []
    await one(rig.store, priority=Priority.HIGH, owner_service="lion")
    assert len(await rig.store.preempt(QUEUE, LEASE)) == 1


async def test_the_reserved_share_of_the_slots_is_not_preempted(rig: Rig):
    first, *_ = await full_of_low_jobs(rig, 4, reserved_share=0.25)
    await several(rig.store, 9, priority=Priority.HIGH)
    preempted = await rig.store.preempt(QUEUE, LEASE)
    assert len(preempted) == 3
    assert (await rig.store.get(first.id)).status is JobStatus.RUNNING


async def test_a_low_job_that_has_aged_to_the_highest_level_is_not_preempted(rig: Rig):
    await limited(rig, concurrency=2, preempt=True, ageing=A_MINUTE)
    await rig.store.beat(new_beat(slots_per_queue=8))
    await one(rig.store, priority=Priority.LOW)
    await rig.advance(2 * A_MINUTE)
    await rig.store.age()
    young = await one(rig.store, priority=Priority.LOW)
    assert len(await take(rig.store, limit=2)) == 2
    await rig.store.beat(new_beat(slots_per_queue=8))
    await several(rig.store, 2, priority=Priority.HIGH)
    assert [event.job_id for event in await rig.store.preempt(QUEUE, LEASE)] == [young.id]


async def test_tending_lines_leaves_counts_and_order_as_they_are(rig: Rig):
    await limited(rig, concurrency=2)
    jobs = ids(await several(rig.store, 3))
    [held] = await take(rig.store)
    await cancel(rig.store, held.id)
    await rig.advance(120 * A_MINUTE)
    await rig.store.tend_lines()
    assert await busy(rig) == 1
    assert await taken_ids(rig.store, limit=9) == jobs[1:2]
