"""A job under which two workers died runs in a process that runs nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.circuit import Circuit, CircuitState
from domain.job import SUSPECT_FROM, JobId, Priority
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from tests.adapters.rigs import Rig
from tests.adapters.store.states import rescue_late
from tests.factories import QUEUE, new_beat, new_claim
from tests.moves import complete, each, lent_ids, one, settle, several, take, taken_ids, try_again

PATIENCE = timedelta(seconds=5)
A_MOMENT = timedelta(microseconds=1)


async def suspect(rig: Rig, **changes: Any) -> JobId:
    """A job under which two workers died; no other may be there."""
    job = await one(rig.store, **changes)
    await crash(rig)
    return job.id


async def crash(rig: Rig, times: int = SUSPECT_FROM, **claim: Any) -> None:
    """All jobs that are there run, and their worker dies."""
    for _ in range(times):
        await take(rig.store, limit=9, alone=False, **claim)
        await rescue_late(rig)


async def test_a_job_whose_worker_died_once_runs_beside_others(rig: Rig):
    crashed = await several(rig.store, 2)
    await crash(rig, times=1)
    other = await one(rig.store)
    assert await taken_ids(rig.store, alone=False, limit=9) == [job.id for job in [*crashed, other]]


async def test_a_process_that_runs_something_is_not_given_it(rig: Rig):
    await suspect(rig)
    others = await several(rig.store, 2)
    assert await taken_ids(rig.store, alone=False, limit=9) == [job.id for job in others]


async def test_a_process_that_runs_nothing_gets_it_and_nothing_else(rig: Rig):
    crashed = await suspect(rig)
    await several(rig.store, 2)
    [held] = await take(rig.store, limit=9)
    assert (held.id, held.crashes) == (crashed, SUSPECT_FROM)


async def test_it_goes_before_its_equals_of_all_owners(rig: Rig):
    first = await suspect(rig)
    others = await each(rig.store, {"owner_service": "a"}, {"owner_service": "b"})
    assert await taken_ids(rig.store, limit=9) == [first]
    assert await taken_ids(rig.store, limit=9, alone=False) == [job.id for job in others]


async def test_a_more_urgent_job_goes_before_it_and_then_it_must_wait(rig: Rig):
    crashed = await suspect(rig)
    urgent, equal = await each(rig.store, {"priority": Priority.HIGH}, {})
    assert await taken_ids(rig.store, limit=9) == [urgent.id, equal.id]
    assert await taken_ids(rig.store, limit=9) == [crashed]


async def test_of_several_each_gets_a_process_of_its_own(rig: Rig):
    jobs = await several(rig.store, 3)
    await crash(rig)
    assert [await taken_ids(rig.store, limit=9) for _ in range(4)] == [[job.id] for job in jobs] + [[]]


async def test_that_of_an_owner_who_runs_as_many_as_it_may_waits_for_him_alone(rig: Rig):
    await rig.queues.configure(Policies(owners={"a": OwnerPolicy(max_running=1)}), [QUEUE])
    crashed = await suspect(rig, owner_service="a")
    other, fresh = await each(rig.store, {"owner_service": "a"}, {"owner_service": "b"})
    assert await taken_ids(rig.store, limit=1, alone=False) == [fresh.id]
    [held] = await take(rig.store, limit=1, alone=False)
    assert held.id == other.id
    assert await taken_ids(rig.store, limit=9) == []
    await settle(rig.store, complete(held))
    assert await taken_ids(rig.store, limit=9) == [crashed]


async def test_a_worker_outside_takes_it_as_any_other(rig: Rig):
    crashed = await suspect(rig)
    other = await one(rig.store)
    assert await lent_ids(rig.store, limit=9) == [crashed, other.id]


@pytest.mark.parametrize("alone", [True, False])
async def test_the_trial_of_a_half_open_circuit_keeps_to_it(rig: Rig, alone: bool):
    crashed = await suspect(rig)
    await rig.queues.change_circuit(QUEUE, lambda *_: Circuit(CircuitState.HALF_OPEN))
    assert await taken_ids(rig.store, limit=9, alone=alone) == [crashed] * alone


async def test_with_a_reserved_share_it_holds_up_nobody(rig: Rig):
    await rig.queues.configure(Policies({QUEUE: QueuePolicy(reserved_share=0.2)}), [QUEUE])
    crashed = await suspect(rig, priority=Priority.HIGH)
    others = await several(rig.store, 2)
    assert await taken_ids(rig.store, limit=9, alone=False) == [job.id for job in others]
    assert await taken_ids(rig.store, limit=9) == [crashed]


async def test_with_a_reserved_share_suspects_of_several_levels_hold_up_nobody_either(rig: Rig):
    await rig.queues.configure(Policies({QUEUE: QueuePolicy(reserved_share=0.2)}), [QUEUE])
    high, low = await each(rig.store, {"priority": Priority.HIGH}, {"priority": Priority.LOW})
    await crash(rig)
    sound = await several(rig.store, 3, priority=Priority.HIGH)
    taken = [await taken_ids(rig.store, limit=9) for _ in range(4)]
    assert sorted(job for some in taken for job in some) == sorted([high.id, low.id, *[job.id for job in sound]])


async def test_a_slot_beside_it_is_of_no_use_to_an_urgent_job(rig: Rig):
    """Its process has slots, but may not use them: a low job elsewhere gives its own."""
    await rig.queues.configure(Policies({QUEUE: QueuePolicy(preempt=True)}), [QUEUE])
    await suspect(rig)
    await take(rig.store, worker_id="alone")
    [low] = await several(rig.store, 1, priority=Priority.LOW)
    await take(rig.store, worker_id="busy", alone=False)
    await one(rig.store, priority=Priority.HIGH)
    await rig.store.beat(new_beat(worker_id="alone", slots_per_queue=4, running={QUEUE: 1}))
    await rig.store.beat(new_beat(worker_id="busy", slots_per_queue=1, running={QUEUE: 1}))
    assert [event.job_id for event in await rig.store.preempt(QUEUE, timedelta(seconds=15))] == [low.id]


async def test_nobody_loses_a_slot_to_it(rig: Rig):
    """A slot alone is of no use to it."""
    await rig.queues.configure(Policies({QUEUE: QueuePolicy(preempt=True)}), [QUEUE])
    await rig.store.beat(new_beat(slots_per_queue=1))
    await suspect(rig, priority=Priority.HIGH)
    await one(rig.store, priority=Priority.LOW)
    await take(rig.store, alone=False)
    await rig.store.beat(new_beat(slots_per_queue=1))
    assert await rig.store.preempt(QUEUE, timedelta(seconds=15)) == []


class TestMakingWay:
    """Under a constant load no process would ever run nothing."""

    async def beats(self, rig: Rig, **running: int) -> None:
        for name, jobs in running.items():
            await rig.store.beat(new_beat(worker_id=name, slots_per_queue=9, running={QUEUE: jobs}))

    async def test_after_a_while_the_least_busy_worker_takes_nothing_more(self, rig: Rig):
        await suspect(rig)
        others = await several(rig.store, 2)
        await rig.advance(PATIENCE + A_MOMENT)
        await self.beats(rig, busy=3, idler=1)
        assert await taken_ids(rig.store, worker_id="idler", alone=False, limit=9) == []
        assert await taken_ids(rig.store, worker_id="busy", alone=False, limit=9) == [job.id for job in others]

    async def test_not_at_once(self, rig: Rig):
        await suspect(rig)
        other = await one(rig.store)
        await rig.advance(PATIENCE)
        await self.beats(rig, idler=1)
        assert await taken_ids(rig.store, worker_id="idler", alone=False, limit=9) == [other.id]

    async def test_more_urgent_jobs_are_taken_all_the_same(self, rig: Rig):
        await suspect(rig)
        urgent, _ = await each(rig.store, {"priority": Priority.HIGH}, {})
        await rig.advance(PATIENCE + A_MOMENT)
        await self.beats(rig, idler=1)
        assert await taken_ids(rig.store, worker_id="idler", alone=False, limit=9) == [urgent.id]

    async def test_a_worker_that_was_not_heard_of_lately_is_not_waited_for(self, rig: Rig):
        await self.beats(rig, gone=0)
        await suspect(rig)
        await one(rig.store)
        await rig.advance(PATIENCE + A_MOMENT)
        await self.beats(rig, idler=1)
        assert await taken_ids(rig.store, worker_id="idler", alone=False, limit=9) == []

    async def test_what_it_cannot_run_it_does_not_wait_for(self, rig: Rig):
        await one(rig.store, model_profile="another")
        await crash(rig, model_profiles=("another",))
        other = await one(rig.store)
        await rig.advance(PATIENCE + A_MOMENT)
        await self.beats(rig, idler=1)
        assert await taken_ids(rig.store, worker_id="idler", alone=False, limit=9) == [other.id]

    async def test_the_last_place_of_a_queue_is_kept_for_it(self, rig: Rig):
        """Who ends a run would take its slot again in the same moment; the worker that made way never could."""
        await rig.queues.configure(Policies({QUEUE: QueuePolicy(concurrency=2)}), [QUEUE])
        crashed = await suspect(rig)
        await several(rig.store, 9)
        held = await take(rig.store, worker_id="busy", alone=False, limit=2)
        await rig.advance(PATIENCE + A_MOMENT)
        await self.beats(rig, busy=2, idle=0)
        assert await taken_ids(rig.store, worker_id="idle", limit=9) == []
        outcome = await rig.store.exchange([complete(held[0])], new_claim(worker_id="busy", alone=False))
        assert outcome.claimed == ()
        assert await taken_ids(rig.store, worker_id="idle", limit=9) == [crashed]

    async def test_the_last_place_of_its_owner_is_kept_for_it(self, rig: Rig):
        await rig.queues.configure(Policies(owners={"a": OwnerPolicy(max_running=1)}), [QUEUE])
        crashed = await suspect(rig, owner_service="a")
        await several(rig.store, 9, owner_service="a")
        held = await take(rig.store, worker_id="busy", alone=False, limit=2)
        await rig.advance(PATIENCE + A_MOMENT)
        await self.beats(rig, busy=1, idle=0)
        outcome = await rig.store.exchange(list(map(complete, held)), new_claim(worker_id="busy", alone=False))
        assert outcome.claimed == ()
        assert await taken_ids(rig.store, worker_id="idle", limit=9) == [crashed]

    async def test_a_worker_that_cannot_run_it_is_not_asked_to(self, rig: Rig):
        await suspect(rig)
        await one(rig.store)
        await rig.advance(PATIENCE + A_MOMENT)
        await rig.store.beat(new_beat(worker_id="other", model_profiles=("another",)))
        await self.beats(rig, theirs=3)
        assert await taken_ids(rig.store, worker_id="theirs", alone=False, limit=9) == []

    async def test_one_that_comes_back_after_a_delay_begins_to_wait_then(self, rig: Rig):
        await suspect(rig)
        [held] = await take(rig.store)
        await settle(rig.store, try_again(held, PATIENCE * 2))
        other = await one(rig.store)
        await rig.advance(PATIENCE * 2 + A_MOMENT)
        await rig.store.promote_due()
        await self.beats(rig, idler=1)
        assert await taken_ids(rig.store, worker_id="idler", alone=False, limit=9) == [other.id]
