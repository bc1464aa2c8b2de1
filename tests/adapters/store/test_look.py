from __future__ import annotations

import pytest
from msgspec import Raw

from domain.errors import JobNotFound
from domain.events import Pulse
from domain.job import JobStatus
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import STATES, State
from tests.factories import new_id
from tests.moves import lease_of, lend_one, one, run_one, several, take


async def test_the_store_answers(store: JobStore):
    await store.ping()


async def test_an_unknown_job_is_not_found(store: JobStore):
    with pytest.raises(JobNotFound):
        await store.get(new_id())


@pytest.mark.parametrize("state", STATES)
async def test_every_job_is_read_in_the_state_that_it_is_in(rig: Rig, state: State):
    job_id = await state(rig)
    job = await rig.store.get(job_id)
    assert (job.id, job.status) == (job_id, STATES[state])
    assert (job.lease is not None) is (job.status is JobStatus.RUNNING)
    assert await rig.store.pulses([job_id]) == {job_id: Pulse(job.status, job.number)}


async def test_the_pulses_of_those_that_exist_are_told(store: JobStore):
    running, pending = await several(store, 2)
    await take(store)
    assert await store.pulses([running.id, new_id(), pending.id]) == {
        running.id: Pulse(JobStatus.RUNNING, 2),
        pending.id: Pulse(JobStatus.PENDING, 1),
    }


async def test_nobodys_pulses_are_none(store: JobStore):
    await one(store)
    assert await store.pulses([]) == {}


async def test_a_pulse_tells_of_the_last_report(store: JobStore):
    job = await lend_one(store)
    await store.report(lease_of(job), Raw(b"{}"))
    await store.report(lease_of(job), Raw(b"{}"))
    assert await store.pulses([job.id]) == {job.id: Pulse(JobStatus.RUNNING, 2, (2, 2))}


async def test_what_is_not_known_of_a_job_that_does_not_exist(store: JobStore):
    await run_one(store)
    unknown = new_id()
    assert (await store.runs(unknown), await store.changes(unknown, 0), await store.progress(unknown)) == ([], [], None)
