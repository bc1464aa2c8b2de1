from __future__ import annotations

from datetime import timedelta

import pytest

from domain.errors import StorageUnavailable
from domain.events import REVOKED, JobEvent
from domain.job import Job, JobStatus, Priority
from domain.policy import Policies, QueuePolicy
from domain.ports import RescueTerms
from domain.routing import Routes
from domain.usecases.preempt import Preempt
from domain.usecases.reconcile import FOLDED_AT_LEAST_EVERY, PRUNED_EVERY, TENDED_EVERY, Reconcile, Reconciled
from domain.usecases.wake import Wake
from tests.factories import LEASE, NOW, QUEUE, new_beat, new_id
from tests.fakes import FakeClock, FragileStore, RecordingEvents, RecordingTickets, Told
from tests.moves import cancel, each, lend_one, one, run_one, statuses, take, taken_ids

MAX_CRASHES = 3
RETRY_DELAY = timedelta(seconds=7)
A_MOMENT = timedelta(microseconds=1)


@pytest.fixture
def reconcile(store: FragileStore, routes: Routes, wake: Wake, events: RecordingEvents, clock: FakeClock) -> Reconcile:
    preempt = Preempt(store, events)
    return Reconcile(
        store, store, lambda: routes, wake, preempt, events, RescueTerms(MAX_CRASHES, RETRY_DELAY), clock.monotonic
    )


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


async def test_what_was_not_started_by_its_deadline_is_cancelled_and_told(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents, clock: FakeClock
):
    late, _ = await each(store, {"deadline_at": NOW + LEASE}, {"deadline_at": NOW + 2 * LEASE})
    clock.advance(LEASE + A_MOMENT)
    assert await reconcile.round() == Reconciled(expired=1)
    assert events.published == [JobEvent(late.id, "beeline", "llm_chat", QUEUE, "cancelled", 2)]
    assert tickets.published == []
    assert "deadline" in told_of(await store.get(late.id))


async def test_one_whose_deadline_and_time_have_come_together_is_not_started(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    await one(store, run_at=NOW + LEASE, deadline_at=NOW + LEASE + A_MOMENT)
    clock.advance(2 * LEASE)
    assert await reconcile.round() == Reconciled(expired=1)
    assert tickets.published == []


async def test_what_has_waited_long_enough_is_ordered_as_more_urgent(
    reconcile: Reconcile, store: FragileStore, clock: FakeClock
):
    await store.queues.configure(Policies({QUEUE: QueuePolicy(ageing=LEASE)}), [])
    low = await one(store, priority=Priority.LOW)
    clock.advance(2 * LEASE)
    await one(store, priority=Priority.NORMAL)
    assert (await store.get(low.id)).level == Priority.LOW
    await reconcile.round()
    assert await taken_ids(store) == [low.id]
    assert (await store.get(low.id)).priority is Priority.LOW


async def test_slots_that_nobody_will_free_any_more_are_freed_and_used(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    await with_an_abandoned_slot(store, clock)
    await reconcile.round()
    assert tickets.published == [(QUEUE, 1)]
    assert len(await take(store)) == 1


async def test_without_rescue_they_are_left_alone(
    reconcile: Reconcile, store: FragileStore, tickets: RecordingTickets, clock: FakeClock
):
    """Their workers may live, and still have their calls open."""
    await with_an_abandoned_slot(store, clock)
    await reconcile.round(rescue=False)
    assert tickets.published == []
    assert await take(store) == []


async def with_an_abandoned_slot(store: FragileStore, clock: FakeClock) -> None:
    """The queue's only slot is that of a cancelled run whose worker is gone, and a job waits for it."""
    await store.queues.configure(Policies({QUEUE: QueuePolicy(concurrency=1)}), [])
    held = await run_one(store)
    await cancel(store, held.id)
    await one(store)
    clock.advance(LEASE + A_MOMENT)
    await store.beat(new_beat())


async def test_high_jobs_take_slots_in_every_queue(
    reconcile: Reconcile, store: FragileStore, events: RecordingEvents, clock: FakeClock
):
    preempts = QueuePolicy(preempt=True)
    await store.queues.configure(Policies({QUEUE: preempts, "gpu.speech": preempts}), [])
    await store.beat(new_beat(queues=(QUEUE, "gpu.speech"), slots_per_queue=1))
    for queue in (QUEUE, "gpu.speech"):
        await one(store, queue=queue, priority=Priority.LOW)
        await take(store, queue=queue)
        await one(store, queue=queue, priority=Priority.HIGH)
    assert await reconcile.round() == Reconciled(preempted=2)
    assert [(event.queue, event.kind) for event in events.published] == [
        (QUEUE, "pending"),
        (QUEUE, REVOKED),
        ("gpu.speech", "pending"),
        ("gpu.speech", REVOKED),
    ]


async def test_lines_are_tended_now_and_then(
    reconcile: Reconcile, store: FragileStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
):
    tended: list[float] = []

    async def tend_lines() -> None:
        tended.append(clock.monotonic())

    monkeypatch.setattr(store, "tend_lines", tend_lines)
    for _ in range(62):
        await reconcile.tidy()
        clock.advance(timedelta(seconds=1))
    assert tended == [0, TENDED_EVERY, 2 * TENDED_EVERY]


async def test_a_round_waits_for_no_housekeeping(
    reconcile: Reconcile, store: FragileStore, monkeypatch: pytest.MonkeyPatch
):
    """It may take long, and what is late by it is rescued late."""

    async def too_long() -> None:
        raise StorageUnavailable

    monkeypatch.setattr(store, "fold_tallies", too_long)
    monkeypatch.setattr(store, "tend_lines", too_long)
    assert await reconcile.round() == Reconciled()


async def test_lines_that_could_not_be_tended_stop_no_claims_again_at_once(
    reconcile: Reconcile, store: FragileStore, monkeypatch: pytest.MonkeyPatch
):
    tries: list[bool] = []

    async def too_long() -> None:
        tries.append(True)
        raise StorageUnavailable

    monkeypatch.setattr(store, "tend_lines", too_long)
    with pytest.raises(StorageUnavailable):
        await reconcile.tidy()
    await reconcile.tidy()
    assert len(tries) == 1


def told_of(job: Job) -> str:
    assert job.failure
    return job.failure.message


async def test_housekeeping_folds_the_tallies(
    reconcile: Reconcile, store: FragileStore, monkeypatch: pytest.MonkeyPatch
):
    folded: list[bool] = []

    async def fold_tallies() -> int:
        folded.append(True)
        return 1

    monkeypatch.setattr(store, "fold_tallies", fold_tallies)
    for _ in range(3):
        await reconcile.tidy()
    assert folded == 3 * [True]


async def test_while_nothing_changes_tallies_are_folded_now_and_then(
    reconcile: Reconcile, store: FragileStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
):
    folded: list[float] = []

    async def nothing_to_fold() -> int:
        folded.append(clock.monotonic())
        return 0

    monkeypatch.setattr(store, "fold_tallies", nothing_to_fold)
    for _ in range(8):
        await reconcile.tidy()
        clock.advance(timedelta(seconds=1))
    assert folded == [0, FOLDED_AT_LEAST_EVERY]


async def test_a_round_looks_only_for_what_a_policy_in_force_asks_for(
    reconcile: Reconcile, store: FragileStore, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    async def preempt(queue: str, alive_within: timedelta) -> list[JobEvent]:
        asked.append(queue)
        return []

    async def age() -> int:
        asked.append("age")
        return 0

    monkeypatch.setattr(store, "preempt", preempt)
    monkeypatch.setattr(store, "age", age)
    await reconcile.round(Policies())
    assert asked == []
    await reconcile.round(Policies({QUEUE: QueuePolicy(preempt=True, ageing=timedelta(minutes=1))}))
    assert asked == ["age", QUEUE]


async def test_uploads_that_nobody_needs_are_pruned_now_and_then(
    store: FragileStore, routes: Routes, wake: Wake, events: RecordingEvents, clock: FakeClock
):
    preempt, terms = Preempt(store, events), RescueTerms(MAX_CRASHES, RETRY_DELAY)
    reconcile = Reconcile(store, store, lambda: routes, wake, preempt, events, terms, clock.monotonic, store.uploads)
    reconcile.telemetry = told = Told()
    await reconcile.tidy()
    for upload_id in (new_id(), new_id()):
        await store.uploads.append(upload_id, 0, b"abc")
        await store.uploads.finish(upload_id, "beeline", chunks=1, size=3)
        await store.uploads.remove(upload_id)
    assert store.uploads._chunks
    await reconcile.tidy()
    assert store.uploads._chunks
    clock.advance(timedelta(seconds=PRUNED_EVERY))
    await reconcile.tidy()
    assert not store.uploads._chunks
    unused = new_id()
    await store.uploads.append(unused, 0, b"abc")
    await store.uploads.finish(unused, "beeline", chunks=1, size=3)
    clock.advance(timedelta(hours=25))
    await reconcile.tidy()
    assert told.removed == [("uploads", "", 1)]
