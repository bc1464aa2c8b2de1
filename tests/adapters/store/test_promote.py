from __future__ import annotations

from msgspec.structs import replace

from domain.ports import Listing
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, A_MOMENT
from tests.factories import QUEUE, new_job
from tests.moves import cancel, one, several, taken_ids


async def test_what_has_become_due_is_promoted_and_counted_by_queue(rig: Rig):
    at = await rig.now() + A_MINUTE
    await rig.store.add(
        [
            new_job(run_at=at),
            new_job(run_at=at - A_MOMENT),
            new_job(run_at=at, queue="gpu.speech"),
            new_job(run_at=at, queue=None),
            new_job(run_at=at + A_MOMENT),
            new_job(),
        ]
    )
    await rig.advance(A_MINUTE)
    assert await rig.store.promote_due() == {QUEUE: 2, "gpu.speech": 1}
    assert [job.due for job in await rig.store.find(Listing(limit=9))] == [True, False, True, True, True, True]


async def test_nothing_is_promoted_twice(rig: Rig):
    await one(rig.store, run_at=await rig.now() + A_MINUTE)
    await rig.advance(A_MINUTE)
    assert await rig.store.promote_due() == {QUEUE: 1}
    assert await rig.store.promote_due() == {}


async def test_a_promotion_changes_nothing_else(rig: Rig):
    job = await one(rig.store, run_at=await rig.now() + A_MINUTE)
    await rig.advance(A_MINUTE)
    await rig.store.promote_due()
    assert await rig.store.get(job.id) == replace(job, due=True)


async def test_a_cancelled_job_is_not_promoted(rig: Rig):
    job = await one(rig.store, run_at=await rig.now() + A_MINUTE)
    await cancel(rig.store, job.id)
    cancelled = await rig.store.get(job.id)
    await rig.advance(A_MINUTE)
    assert await rig.store.promote_due() == {}
    assert await rig.store.get(job.id) == cancelled


async def test_a_promoted_job_goes_before_those_that_came_after_it(rig: Rig):
    planned = await one(rig.store, run_at=await rig.now() + A_MINUTE)
    younger = await several(rig.store, 2)
    assert await taken_ids(rig.store) == [younger[0].id]
    await rig.advance(A_MINUTE)
    await rig.store.promote_due()
    assert await taken_ids(rig.store, limit=9) == [planned.id, younger[1].id]


async def test_thousands_that_become_due_together_are_promoted_together(rig: Rig):
    await several(rig.store, 2_300, run_at=await rig.now() + A_MINUTE)
    await several(rig.store, 7, run_at=await rig.now() + A_MINUTE, queue=None)
    await rig.advance(A_MINUTE)
    assert await rig.store.promote_due() == {QUEUE: 2_300}
    assert {job.due for job in await rig.store.find(Listing(limit=3_000))} == {True}


async def test_a_promotion_is_no_change_of_state(rig: Rig):
    job = await one(rig.store, run_at=await rig.now() + A_MINUTE)
    await rig.advance(A_MINUTE)
    await rig.store.promote_due()
    assert [change.number for change in await rig.store.changes(job.id, 0)] == [1]
