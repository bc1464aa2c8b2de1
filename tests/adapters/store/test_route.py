"""Jobs without a queue, when configuration begins to serve their kind."""

from __future__ import annotations

from msgspec.structs import replace

from domain.job import JobStatus
from domain.ports import JobFilter, Listing
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE
from tests.factories import QUEUE
from tests.moves import cancel, lend, one, several, take, taken_ids

KIND = ("llm_chat", "late")
BOUND = {KIND: QUEUE}


def of_kind(**fields: object) -> dict[str, object]:
    return {"task_type": KIND[0], "model_profile": KIND[1], "queue": None, **fields}


async def test_a_job_that_waited_for_an_external_worker_moves_to_the_queue_that_serves_it_now(rig: Rig):
    job = await one(rig.store, **of_kind())
    assert await rig.store.route(BOUND) == {QUEUE: 1}
    assert await rig.store.get(job.id) == replace(job, queue=QUEUE)
    assert [found.id for found in await rig.store.find(Listing(where=JobFilter(queue=(QUEUE,)), limit=9))] == [job.id]
    assert await rig.store.route(BOUND) == {}


async def test_it_is_claimed_there_in_its_old_place(rig: Rig):
    waited = await one(rig.store, **of_kind())
    younger = await one(rig.store)
    await rig.store.route(BOUND)
    assert await taken_ids(rig.store, limit=9, model_profiles=(KIND[1], younger.model_profile)) == [
        waited.id,
        younger.id,
    ]


async def test_other_kinds_and_jobs_that_are_not_waiting_stay_where_they_are(rig: Rig):
    other = await one(rig.store, **of_kind(model_profile="other"))
    later = await one(rig.store, **of_kind(run_at=await rig.now() + A_MINUTE))
    gone = await one(rig.store, **of_kind())
    await cancel(rig.store, gone.id)
    lent = await one(rig.store, **of_kind())
    await lend(rig.store, model_profiles=(KIND[1],))
    assert await rig.store.route(BOUND) == {}
    assert {(await rig.store.get(job.id)).queue for job in (other, later, gone, lent)} == {None}


async def test_a_job_that_becomes_due_later_is_routed_then(rig: Rig):
    await one(rig.store, **of_kind(run_at=await rig.now() + A_MINUTE))
    await rig.advance(A_MINUTE)
    await rig.store.promote_due()
    assert await rig.store.route(BOUND) == {QUEUE: 1}


async def test_what_is_counted_by_queue_follows(rig: Rig):
    await several(rig.store, 3, **of_kind())
    await rig.store.route(BOUND)
    tallies = {(tally.queue, tally.status): tally.jobs for tally in await rig.store.tallies()}
    assert tallies == {(QUEUE, JobStatus.PENDING): 3}


async def test_a_routed_job_runs_within_the_limit_of_its_queue(rig: Rig):
    await several(rig.store, 2, **of_kind())
    await rig.store.route(BOUND)
    await take(rig.store, limit=2, model_profiles=(KIND[1],))
    [state] = [state for state in await rig.queues.states() if state.name == QUEUE]
    assert state.busy == 2
