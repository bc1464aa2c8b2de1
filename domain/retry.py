"""What a failure means for its job: tried again and when, given back uncounted, or final.

The table is the public contract's; its delays are settings.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum, auto
from typing import assert_never

from msgspec import Struct

from domain.errors import ErrorCode, Failure
from domain.job import JobStatus, LeasedJob, RunOutcome, Settlement


class Retry(Enum):
    """How a code is retried while attempts remain."""

    SOON = auto()
    LATER = auto()
    NEVER = auto()
    GIVE_BACK = auto()
    """Not the job's fault: back in its old place, the attempt not counted, up to `MAX_GIVE_BACKS` times."""


RETRIES = {
    ErrorCode.PROVIDER_UNAVAILABLE: Retry.SOON,
    ErrorCode.MODEL_UNAVAILABLE: Retry.SOON,
    ErrorCode.PROVIDER_ERROR: Retry.SOON,
    ErrorCode.DEPENDENCY_ERROR: Retry.SOON,
    ErrorCode.TIMEOUT: Retry.SOON,
    ErrorCode.STORAGE_ERROR: Retry.SOON,
    ErrorCode.STALE_WORKER: Retry.SOON,
    ErrorCode.BAD_RESPONSE: Retry.LATER,
    ErrorCode.TRANSCRIPT_HALLUCINATION: Retry.LATER,
    ErrorCode.TRANSCRIPT_INCOMPLETE: Retry.LATER,
    ErrorCode.INTERNAL_ERROR: Retry.LATER,
    ErrorCode.UNKNOWN: Retry.LATER,
    ErrorCode.BAD_AUDIO: Retry.NEVER,
    ErrorCode.BAD_INPUT: Retry.NEVER,
    ErrorCode.CONTEXT_LENGTH: Retry.NEVER,
    ErrorCode.UNSUPPORTED_TASK: Retry.NEVER,
    ErrorCode.CANCELLED: Retry.NEVER,
    ErrorCode.RATE_LIMITED: Retry.GIVE_BACK,
    ErrorCode.AUTH_ERROR: Retry.GIVE_BACK,
    ErrorCode.QUOTA_EXHAUSTED: Retry.GIVE_BACK,
}

MAX_GIVE_BACKS = 10
FIRST_GIVE_BACK_WAIT = timedelta(seconds=1)
LONGEST_GIVE_BACK_WAIT = timedelta(seconds=60)


class RetryPolicy(Struct, frozen=True):
    """The delays of the retry table."""

    fast: timedelta = timedelta(seconds=30)
    slow: timedelta = timedelta(minutes=2)


def settle_failure(job: LeasedJob, failure: Failure, policy: RetryPolicy, *, jitter: float) -> Settlement:
    """What this failure does to the job.

    Args:
        jitter: a random number in [0, 1); spreads give-backs that would come back in step.
    """
    match RETRIES[failure.code]:
        case Retry.GIVE_BACK if job.give_backs < MAX_GIVE_BACKS:
            wait = _at_least(give_back_wait(job.give_backs, jitter), failure.retry_after)
            return Settlement(job.lease, RunOutcome.GIVEN_BACK, JobStatus.PENDING, failure=failure, delay=wait)
        case Retry.NEVER:
            return _final(job, failure)
        case Retry.SOON:
            return _again(job, failure, policy.fast)
        case Retry.LATER | Retry.GIVE_BACK:
            return _again(job, failure, policy.slow)
        case unreachable:
            assert_never(unreachable)


def settle_outage(job: LeasedJob, failure: Failure, policy: RetryPolicy) -> Settlement:
    """What it does to the job that its model server is down.

    It goes back without a delay, for its queue's circuit holds it; from the limit of give-backs on it is a failed
    attempt.
    """
    if job.give_backs < MAX_GIVE_BACKS:
        return Settlement(job.lease, RunOutcome.GIVEN_BACK, JobStatus.PENDING, failure=failure)
    return _again(job, failure, policy.slow)


def give_back_wait(give_backs: int, jitter: float) -> timedelta:
    """1 s doubling to 60 s, of which the upper half is random ("equal jitter": never in step).

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    longest = min(FIRST_GIVE_BACK_WAIT * (1 << give_backs), LONGEST_GIVE_BACK_WAIT)
    return longest / 2 * (1 + jitter)


def _again(job: LeasedJob, failure: Failure, delay: timedelta) -> Settlement:
    if job.attempts + 1 >= job.max_attempts:
        return _final(job, failure)
    wait = _at_least(delay, failure.retry_after)
    return Settlement(job.lease, RunOutcome.FAILED, JobStatus.PENDING, failure=failure, delay=wait)


def _final(job: LeasedJob, failure: Failure) -> Settlement:
    return Settlement(job.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=failure)


def _at_least(delay: timedelta, retry_after: timedelta | None) -> timedelta:
    return delay if retry_after is None else max(delay, retry_after)
