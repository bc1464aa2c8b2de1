"""What is told of a job's past: its runs, and the changes of its state in the order of their numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from msgspec import Raw
from msgspec.structs import replace

from domain.errors import ErrorCode, Failure
from domain.events import StatusChange
from domain.job import EXPIRED, JobId, JobStatus, RunOutcome, RunRecord, Settlement, crash
from domain.ports import JobStore
from domain.results import ProviderAttempt
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, MAX_CRASHES, rescue_late
from tests.moves import (
    ENDINGS,
    LIMITED,
    TIMED_OUT,
    End,
    cancel,
    complete,
    fail,
    give_back,
    lease_of,
    lend,
    one,
    release,
    run_one,
    settle,
    several,
    take,
    try_again,
)

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = JobStatus
STOPPED = Failure(ErrorCode.CANCELLED, "Stopped in the middle.")

Step = Callable[[Rig, JobId], Awaitable[None]]


async def taken(rig: Rig, job_id: JobId) -> None:
    await take(rig.store)


async def lent_out(rig: Rig, job_id: JobId) -> None:
    await lend(rig.store)


async def rescued(rig: Rig, job_id: JobId) -> None:
    await rescue_late(rig)


async def cancelled(rig: Rig, job_id: JobId) -> None:
    await rig.store.cancel([job_id], STOPPED)


async def retried(rig: Rig, job_id: JobId) -> None:
    await rig.store.retry([job_id])


async def promoted(rig: Rig, job_id: JobId) -> None:
    """No change of state: it leaves no trace."""
    await rig.advance(10 * A_MINUTE)
    await rig.store.promote_due()


async def reported(rig: Rig, job_id: JobId) -> None:
    """Nor is this one."""
    await rig.store.report(lease_of(await rig.store.get(job_id)), Raw(b"{}"))


def ended(end: End) -> Step:
    async def step(rig: Rig, job_id: JobId) -> None:
        await settle(rig.store, end((await rig.store.get(job_id)).leased()))

    return step


LIFE: list[tuple[Step, JobStatus, RunOutcome | None, Failure | None]] = [
    (taken, RUNNING, None, None),
    (ended(try_again), PENDING, RunOutcome.FAILED, TIMED_OUT),
    (promoted, PENDING, None, None),
    (taken, RUNNING, None, None),
    (ended(give_back), PENDING, RunOutcome.GIVEN_BACK, LIMITED),
    (promoted, PENDING, None, None),
    (taken, RUNNING, None, None),
    (ended(release), PENDING, RunOutcome.RELEASED, None),
    (taken, RUNNING, None, None),
    (rescued, PENDING, RunOutcome.CRASHED, crash(1, hopeless=False)),
    (lent_out, RUNNING, None, None),
    (reported, RUNNING, None, None),
    (rescued, PENDING, RunOutcome.EXPIRED, EXPIRED),
    (promoted, PENDING, None, None),
    (lent_out, RUNNING, None, None),
    (ended(fail), FAILED, RunOutcome.FAILED, TIMED_OUT),
    (retried, PENDING, None, None),
    (cancelled, CANCELLED, None, STOPPED),
    (cancelled, CANCELLED, None, None),
    (retried, PENDING, None, None),
    (taken, RUNNING, None, None),
    (cancelled, CANCELLED, RunOutcome.CANCELLED, STOPPED),
    (retried, PENDING, None, None),
    (lent_out, RUNNING, None, None),
    (retried, PENDING, RunOutcome.RETRIED, None),
    (taken, RUNNING, None, None),
    (ended(complete), COMPLETED, RunOutcome.COMPLETED, None),
]
"""Every kind of change: what happens, the state that follows, how the run ended if one did, and why."""


async def test_every_change_of_state_and_every_run_is_told_and_nothing_else(rig: Rig):
    job = await one(rig.store, max_attempts=9)
    changes, runs = [StatusChange(1, PENDING, await rig.now())], list[RunRecord]()
    for step, status, outcome, failure in LIFE:
        await rig.advance(A_MINUTE)
        before = job.number
        await step(rig, job.id)
        job, now = await rig.store.get(job.id), await rig.now()
        assert job.status is status
        if job.number != before:
            changes.append(StatusChange(job.number, status, now, failure))
        if outcome:
            runs[-1] = replace(runs[-1], ended_at=now, outcome=outcome, failure=failure)
        elif status is RUNNING and job.number != before:
            assert job.worker_id is not None
            runs.append(RunRecord(now, job.worker_id))
        assert await rig.store.changes(job.id, 0) == changes
        assert await rig.store.runs(job.id) == runs
        assert (await rig.store.pulses([job.id]))[job.id].number == job.number == len(changes)


async def test_only_the_changes_after_the_one_that_is_known_are_told(rig: Rig):
    held = await run_one(rig.store)
    await settle(rig.store, complete(held))
    everything = await rig.store.changes(held.id, 0)
    assert [change.number for change in everything] == [1, 2, 3]
    for known in range(5):
        assert await rig.store.changes(held.id, known) == everything[known:]


async def test_a_job_that_never_ran_has_no_runs(store: JobStore):
    job = await one(store)
    await cancel(store, job.id)
    assert await store.runs(job.id) == []


async def test_the_run_that_goes_on_is_the_last_and_has_no_end(rig: Rig):
    held = await run_one(rig.store)
    await settle(rig.store, release(held))
    await rig.advance(A_MINUTE)
    await take(rig.store, worker_id="worker-2")
    _, last = await rig.store.runs(held.id)
    assert last == RunRecord(await rig.now(), "worker-2")


async def test_a_job_whose_workers_die_too_often_ends_in_its_history_as_failed(rig: Rig):
    job = await one(rig.store)
    for _ in range(MAX_CRASHES):
        await take(rig.store)
        await rescue_late(rig)
    assert [change.status for change in await rig.store.changes(job.id, 0)] == [
        PENDING,
        *[RUNNING, PENDING] * (MAX_CRASHES - 1),
        RUNNING,
        FAILED,
    ]
    assert (await rig.store.runs(job.id))[-1].failure == crash(MAX_CRASHES, hopeless=True)


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
async def test_a_repeated_ending_is_told_once(store: JobStore, end: End):
    held = await run_one(store)
    await settle(store, end(held))
    before = await store.changes(held.id, 0), await store.runs(held.id)
    await settle(store, end(held))
    assert (await store.changes(held.id, 0), await store.runs(held.id)) == before


async def test_a_lost_ending_is_not_told(store: JobStore):
    held = await run_one(store)
    await cancel(store, held.id)
    await store.exchange([complete(held)], None)
    assert [change.status for change in await store.changes(held.id, 0)] == [PENDING, RUNNING, CANCELLED]
    assert [run.outcome for run in await store.runs(held.id)] == [RunOutcome.CANCELLED]


async def test_runs_that_start_and_end_at_one_moment_are_told_in_their_order(store: JobStore):
    await one(store)
    workers = [f"worker-{n}" for n in range(6)]
    for worker in workers:
        [held] = await take(store, worker_id=worker)
        await settle(store, release(held))
    assert [run.worker_id for run in await store.runs(held.id)] == workers
    assert [change.number for change in await store.changes(held.id, 0)] == [*range(1, 14)]


async def test_jobs_that_end_together_have_their_own_histories(store: JobStore):
    await several(store, 3)
    first, second, third = await take(store, limit=3)
    await settle(store, complete(first), fail(second), release(third))
    assert [(await store.changes(held.id, 2))[0].status for held in (first, second, third)] == [
        COMPLETED,
        FAILED,
        PENDING,
    ]
    assert [(await store.runs(held.id))[0].outcome for held in (first, second, third)] == [
        RunOutcome.COMPLETED,
        RunOutcome.FAILED,
        RunOutcome.RELEASED,
    ]


ATTEMPTS = (
    ProviderAttempt(
        provider="vllm", model="qwen", error_code="timeout", error_message="It fell silent.", duration_ms=9
    ),
    ProviderAttempt(provider="ollama", model="qwen", duration_ms=40),
)


async def test_a_run_that_made_several_calls_tells_of_each(rig: Rig):
    held = await run_one(rig.store)
    await settle(rig.store, replace(held.complete(b"{}"), attempts=ATTEMPTS))
    [run] = await rig.store.runs(held.id)
    assert run.attempts == ATTEMPTS


async def test_the_calls_of_a_failed_run_are_kept_and_the_next_has_its_own(rig: Rig):
    held = await run_one(rig.store)
    failed = Settlement(held.lease, RunOutcome.FAILED, JobStatus.PENDING, failure=TIMED_OUT, attempts=ATTEMPTS)
    await settle(rig.store, failed)
    [again] = await take(rig.store)
    await settle(rig.store, again.complete(b"{}"))
    assert [run.attempts for run in await rig.store.runs(held.id)] == [ATTEMPTS, ()]
