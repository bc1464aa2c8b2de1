from __future__ import annotations

from datetime import timedelta

from domain.job import JobStatus, RunEnd, RunOutcome
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.factories import LEASE, QUEUE, new_claim
from tests.moves import complete, lend, one, run_one, settle, several, take, taken_ids


async def test_what_its_worker_does_not_know_of_goes_back_unharmed(rig: Rig):
    await several(rig.store, 3)
    held, *orphans = await take(rig.store, limit=3)
    before = [await rig.store.get(orphan.id) for orphan in orphans]
    await rig.advance(timedelta(seconds=1))
    assert await rig.store.release_orphans("worker-1", QUEUE, [held.lease]) == 2
    now = await rig.now()
    assert [await rig.store.get(orphan.id) for orphan in orphans] == [
        job.settle(orphan.release(), now) for job, orphan in zip(before, orphans, strict=True)
    ]
    assert (await rig.store.get(held.id)).lease == held.lease


async def test_the_jobs_of_other_workers_are_left_alone(store: JobStore):
    held = await run_one(store)
    assert await store.release_orphans("worker-2", QUEUE, []) == 0
    assert (await store.get(held.id)).lease == held.lease


async def test_its_jobs_of_other_queues_are_left_alone(store: JobStore):
    held = await run_one(store)
    assert await store.release_orphans("worker-1", "gpu.speech", []) == 0
    assert (await store.get(held.id)).lease == held.lease


async def test_a_worker_that_knows_nothing_keeps_nothing(store: JobStore):
    held = await run_one(store)
    assert await store.release_orphans("worker-1", QUEUE, []) == 1
    assert await store.renew([held.lease], LEASE) == {held.lease}
    assert await taken_ids(store) == [held.id]


async def test_an_earlier_run_of_the_same_worker_does_not_stand_for_this_one(store: JobStore):
    held = await run_one(store)
    [again] = (await store.exchange([held.release()], new_claim())).claimed
    assert await store.release_orphans("worker-1", QUEUE, [held.lease]) == 1
    assert (await store.get(again.id)).status is JobStatus.PENDING


async def test_what_has_ended_is_no_orphan(store: JobStore):
    held = await run_one(store)
    await settle(store, complete(held))
    assert await store.release_orphans("worker-1", QUEUE, []) == 0


async def test_what_an_external_worker_of_the_same_name_runs_is_no_orphan(store: JobStore):
    await one(store)
    [job] = await lend(store, worker_id="worker-1")
    assert await store.release_orphans("worker-1", QUEUE, []) == 0
    assert await store.get(job.id) == job


async def test_its_release_is_part_of_the_history(rig: Rig):
    held = await run_one(rig.store)
    await rig.store.release_orphans("worker-1", QUEUE, [])
    assert await rig.store.run_end(held.lease) == RunEnd(RunOutcome.RELEASED)
    assert [change.status for change in await rig.store.changes(held.id, 2)] == [JobStatus.PENDING]
