from __future__ import annotations

from uuid import UUID

import pytest
from msgspec import Raw
from msgspec.structs import replace

from domain.errors import JobNotFound
from domain.job import IdempotencyKey, JobStatus
from domain.ports import JobFilter, JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import STATES, State, cancelled, completed, failed, running, that_are, waiting
from tests.factories import new_id, new_job
from tests.moves import RESULT, cancel, found, lease_of, lend_one, one, settle

FINAL = that_are(JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
KEY = IdempotencyKey("call-7", b"fingerprint")


@pytest.mark.parametrize("state", FINAL)
async def test_a_final_job_is_gone_with_all_that_is_known_of_it(rig: Rig, state: State):
    job_id = await state(rig, labels={"team": "red"}, owner_ref="call/7", batch_id=UUID(int=1))
    assert await rig.store.erase([job_id]) == [job_id]
    with pytest.raises(JobNotFound):
        await rig.store.get(job_id)
    assert await found(rig.store) == []
    assert await found(rig.store, JobFilter(labels=(("team", ("red",)),))) == []
    assert await rig.store.count(JobFilter(owner_ref=("call/7",))) == 0
    assert await rig.store.pulses([job_id]) == {}
    assert (await rig.store.runs(job_id), await rig.store.changes(job_id, 0)) == ([], [])
    assert await rig.store.progress(job_id) is None


async def test_so_are_its_progress_and_the_outcomes_of_its_runs(store: JobStore):
    job = await lend_one(store)
    lease = lease_of(job)
    await store.report(lease, Raw(b"{}"))
    await settle(store, job.leased().complete(RESULT))
    await store.erase([job.id])
    assert (await store.progress(job.id), await store.run_end(lease)) == (None, None)
    assert (await store.exchange([job.leased().complete(RESULT)], None)).lost == {lease}


@pytest.mark.parametrize("state", [state for state in STATES if state not in FINAL])
async def test_a_job_that_has_not_ended_stays(rig: Rig, state: State):
    job_id = await state(rig)
    before = await rig.store.get(job_id)
    assert await rig.store.erase([job_id]) == []
    assert await rig.store.get(job_id) == before


async def test_its_key_is_free_again(rig: Rig):
    job_id = await cancelled(rig, idempotency=KEY)
    await rig.store.erase([job_id])
    [added] = await rig.store.add([new_job(idempotency=replace(KEY, fingerprint=b"another"))])
    assert (added.created, await found(rig.store)) == (True, [added.job.id])


async def test_its_id_is_free_again(rig: Rig):
    job_id = await completed(rig, labels={"team": "red"})
    await rig.store.erase([job_id])
    job = await one(rig.store, id=job_id)
    assert (job.number, job.labels) == (1, {})
    assert (await rig.store.get(job_id)).result is None
    assert [change.number for change in await rig.store.changes(job_id, 0)] == [1]


async def test_those_that_can_go_do_and_are_told(rig: Rig):
    gone = [await completed(rig), await failed(rig), await cancelled(rig)]
    stays = [await running(rig), await waiting(rig)]
    assert sorted(await rig.store.erase([*stays, *gone, new_id()])) == sorted(gone)
    assert set(await found(rig.store)) == set(stays)


async def test_nothing_is_erased_twice(rig: Rig):
    job_id = await failed(rig)
    assert await rig.store.erase([job_id, job_id]) == [job_id]
    assert (await rig.store.erase([job_id]), await rig.store.erase([])) == ([], [])


async def test_the_neighbours_keep_what_is_theirs(rig: Rig):
    gone = await completed(rig, labels={"team": "red"}, idempotency=KEY)
    kept = await completed(rig, labels={"team": "red"}, idempotency=replace(KEY, key="call-8"))
    before, runs = await rig.store.get(kept), await rig.store.runs(kept)
    await rig.store.erase([gone])
    assert (await rig.store.get(kept), await rig.store.runs(kept)) == (before, runs)
    assert await found(rig.store, JobFilter(labels=(("team", ("red",)),))) == [kept]
    [again] = await rig.store.add([new_job(idempotency=replace(KEY, key="call-8"))])
    assert again.job.id == kept


async def test_an_erased_job_cannot_be_steered(rig: Rig):
    job_id = await cancelled(rig)
    await rig.store.erase([job_id])
    assert (await cancel(rig.store, job_id), await rig.store.retry([job_id])) == ([], [])
