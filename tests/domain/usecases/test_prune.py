from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from adapters.memory.store import MemoryJobStore
from domain.errors import StorageUnavailable
from domain.job import JobId, JobStatus
from domain.policy import Kept
from domain.retention import PastJob, Retention
from domain.usecases.prune import AT_ONCE, BUDGET, RESTS, RESTS_TIMES, Prune, Pruned, sweep_now
from tests.fakes import FakeClock, Told
from tests.moves import cancel, each, found, several

DAY = timedelta(days=1)
MONTH: Kept = {JobStatus.CANCELLED: 30 * DAY}


class SlowStore(MemoryJobStore):
    """To prune takes its time, and can fail."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.now)
        self.clock = clock
        self.takes = timedelta(0)
        self.fails_after: int | None = None
        self.calls = 0

    async def prune(self, jobs: Sequence[PastJob]) -> list[JobId]:
        if self.calls == self.fails_after:
            raise StorageUnavailable
        self.calls += 1
        pruned = await super().prune(jobs)
        self.clock.advance(self.takes)
        return pruned


class Stage:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = SlowStore(self.clock)
        self.kept = Retention(MONTH)
        self.told = Told()
        self.prune = Prune(self.store, lambda: self.kept, self.clock.monotonic, self.told)

    async def old(self, how_many: int = 1, owner: str = "beeline") -> list[JobId]:
        """Jobs that were cancelled, and are to go in a month."""
        jobs = [job.id for job in await several(self.store, how_many, owner_service=owner)]
        await cancel(self.store, *jobs)
        return jobs


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_tick_removes_what_is_old_and_tells_of_it(stage: Stage):
    await stage.old(2)
    stage.clock.advance(30 * DAY)
    young = await stage.old()
    pruned = await stage.prune.tick()
    assert pruned == Pruned({("beeline", JobStatus.CANCELLED): 2})
    assert (pruned.total(), pruned.by_status()) == (2, {JobStatus.CANCELLED: 2})
    assert await found(stage.store) == young
    assert stage.told.removed == [("jobs", "cancelled", 2)]


async def test_where_nothing_is_old_nothing_is_told(stage: Stage):
    await stage.old()
    assert not await stage.prune.tick()
    assert stage.store.calls == 0


async def test_a_job_goes_within_a_minute_of_its_time(stage: Stage):
    await stage.old()
    stage.clock.advance(30 * DAY - timedelta(seconds=1))
    assert not await stage.prune.tick()
    stage.clock.advance(timedelta(seconds=2))
    assert not await stage.prune.tick(), "it rests"
    stage.clock.advance(timedelta(seconds=RESTS))
    assert (await stage.prune.tick()).total() == 1


async def test_a_tick_stops_when_its_budget_is_spent_and_the_next_goes_on(stage: Stage):
    await stage.old(3 * AT_ONCE)
    stage.clock.advance(30 * DAY)
    stage.store.takes = timedelta(seconds=BUDGET)
    assert [(await stage.prune.tick()).total() for _ in range(4)] == [AT_ONCE, AT_ONCE, AT_ONCE, 0]


async def test_after_long_work_it_rests_long(stage: Stage):
    await stage.old()
    stage.clock.advance(timedelta(seconds=50))
    await stage.old()
    stage.clock.advance(30 * DAY - timedelta(seconds=50))
    stage.store.takes = timedelta(seconds=100)
    assert (await stage.prune.tick()).total() == 1
    stage.clock.advance(timedelta(seconds=100 * RESTS_TIMES - 1))
    assert not await stage.prune.tick()
    stage.clock.advance(timedelta(seconds=1))
    assert (await stage.prune.tick()).total() == 1


async def test_what_is_configured_anew_holds_at_once(stage: Stage):
    await stage.old()
    stage.clock.advance(DAY)
    assert not await stage.prune.tick()
    stage.kept = Retention({JobStatus.CANCELLED: DAY})
    assert (await stage.prune.tick()).total() == 1


async def test_what_becomes_forever_in_the_middle_of_a_sweep_stays(stage: Stage):
    await stage.old(2 * AT_ONCE)
    stage.clock.advance(30 * DAY)
    stage.store.takes = timedelta(seconds=1)
    await stage.prune.tick()
    stage.kept = Retention({JobStatus.CANCELLED: None})
    assert not await stage.prune.tick()
    assert len(await found(stage.store)) == AT_ONCE


async def test_what_failed_is_tried_again_by_the_next_tick(stage: Stage):
    await stage.old()
    stage.clock.advance(30 * DAY)
    stage.store.fails_after = 0
    with pytest.raises(StorageUnavailable):
        await stage.prune.tick()
    stage.store.fails_after = None
    assert (await stage.prune.tick()).total() == 1


async def test_what_went_before_it_failed_is_told(stage: Stage):
    await stage.old(2 * AT_ONCE)
    stage.clock.advance(30 * DAY)
    stage.store.fails_after = 1
    assert (await stage.prune.tick()).total() == AT_ONCE
    with pytest.raises(StorageUnavailable):
        await stage.prune.tick()


async def test_an_owners_own_time_holds_for_its_jobs_alone(stage: Stage):
    await stage.old(2, "beeline")
    kept = await stage.old(1, "lion")
    stage.clock.advance(DAY)
    stage.kept = Retention(MONTH, {"beeline": {JobStatus.CANCELLED: DAY}})
    assert (await stage.prune.tick()).jobs == {("beeline", JobStatus.CANCELLED): 2}
    assert await found(stage.store) == kept


async def test_by_hand_everything_goes_in_steps(stage: Stage):
    await stage.old(AT_ONCE + 1)
    stage.clock.advance(30 * DAY)
    steps = [step async for step in sweep_now(stage.store, stage.kept, monotonic=stage.clock.monotonic)]
    assert [(pruned.total(), looked_at) for pruned, looked_at in steps] == [(AT_ONCE, AT_ONCE), (1, AT_ONCE + 1)]
    assert await found(stage.store) == []


async def test_a_dry_run_counts_and_changes_nothing(stage: Stage):
    jobs = await each(stage.store, {"owner_service": "beeline"}, {"owner_service": "lion"})
    await cancel(stage.store, *(job.id for job in jobs))
    stage.clock.advance(30 * DAY)
    told = Pruned()
    async for pruned, _ in sweep_now(stage.store, stage.kept, monotonic=stage.clock.monotonic, dry_run=True):
        told += pruned
    assert told.jobs == {("beeline", JobStatus.CANCELLED): 1, ("lion", JobStatus.CANCELLED): 1}
    assert (len(await found(stage.store)), stage.store.calls) == (2, 0)
