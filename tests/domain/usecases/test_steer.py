from __future__ import annotations

from datetime import timedelta

import pytest

from domain.errors import InvalidTransition, JobNotFound
from domain.job import JobStatus
from domain.usecases.steer import Steer
from domain.usecases.wake import Wake
from tests.factories import NOW, QUEUE, new_claim, new_id, new_job
from tests.fakes import FragileStore, RecordingTickets


@pytest.fixture
def steer(store: FragileStore, wake: Wake) -> Steer:
    return Steer(store, wake)


async def test_a_cancelled_job_wakes_nobody(steer: Steer, store: FragileStore, tickets: RecordingTickets):
    [job] = await store.add([new_job()])
    assert (await steer.cancel(job.id)).status is JobStatus.CANCELLED
    assert tickets.published == []


async def test_cancelling_a_running_job_takes_it_from_its_worker(steer: Steer, store: FragileStore):
    [job] = await store.add([new_job()])
    [held] = (await store.exchange([], new_claim())).claimed
    await steer.cancel(job.id)
    assert await store.renew([held.lease], timedelta(seconds=30)) == {held.lease}


async def test_a_retried_job_wakes_a_worker_even_if_it_was_planned_for_later(
    steer: Steer, store: FragileStore, tickets: RecordingTickets
):
    [job] = await store.add([new_job(run_at=NOW + timedelta(hours=1))])
    await store.cancel(job.id)
    assert (await steer.retry(job.id)).due
    assert tickets.published == [(QUEUE, 1)]


async def test_a_retried_job_without_a_queue_wakes_nobody(steer: Steer, store: FragileStore, tickets: RecordingTickets):
    [job] = await store.add([new_job(queue=None)])
    await store.cancel(job.id)
    assert (await steer.retry(job.id)).status is JobStatus.PENDING
    assert tickets.published == []


async def test_a_retry_that_is_refused_wakes_nobody(steer: Steer, store: FragileStore, tickets: RecordingTickets):
    [job] = await store.add([new_job()])
    with pytest.raises(InvalidTransition):
        await steer.retry(job.id)
    assert tickets.published == []


async def test_an_unknown_job_can_be_neither_cancelled_nor_retried(steer: Steer):
    with pytest.raises(JobNotFound):
        await steer.cancel(new_id())
    with pytest.raises(JobNotFound):
        await steer.retry(new_id())
