from __future__ import annotations

from datetime import timedelta

import pytest

from domain.job import JobStatus
from domain.routing import Routes
from domain.usecases.reconcile import Reconcile, Reconciled
from domain.usecases.wake import Wake
from tests.factories import LEASE, NOW, QUEUE, new_beat, new_claim, new_job
from tests.fakes import FakeClock, FragileStore, RecordingTickets

MAX_CRASHES = 3
A_MOMENT = timedelta(microseconds=1)


@pytest.fixture
def reconcile(store: FragileStore, routes: Routes, wake: Wake) -> Reconcile:
    return Reconcile(store, routes, wake, MAX_CRASHES)


async def test_a_quiet_service_stays_quiet(reconcile: Reconcile, tickets: RecordingTickets):
    assert await reconcile.round() == Reconciled(promoted=0, rescued=0)
    assert tickets.published == []


async def test_what_has_become_due_gets_tickets(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    at = NOW + timedelta(minutes=1)
    await store.add([new_job(run_at=at), new_job(run_at=at), new_job(run_at=at + A_MOMENT)])
    clock.advance(timedelta(minutes=1))
    assert await reconcile.round() == Reconciled(promoted=2, rescued=0)
    assert tickets.published == [(QUEUE, 2)]


async def test_a_rescued_job_gets_a_fresh_ticket(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    [job] = await store.add([new_job()])
    await store.exchange([], new_claim())
    clock.advance(LEASE + A_MOMENT)
    assert await reconcile.round() == Reconciled(promoted=0, rescued=1)
    assert tickets.published == [(QUEUE, 1)]
    assert (await store.get(job.id)).status is JobStatus.PENDING


async def test_promoted_and_rescued_jobs_of_a_queue_are_woken_together(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    await store.add([new_job(), new_job(run_at=NOW + LEASE)])
    await store.exchange([], new_claim())
    clock.advance(LEASE + A_MOMENT)
    assert await reconcile.round() == Reconciled(promoted=1, rescued=1)
    assert tickets.published == [(QUEUE, 2)]


async def test_a_job_that_crashed_too_often_gets_no_ticket(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    [job] = await store.add([new_job()])
    for _ in range(MAX_CRASHES):
        tickets.published.clear()
        await store.exchange([], new_claim())
        clock.advance(LEASE + A_MOMENT)
        await reconcile.round()
    assert (await store.get(job.id)).status is JobStatus.FAILED
    assert tickets.published == []


async def test_tickets_that_were_lost_are_replaced(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets
):
    await store.add([new_job(), new_job(queue="gpu.speech"), new_job(queue="gpu.gone")])
    await store.beat(new_beat(queues=("gpu.llm", "gpu.speech", "gpu.gone")))
    await reconcile.round()
    assert sorted(tickets.published) == [("gpu.llm", 1), ("gpu.speech", 1)]
