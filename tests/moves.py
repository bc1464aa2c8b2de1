"""What brings jobs of a store into a state, in a word each; for tests of every store and of what stands on one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from domain.errors import ErrorCode, Failure
from domain.events import JobEvent
from domain.job import CANCELLED_BY_CALLER, Job, JobId, JobStatus, Lease, LeasedJob, RunOutcome, Settlement
from domain.ports import JobFilter, JobStore, Listing
from tests.factories import external_claim, new_claim, new_job

WAIT = timedelta(seconds=30)
TIMED_OUT = Failure(ErrorCode.TIMEOUT, "No answer within 5 minutes.")
LIMITED = Failure(ErrorCode.RATE_LIMITED, "Slow down.")
RESULT = b'{"content": "Hello"}'


async def one(store: JobStore, **changes: Any) -> Job:
    [added] = await store.add([new_job(**changes)])
    return added.job


async def several(store: JobStore, how_many: int, **changes: Any) -> list[Job]:
    return [added.job for added in await store.add([new_job(**changes) for _ in range(how_many)])]


async def each(store: JobStore, *changes: dict[str, Any]) -> list[Job]:
    """One job for each set of changes, in one go."""
    return [added.job for added in await store.add([new_job(**change) for change in changes])]


async def take(store: JobStore, **claim: Any) -> list[LeasedJob]:
    """A built-in worker claims."""
    return list((await store.exchange([], new_claim(**claim))).claimed)


async def taken_ids(store: JobStore, **claim: Any) -> list[JobId]:
    return [held.id for held in await take(store, **claim)]


async def run_one(store: JobStore, **changes: Any) -> LeasedJob:
    """A job that a built-in worker runs; it must be alone in its queue."""
    await one(store, **changes)
    [held] = await take(store)
    return held


async def lend(store: JobStore, **claim: Any) -> list[Job]:
    """An external worker claims."""
    return await store.claim(external_claim(**claim))


async def lent_ids(store: JobStore, **claim: Any) -> list[JobId]:
    return ids(await lend(store, **claim))


async def lend_one(store: JobStore, **changes: Any) -> Job:
    """A job that an external worker runs; no other may be claimable."""
    await one(store, **changes)
    [job] = await lend(store)
    return job


async def settle(store: JobStore, *settlements: Settlement) -> None:
    outcome = await store.exchange(settlements, None)
    assert (outcome.claimed, outcome.lost, dict(outcome.refused)) == ((), frozenset(), {})


async def cancel(store: JobStore, *job_ids: JobId) -> list[JobEvent]:
    return await store.cancel(job_ids, CANCELLED_BY_CALLER)


async def statuses(store: JobStore, job_ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
    return {job_id: pulse.status for job_id, pulse in (await store.pulses(job_ids)).items()}


async def found(store: JobStore, where: JobFilter | None = None, **listing: Any) -> list[JobId]:
    """Newest first, unless told otherwise."""
    return ids(await store.find(Listing(where=where or JobFilter(), **{"limit": 1_000, **listing})))


def ids(jobs: Iterable[Job]) -> list[JobId]:
    return [job.id for job in jobs]


def lease_of(job: Job) -> Lease:
    return job.leased().lease


def try_again(held: LeasedJob, delay: timedelta = WAIT) -> Settlement:
    return Settlement(held.lease, RunOutcome.FAILED, JobStatus.PENDING, failure=TIMED_OUT, delay=delay)


def fail(held: LeasedJob) -> Settlement:
    return Settlement(held.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=TIMED_OUT)


def give_back(held: LeasedJob) -> Settlement:
    return Settlement(held.lease, RunOutcome.GIVEN_BACK, JobStatus.PENDING, failure=LIMITED, delay=WAIT)


def complete(held: LeasedJob) -> Settlement:
    return held.complete(RESULT)


def release(held: LeasedJob) -> Settlement:
    return held.release()


End = Callable[[LeasedJob], Settlement]

ENDINGS: dict[str, End] = {
    "complete": complete,
    "try again": try_again,
    "fail": fail,
    "give back": give_back,
    "release": release,
}
