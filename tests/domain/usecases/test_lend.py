from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from domain.access import ANYBODY, Caller
from domain.circuit import Circuit, CircuitState
from domain.errors import BadInput, ErrorCode, Failure, Forbidden, JobNotFound, LeaseLost, TooLarge
from domain.events import JobEvent
from domain.job import Job, JobStatus, Lease
from domain.policy import Policies, QueuePolicy
from domain.ports import RescueTerms
from domain.usecases.guard import Guard
from domain.usecases.lend import Lend
from domain.usecases.wake import Wake
from domain.usecases.work import Work
from tests.domain.usecases.conftest import FAST
from tests.factories import LEASE, QUEUE, external_claim, new_lease
from tests.fakes import FakeClock, FakeHealth, FragileStore, RecordingEvents, RecordingTickets
from tests.moves import cancel, each, ids, lease_of, lend_one, one, run_one, several, take

LION, BEAR = Caller(owner="lion"), Caller(owner="bear")
LIMIT = 1_000
RESULT = b'{"answer": 42}'
BUSY = Failure(ErrorCode.TIMEOUT, "No answer.")
A_MOMENT = timedelta(microseconds=1)

End = Callable[[Lend, Caller, Lease], Awaitable[Any]]
ENDS: dict[str, End] = {
    "complete": lambda lend, caller, lease: lend.complete(caller, lease, RESULT),
    "fail": lambda lend, caller, lease: lend.fail(caller, lease, BUSY),
    "release": lambda lend, caller, lease: lend.release(caller, lease),
}
REPORTS: dict[str, End] = {
    **ENDS,
    "heartbeat": lambda lend, caller, lease: lend.report(caller, lease, None),
    "progress": lambda lend, caller, lease: lend.report(caller, lease, Raw(b"{}")),
}
every_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


@pytest.fixture
def lend(store: FragileStore, work: Work, wake: Wake, events: RecordingEvents) -> Lend:
    return Lend(store, work, wake, events, LIMIT)


def event(job: Job, kind: str, number: int) -> JobEvent:
    return JobEvent(job.id, job.owner_service, job.task_type, job.queue, kind, number)


class TestClaim:
    async def test_claimed_jobs_come_whole_with_their_lease_and_are_told(
        self, lend: Lend, store: FragileStore, events: RecordingEvents
    ):
        first, second = await several(store, 2)
        claimed = await lend.claim(ANYBODY, external_claim(limit=9))
        assert claimed == [await store.get(first.id), await store.get(second.id)]
        assert all(job.lease and job.input for job in claimed)
        assert events.published == [event(job, "running", 2) for job in claimed]

    async def test_nothing_to_do_is_no_news(self, lend: Lend, events: RecordingEvents):
        assert await lend.claim(ANYBODY, external_claim()) == []
        assert events.published == []

    async def test_a_caller_with_an_owner_gets_that_owners_jobs(self, lend: Lend, store: FragileStore):
        _, own = await each(store, {"owner_service": "bear"}, {"owner_service": "lion"})
        assert ids(await lend.claim(LION, external_claim(limit=9))) == [own.id]

    async def test_a_caller_without_an_owner_may_name_some(self, lend: Lend, store: FragileStore):
        lion, _, bear = await each(store, *({"owner_service": name} for name in ("lion", "wolf", "bear")))
        wanted = external_claim(limit=9, owner_services=("lion", "bear"))
        assert ids(await lend.claim(ANYBODY, wanted)) == [lion.id, bear.id]

    async def test_to_claim_another_owners_jobs_is_forbidden(self, lend: Lend, store: FragileStore):
        job = await one(store, owner_service="bear")
        with pytest.raises(Forbidden):
            await lend.claim(LION, external_claim(owner_services=("lion", "bear")))
        assert (await store.get(job.id)).status is JobStatus.PENDING


class TestReport:
    async def test_a_heartbeat_keeps_the_job_for_another_while(
        self, lend: Lend, store: FragileStore, clock: FakeClock, events: RecordingEvents
    ):
        job = await lend_one(store)
        clock.advance(LEASE / 2)
        assert await lend.report(ANYBODY, lease_of(job), None) == clock.now() + LEASE
        assert (await store.get(job.id)).lease_expires_at == clock.now() + LEASE
        assert events.published == []

    async def test_progress_is_kept_and_told_with_the_number_of_its_run(
        self, lend: Lend, store: FragileStore, events: RecordingEvents
    ):
        job = await lend_one(store)
        await lend.report(ANYBODY, lease_of(job), Raw(b'{"done": 7}'))
        assert (await store.get(job.id)).progress == Raw(b'{"done": 7}')
        assert events.published == [event(job, "progress", 2)]

    async def test_a_built_in_run_is_not_reported_on_from_outside(self, lend: Lend, store: FragileStore):
        held = await run_one(store)
        with pytest.raises(LeaseLost):
            await lend.report(ANYBODY, held.lease, None)


class TestComplete:
    async def test_the_result_is_stored_and_told(self, lend: Lend, store: FragileStore, events: RecordingEvents):
        job = await lend_one(store)
        completed = await lend.complete(ANYBODY, lease_of(job), RESULT)
        assert (completed.status, completed.result, completed.attempts) == (JobStatus.COMPLETED, Raw(RESULT), 1)
        assert completed == await store.get(job.id)
        assert events.published == [event(job, "completed", 3)]

    @pytest.mark.parametrize("again", [RESULT, b'{ "answer":42 }'])
    async def test_the_same_completion_again_is_a_success_that_changes_nothing(
        self, lend: Lend, store: FragileStore, clock: FakeClock, again: bytes
    ):
        job = await lend_one(store)
        completed = await lend.complete(ANYBODY, lease_of(job), RESULT)
        clock.advance(LEASE)
        assert await lend.complete(ANYBODY, lease_of(job), again) == completed

    async def test_another_result_under_an_ended_lease_is_lost(self, lend: Lend, store: FragileStore):
        job = await lend_one(store)
        completed = await lend.complete(ANYBODY, lease_of(job), RESULT)
        with pytest.raises(LeaseLost):
            await lend.complete(ANYBODY, lease_of(job), b'{"answer": 43}')
        assert await store.get(job.id) == completed

    async def test_a_result_may_be_as_large_as_the_limit(self, lend: Lend, store: FragileStore):
        job = await lend_one(store)
        assert (await lend.complete(ANYBODY, lease_of(job), result_of(LIMIT))).status is JobStatus.COMPLETED

    async def test_a_result_over_the_limit_is_refused_and_the_run_goes_on(self, lend: Lend, store: FragileStore):
        job = await lend_one(store)
        with pytest.raises(TooLarge, match=str(LIMIT + 1)):
            await lend.complete(ANYBODY, lease_of(job), result_of(LIMIT + 1))
        assert await store.get(job.id) == job

    async def test_a_result_that_claims_our_schema_must_fit_it_and_the_run_goes_on(
        self, lend: Lend, store: FragileStore
    ):
        job = await lend_one(store)
        with pytest.raises(BadInput) as refusal:
            await lend.complete(ANYBODY, lease_of(job), chat_result(content=5))
        assert [problem.pointer for problem in refusal.value.problems] == ["/result/content"]
        assert await store.get(job.id) == job

    @pytest.mark.parametrize("changes", [{}, {"schema_version": "theirs.v1", "content": 5}])
    async def test_a_result_that_fits_or_is_of_their_own_making_is_stored(
        self, lend: Lend, store: FragileStore, changes: dict[str, object]
    ):
        job = await lend_one(store)
        await lend.complete(ANYBODY, lease_of(job), chat_result(**changes))
        assert (await store.get(job.id)).result == Raw(chat_result(**changes))


def result_of(size: int) -> bytes:
    return b'{"text": "' + b"x" * (size - len(b'{"text": ""}')) + b'"}'


def chat_result(**changes: object) -> bytes:
    fits = {"schema_version": "ai.chat_result.v1", "content": "Hello", "model": "theirs", "duration_ms": 3}
    return msgspec.json.encode({**fits, **changes})


class TestFail:
    async def test_a_failure_follows_the_retry_table(
        self, lend: Lend, store: FragileStore, clock: FakeClock, events: RecordingEvents
    ):
        job = await lend_one(store)
        failed = await lend.fail(ANYBODY, lease_of(job), BUSY)
        assert (failed.status, failed.attempts, failed.failure) == (JobStatus.PENDING, 1, BUSY)
        assert failed.run_at == clock.now() + FAST
        assert events.published == [event(job, "pending", 3)]

    async def test_the_last_attempt_fails_the_job(self, lend: Lend, store: FragileStore, events: RecordingEvents):
        job = await lend_one(store, max_attempts=1)
        assert (await lend.fail(ANYBODY, lease_of(job), BUSY)).status is JobStatus.FAILED
        assert events.published == [event(job, "failed", 3)]

    async def test_what_the_provider_asked_for_lengthens_the_wait(
        self, lend: Lend, store: FragileStore, clock: FakeClock
    ):
        job = await lend_one(store)
        asked = Failure(ErrorCode.TIMEOUT, retry_after=10 * FAST)
        assert (await lend.fail(ANYBODY, lease_of(job), asked)).run_at == clock.now() + 10 * FAST

    async def test_a_limited_provider_gives_the_job_back_uncounted(self, lend: Lend, store: FragileStore):
        job = await lend_one(store)
        back = await lend.fail(ANYBODY, lease_of(job), Failure(ErrorCode.RATE_LIMITED))
        assert (back.status, back.attempts, back.give_backs) == (JobStatus.PENDING, 0, 1)

    @pytest.mark.parametrize("code", [ErrorCode.TIMEOUT, ErrorCode.BAD_INPUT, ErrorCode.RATE_LIMITED])
    async def test_the_same_failure_again_changes_nothing(self, lend: Lend, store: FragileStore, code: ErrorCode):
        job = await lend_one(store)
        failed = await lend.fail(ANYBODY, lease_of(job), Failure(code))
        assert await lend.fail(ANYBODY, lease_of(job), Failure(code)) == failed

    async def test_another_failure_of_an_ended_run_is_refused(self, lend: Lend, store: FragileStore):
        job = await lend_one(store)
        failed = await lend.fail(ANYBODY, lease_of(job), Failure(ErrorCode.RATE_LIMITED))
        with pytest.raises(LeaseLost):
            await lend.fail(ANYBODY, lease_of(job), Failure(ErrorCode.BAD_INPUT))
        assert await store.get(job.id) == failed


class TestRelease:
    async def test_a_released_job_is_back_in_its_place_unharmed_and_wakes_a_worker(
        self, lend: Lend, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        job = await lend_one(store)
        younger = await one(store)
        released = await lend.release(ANYBODY, lease_of(job))
        assert (released.status, released.attempts, released.due) == (JobStatus.PENDING, 0, True)
        assert tickets.published == [(QUEUE, 1)]
        assert events.published == [event(job, "pending", 3)]
        assert [held.id for held in await take(store, limit=9)] == [job.id, younger.id]

    async def test_the_same_release_again_changes_nothing(self, lend: Lend, store: FragileStore):
        job = await lend_one(store)
        released = await lend.release(ANYBODY, lease_of(job))
        assert await lend.release(ANYBODY, lease_of(job)) == released

    async def test_a_job_without_a_queue_wakes_nobody(self, lend: Lend, store: FragileStore, tickets: RecordingTickets):
        job = await lend_one(store, queue=None)
        await lend.release(ANYBODY, lease_of(job))
        assert tickets.published == []

    async def test_the_slot_that_a_run_leaves_wakes_a_worker_though_its_job_must_wait(
        self, lend: Lend, store: FragileStore, tickets: RecordingTickets
    ):
        job = await lend_one(store)
        await lend.fail(ANYBODY, lease_of(job), BUSY)
        assert tickets.published == [(QUEUE, 1)]


async def by_a_cancel(store: FragileStore, clock: FakeClock, job: Job) -> None:
    await cancel(store, job.id)


async def by_a_retry(store: FragileStore, clock: FakeClock, job: Job) -> None:
    await store.retry([job.id])


async def by_a_rescue_and_another_run(store: FragileStore, clock: FakeClock, job: Job) -> None:
    clock.advance(LEASE + A_MOMENT)
    await store.rescue(RescueTerms(3, timedelta(0)))
    await store.claim(external_claim(worker_id="another"))


class TestLost:
    @every_report
    @pytest.mark.parametrize("lost", [by_a_cancel, by_a_retry])
    async def test_a_lost_lease_changes_nothing(
        self, lend: Lend, store: FragileStore, clock: FakeClock, events: RecordingEvents, report: End, lost: Any
    ):
        job = await lend_one(store)
        await lost(store, clock, job)
        before = await store.get(job.id)
        with pytest.raises(LeaseLost):
            await report(lend, ANYBODY, lease_of(job))
        assert (await store.get(job.id), events.published) == (before, [])

    @every_report
    async def test_a_rescued_job_is_another_workers_business(
        self, lend: Lend, store: FragileStore, clock: FakeClock, report: End
    ):
        job = await lend_one(store)
        await by_a_rescue_and_another_run(store, clock, job)
        before = await store.get(job.id)
        with pytest.raises(LeaseLost):
            await report(lend, ANYBODY, lease_of(job))
        assert await store.get(job.id) == before

    @every_report
    async def test_a_lease_that_was_never_given_out_is_lost(self, lend: Lend, store: FragileStore, report: End):
        job = await lend_one(store)
        with pytest.raises(LeaseLost):
            await report(lend, ANYBODY, new_lease(job.id))
        assert await store.get(job.id) == job

    @every_report
    async def test_an_unknown_job_is_not_found(self, lend: Lend, report: End):
        with pytest.raises(JobNotFound):
            await report(lend, ANYBODY, new_lease())

    @every_report
    async def test_another_owners_job_is_not_found_whatever_the_lease(
        self, lend: Lend, store: FragileStore, report: End
    ):
        job = await lend_one(store, owner_service="lion")
        with pytest.raises(JobNotFound):
            await report(lend, BEAR, lease_of(job))
        assert await store.get(job.id) == job

    @pytest.mark.parametrize(
        ("first", "then"),
        [(first, then) for first in ENDS for then in ENDS if first != then],
    )
    async def test_a_run_that_has_ended_cannot_end_otherwise(
        self, lend: Lend, store: FragileStore, first: str, then: str
    ):
        job = await lend_one(store)
        await ENDS[first](lend, ANYBODY, lease_of(job))
        before = await store.get(job.id)
        with pytest.raises(LeaseLost):
            await ENDS[then](lend, ANYBODY, lease_of(job))
        assert await store.get(job.id) == before

    @every_end
    async def test_a_run_that_is_lost_between_the_look_and_the_end_changes_nothing(
        self, lend: Lend, store: FragileStore, monkeypatch: pytest.MonkeyPatch, end: End
    ):
        job = await lend_one(store)
        get = store.get

        async def cancelled_meanwhile(asked: Any) -> Job:
            seen = await get(asked)
            await cancel(store, asked)
            return seen

        monkeypatch.setattr(store, "get", cancelled_meanwhile)
        with pytest.raises(LeaseLost):
            await end(lend, ANYBODY, lease_of(job))
        assert (await get(job.id)).status is JobStatus.CANCELLED


class TestSlots:
    """One slot, and a job that waits for it."""

    @pytest.fixture
    async def lent(self, store: FragileStore) -> Job:
        """It has the slot."""
        await store.queues.configure(Policies({QUEUE: QueuePolicy(concurrency=1)}), [])
        job = await lend_one(store)
        await one(store)
        return job

    @every_end
    async def test_a_run_that_ends_frees_its_slot(self, lend: Lend, store: FragileStore, lent: Job, end: End):
        assert await take(store) == []
        await end(lend, ANYBODY, lease_of(lent))
        assert len(await take(store)) == 1

    @every_end
    @pytest.mark.parametrize("lost", [by_a_cancel, by_a_retry])
    async def test_one_that_has_lost_its_job_does_so_too_although_it_is_told_so(
        self, lend: Lend, store: FragileStore, clock: FakeClock, lent: Job, lost: Any, end: End
    ):
        await lost(store, clock, lent)
        assert await take(store) == []
        with pytest.raises(LeaseLost):
            await end(lend, ANYBODY, lease_of(lent))
        assert len(await take(store)) == 1

    @every_end
    async def test_one_whose_job_is_erased_does_so_too(self, lend: Lend, store: FragileStore, lent: Job, end: End):
        await cancel(store, lent.id)
        await store.erase([lent.id])
        assert await take(store) == []
        with pytest.raises(JobNotFound):
            await end(lend, ANYBODY, lease_of(lent))
        assert len(await take(store)) == 1

    @every_end
    async def test_it_is_free_only_once(self, lend: Lend, store: FragileStore, clock: FakeClock, lent: Job, end: End):
        await cancel(store, lent.id)
        for _ in range(2):
            with pytest.raises(LeaseLost):
                await end(lend, ANYBODY, lease_of(lent))
            await take(store, limit=9)
        assert store.busy()[QUEUE] == 1

    async def test_a_heartbeat_frees_nothing(self, lend: Lend, store: FragileStore, lent: Job):
        await cancel(store, lent.id)
        with pytest.raises(LeaseLost):
            await lend.report(ANYBODY, lease_of(lent), None)
        assert await take(store) == []

    @every_end
    async def test_another_owner_frees_nothing(self, lend: Lend, store: FragileStore, lent: Job, end: End):
        await cancel(store, lent.id)
        with pytest.raises(JobNotFound):
            await end(lend, BEAR, lease_of(lent))
        assert await take(store) == []


class TestTrial:
    async def test_an_external_run_that_was_let_through_a_half_open_circuit_closes_it_by_its_success(
        self, lend: Lend, work: Work, store: FragileStore
    ):
        guard = Guard(store.queues, FakeHealth(), threshold=5)
        lend = replace(lend, work=replace(work, guard=guard))
        await store.queues.change_circuit(QUEUE, lambda _circuit, _now: Circuit(CircuitState.HALF_OPEN))
        job = await lend_one(store)
        await lend.complete(ANYBODY, lease_of(job), RESULT)
        assert await store.queues.change_circuit(QUEUE, lambda circuit, _now: circuit) == Circuit()
