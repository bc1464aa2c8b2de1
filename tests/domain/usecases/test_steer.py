from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from domain.access import ANYBODY, Caller
from domain.errors import BadInput, Forbidden, InvalidTransition, JobNotFound
from domain.events import JobEvent
from domain.job import CANCELLED_BY_CALLER, Job, JobId, JobStatus
from domain.ports import JobFilter, Listing
from domain.usecases import steer as steering
from domain.usecases.steer import Erased, Steer, Steered
from domain.usecases.wake import Wake
from tests.factories import NOW, QUEUE, new_id
from tests.fakes import FragileStore, RecordingEvents, RecordingTickets
from tests.moves import (
    cancel,
    complete,
    each,
    fail,
    found,
    ids,
    lend_one,
    one,
    run_one,
    settle,
    several,
    statuses,
    take,
)

LION = Caller(owner="lion")
AN_HOUR = timedelta(hours=1)

Act = Callable[[Steer, Caller, JobId], Awaitable[Any]]
ACTS: dict[str, Act] = {
    "cancel": lambda steer, caller, job_id: steer.cancel(caller, job_id),
    "retry": lambda steer, caller, job_id: steer.retry(caller, job_id),
    "erase": lambda steer, caller, job_id: steer.erase(caller, job_id),
}
every_act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)


@pytest.fixture
def steer(store: FragileStore, wake: Wake, events: RecordingEvents) -> Steer:
    return Steer(store, wake, events)


async def completed(store: FragileStore, **changes: Any) -> JobId:
    held = await run_one(store, **changes)
    await settle(store, complete(held))
    return held.id


async def failed(store: FragileStore, **changes: Any) -> JobId:
    held = await run_one(store, **changes)
    await settle(store, fail(held))
    return held.id


async def cancelled(store: FragileStore, **changes: Any) -> JobId:
    job = await one(store, **changes)
    await cancel(store, job.id)
    return job.id


async def in_every_state(store: FragileStore, **changes: Any) -> dict[JobStatus, JobId]:
    """One job of each: the pending and the running one come last, so that nothing takes them."""
    final = {
        JobStatus.COMPLETED: await completed(store, **changes),
        JobStatus.FAILED: await failed(store, **changes),
        JobStatus.CANCELLED: await cancelled(store, **changes),
    }
    running = (await run_one(store, **changes)).id
    return {**final, JobStatus.RUNNING: running, JobStatus.PENDING: (await one(store, **changes)).id}


@every_act
async def test_an_unknown_job_cannot_be_steered(steer: Steer, act: Act):
    with pytest.raises(JobNotFound):
        await act(steer, ANYBODY, new_id())


@every_act
async def test_another_owners_job_does_not_exist_and_does_not_change(steer: Steer, store: FragileStore, act: Act):
    job_id = await cancelled(store, owner_service="bear")
    before = await store.get(job_id)
    with pytest.raises(JobNotFound):
        await act(steer, LION, job_id)
    assert await store.get(job_id) == before


class TestCancel:
    async def test_a_cancelled_job_wakes_nobody_and_is_told(
        self, steer: Steer, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        job = await one(store)
        told = await steer.cancel(ANYBODY, job.id)
        assert (told.status, told.failure) == (JobStatus.CANCELLED, CANCELLED_BY_CALLER)
        assert tickets.published == []
        assert events.published == [JobEvent(job.id, "beeline", "llm_chat", QUEUE, "cancelled", 2)]

    async def test_cancelling_a_running_job_takes_it_from_its_worker(self, steer: Steer, store: FragileStore):
        held = await run_one(store)
        await steer.cancel(ANYBODY, held.id)
        assert await store.renew([held.lease], timedelta(seconds=30)) == {held.lease}

    async def test_twice_is_once(self, steer: Steer, store: FragileStore, events: RecordingEvents):
        job = await one(store)
        assert await steer.cancel(ANYBODY, job.id) == await steer.cancel(ANYBODY, job.id)
        assert len(events.published) == 1

    @pytest.mark.parametrize("ended", [completed, failed])
    async def test_a_job_that_has_ended_cannot_be_cancelled(
        self, steer: Steer, store: FragileStore, events: RecordingEvents, ended: Any
    ):
        job_id = await ended(store)
        with pytest.raises(InvalidTransition):
            await steer.cancel(ANYBODY, job_id)
        assert events.published == []

    async def test_a_job_that_is_retried_at_the_same_moment_is_cancelled_all_the_same(
        self, steer: Steer, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        """The first attempt met the failed job, the look after it the retried one."""
        job_id = await failed(store)
        get, looks = store.get, iter(range(9))

        async def retried_meanwhile(asked: JobId) -> Job:
            if next(looks) == 1:
                await store.retry([job_id])
            return await get(asked)

        monkeypatch.setattr(store, "get", retried_meanwhile)
        assert (await steer.cancel(ANYBODY, job_id)).status is JobStatus.CANCELLED


class TestRetry:
    async def test_a_retried_job_wakes_a_worker_even_if_it_was_planned_for_later(
        self, steer: Steer, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        job_id = await cancelled(store, run_at=NOW + AN_HOUR)
        assert (await steer.retry(ANYBODY, job_id)).due
        assert tickets.published == [(QUEUE, 1)]
        assert events.published[0] == JobEvent(job_id, "beeline", "llm_chat", QUEUE, "pending", 3)

    async def test_a_retried_job_without_a_queue_wakes_nobody_and_is_told(
        self, steer: Steer, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        job_id = await cancelled(store, queue=None)
        assert (await steer.retry(ANYBODY, job_id)).status is JobStatus.PENDING
        assert (tickets.published, events.published[0].kind) == ([], "pending")

    async def test_a_running_job_is_taken_from_its_worker(self, steer: Steer, store: FragileStore):
        job = await lend_one(store)
        assert (await steer.retry(ANYBODY, job.id)).lease is None

    async def test_the_worker_of_a_running_job_is_told_that_it_lost_it(
        self, steer: Steer, store: FragileStore, events: RecordingEvents
    ):
        held = await run_one(store)
        await steer.retry(ANYBODY, held.id)
        assert [(event.job_id, event.kind, event.number) for event in events.published] == [
            (held.id, "pending", 3),
            (held.id, "revoked", 3),
        ]

    async def test_where_no_running_job_is_meant_no_worker_is_told(
        self, steer: Steer, store: FragileStore, events: RecordingEvents
    ):
        await failed(store)
        await steer.retry_all(ANYBODY, JobFilter(status=(JobStatus.FAILED,)), dry_run=False)
        assert [event.kind for event in events.published] == ["pending"]

    async def test_a_retry_that_is_refused_wakes_nobody(
        self, steer: Steer, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        job = await one(store)
        with pytest.raises(InvalidTransition):
            await steer.retry(ANYBODY, job.id)
        assert (tickets.published, events.published) == ([], [])


class TestErase:
    @pytest.mark.parametrize("ended", [completed, failed, cancelled])
    async def test_a_job_that_has_ended_is_gone(self, steer: Steer, store: FragileStore, ended: Any):
        job_id = await ended(store, owner_service="lion")
        await steer.erase(LION, job_id)
        with pytest.raises(JobNotFound):
            await store.get(job_id)

    async def test_twice_it_is_not_found(self, steer: Steer, store: FragileStore):
        job_id = await completed(store)
        await steer.erase(ANYBODY, job_id)
        with pytest.raises(JobNotFound):
            await steer.erase(ANYBODY, job_id)

    async def test_a_job_that_has_not_ended_stays(self, steer: Steer, store: FragileStore):
        jobs = await in_every_state(store)
        for status in (JobStatus.PENDING, JobStatus.RUNNING):
            with pytest.raises(InvalidTransition, match=status):
                await steer.erase(ANYBODY, jobs[status])
        assert set(jobs.values()) == set(await found(store))


class TestByFilter:
    async def test_without_a_state_what_has_not_ended_is_cancelled(self, steer: Steer, store: FragileStore):
        jobs = await in_every_state(store)
        assert await steer.cancel_all(ANYBODY, JobFilter(), dry_run=False) == Steered(matched=2, changed=2)
        assert await statuses(store, list(jobs.values())) == {
            jobs[JobStatus.COMPLETED]: JobStatus.COMPLETED,
            jobs[JobStatus.FAILED]: JobStatus.FAILED,
            **dict.fromkeys(
                (jobs[JobStatus.CANCELLED], jobs[JobStatus.RUNNING], jobs[JobStatus.PENDING]), JobStatus.CANCELLED
            ),
        }

    async def test_without_a_state_what_failed_or_runs_is_retried(self, steer: Steer, store: FragileStore):
        jobs = await in_every_state(store)
        assert await steer.retry_all(ANYBODY, JobFilter(), dry_run=False) == Steered(matched=2, changed=2)
        assert await found(store, JobFilter(status=(JobStatus.PENDING,)), newest_first=False) == [
            jobs[JobStatus.FAILED],
            jobs[JobStatus.RUNNING],
            jobs[JobStatus.PENDING],
        ]

    async def test_a_state_that_is_named_is_taken_at_its_word(self, steer: Steer, store: FragileStore):
        jobs = await in_every_state(store)
        named = JobFilter(status=(JobStatus.CANCELLED, JobStatus.COMPLETED))
        assert await steer.retry_all(ANYBODY, named, dry_run=False) == Steered(matched=2, changed=1)
        assert (await store.get(jobs[JobStatus.CANCELLED])).status is JobStatus.PENDING

    async def test_a_job_that_starts_before_it_is_moved_is_left_alone_where_only_waiting_ones_were_meant(
        self, steer: Steer, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        job = await one(store)
        find = store.find

        async def starts_meanwhile(listing: Listing) -> list[Job]:
            seen = await find(listing)
            await take(store)
            return seen

        monkeypatch.setattr(store, "find", starts_meanwhile)
        waiting = JobFilter(status=(JobStatus.PENDING,))
        assert await steer.cancel_all(ANYBODY, waiting, dry_run=False) == Steered(matched=1, changed=0)
        assert (await store.get(job.id)).status is JobStatus.RUNNING

    async def test_only_what_matches_changes(self, steer: Steer, store: FragileStore):
        red, blue = await each(store, {"labels": {"team": "red"}}, {"labels": {"team": "blue"}})
        where = JobFilter(labels=(("team", ("red",)),))
        assert await steer.cancel_all(ANYBODY, where, dry_run=False) == Steered(matched=1, changed=1)
        assert await statuses(store, [red.id, blue.id]) == {red.id: JobStatus.CANCELLED, blue.id: JobStatus.PENDING}

    async def test_nothing_matches(self, steer: Steer, tickets: RecordingTickets, events: RecordingEvents):
        assert await steer.retry_all(ANYBODY, JobFilter(), dry_run=False) == Steered(matched=0, changed=0)
        assert (tickets.published, events.published) == ([], [])

    async def test_a_dry_run_counts_and_changes_nothing(
        self, steer: Steer, store: FragileStore, tickets: RecordingTickets, events: RecordingEvents
    ):
        jobs = await in_every_state(store)
        assert await steer.cancel_all(ANYBODY, JobFilter(), dry_run=True) == Steered(matched=2, changed=0)
        assert await steer.retry_all(ANYBODY, JobFilter(), dry_run=True) == Steered(matched=2, changed=0)
        assert await statuses(store, list(jobs.values())) == {job_id: status for status, job_id in jobs.items()}
        assert (tickets.published, events.published) == ([], [])

    async def test_everything_that_changed_is_told(self, steer: Steer, store: FragileStore, events: RecordingEvents):
        first, second = await several(store, 2)
        await steer.cancel_all(ANYBODY, JobFilter(), dry_run=False)
        assert [(event.job_id, event.kind) for event in events.published] == [
            (first.id, "cancelled"),
            (second.id, "cancelled"),
        ]

    async def test_retried_jobs_wake_workers_by_queue(
        self, steer: Steer, store: FragileStore, tickets: RecordingTickets
    ):
        jobs = await each(store, {}, {}, {"queue": "gpu.speech"}, {"queue": None})
        await cancel(store, *(job.id for job in jobs))
        await steer.retry_all(ANYBODY, JobFilter(status=(JobStatus.CANCELLED,)), dry_run=False)
        assert sorted(tickets.published) == [(QUEUE, 2), ("gpu.speech", 1)]

    @pytest.mark.parametrize("jobs", [2, 3, 4, 5])
    async def test_more_than_one_commit_moves_are_moved_in_several_each_job_once(
        self, steer: Steer, store: FragileStore, monkeypatch: pytest.MonkeyPatch, jobs: int
    ):
        monkeypatch.setattr(steering, "CHUNK", 2)
        moved: list[JobId] = []
        move = store.cancel

        async def watched(job_ids: Sequence[JobId], *rest: Any) -> list[JobEvent]:
            moved.extend(job_ids)
            assert len(job_ids) <= 2
            return await move(job_ids, *rest)

        monkeypatch.setattr(store, "cancel", watched)
        added = await several(store, jobs)
        assert await steer.cancel_all(ANYBODY, JobFilter(), dry_run=False) == Steered(matched=jobs, changed=jobs)
        assert moved == [job.id for job in added]

    async def test_a_job_that_left_the_named_state_since_it_was_found_is_not_moved(
        self, steer: Steer, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        first, second = await several(store, 2)
        find = store.find

        async def claimed_at_once(listing: Listing) -> list[Job]:
            jobs = await find(listing)
            await take(store)
            return jobs

        monkeypatch.setattr(store, "find", claimed_at_once)
        waiting = JobFilter(status=(JobStatus.PENDING,))
        assert await steer.cancel_all(ANYBODY, waiting, dry_run=False) == Steered(matched=2, changed=1)
        assert await statuses(store, ids([first, second])) == {
            first.id: JobStatus.RUNNING,
            second.id: JobStatus.CANCELLED,
        }

    async def test_a_job_that_comes_to_match_again_is_not_moved_twice(
        self, steer: Steer, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        """Retried jobs are taken at once by a busy worker, and running ones match."""
        monkeypatch.setattr(steering, "CHUNK", 2)
        await several(store, 5)
        await take(store, limit=9)
        retry = store.retry

        async def taken_at_once(job_ids: Sequence[JobId], *rest: Any) -> list[JobEvent]:
            events = await retry(job_ids, *rest)
            await take(store, limit=9)
            return events

        monkeypatch.setattr(store, "retry", taken_at_once)
        assert await steer.retry_all(ANYBODY, JobFilter(), dry_run=False) == Steered(matched=5, changed=5)


class TestOnlyOwn:
    async def test_a_caller_steers_its_own_owners_jobs_only(self, steer: Steer, store: FragileStore):
        other, own = await each(store, {"owner_service": "bear"}, {"owner_service": "lion"})
        for dry_run in (True, False):
            assert (await steer.cancel_all(LION, JobFilter(), dry_run=dry_run)).matched == 1
        assert await statuses(store, [other.id, own.id]) == {other.id: JobStatus.PENDING, own.id: JobStatus.CANCELLED}

    async def test_not_even_by_naming_their_ids(self, steer: Steer, store: FragileStore):
        other = await one(store, owner_service="bear")
        assert await steer.cancel_all(LION, JobFilter(ids=(other.id,)), dry_run=False) == Steered(0, 0)

    async def test_to_name_another_owner_is_forbidden(self, steer: Steer):
        theirs = JobFilter(owner_service=("bear",))
        with pytest.raises(Forbidden):
            await steer.cancel_all(LION, theirs, dry_run=False)
        with pytest.raises(Forbidden):
            await steer.retry_all(LION, theirs, dry_run=True)
        with pytest.raises(Forbidden):
            await steer.erase_all(LION, "bear", "call/7")


class TestEraseAll:
    async def test_what_has_ended_of_a_reference_goes_and_the_rest_is_counted(self, steer: Steer, store: FragileStore):
        jobs = await in_every_state(store, owner_service="lion", owner_ref="call/7")
        assert await steer.erase_all(ANYBODY, "lion", "call/7") == Erased(erased=3, unfinished=2)
        assert set(await found(store)) == {jobs[JobStatus.RUNNING], jobs[JobStatus.PENDING]}

    async def test_other_references_and_other_owners_stay(self, steer: Steer, store: FragileStore):
        gone = await cancelled(store, owner_service="lion", owner_ref="call/7")
        stay = [
            await cancelled(store, owner_service="lion", owner_ref="call/77"),
            await cancelled(store, owner_service="lion"),
            await cancelled(store, owner_service="bear", owner_ref="call/7"),
        ]
        assert await steer.erase_all(LION, None, "call/7") == Erased(erased=1, unfinished=0)
        assert gone not in await found(store)
        assert set(stay) == set(await found(store))

    async def test_again_there_is_nothing(self, steer: Steer, store: FragileStore):
        await cancelled(store, owner_service="lion", owner_ref="call/7")
        await steer.erase_all(LION, "lion", "call/7")
        assert await steer.erase_all(LION, "lion", "call/7") == Erased(erased=0, unfinished=0)

    async def test_whose_jobs_must_be_said(self, steer: Steer):
        with pytest.raises(BadInput) as refusal:
            await steer.erase_all(ANYBODY, None, "call/7")
        assert [problem.pointer for problem in refusal.value.problems] == ["/owner_service"]
