from __future__ import annotations

from datetime import timedelta

import pytest

from domain.events import JobEvent
from domain.job import JobStatus
from domain.routing import Routes
from domain.usecases.preempt import Preempt
from domain.usecases.reconcile import Reconcile, Reconciled
from domain.usecases.wake import Wake
from tests.factories import LEASE, NOW, QUEUE, new_beat
from tests.fakes import FakeClock, FragileStore, RecordingEvents, RecordingTickets
from tests.moves import each, lend_one, one, run_one, statuses, take

MAX_CRASHES = 3
RETRY_DELAY = timedelta(seconds=7)
A_MOMENT = timedelta(microseconds=1)


@pytest.fixture
def reconcile(store: FragileStore, routes: Routes, wake: Wake, events: RecordingEvents, clock: FakeClock) -> Reconcile:
    preempt = Preempt(store, events)
    return Reconcile(store, routes, wake, preempt, events, MAX_CRASHES, RETRY_DELAY, clock.monotonic)


async def test_a_quiet_service_stays_quiet(reconcile: Reconcile, tickets: RecordingTickets, events: RecordingEvents):
    assert await reconcile.round() == Reconciled(promoted=0, rescued=0)
    assert (tickets.published, events.published) == ([], [])


async def test_what_has_become_due_gets_tickets(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    at = NOW + timedelta(minutes=1)
    await each(store, {"run_at": at}, {"run_at": at}, {"run_at": at + A_MOMENT})
    clock.advance(timedelta(minutes=1))
    assert await reconcile.round() == Reconciled(promoted=2, rescued=0)
    assert tickets.published == [(QUEUE, 2)]


async def test_a_rescued_job_gets_a_fresh_ticket_and_is_told(
    reconcile: Reconcile,
    store: FragileStore,
    tickets: RecordingTickets,
    events: RecordingEvents,
    clock: FakeClock,
):
    held = await run_one(store)
    clock.advance(LEASE + A_MOMENT)
    assert await reconcile.round() == Reconciled(promoted=0, rescued=1)
    assert tickets.published == [(QUEUE, 1)]
    assert events.published == [JobEvent(held.id, "beeline", "llm_chat", QUEUE, "pending", 3)]
    assert (await store.get(held.id)).status is JobStatus.PENDING


async def test_promoted_and_rescued_jobs_of_a_queue_are_woken_together(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    await each(store, {}, {"run_at": NOW + LEASE})
    await take(store)
    clock.advance(LEASE + A_MOMENT)
    assert await reconcile.round() == Reconciled(promoted=1, rescued=1)
    assert tickets.published == [(QUEUE, 2)]


async def test_a_job_that_crashed_too_often_gets_no_ticket_and_is_told_as_failed(
    reconcile: Reconcile,
    store: FragileStore,
    tickets: RecordingTickets,
    events: RecordingEvents,
    clock: FakeClock,
):
    job = await one(store)
    for _ in range(MAX_CRASHES):
        tickets.published.clear()
        await take(store)
        clock.advance(LEASE + A_MOMENT)
        await reconcile.round()
    assert (await store.get(job.id)).status is JobStatus.FAILED
    assert tickets.published == []
    assert [event.kind for event in events.published] == ["pending", "pending", "failed"]


async def test_a_job_whose_external_worker_vanished_is_tried_again_after_the_delay(
    reconcile: Reconcile, store: FragileStore, clock: FakeClock
):
    job = await lend_one(store)
    clock.advance(LEASE + A_MOMENT)
    assert await reconcile.round() == Reconciled(promoted=0, rescued=1)
    assert (await store.get(job.id)).run_at == clock.now() + RETRY_DELAY


async def test_what_had_to_wait_gets_its_ticket_when_its_time_has_come(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    await lend_one(store)
    clock.advance(LEASE + A_MOMENT)
    await reconcile.round()
    tickets.published.clear()
    clock.advance(RETRY_DELAY)
    await reconcile.round()
    assert tickets.published == [(QUEUE, 1)]


async def test_without_rescue_leases_that_ran_out_are_left_alone(
    reconcile: Reconcile, store: FragileStore, events: RecordingEvents, clock: FakeClock
):
    held = await run_one(store)
    clock.advance(10 * LEASE)
    assert await reconcile.round(rescue=False) == Reconciled(promoted=0, rescued=0)
    assert await statuses(store, [held.id]) == {held.id: JobStatus.RUNNING}
    assert events.published == []


async def test_tickets_that_were_lost_are_replaced(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets
):
    await each(store, {}, {"queue": "gpu.speech"}, {"queue": "gpu.gone"})
    await store.beat(new_beat(queues=("gpu.llm", "gpu.speech", "gpu.gone")))
    await reconcile.round()
    assert sorted(tickets.published) == [("gpu.llm", 1), ("gpu.speech", 1)]


async def test_every_round_folds_the_tallies(
    reconcile: Reconcile, store: FragileStore, monkeypatch: pytest.MonkeyPatch
):
    folded: list[bool] = []

    async def fold_tallies() -> None:
        folded.append(True)

    monkeypatch.setattr(store, "fold_tallies", fold_tallies)
    await reconcile.round()
    assert folded == [True]
