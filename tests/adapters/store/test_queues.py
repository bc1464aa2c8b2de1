"""How queues are configured, guarded and adapted, and what that changes of their jobs' order."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace

from domain.adaptive import Adapted
from domain.circuit import Circuit, CircuitState
from domain.errors import TooManyPending
from domain.job import IdempotencyKey, JobId, Priority
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from domain.ports import JobFilter
from domain.queue import Hold, QueueState
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE
from tests.factories import LEASE, PROFILE, QUEUE, new_beat, new_job
from tests.moves import cancel, complete, each, fail, found, ids, lend, lent_ids, one, settle, several, take, taken_ids

OTHER = "gpu.speech"
POLICY = QueuePolicy(concurrency=4, preempt=True, reserved_share=0.25, ageing=A_MINUTE, adaptive=True)


async def state(rig: Rig, queue: str = QUEUE) -> QueueState:
    return next(state for state in await rig.queues.states() if state.name == queue)


async def test_what_is_configured_is_in_force_until_it_is_not(rig: Rig):
    await rig.queues.configure(Policies(queues={QUEUE: POLICY}), [QUEUE, OTHER])
    assert await rig.queues.states() == [QueueState(QUEUE, policy=POLICY), QueueState(OTHER)]
    await rig.queues.configure(Policies(), [QUEUE, OTHER])
    assert await rig.queues.states() == [QueueState(QUEUE), QueueState(OTHER)]


async def test_a_queue_that_was_nothing_but_configured_is_forgotten(rig: Rig):
    await rig.queues.configure(Policies(queues={"misspelt": POLICY, "held": POLICY, QUEUE: POLICY}), [OTHER])
    await rig.queues.hold(["held"], paused=True)
    await one(rig.store)
    await rig.queues.configure(Policies(), [OTHER])
    assert await rig.queues.states() == [QueueState(QUEUE), QueueState(OTHER), QueueState("held", paused=True)]


async def test_only_what_is_new_is_configured_where_asked(rig: Rig):
    await rig.queues.configure(Policies(queues={QUEUE: POLICY}), [])
    changed = {QUEUE: QueuePolicy(), OTHER: QueuePolicy(concurrency=7)}
    await rig.queues.configure(Policies(queues=changed), [], only_new=True)
    assert [each.policy for each in await rig.queues.states()] == [POLICY, changed[OTHER]]


async def test_flags_are_kept_apart_and_outlive_a_configuration(rig: Rig):
    await rig.queues.hold([QUEUE], paused=True)
    await rig.queues.hold([QUEUE, OTHER], stopped=True)
    await rig.queues.hold([QUEUE], paused=False)
    await rig.queues.configure(Policies(queues={QUEUE: POLICY}), [])
    assert [(each.paused, each.stopped) for each in await rig.queues.states()] == [(False, True), (False, True)]


async def test_who_submits_without_a_weight_changes_none(rig: Rig):
    await several(rig.store, 4, owner_service="lion", weight=3.0)
    await one(rig.store, owner_service="lion")
    await several(rig.store, 4, owner_service="bear")
    assert Counter(job.owner_service for job in await take(rig.store, limit=4)) == {"lion": 3, "bear": 1}


async def test_what_was_found_limits_claims_and_is_forgotten_with_the_policy(rig: Rig):
    await rig.queues.configure(Policies(queues={QUEUE: POLICY}), [])
    await rig.queues.adapt(QUEUE, Adapted(limit=2))
    assert ((await state(rig)).adapted, (await state(rig)).limit) == (Adapted(limit=2), 2)
    await several(rig.store, 5)
    assert len(await take(rig.store, limit=5)) == 2
    await rig.queues.configure(Policies(queues={QUEUE: replace(POLICY, adaptive=False)}), [])
    await rig.queues.adapt(QUEUE, Adapted(limit=1))
    assert ((await state(rig)).adapted, len(await take(rig.store, limit=5))) == (None, 2)


async def change(rig: Rig, circuit: Circuit) -> None:
    given: list[datetime] = []

    def become(_: Circuit, now: datetime) -> Circuit:
        given.append(now)
        return circuit

    assert await rig.queues.change_circuit(QUEUE, become) == circuit
    assert len(given) == 1


async def half_open(rig: Rig, failed_job: JobId | None = None, model_profile: str | None = None) -> None:
    await change(rig, Circuit(CircuitState.HALF_OPEN, failed_job=failed_job, model_profile=model_profile))


async def test_while_a_circuit_is_open_nothing_starts(rig: Rig):
    jobs = ids(await several(rig.store, 2))
    await change(rig, Circuit(CircuitState.OPEN))
    assert ((await state(rig)).held, await taken_ids(rig.store), await lent_ids(rig.store)) == (Hold.CIRCUIT, [], [])
    await change(rig, Circuit())
    assert await taken_ids(rig.store, limit=9) == jobs


async def test_half_open_it_lets_one_job_through_and_says_so(rig: Rig):
    first, second, third = await several(rig.store, 3)
    await half_open(rig, first.id)
    [held] = await take(rig.store, limit=9)
    assert (held.id, held.trial) == (second.id, True)
    assert (await taken_ids(rig.store), await lent_ids(rig.store)) == ([], [])
    await settle(rig.store, complete(held))
    [again] = await take(rig.store, limit=9)
    assert (again.id, again.trial) == (third.id, True)


async def test_a_trial_is_known_as_one_to_whoever_reads_the_job(rig: Rig):
    await several(rig.store, 2)
    await half_open(rig)
    [lent] = await lend(rig.store)
    assert (await rig.store.get(lent.id)).leased().trial
    await settle(rig.store, complete(lent.leased()))
    assert not (await rig.store.get(lent.id)).trial


async def test_the_job_that_failed_last_is_tried_where_there_is_no_other(rig: Rig):
    job = await one(rig.store)
    await half_open(rig, job.id)
    assert await taken_ids(rig.store) == [job.id]


async def test_a_job_of_the_sick_server_is_tried_however_many_of_others_are_before_it(rig: Rig):
    well = await several(rig.store, 120, model_profile="well")
    failed, other = await several(rig.store, 2)
    await half_open(rig, failed.id, PROFILE)
    profiles = (PROFILE, "well")
    assert await taken_ids(rig.store, model_profiles=profiles) == [other.id]
    await cancel(rig.store, other.id)
    assert await taken_ids(rig.store, model_profiles=profiles) == [well[0].id]


@pytest.mark.parametrize("erased", [False, True])
async def test_when_a_trial_is_lost_another_job_is_tried(rig: Rig, erased: bool):
    first, second = await several(rig.store, 2)
    await half_open(rig)
    assert await taken_ids(rig.store, limit=9) == [first.id]
    await cancel(rig.store, first.id)
    if erased:
        await rig.store.erase([first.id])
    assert await taken_ids(rig.store, limit=9) == [second.id]


async def test_after_it_closed_runs_are_no_trials(rig: Rig):
    await several(rig.store, 2)
    await half_open(rig)
    await take(rig.store)
    await change(rig, Circuit())
    [held] = await take(rig.store)
    assert not held.trial


async def test_a_trial_is_of_no_owner_who_runs_as_many_as_it_may(rig: Rig):
    await rig.queues.configure(Policies(owners={"beeline": OwnerPolicy(max_running=1)}), [])
    _, _, other = await each(rig.store, {"queue": OTHER}, {}, {"owner_service": "lion"})
    await take(rig.store, queue=OTHER)
    await half_open(rig)
    assert await taken_ids(rig.store) == [other.id]


async def test_it_is_told_whether_a_run_has_completed_since(rig: Rig):
    await several(rig.store, 2)
    held, other = await take(rig.store, limit=2)
    before = await rig.now()
    await rig.advance(A_MINUTE)
    await settle(rig.store, fail(other))
    assert not await rig.queues.completed_since(QUEUE, before)
    await settle(rig.store, complete(held))
    assert await rig.queues.completed_since(QUEUE, before)
    assert not await rig.queues.completed_since(QUEUE, await rig.now())
    assert not await rig.queues.completed_since(OTHER, before)


async def test_the_workload_is_what_ended_lately_and_what_is_there(rig: Rig):
    await several(rig.store, 5)
    await rig.store.beat(new_beat(slots_per_queue=6))
    first, second, third, _ = await take(rig.store, limit=4)
    await settle(rig.store, complete(first))
    await rig.advance(A_MINUTE)
    await settle(rig.store, complete(second), fail(third))
    await rig.store.beat(new_beat(slots_per_queue=2))
    workload = await rig.queues.workload(QUEUE, timedelta(seconds=1), LEASE)
    assert (workload.completed, workload.overloads, workload.busy, workload.due, workload.slots) == (1, 1, 1, 1, 2)


async def test_a_job_that_has_waited_long_is_ordered_as_more_urgent(rig: Rig):
    await rig.queues.configure(Policies(queues={QUEUE: QueuePolicy(ageing=A_MINUTE)}), [])
    low, other = await each(rig.store, {"priority": Priority.LOW}, {"priority": Priority.LOW, "queue": OTHER})
    await rig.advance(A_MINUTE)
    assert await rig.store.age() == 1
    normal = await one(rig.store)
    assert (await rig.store.age(), (await rig.store.get(other.id)).level) == (0, 5)
    await rig.advance(A_MINUTE)
    assert await rig.store.age() == 2
    high = await one(rig.store, priority=Priority.HIGH)
    aged = await rig.store.get(low.id)
    assert (aged.level, aged.priority) == (1, Priority.LOW)
    assert await rig.store.ahead(await rig.store.get(high.id)) == 2
    assert await taken_ids(rig.store, limit=9) == [low.id, normal.id, high.id]


async def test_an_aged_job_has_its_owners_weight(rig: Rig):
    await rig.queues.configure(Policies(queues={QUEUE: QueuePolicy(ageing=A_MINUTE)}), [])
    heavy = [await one(rig.store, priority=Priority.LOW, weight=3.0) for _ in range(4)]
    await rig.advance(A_MINUTE)
    await rig.store.age()
    light = ids(await several(rig.store, 2, owner_service="lion"))
    order = await taken_ids(rig.store, limit=9)
    assert order[:5] == [heavy[0].id, light[0], heavy[1].id, heavy[2].id, heavy[3].id]


async def test_a_new_owner_waits_for_nobody_and_has_no_credit(rig: Rig):
    old = ids(await several(rig.store, 6))
    assert await taken_ids(rig.store, limit=3) == old[:3]
    new = ids(await several(rig.store, 3, owner_service="lion"))
    assert await taken_ids(rig.store, limit=5) == [new[0], old[3], old[4], new[1], old[5]]


async def test_runs_are_charged_what_they_took(rig: Rig):
    slow, quick = ids(await several(rig.store, 6)), ids(await several(rig.store, 6, owner_service="lion"))
    first, other = await take(rig.store, limit=2)
    assert [first.id, other.id] == [slow[0], quick[0]]
    await rig.advance(timedelta(seconds=1))
    await settle(rig.store, complete(other))
    await rig.advance(timedelta(seconds=3))
    await settle(rig.store, complete(first))
    assert await taken_ids(rig.store, limit=4) == [quick[1], quick[2], quick[3], slow[1]]


async def test_what_is_over_an_owners_ceiling_is_refused_all_together(rig: Rig):
    ceilings = {"beeline": 3}
    await rig.store.add([new_job() for _ in range(2)], ceilings)
    with pytest.raises(TooManyPending):
        await rig.store.add([new_job(), new_job(owner_service="lion"), new_job()], ceilings)
    assert await rig.store.count(JobFilter()) == 2
    await rig.store.add([new_job()], ceilings)
    await rig.store.add([new_job(owner_service="lion") for _ in range(4)], ceilings)
    await take(rig.store)
    await rig.store.add([new_job()], ceilings)
    assert len(await found(rig.store)) == 8


async def test_a_repeated_submission_is_none_more(rig: Rig):
    sent = new_job(idempotency=IdempotencyKey("call-1", b"1"))
    for again in (sent, new_job(idempotency=sent.idempotency), sent):
        [added] = await rig.store.add([again], {"beeline": 1})
        assert added.job.id == sent.id
