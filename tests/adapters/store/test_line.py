"""A pending job's place in its line: how many would be claimed before it."""

from __future__ import annotations

import asyncio

import pytest

from domain.job import Job, Priority
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE
from tests.moves import cancel, each, one, several, take, taken_ids

COUNTED = 1_000
OTHER_QUEUE = {"queue": "gpu.speech"}


async def ahead(store: JobStore, *jobs: Job) -> list[int]:
    return [await store.ahead(await store.get(job.id)) for job in jobs]


async def test_it_counts_those_that_come_before_it(store: JobStore):
    low, first, high, second = await each(store, {"priority": Priority.LOW}, {}, {"priority": Priority.HIGH}, {})
    assert await ahead(store, high, first, second, low) == [0, 1, 2, 3]


async def test_the_order_is_that_of_the_claims(store: JobStore):
    priorities = [*Priority] * 4
    jobs = {job.id: job for job in await each(store, *({"priority": priority} for priority in priorities))}
    places = {job_id: await store.ahead(job) for job_id, job in jobs.items()}
    assert sorted(jobs, key=lambda job_id: places[job_id]) == await taken_ids(store, limit=99)


async def test_many_who_ask_at_once_hear_what_each_would_hear_alone(store: JobStore):
    zebra, low = {"owner_service": "zebra"}, {"priority": Priority.LOW}
    jobs = await each(store, {}, OTHER_QUEUE, zebra, {"queue": None}, low, zebra, {"queue": None}, {}, {**zebra, **low})
    prospects = await asyncio.gather(*(store.prospect(job, A_MINUTE) for job in jobs))
    assert [prospect.ahead for prospect in prospects] == await ahead(store, *jobs)
    assert [prospect.demand and prospect.demand.queue for prospect in prospects] == [job.queue for job in jobs]


async def test_every_task_type_of_its_queue_counts(store: JobStore):
    _, _, job = await each(store, {"task_type": "transcript_summary"}, {"model_profile": "another"}, {})
    assert await ahead(store, job) == [2]


async def test_other_queues_do_not(store: JobStore):
    _, _, job = await each(store, OTHER_QUEUE, {"queue": None}, {})
    assert await ahead(store, job) == [0]


async def test_nor_does_what_is_not_claimable(rig: Rig):
    held, _ = await each(rig.store, {}, {"run_at": await rig.now() + A_MINUTE})
    ended = await one(rig.store)
    await take(rig.store)
    await cancel(rig.store, ended.id)
    job = await one(rig.store)
    assert await ahead(rig.store, job) == [0]
    await rig.store.retry([held.id, ended.id])
    await rig.advance(A_MINUTE)
    await rig.store.promote_due()
    assert await ahead(rig.store, job) == [3]


async def test_a_job_without_a_queue_is_in_line_with_those_of_its_kind_whoever_owns_them(store: JobStore):
    kind = {"queue": None, "task_type": "their_own", "model_profile": "theirs"}
    first, _, _, _, second, high = await each(
        store,
        {**kind, "owner_service": "zebra"},
        {**kind, "task_type": "another"},
        {**kind, "model_profile": "another"},
        {**kind, "queue": "gpu.llm"},
        {**kind, "owner_service": "ant"},
        {**kind, "priority": Priority.HIGH},
    )
    assert await ahead(store, high, first, second) == [0, 1, 2]


async def test_up_to_a_thousand_it_is_exact(store: JobStore):
    jobs = await several(store, COUNTED + 1)
    assert await ahead(store, jobs[COUNTED], jobs[COUNTED - 1], jobs[500]) == [COUNTED, COUNTED - 1, 500]


@pytest.mark.parametrize("folded", [True, False])
async def test_beyond_it_is_about_right(store: JobStore, folded: bool):
    jobs = await several(store, 3_000)
    await several(store, 1_500, queue="gpu.other")
    await several(store, 1_500, queue=None)
    if folded:
        await store.fold_tallies()
    for place in (1_001, 1_500, 2_999):
        assert await store.ahead(jobs[place]) == pytest.approx(place, rel=0.1)


async def test_beyond_it_a_job_without_a_queue_is_told_no_fewer_than_were_counted_and_no_more_than_there_are(
    store: JobStore,
):
    kind = {"queue": None, "task_type": "their_own"}
    jobs = await several(store, 2_000, **kind)
    await several(store, 1_500, queue=None, task_type="another")
    assert COUNTED < await store.ahead(jobs[1_500]) <= 2_000
    assert await store.ahead(jobs[1_999]) == pytest.approx(1_999, rel=0.1)


async def test_beyond_it_the_more_urgent_ones_count_too(store: JobStore):
    await several(store, 1_500, priority=Priority.HIGH)
    await several(store, 500, priority=Priority.LOW)
    jobs = await several(store, 500)
    assert await store.ahead(jobs[0]) == pytest.approx(1_500, rel=0.1)
    assert await store.ahead(jobs[499]) == pytest.approx(2_000, rel=0.1)
