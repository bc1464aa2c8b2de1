from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from uuid import UUID

import pytest
from msgspec import Raw
from msgspec.structs import replace

from domain.errors import JobNotFound
from domain.job import IdempotencyKey, Job, JobId, JobStatus
from domain.ports import JobFilter, JobStore, Place, Stretch
from domain.retention import FINAL, PastJob, Retention, Walk
from domain.usecases.prune import AT_ONCE, Sweep
from tests.adapters.rigs import Rig
from tests.adapters.store.states import (
    A_MINUTE,
    A_MOMENT,
    STATES,
    State,
    cancelled,
    completed,
    failed,
    pending,
    running,
    that_are,
)
from tests.factories import new_id, new_job
from tests.moves import RESULT, cancel, found, lease_of, lend_one, settle, several

DAY = timedelta(days=1)
ENDED = that_are(JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
KEY = IdempotencyKey("call-7", b"fingerprint")
ALL = 100


async def read(rig: Rig, *job_ids: JobId) -> list[PastJob]:
    """What a walk tells of these jobs."""
    stretches = [await rig.store.walk(Walk(timedelta(0), status), None, ALL) for status in JobStatus]
    return [job for stretch in stretches for job in stretch.jobs if job.id in job_ids]


def ids(stretch: Stretch) -> list[JobId]:
    return [job.id for job in stretch.jobs]


@pytest.mark.parametrize("state", ENDED)
async def test_a_walk_tells_what_decides(rig: Rig, state: State):
    job_id = await state(rig)
    job = await rig.store.get(job_id)
    stretch = await rig.store.walk(Walk(timedelta(0), job.status), None, ALL)
    assert stretch.now == await rig.now()
    assert stretch.jobs == (
        PastJob(job.id, job.owner_service, job.status, job.number, job.created_at, job.seq, job.finished_at),
    )


async def test_a_walk_meets_the_jobs_of_its_state_alone(rig: Rig):
    jobs = {JobStatus.COMPLETED: await completed(rig), JobStatus.FAILED: await failed(rig)}
    jobs[JobStatus.RUNNING] = await running(rig)
    for status, job_id in jobs.items():
        assert ids(await rig.store.walk(Walk(timedelta(0), status), None, ALL)) == [job_id]


async def test_a_walk_meets_an_owners_jobs_in_every_state(rig: Rig):
    theirs = [await state(rig, owner_service="theirs") for state in (completed, cancelled, pending)]
    await failed(rig, owner_service="others")
    assert ids(await rig.store.walk(Walk(timedelta(0), owner="theirs"), None, ALL)) == theirs


@pytest.mark.parametrize("walk", [Walk(DAY, JobStatus.CANCELLED), Walk(DAY, owner="beeline")])
async def test_a_walk_ends_where_jobs_are_too_young(rig: Rig, walk: Walk):
    old = await cancelled(rig, owner_service="beeline")
    await rig.advance(A_MOMENT)
    await cancelled(rig, owner_service="beeline")
    await rig.advance(DAY - A_MOMENT)
    assert ids(await rig.store.walk(walk, None, ALL)) == [old]


@pytest.mark.parametrize("walk", [Walk(timedelta(0), JobStatus.PENDING), Walk(timedelta(0), owner="beeline")])
async def test_a_walk_goes_on_where_it_stopped(rig: Rig, walk: Walk):
    await several(rig.store, 2, owner_service="beeline")
    await rig.advance(A_MINUTE)
    await several(rig.store, 3, owner_service="beeline")
    met, last = [], None
    for expected in (2, 2, 1):
        stretch = await rig.store.walk(walk, last, 2)
        assert len(stretch.jobs) == expected
        met += ids(stretch)
        last = stretch.last
    assert last is None
    assert len(set(met)) == 5


async def test_a_walk_over_nothing_is_over(store: JobStore):
    for walk in (Walk(DAY, JobStatus.FAILED), Walk(DAY, owner="nobody")):
        stretch = await store.walk(walk, Place((await store.walk(walk, None, ALL)).now, 7), ALL)
        assert (stretch.jobs, stretch.last) == ((), None)


@pytest.mark.parametrize("state", ENDED)
async def test_a_pruned_job_is_gone_with_all_that_is_known_of_it(rig: Rig, state: State):
    job_id = await state(rig, labels={"team": "red"}, owner_ref="call/7", batch_id=UUID(int=1), idempotency=KEY)
    assert await rig.store.prune(await read(rig, job_id)) == [job_id]
    with pytest.raises(JobNotFound):
        await rig.store.get(job_id)
    assert await found(rig.store) == []
    assert await found(rig.store, JobFilter(labels=(("team", ("red",)),))) == []
    assert (await rig.store.runs(job_id), await rig.store.changes(job_id, 0)) == ([], [])
    [again] = await rig.store.add([new_job(idempotency=replace(KEY, fingerprint=b"another"))])
    assert again.created


async def test_so_are_its_progress_and_the_outcomes_of_its_runs(rig: Rig):
    job = await lend_one(rig.store)
    lease = lease_of(job)
    await rig.store.report(lease, Raw(b"{}"))
    await settle(rig.store, job.leased().complete(RESULT))
    await rig.store.prune(await read(rig, job.id))
    assert (await rig.store.progress(job.id), await rig.store.run_end(lease)) == (None, None)


async def test_its_upload_is_needed_no_more(rig: Rig):
    upload_id = new_id()
    await rig.uploads.append(upload_id, 0, b"abc")
    await rig.uploads.finish(upload_id, "beeline", chunks=1, size=3)
    job_id = await failed(rig, upload_id=upload_id)
    assert await rig.uploads.prune() == 0
    await rig.store.prune(await read(rig, job_id))
    assert await rig.uploads.prune() == 1


async def test_the_figures_are_right_after_it(rig: Rig):
    gone = [await completed(rig), await failed(rig)]
    await cancelled(rig)
    await rig.store.prune(await read(rig, *gone))
    await rig.store.fold_tallies()
    assert {tally.status: tally.jobs for tally in await rig.store.tallies() if tally.jobs} == {JobStatus.CANCELLED: 1}


async def test_a_job_that_was_started_afresh_since_it_was_read_stays(rig: Rig):
    job_id = await failed(rig)
    old = await read(rig, job_id)
    await rig.store.retry([job_id])
    assert await rig.store.prune(old) == []
    assert (await rig.store.get(job_id)).status is JobStatus.PENDING


async def test_so_does_one_that_has_even_ended_again(rig: Rig):
    job_id = await cancelled(rig)
    old = await read(rig, job_id)
    await rig.store.retry([job_id])
    await cancel(rig.store, job_id)
    assert await rig.store.prune(old) == []
    assert (await rig.store.get(job_id)).status is JobStatus.CANCELLED


async def test_nothing_that_is_not_final_is_pruned(rig: Rig):
    alive = [await running(rig), await pending(rig)]
    assert await rig.store.prune(await read(rig, *alive)) == []
    assert set(await found(rig.store)) == set(alive)


async def test_nothing_is_pruned_twice(rig: Rig):
    old = await read(rig, await failed(rig))
    assert len(await rig.store.prune(old)) == 1
    assert await rig.store.prune(old) == []
    assert await rig.store.prune([]) == []
    assert await rig.store.prune([replace(old[0], id=new_id())]) == []


async def test_the_oldest_of_each_final_state_is_known(rig: Rig):
    assert await rig.store.oldest_finished() == {}
    await completed(rig)
    await rig.advance(60 * A_MINUTE)
    await completed(rig)
    await cancelled(rig)
    await running(rig)
    await rig.advance(A_MINUTE)
    assert await rig.store.oldest_finished() == {JobStatus.COMPLETED: 3660, JobStatus.CANCELLED: 60}


@pytest.mark.parametrize("seed", range(3))
async def test_exactly_those_remain_that_should(rig: Rig, seed: int):
    """Of jobs of any age and owner, some of which took days, at any times that jobs are kept."""
    random = Random(seed)
    for _ in range(25):
        owner = random.choice(["beeline", "lion", "mts"])
        await random.choice(list(STATES))(rig, owner_service=owner)
        await rig.advance(timedelta(hours=random.randrange(40)))
        if random.random() < 0.3:
            await rig.store.retry([random.choice(await found(rig.store))])
    jobs = await found(rig.store)
    times = [None, *(days * DAY for days in (1, 5, 10, 20, 30))]
    kept = {status: random.choice(times) for status in FINAL}
    rule = Retention(kept, {owner: {random.choice(FINAL): random.choice(times)} for owner in ("beeline", "lion")})
    now, before = await rig.now(), {job_id: await rig.store.get(job_id) for job_id in jobs}
    expected = {job.id for job in before.values() if not goes(job, rule, now)}
    counted, pruned = Sweep(rig.store, rule, dry_run=True), Sweep(rig.store, rule)
    would_go = 0
    while not counted.over:
        would_go += (await counted.step()).total()
    assert len(await found(rig.store)) == len(jobs)
    while not pruned.over:
        await pruned.step()
    assert set(await found(rig.store)) == expected
    assert would_go == len(jobs) - len(expected)
    for job_id in expected:
        assert await rig.store.get(job_id) == before[job_id]


def goes(job: Job, rule: Retention, now: datetime) -> bool:
    kept = {**rule.kept, **rule.owners.get(job.owner_service, {})}.get(job.status)
    return job.finished_at is not None and kept is not None and job.finished_at + kept <= now


async def test_a_sweep_looks_at_many_in_steps(rig: Rig):
    jobs = await several(rig.store, AT_ONCE + 1)
    await cancel(rig.store, *(job.id for job in jobs))
    await rig.advance(DAY)
    sweep = Sweep(rig.store, Retention({JobStatus.CANCELLED: DAY}))
    assert [(await sweep.step()).total(), (await sweep.step()).total()] == [AT_ONCE, 1]
    assert (sweep.over, sweep.looked_at, await found(rig.store)) == (True, AT_ONCE + 1, [])
