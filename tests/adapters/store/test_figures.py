"""How many jobs there are, and how fast they go."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from domain.job import JobStatus, Priority
from domain.ports import Durations, JobStore, Listing, Pace, Quantiles, Tally
from tests.adapters.rigs import Rig
from tests.adapters.store.states import (
    A_MINUTE,
    STATES,
    State,
    cancelled,
    cancelled_running,
    completed,
    crashed,
    expired,
    failed,
    given_back,
    released,
    rescue_late,
    running,
    waiting,
)
from tests.factories import PROFILE, QUEUE
from tests.moves import (
    ENDINGS,
    WAIT,
    cancel,
    complete,
    each,
    ids,
    lend,
    lend_one,
    one,
    run_one,
    settle,
    several,
    take,
    try_again,
)

TEN_SECONDS = timedelta(seconds=10)
LATELY = timedelta(minutes=5)


async def run_for(rig: Rig, seconds: float, **changes: Any) -> None:
    """A run that took so long, alone, and began the moment that its job was due."""
    held = await run_one(rig.store, **changes)
    await rig.advance(timedelta(seconds=seconds))
    await settle(rig.store, complete(held))


async def counted(store: JobStore) -> Counter[Tally]:
    """What the tallies have to be: every job is counted in its kind."""
    return Counter(
        Tally(
            job.owner_service,
            job.queue,
            job.task_type,
            job.model_profile,
            job.priority,
            job.status,
            job.status is JobStatus.PENDING and job.due,
            job.failure.code if job.failure else None,
            0,
        )
        for job in await store.find(Listing(limit=10_000))
    )


async def tallied(store: JobStore) -> dict[Tally, int]:
    tallies = await store.tallies()
    kinds = {replace(tally, jobs=0): tally.jobs for tally in tallies}
    assert len(kinds) == len(tallies)
    return kinds


async def check(store: JobStore) -> None:
    """Also while what has changed is being summed up, and after it."""
    assert await tallied(store) == await counted(store)
    await store.fold_tallies()
    assert await tallied(store) == await counted(store)


class TestTallies:
    async def test_where_there_are_no_jobs_there_is_nothing_to_count(self, store: JobStore):
        assert await store.tallies() == []

    async def test_every_kind_is_counted(self, store: JobStore):
        await each(
            store,
            {},
            {},
            {"owner_service": "lion"},
            {"queue": None, "task_type": "their_own"},
            {"priority": Priority.HIGH, "model_profile": "another"},
        )
        assert sum((await tallied(store)).values()) == 5
        assert len(await tallied(store)) == 4
        await check(store)

    @pytest.mark.parametrize("state", STATES)
    async def test_a_job_is_counted_in_the_state_that_it_came_to(self, rig: Rig, state: State):
        job = await rig.store.get(await state(rig))
        [tally] = await rig.store.tallies()
        assert (tally.status, tally.jobs) == (STATES[state], 1)
        assert tally.due is (job.status is JobStatus.PENDING and job.due)
        assert tally.error_code == (job.failure and job.failure.code)
        await check(rig.store)

    @pytest.mark.parametrize("fold", [True, False])
    async def test_they_are_right_after_every_change(self, rig: Rig, fold: bool):
        async def look() -> None:
            assert await tallied(rig.store) == await counted(rig.store)
            if fold:
                await rig.store.fold_tallies()

        planned = await several(rig.store, 2, run_at=await rig.now() + A_MINUTE)
        jobs = await several(rig.store, 8)
        await look()
        completed, again, failed, back, released = await take(rig.store, limit=5)
        await look()
        await lend(rig.store, limit=2)
        await look()
        await settle(
            rig.store,
            *(
                end(held)
                for end, held in zip(ENDINGS.values(), (completed, again, failed, back, released), strict=True)
            ),
        )
        await look()
        await rescue_late(rig)
        await look()
        await rig.advance(A_MINUTE)
        await rig.store.promote_due()
        await look()
        await take(rig.store, limit=3)
        await look()
        await rig.store.release_orphans("worker-1", QUEUE, [])
        await look()
        await cancel(rig.store, *ids(jobs), planned[0].id)
        await look()
        await rig.store.retry([jobs[3].id, jobs[4].id])
        await look()
        await rig.store.erase([job.id for job in jobs])
        await look()
        assert sum((await tallied(rig.store)).values()) == 4

    async def test_an_erased_job_does_not_count(self, rig: Rig):
        job_id = await completed(rig)
        await rig.store.fold_tallies()
        await rig.store.erase([job_id])
        assert await rig.store.tallies() == []
        await rig.store.fold_tallies()
        assert await rig.store.tallies() == []

    async def test_adding_a_job_again_does_not_count(self, store: JobStore):
        job = await one(store)
        await one(store, id=job.id)
        await check(store)

    async def test_to_sum_up_nothing_changes_nothing(self, store: JobStore):
        await store.fold_tallies()
        assert await store.tallies() == []

    async def test_those_who_sum_up_together_count_everything_once(self, store: JobStore):
        jobs = await several(store, 30)
        for job in jobs:
            await cancel(store, job.id)
        await asyncio.gather(*(store.fold_tallies() for _ in range(4)))
        assert sum((await tallied(store)).values()) == 30
        await check(store)


async def finished(store: JobStore, *, fold: bool) -> dict[tuple[str, JobStatus], tuple[int, int, int]]:
    if fold:
        await store.fold_tallies()
    return {
        (each.owner_service, each.status): (each.last_minute, each.last_5_minutes, each.last_hour)
        for each in await store.finished()
    }


@pytest.mark.parametrize("fold", [True, False])
class TestFinished:
    async def test_where_nothing_ended_there_is_nothing_to_tell(self, rig: Rig, fold: bool):
        await running(rig)
        await waiting(rig)
        assert await finished(rig.store, fold=fold) == {}

    async def test_those_that_became_final_are_counted_by_owner_and_state(self, rig: Rig, fold: bool):
        for state in (completed, completed, failed, cancelled, cancelled_running):
            await state(rig, owner_service="lion")
        await failed(rig, owner_service="bear")
        await released(rig)
        assert await finished(rig.store, fold=fold) == {
            ("lion", JobStatus.COMPLETED): (2, 2, 2),
            ("lion", JobStatus.FAILED): (1, 1, 1),
            ("lion", JobStatus.CANCELLED): (2, 2, 2),
            ("bear", JobStatus.FAILED): (1, 1, 1),
        }

    async def test_they_leave_the_minute_the_five_and_the_hour_in_their_time(self, rig: Rig, fold: bool):
        """To within ten seconds."""
        await completed(rig)
        kind, passed = ("beeline", JobStatus.COMPLETED), timedelta(0)
        for at, counts in [(45, (1, 1, 1)), (75, (0, 1, 1)), (285, (0, 1, 1)), (315, (0, 0, 1)), (3_585, (0, 0, 1))]:
            await rig.advance(timedelta(seconds=at) - passed)
            passed = timedelta(seconds=at)
            assert await finished(rig.store, fold=fold) == {kind: counts}, at
        await rig.advance(timedelta(seconds=30))
        assert await finished(rig.store, fold=fold) == {}

    async def test_they_add_up_over_time(self, rig: Rig, fold: bool):
        for _ in range(3):
            await completed(rig)
            await finished(rig.store, fold=fold)
            await rig.advance(2 * A_MINUTE)
        assert await finished(rig.store, fold=fold) == {("beeline", JobStatus.COMPLETED): (0, 2, 3)}

    async def test_a_job_that_is_rescued_for_the_last_time_has_failed(self, rig: Rig, fold: bool):
        await lend_one(rig.store, max_attempts=1)
        await rescue_late(rig)
        assert await finished(rig.store, fold=fold) == {("beeline", JobStatus.FAILED): (1, 1, 1)}

    async def test_what_was_done_stays_done_whatever_becomes_of_the_job(self, rig: Rig, fold: bool):
        """It tells of work that was done, not of jobs that are there."""
        job_id = await failed(rig)
        await rig.store.retry([job_id])
        await cancel(rig.store, job_id)
        await rig.store.erase([job_id])
        assert await finished(rig.store, fold=fold) == {
            ("beeline", JobStatus.FAILED): (1, 1, 1),
            ("beeline", JobStatus.CANCELLED): (1, 1, 1),
        }


class TestDurations:
    async def test_where_nothing_ran_there_is_nothing_to_tell(self, rig: Rig):
        await running(rig)
        assert await rig.store.durations(None) == Durations(None, None)

    async def test_one_run_is_all_of_them(self, rig: Rig):
        await one(rig.store)
        await rig.advance(timedelta(seconds=3))
        [held] = await take(rig.store)
        await rig.advance(timedelta(seconds=7))
        await settle(rig.store, complete(held))
        assert await rig.store.durations(None) == Durations(Quantiles(3, 3, 3), Quantiles(7, 7, 7))

    async def test_quantiles_lie_between_their_neighbours(self, rig: Rig):
        for seconds in (10, 60, 20):
            await run_for(rig, seconds)
        ran = (await rig.store.durations(None)).ran
        assert ran is not None
        assert (ran.p50, ran.p95, ran.p99) == pytest.approx((20, 56, 59.2))

    async def test_a_wait_is_counted_from_when_the_job_was_due(self, rig: Rig):
        planned = await one(rig.store, run_at=await rig.now() + A_MINUTE)
        await rig.advance(A_MINUTE + TEN_SECONDS)
        await rig.store.promote_due()
        [held] = await take(rig.store)
        await settle(rig.store, complete(held))
        assert held.id == planned.id
        assert (await rig.store.durations(None)).waited == Quantiles(10, 10, 10)

    async def test_a_job_that_came_after_its_time_has_waited_since_it_came(self, rig: Rig):
        await one(rig.store, run_at=await rig.now() - A_MINUTE)
        await rig.advance(TEN_SECONDS)
        [held] = await take(rig.store)
        await settle(rig.store, complete(held))
        assert (await rig.store.durations(None)).waited == Quantiles(10, 10, 10)

    async def test_a_second_run_has_waited_since_it_was_due_again(self, rig: Rig):
        held = await run_one(rig.store)
        await settle(rig.store, try_again(held))
        await rig.advance(LATELY)
        await rig.store.promote_due()
        [held] = await take(rig.store)
        await settle(rig.store, complete(held))
        waited = (LATELY - WAIT).total_seconds()
        assert (await rig.store.durations(None)).waited == Quantiles(waited, waited, waited)

    @pytest.mark.parametrize("state", [completed, failed, given_back, released, cancelled_running, crashed, expired])
    async def test_a_run_counts_however_it_ended(self, rig: Rig, state: State):
        await state(rig)
        assert (await rig.store.durations(None)).ran is not None

    async def test_lent_runs_count_like_others(self, rig: Rig):
        job = await lend_one(rig.store, queue=None)
        await rig.advance(TEN_SECONDS)
        await settle(rig.store, complete(job.leased()))
        assert (await rig.store.durations(None)).ran == Quantiles(10, 10, 10)

    async def test_runs_that_ended_too_long_ago_do_not(self, rig: Rig):
        await run_for(rig, 10)
        await rig.advance(LATELY - TEN_SECONDS)
        await run_for(rig, 4)
        ran = (await rig.store.durations(None)).ran
        assert ran is not None
        assert ran.p50 == 7
        await rig.advance(TEN_SECONDS)
        assert (await rig.store.durations(None)).ran == Quantiles(4, 4, 4)

    async def test_an_owner_learns_of_its_own_runs(self, rig: Rig):
        await run_for(rig, 10, owner_service="lion")
        await run_for(rig, 20, owner_service="bear")
        assert (await rig.store.durations("lion")).ran == Quantiles(10, 10, 10)
        assert (await rig.store.durations("bear")).ran == Quantiles(20, 20, 20)
        assert await rig.store.durations("wolf") == Durations(None, None)

    async def test_an_erased_job_takes_its_runs_along(self, rig: Rig):
        job_id = await completed(rig)
        await rig.store.erase([job_id])
        assert (await rig.store.durations(None), await rig.store.paces()) == (Durations(None, None), [])


class TestPaces:
    async def test_where_nothing_ran_there_is_none(self, rig: Rig):
        await running(rig)
        assert await rig.store.paces() == []

    async def test_runs_of_one_kind_are_averaged(self, rig: Rig):
        for seconds in (10, 20, 60):
            await run_for(rig, seconds)
        assert await rig.store.paces() == [Pace(QUEUE, "llm_chat", PROFILE, 3, 30.0)]

    async def test_each_kind_has_its_own(self, rig: Rig):
        await run_for(rig, 10)
        for changes in ({"queue": None}, {"task_type": "transcribe", "queue": "gpu.speech"}, {"model_profile": "big"}):
            job = await lend_one(rig.store, **changes)
            await rig.advance(2 * TEN_SECONDS)
            await settle(rig.store, complete(job.leased()))
        paces = await rig.store.paces()
        assert len(paces) == 4
        assert set(paces) == {
            Pace(QUEUE, "llm_chat", PROFILE, 1, 10.0),
            Pace(None, "llm_chat", PROFILE, 1, 20.0),
            Pace("gpu.speech", "transcribe", PROFILE, 1, 20.0),
            Pace(QUEUE, "llm_chat", "big", 1, 20.0),
        }

    async def test_owners_and_priorities_share_one(self, rig: Rig):
        await run_for(rig, 10, owner_service="lion", priority=Priority.HIGH)
        await run_for(rig, 20, owner_service="bear")
        assert await rig.store.paces() == [Pace(QUEUE, "llm_chat", PROFILE, 2, 15.0)]

    async def test_runs_that_ended_too_long_ago_do_not_count(self, rig: Rig):
        await run_for(rig, 10)
        await rig.advance(LATELY)
        assert await rig.store.paces() == []


class TestOldestDue:
    async def test_where_nothing_is_due_nothing_waits(self, rig: Rig):
        for state in (running, waiting, completed, failed, cancelled, given_back):
            await state(rig)
        await rig.advance(TEN_SECONDS)
        assert await rig.store.oldest_due(None) is None

    async def test_it_is_how_long_a_due_job_has_waited(self, rig: Rig):
        await one(rig.store)
        assert await rig.store.oldest_due(None) == 0
        await rig.advance(TEN_SECONDS)
        assert await rig.store.oldest_due(None) == 10

    async def test_a_planned_job_waits_since_its_time(self, rig: Rig):
        await one(rig.store, run_at=await rig.now() + A_MINUTE)
        await rig.advance(A_MINUTE + TEN_SECONDS)
        await rig.store.promote_due()
        assert await rig.store.oldest_due(None) == 10

    async def test_a_job_that_came_after_its_time_waits_since_it_came(self, rig: Rig):
        await one(rig.store, run_at=await rig.now() - A_MINUTE)
        await rig.advance(TEN_SECONDS)
        assert await rig.store.oldest_due(None) == 10

    @pytest.mark.parametrize(
        "oldest",
        [
            {"queue": "gpu.speech"},
            {"queue": "gpu.zzz"},
            {"queue": None},
            {"queue": None, "task_type": "zzz"},
            {"priority": Priority.LOW},
            {"priority": Priority.HIGH},
            {"priority": Priority.LOW, "queue": None, "owner_service": "zebra"},
        ],
    )
    async def test_the_first_of_every_line_and_priority_counts(self, rig: Rig, oldest: dict[str, Any]):
        first = await one(rig.store, **oldest)
        await rig.advance(TEN_SECONDS)
        await each(rig.store, {}, {"queue": "gpu.speech"}, {"queue": None}, {"priority": Priority.LOW})
        await rig.advance(TEN_SECONDS)
        assert await rig.store.oldest_due(None) == 20
        await cancel(rig.store, first.id)
        assert await rig.store.oldest_due(None) == 10

    async def test_an_owner_learns_of_its_own_jobs(self, rig: Rig):
        await one(rig.store, owner_service="lion")
        await rig.advance(TEN_SECONDS)
        await each(rig.store, {"owner_service": "bear"}, {"owner_service": "bear", "queue": None})
        await rig.advance(TEN_SECONDS)
        assert await rig.store.oldest_due("lion") == 20
        assert await rig.store.oldest_due("bear") == 10
        assert await rig.store.oldest_due("wolf") is None

    async def test_an_owners_oldest_job_counts_wherever_it_stands(self, rig: Rig):
        await one(rig.store, owner_service="lion", priority=Priority.LOW)
        await rig.advance(TEN_SECONDS)
        await one(rig.store, owner_service="lion", priority=Priority.HIGH)
        assert await rig.store.oldest_due("lion") == 10
