"""The domain's own transitions, as moves of what the protocol knows of a job: each is computed once."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from domain.errors import ErrorCode, Failure
from domain.job import Job, JobId, JobStatus, Lease, LeaseToken, RunOutcome, Settlement
from domain.retry import MAX_GIVE_BACKS, RetryPolicy, settle_failure
from tests.factories import NOW, stored_job

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = JobStatus

TICK = timedelta(seconds=7.5)
LEASE = 2
"""Ticks that a lease lasts without renewal: 15 s."""
MAX_CRASHES = 2
MAX_ATTEMPTS = 2
GIVE_BACKS = 1
"""That are free: the domain allows more, and the model begins to count so many before its limit."""

LATER = NOW + timedelta(days=1)
JOB_ID = JobId(UUID(int=1))
JOB = stored_job(id=JOB_ID, max_attempts=MAX_ATTEMPTS)
TIMED_OUT, LIMITED = Failure(ErrorCode.TIMEOUT), Failure(ErrorCode.RATE_LIMITED)


class Row(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """The job. Tokens are small numbers; 0 is none."""

    status: str = PENDING
    token: int = 0
    age: int = 0
    """Ticks since the lease was given or renewed."""
    holder: int = 0
    due: bool = True
    started: bool = False
    deadline: bool = True
    attempts: int = 0
    crashes: int = 0
    give_backs: int = 0
    code: str = ""
    """Why it failed or was cancelled."""


@cache
def claimed(row: Row, token: int, holder: int) -> Row:
    return _row(_job(row).claim(LeaseToken(UUID(int=token)), str(holder), NOW + LEASE * TICK, NOW))


@cache
def renewed(row: Row, token: int) -> Row:
    return _row(_job(row).renew(_lease(token), NOW + LEASE * TICK))


@cache
def settled(row: Row, token: int, end: str) -> Row:
    """Raises `LeaseLost` where the token is not the job's."""
    job = _job(row)
    return _row(job.settle(_settlement(job, token, end), NOW))


@cache
def rescued(row: Row) -> Row:
    return _row(_job(row).rescue(MAX_CRASHES, TICK, NOW))


@cache
def cancelled(row: Row) -> Row:
    return _row(_job(row).cancel(NOW))


@cache
def retried(row: Row) -> Row:
    return _row(_job(row).retry(NOW))


@cache
def preempted(row: Row) -> Row:
    return _row(_job(row).preempt(NOW))


@cache
def promoted(row: Row) -> Row:
    return _row(_job(row).promote(LATER))


@cache
def expired(row: Row) -> Row:
    return _row(_job(row).expire(LATER))


def _settlement(job: Job, token: int, end: str) -> Settlement:
    """What a worker asks for that claimed the job as it is: nothing that decides about it changes during a run."""
    held = replace(replace(job, lease=_lease(token)).leased(), lease=_lease(token))
    match RunOutcome(end):
        case RunOutcome.COMPLETED:
            return held.complete(b"{}")
        case RunOutcome.FAILED:
            return settle_failure(held, TIMED_OUT, RetryPolicy(), jitter=0.5)
        case RunOutcome.GIVEN_BACK:
            nearly = replace(held, give_backs=held.give_backs + MAX_GIVE_BACKS - GIVE_BACKS)
            return settle_failure(nearly, LIMITED, RetryPolicy(), jitter=0.5)
        case _:
            return held.release()


def _job(row: Row) -> Job:
    running = row.status == RUNNING
    return replace(
        JOB,
        status=JobStatus(row.status),
        lease=_lease(row.token) if row.token else None,
        lease_expires_at=NOW + (LEASE - row.age) * TICK if running else None,
        worker_id=str(row.holder) if running else None,
        due=row.due,
        started_at=NOW if row.started else None,
        deadline_at=NOW if row.deadline else None,
        attempts=row.attempts,
        crashes=row.crashes,
        give_backs=row.give_backs,
    )


def _row(job: Job) -> Row:
    return Row(
        status=str(job.status),
        token=job.lease.token.int if job.lease else 0,
        age=LEASE - (job.lease_expires_at - NOW) // TICK if job.lease_expires_at else 0,
        holder=int(job.worker_id or 0),
        due=job.due,
        started=job.started_at is not None,
        deadline=job.deadline_at is not None,
        attempts=job.attempts,
        crashes=job.crashes,
        give_backs=job.give_backs,
        code=str(job.failure.code) if job.failure and job.status.final else "",
    )


def _lease(token: int) -> Lease:
    return Lease(JOB_ID, LeaseToken(UUID(int=token)))
