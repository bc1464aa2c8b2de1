from __future__ import annotations


@pytest.mark.parametrize("state", [pending, waiting, running, cancelled, given_back, crashed])
async def test_a_job_is_cancelled_as_the_domain_says(rig: Rig, state: Any):
    before = await rig.store.get(await state(rig))
    await rig.advance(A_MINUTE)
    job = await cancel(rig.store, before.id)
    assert job == before.cancel(await rig.now())
    assert job == await rig.store.get(job.id)
    assert (job.status, job.failure) == (JobStatus.CANCELLED, CANCELLED_BY_CALLER)


@pytest.mark.parametrize("state", [completed, failed])
async def test_a_job_that_has_ended_cannot_be_cancelled(rig: Rig, state: Any):
    before = await rig.store.get(await state(rig))
    with pytest.raises(InvalidTransition, match=before.status):
        await cancel(rig.store, before.id)
    assert await rig.store.get(before.id) == before


@pytest.mark.parametrize("state", [running, failed, cancelled])
async def test_a_job_is_retried_as_the_domain_says(rig: Rig, state: Any):
    before = await rig.store.get(await state(rig))
    await rig.advance(A_MINUTE)
    job = await rig.store.retry([before.id])
    assert job == before.retry(await rig.now())
    assert job == await rig.store.get(job.id)
    assert await taken_ids(rig.store) == [job.id]


@pytest.mark.parametrize("state", [pending, waiting, completed, given_back, crashed])
async def test_a_job_that_is_pending_or_completed_cannot_be_retried(rig: Rig, state: Any):
    before = await rig.store.get(await state(rig))
    with pytest.raises(InvalidTransition, match=before.status):
        await rig.store.retry([before.id])
    assert await rig.store.get(before.id) == before


async def test_a_retry_forgets_what_was_counted(rig: Rig):
    held = await run_one(rig.store)
    await settle(rig.store, try_again(held, timedelta(0)))
    [held] = await take(rig.store)
    await rescue_late(rig)
    [held] = await take(rig.store)
    await settle(rig.store, give_back(held))
    await cancel(rig.store, held.id)
    job = await rig.store.retry([held.id])
    assert (job.attempts, job.crashes, job.give_backs, job.failure) == (0, 0, 0, None)
    assert (job.finished_at, job.run_at, job.due) == (None, await rig.now(), True)


async def test_a_retried_job_keeps_its_old_place(store: JobStore):
    held = await run_one(store)
    await settle(store, fail(held))
    younger = await one(store)
    await store.retry([held.id])
    assert await taken_ids(store, limit=9) == [held.id, younger.id]


async def test_an_unknown_job_can_be_neither_cancelled_nor_retried(store: JobStore):
    with pytest.raises(JobNotFound):
        await store.cancel(new_id())
    with pytest.raises(JobNotFound):
        await store.retry(new_id())
