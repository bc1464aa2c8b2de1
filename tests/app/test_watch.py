from __future__ import annotations

import asyncio
from collections.abc import Sequence

from structlog.testing import capture_logs

from app.watch import Watch
from domain.errors import StorageUnavailable
from domain.job import JobId, JobStatus
from tests.factories import new_id

NEVER = 3600.0


class Statuses:
    """Answers what a test says, and counts the questions."""

    def __init__(self) -> None:
        self.known: dict[JobId, JobStatus] = {}
        self.asked: list[set[JobId]] = []
        self.looked = asyncio.Event()
        self.fails_with: Exception | None = None

    async def statuses(self, job_ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        self.asked.append(set(job_ids))
        self.looked.set()
        if self.fails_with:
            raise self.fails_with
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}


async def waiters(watch: Watch, *job_ids: JobId) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(watch.final(job_id, 60)) for job_id in job_ids]
    await asyncio.sleep(0)
    return tasks


async def test_one_look_serves_all_waiters() -> None:
    jobs, first, second = Statuses(), new_id(), new_id()
    watch = Watch(jobs, soonest=NEVER)
    jobs.known = {first: JobStatus.COMPLETED, second: JobStatus.CANCELLED}
    tasks = await waiters(watch, first, first, second)
    await watch.tick()
    await asyncio.gather(*tasks)
    assert jobs.asked == [{first, second}]
    assert watch.waiting == 0


async def test_only_those_whose_job_is_final_are_woken() -> None:
    jobs, done, running = Statuses(), new_id(), new_id()
    watch = Watch(jobs, soonest=NEVER)
    jobs.known = {done: JobStatus.FAILED, running: JobStatus.RUNNING}
    woken, still_waiting = await waiters(watch, done, running)
    await watch.tick()
    await woken
    assert not still_waiting.done()
    watch.notify(running)
    await still_waiting


async def test_a_job_that_is_gone_wakes_its_waiters() -> None:
    watch = Watch(Statuses(), soonest=NEVER)
    [task] = await waiters(watch, new_id())
    await watch.tick()
    await task


async def test_a_process_that_stops_keeps_nobody_waiting() -> None:
    watch = Watch(Statuses(), soonest=NEVER)
    tasks = await waiters(watch, new_id(), new_id())
    watch.dismiss()
    await asyncio.gather(*tasks)
    assert watch.waiting == 0


async def test_who_comes_while_the_process_stops_does_not_wait() -> None:
    watch = Watch(Statuses(), soonest=NEVER)
    watch.dismiss()
    async with asyncio.timeout(1):
        await watch.final(new_id(), NEVER)
    assert watch.waiting == 0


async def test_nobody_waiting_asks_nothing() -> None:
    jobs = Statuses()
    await Watch(jobs).tick()
    assert jobs.asked == []


async def test_the_watch_looks_by_itself_and_ends_with_its_last_waiter() -> None:
    jobs, job = Statuses(), new_id()
    jobs.known = {job: JobStatus.COMPLETED}
    before = asyncio.all_tasks()
    await Watch(jobs, soonest=0.001).final(job, 60)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_storage_that_is_away_only_delays() -> None:
    jobs, job = Statuses(), new_id()
    jobs.known, jobs.fails_with = {job: JobStatus.COMPLETED}, StorageUnavailable()
    [task] = await waiters(Watch(jobs, soonest=0.001), job)
    await jobs.looked.wait()
    jobs.fails_with = None
    await task


async def test_a_look_that_fails_is_logged_and_followed_by_another() -> None:
    jobs, job = Statuses(), new_id()
    jobs.known, jobs.fails_with = {job: JobStatus.COMPLETED}, RuntimeError("boom")
    with capture_logs() as logs:
        [task] = await waiters(Watch(jobs, soonest=0.001), job)
        await jobs.looked.wait()
        jobs.fails_with = None
        await task
    assert logs[0]["event"] == "watch_failed"


async def test_whoever_comes_after_the_last_one_left_is_watched_for_too() -> None:
    jobs, job = Statuses(), new_id()
    watch = Watch(jobs, soonest=0.001)
    await watch.final(job, 0)
    jobs.known = {job: JobStatus.COMPLETED}
    await asyncio.wait_for(watch.final(job, 60), 5)
