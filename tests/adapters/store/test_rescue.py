from __future__ import annotations


async def test_a_job_goes_back_when_its_lease_has_run_out(rig: Rig):
    held = await run_one(rig.store)
    before = await rig.store.get(held.id)
    assert await rescue_late(rig) == {QUEUE: 1}
    job = await rig.store.get(held.id)
    assert job == before.rescue(MAX_CRASHES, await rig.now())
    assert (job.status, job.crashes, job.attempts) == (JobStatus.PENDING, 1, 0)
    assert job.failure == crash(1, hopeless=False)


async def test_a_live_lease_is_left_alone_to_its_last_moment(rig: Rig):
    held = await run_one(rig.store)
    before = await rig.store.get(held.id)
    await rig.advance(LEASE)
    assert await rescue(rig.store) == {}
    assert await rig.store.get(held.id) == before


async def test_only_those_whose_lease_has_run_out_are_rescued(rig: Rig):
    await several(rig.store, 2)
    [short] = await take(rig.store, lease=LEASE)
    [long] = await take(rig.store, lease=2 * LEASE)
    assert await rescue_late(rig) == {QUEUE: 1}
    assert await statuses(rig.store, [short.id, long.id]) == {
        short.id: JobStatus.PENDING,
        long.id: JobStatus.RUNNING,
    }


async def test_a_job_whose_worker_dies_too_often_fails(rig: Rig):
    job = await one(rig.store)
    went_back = []
    for _ in range(MAX_CRASHES):
        await take(rig.store)
        went_back.append(await rescue_late(rig))
    job = await rig.store.get(job.id)
    assert went_back == [{QUEUE: 1}, {QUEUE: 1}, {}]
    assert (job.status, job.crashes, job.attempts) == (JobStatus.FAILED, MAX_CRASHES, 0)
    assert job.failure == crash(MAX_CRASHES, hopeless=True)
    assert (job.finished_at, job.lease, job.worker_id) == (await rig.now(), None, None)


async def test_those_that_went_back_are_counted_by_queue(rig: Rig):
    await rig.store.add([new_job(), new_job(queue="gpu.speech"), new_job(queue="gpu.speech")])
    await take(rig.store)
    await take(rig.store, queue="gpu.speech", limit=2)
    assert await rescue_late(rig) == {QUEUE: 1, "gpu.speech": 2}


async def test_a_rescued_job_can_be_taken_at_once_in_its_old_place(rig: Rig):
    held = await run_one(rig.store)
    younger = await one(rig.store)
    await rescue_late(rig)
    assert await taken_ids(rig.store, limit=9) == [held.id, younger.id]


async def test_nothing_is_rescued_twice(rig: Rig):
    await run_one(rig.store)
    assert await rescue_late(rig) == {QUEUE: 1}
    assert await rescue(rig.store) == {}


@pytest.mark.parametrize("state", [pending, completed, failed, cancelled, given_back])
async def test_a_job_that_does_not_run_needs_no_rescue(rig: Rig, state: Any):
    before = await rig.store.get(await state(rig))
    assert await rescue_late(rig) == {}
    assert await rig.store.get(before.id) == before
