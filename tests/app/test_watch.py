from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from app import watch as module
from app.watch import ForOutcome, Watch
from domain.errors import StorageUnavailable
from domain.events import JobEvent, Pulse
from domain.job import JobId, JobStatus
from tests.factories import job_event, new_id

NEVER = 3600.0

PENDING = Pulse(JobStatus.PENDING, 1)
RUNNING = Pulse(JobStatus.RUNNING, 2)
COMPLETED = Pulse(JobStatus.COMPLETED, 3)


class Pulses:
    """Answers what a test says, and counts the questions."""

    def __init__(self) -> None:
        self.known: dict[JobId, Pulse] = {}
        self.asked: list[set[JobId]] = []
        self.looked = asyncio.Event()
        self.fails_with: Exception | None = None

    async def pulses(self, job_ids: Sequence[JobId]) -> dict[JobId, Pulse]:
        self.asked.append(set(job_ids))
        self.looked.set()
        if self.fails_with:
            raise self.fails_with
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}


async def waiters(watch: Watch, *job_ids: JobId) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(watch.final(job_id, 60)) for job_id in job_ids]
    await asyncio.sleep(0)
    return tasks


async def watcher(watch: Watch, job_id: JobId, seen: Pulse | None) -> asyncio.Task[None]:
    task = asyncio.create_task(watch.change(job_id, seen, 60))
    await asyncio.sleep(0)
    return task


async def seeker(watch: Watch) -> asyncio.Task[None]:
    task = asyncio.create_task(watch.work(60))
    await asyncio.sleep(0)
    return task


async def is_woken(task: asyncio.Task[None]) -> bool:
    """Whether it ends now that everything that was to be done at once is done."""
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def test_one_look_serves_all_waiters() -> None:
    jobs, first, second = Pulses(), new_id(), new_id()
    watch = Watch(jobs, soonest=NEVER)
    jobs.known = {first: COMPLETED, second: Pulse(JobStatus.CANCELLED, 2)}
    tasks = await waiters(watch, first, first, second)
    await watch.tick()
    await asyncio.gather(*tasks)
    assert jobs.asked == [{first, second}]
    assert watch.waiting == 0


async def test_only_those_whose_job_is_final_are_woken() -> None:
    jobs, done, running = Pulses(), new_id(), new_id()
    watch = Watch(jobs, soonest=NEVER)
    jobs.known = {done: Pulse(JobStatus.FAILED, 3), running: RUNNING}
    woken, still_waiting = await waiters(watch, done, running)
    await watch.tick()
    await woken
    assert not await is_woken(still_waiting)
    watch.dismiss()


async def test_a_job_that_is_gone_wakes_its_waiters() -> None:
    watch, job = Watch(Pulses(), soonest=NEVER), new_id()
    [task] = await waiters(watch, job)
    change = await watcher(watch, job, PENDING)
    await watch.tick()
    await asyncio.gather(task, change)


@pytest.mark.parametrize(
    ("seen", "now", "woken"),
    [
        (PENDING, PENDING, False),
        (PENDING, RUNNING, True),
        (RUNNING, Pulse(JobStatus.RUNNING, 4), True),
        (Pulse(JobStatus.RUNNING, 2, (2, 1)), Pulse(JobStatus.RUNNING, 2, (2, 2)), True),
        (Pulse(JobStatus.RUNNING, 2, (2, 2)), Pulse(JobStatus.RUNNING, 2, (2, 2)), False),
        (None, PENDING, True),
    ],
)
async def test_a_change_is_whatever_differs_from_what_was_seen(seen: Pulse | None, now: Pulse, woken: bool) -> None:
    jobs, job = Pulses(), new_id()
    watch, jobs.known = Watch(jobs, soonest=NEVER), {job: now}
    task = await watcher(watch, job, seen)
    await watch.tick()
    assert await is_woken(task) == woken
    watch.dismiss()


@pytest.mark.parametrize(
    ("kind", "number", "woken"),
    [
        ("pending", 1, False),
        ("running", 2, False),
        ("progress", 2, True),
        ("completed", 3, True),
        ("pending", 3, True),
        ("revoked", 3, True),
        ("something new", 3, True),
    ],
)
async def test_an_event_wakes_whoever_waits_for_a_change_unless_it_tells_of_what_was_seen(
    kind: str, number: int, woken: bool
) -> None:
    watch, job = Watch(Pulses(), soonest=NEVER), new_id()
    task = await watcher(watch, job, RUNNING)
    watch.heard([job_event(job_id=job, kind=kind, number=number)])
    assert await is_woken(task) == woken
    watch.dismiss()


@pytest.mark.parametrize("kind", ["pending", "running", "progress", "revoked", "completed", "failed", "cancelled"])
async def test_only_a_final_event_of_its_job_wakes_whoever_waits_for_the_end(kind: str) -> None:
    jobs, job = Pulses(), new_id()
    watch = Watch(jobs, soonest=NEVER)
    [task] = await waiters(watch, job)
    watch.heard([job_event(kind="completed"), job_event(job_id=job, kind=kind)])
    assert await is_woken(task) == (kind in {"completed", "failed", "cancelled"})
    assert jobs.asked == []
    watch.dismiss()


@pytest.mark.parametrize("kind", ["running", "progress"])
def test_whoever_waits_for_the_outcome_is_left_in_peace_while_it_runs(kind: str) -> None:
    waiter = ForOutcome(PENDING, asyncio.Event())
    assert not waiter.may_be_news(job_event(kind=kind, number=2))
    assert not waiter.is_news(RUNNING)
    assert waiter.seen == RUNNING


@pytest.mark.parametrize("became", [COMPLETED, Pulse(JobStatus.PENDING, 3), Pulse(JobStatus.CANCELLED, 3)])
def test_whoever_waits_for_the_outcome_hears_of_every_end_of_a_run(became: Pulse) -> None:
    waiter = ForOutcome(RUNNING, asyncio.Event())
    assert waiter.is_news(became)
    assert waiter.may_be_news(job_event(kind=became.status, number=became.number))
    assert not waiter.may_be_news(job_event(kind="pending", number=1))


async def test_an_event_is_heard_from_any_thread() -> None:
    watch, job = Watch(Pulses(), soonest=NEVER), new_id()
    [task] = await waiters(watch, job)
    thread = threading.Thread(target=watch.heard, args=([job_event(job_id=job, kind="completed")],))
    thread.start()
    async with asyncio.timeout(5):
        await task
    thread.join()


def test_what_is_heard_after_the_end_of_the_loop_is_nobodys_concern() -> None:
    watch, job = Watch(Pulses(), soonest=NEVER), new_id()
    events: list[JobEvent] = [job_event(job_id=job, kind="completed")]
    watch.heard(events)  # nor before its start
    loop = asyncio.new_event_loop()
    loop.run_until_complete(watch.final(job, 0))
    loop.close()
    watch._waiters[job] = set()  # as if it had been cut off
    watch.heard(events)


async def test_a_pending_job_wakes_all_who_wait_for_work() -> None:
    watch = Watch(Pulses(), soonest=NEVER)
    first, second = await seeker(watch), await seeker(watch)
    assert watch.seeking == 2
    watch.heard([job_event(kind="running"), job_event(kind="completed")])
    assert not await is_woken(first)
    watch.heard([job_event(kind="running"), job_event(kind="pending"), job_event(kind="pending")])
    assert await is_woken(first)
    assert await is_woken(second)
    assert watch.seeking == 0


async def test_a_stream_of_pending_jobs_does_not_wake_those_who_wait_for_work_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WORK_EVERY", 0.05)
    loop, watch = asyncio.get_running_loop(), Watch(Pulses(), soonest=NEVER)
    woken = []
    for _ in range(4):
        task = await seeker(watch)
        while not task.done():
            watch.heard([job_event(kind="pending")])
            await asyncio.sleep(0)
        woken.append(loop.time())
    assert woken[3] - woken[0] >= 0.15


async def test_who_waits_for_work_waits_no_longer_than_he_said() -> None:
    jobs = Pulses()
    await Watch(jobs, soonest=NEVER).work(0.001)
    assert jobs.asked == []


async def test_a_process_that_stops_keeps_nobody_waiting() -> None:
    watch = Watch(Pulses(), soonest=NEVER)
    tasks = await waiters(watch, new_id(), new_id())
    tasks += [await watcher(watch, new_id(), PENDING), await seeker(watch)]
    watch.dismiss()
    await asyncio.gather(*tasks)
    assert (watch.waiting, watch.seeking) == (0, 0)


async def test_who_comes_while_the_process_stops_does_not_wait() -> None:
    watch = Watch(Pulses(), soonest=NEVER)
    watch.dismiss()
    async with asyncio.timeout(1):
        await watch.final(new_id(), NEVER)
        await watch.change(new_id(), PENDING, NEVER)
        await watch.work(NEVER)
    assert watch.waiting == 0


async def test_nobody_waiting_asks_nothing() -> None:
    jobs = Pulses()
    await Watch(jobs).tick()
    assert jobs.asked == []


async def test_the_watch_looks_by_itself_and_ends_with_its_last_waiter() -> None:
    jobs, job = Pulses(), new_id()
    jobs.known = {job: COMPLETED}
    before = asyncio.all_tasks()
    await Watch(jobs, soonest=0.001).final(job, 60)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_where_events_are_heard_a_newcomer_is_looked_for_soon_and_the_others_are_left_in_peace() -> None:
    jobs, first, second = Pulses(), new_id(), new_id()
    jobs.known = {first: RUNNING}
    watch = Watch(jobs, soonest=0.001, latest=NEVER, patient_after=0)
    watch._last_look = asyncio.get_running_loop().time()
    [task] = await waiters(watch, first)
    await jobs.looked.wait()
    jobs.known[second] = COMPLETED  # just before anybody waited for it: no event will tell
    await watch.final(second, 60)
    assert jobs.asked == [{first}, {second}]
    task.cancel()


async def test_where_events_are_heard_all_are_looked_for_now_and_then() -> None:
    jobs, first, second = Pulses(), new_id(), new_id()
    jobs.known = {first: RUNNING, second: RUNNING}
    tasks = await waiters(Watch(jobs, soonest=0.001, latest=0.01, patient_after=0), first, second)
    async with asyncio.timeout(5):
        while len(jobs.asked) < 3:  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.001)
        jobs.known = dict.fromkeys(jobs.known, COMPLETED)
        await asyncio.gather(*tasks)
    assert jobs.asked[1:3] == [{first, second}] * 2


async def test_a_storage_that_is_away_only_delays() -> None:
    jobs, job = Pulses(), new_id()
    jobs.known, jobs.fails_with = {job: COMPLETED}, StorageUnavailable()
    [task] = await waiters(Watch(jobs, soonest=0.001), job)
    await jobs.looked.wait()
    jobs.fails_with = None
    await task


async def test_a_look_that_fails_is_logged_and_followed_by_another() -> None:
    jobs, job = Pulses(), new_id()
    jobs.known, jobs.fails_with = {job: COMPLETED}, RuntimeError("boom")
    with capture_logs() as logs:
        [task] = await waiters(Watch(jobs, soonest=0.001), job)
        await jobs.looked.wait()
        jobs.fails_with = None
        await task
    assert logs[0]["event"] == "watch_failed"


async def test_whoever_comes_after_the_last_one_left_is_watched_for_too() -> None:
    jobs, job = Pulses(), new_id()
    watch = Watch(jobs, soonest=0.001)
    await watch.final(job, 0)
    jobs.known = {job: COMPLETED}
    await asyncio.wait_for(watch.final(job, 60), 5)


async def test_whoever_looks_learns_that_the_process_stops() -> None:
    watch = Watch(Pulses(), soonest=NEVER)
    before = watch.dismissed
    watch.dismiss()
    assert (before, watch.dismissed) == (False, True)
