from __future__ import annotations


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
