"""A job, the runs it is given, and every move between its states.

A transition is a pure function: it returns a new job or raises. PostgreSQL makes the same moves in guarded UPDATEs, and
a property test holds the two to each other.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NewType
from uuid import UUID

from msgspec import Raw, Struct
from msgspec.structs import replace

from domain.errors import ErrorCode, Failure, InvalidTransition, LeaseLost
from domain.results import ProviderAttempt

JobId = NewType("JobId", UUID)
LeaseToken = NewType("LeaseToken", UUID)

IMMEDIATELY = timedelta(0)

WORKER_LEASE = timedelta(seconds=15)
"""How long a built-in worker's lease lasts. Renewed every two seconds, it outlives a short outage and little more."""


class JobStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class Priority(IntEnum):
    """Lower is more urgent. The numbers leave room between the levels, and are what PostgreSQL stores."""

    HIGH = 1
    NORMAL = 3
    LOW = 5


class RunOutcome(StrEnum):
    """How a run ended, as its history tells it."""

    COMPLETED = "completed"
    FAILED = "failed"
    """It failed and was counted as an attempt; the job may be retried."""
    GIVEN_BACK = "given_back"
    """The provider would not serve it now: not counted as an attempt, but counted against the give-back limit."""
    RELEASED = "released"
    """It was handed back unharmed; nothing is counted."""
    PREEMPTED = "preempted"
    """A more urgent job took its slot; nothing is counted."""
    EXPIRED = "expired"
    """Its external worker let the lease run out; counted as a failed attempt."""
    CRASHED = "crashed"
    """Its built-in worker died."""
    CANCELLED = "cancelled"
    RETRIED = "retried"
    """A manual retry took the job away from it."""


class RunEnd(Struct, frozen=True):
    """How a run ended, for whoever reports its end again."""

    outcome: RunOutcome
    error_code: ErrorCode | None = None


class RunRecord(Struct, frozen=True):
    """One run of a job, as its history tells it."""

    started_at: datetime
    worker_id: str
    ended_at: datetime | None = None
    """None while it goes on."""
    outcome: RunOutcome | None = None
    failure: Failure | None = None
    attempts: tuple[ProviderAttempt, ...] = ()
    """The calls of providers that it made, where there was more than one."""


class Lease(Struct, frozen=True):
    """The exclusive, expiring right of one run to its job. The token is the fence: a stale one changes nothing."""

    job_id: JobId
    token: LeaseToken


class Settlement(Struct, frozen=True):
    """What an ended run does to its job. Worked out by the run's holder, applied only while its lease is current."""

    lease: Lease
    outcome: RunOutcome
    status: JobStatus
    result: bytes | None = None
    failure: Failure | None = None
    delay: timedelta = IMMEDIATELY
    """How long the job then waits before it may start again (while pending)."""
    attempts: tuple[ProviderAttempt, ...] = ()
    """The calls of providers that the run made, where there was more than one."""


class IdempotencyKey(Struct, frozen=True):
    """Names a submission, so that sending it again finds its job. Unique per owner; lives as long as the job."""

    key: str
    fingerprint: bytes
    """Of what was sent: the same key with another one is a mistake."""


class NewJob(Struct, frozen=True):
    """A job as it was submitted, before PostgreSQL gave it a place and a time."""

    id: JobId
    owner_service: str
    task_type: str
    model_profile: str
    input: Raw
    queue: str | None = None
    owner_ref: str = ""
    priority: Priority = Priority.NORMAL
    max_attempts: int = 3
    run_at: datetime | None = None
    deadline_at: datetime | None = None
    labels: dict[str, str] = {}
    batch_id: UUID | None = None
    idempotency: IdempotencyKey | None = None
    weight: float | None = None
    """Its owner's share of GPU time, as the token says that submits it; a configured one takes precedence.

    None: it says nothing of that, and the share stays what it was, 1 at first.
    """
    upload_id: UUID | None = None
    """The upload that its input names: kept at least until the job is final."""
    give_backs: int = 0
    """As if it had been given back so often already. At the limit, what would give it back fails it instead."""
    traceparent: str | None = None
    """The W3C trace context of its submission; its runs are linked to it."""

    def stored(self, seq: int, *, run_at: datetime, due: bool, now: datetime) -> Job:
        """The job that it becomes once the storage has given it its place and its times."""
        return Job(
            id=self.id,
            seq=seq,
            owner_service=self.owner_service,
            owner_ref=self.owner_ref,
            task_type=self.task_type,
            model_profile=self.model_profile,
            queue=self.queue,
            priority=self.priority,
            level=int(self.priority),
            status=JobStatus.PENDING,
            input=self.input,
            max_attempts=self.max_attempts,
            give_backs=self.give_backs,
            run_at=run_at,
            due=due,
            deadline_at=self.deadline_at,
            labels=self.labels,
            batch_id=self.batch_id,
            created_at=now,
            updated_at=now,
        )


class LeasedJob(Struct, frozen=True):
    """A job as its worker holds it: what the run needs, and the counts that decide what a failure means."""

    lease: Lease
    task_type: str
    model_profile: str
    owner_service: str
    queue: str | None
    priority: Priority
    attempts: int
    max_attempts: int
    give_backs: int
    number: int
    """The change of the job's state that began the run."""
    input: Raw
    trial: bool = False
    """Whether it was let through a half-open circuit: how it ends decides about the queue."""
    crashes: int = 0
    """How many workers died under it."""
    waited: float = 0.0
    """Seconds that it had been due when the run began."""
    traceparent: str | None = None
    """The W3C trace context of its submission."""
    started_at: datetime | None = None
    """When the run of an external worker began; None: it is a built-in one's, which knows that itself."""

    @property
    def id(self) -> JobId:
        return self.lease.job_id

    @property
    def suspect(self) -> bool:
        """Whether it runs alone in its process."""
        return self.crashes >= SUSPECT_FROM

    def complete(self, result: bytes) -> Settlement:
        return Settlement(self.lease, RunOutcome.COMPLETED, JobStatus.COMPLETED, result=result)

    def release(self) -> Settlement:
        return Settlement(self.lease, RunOutcome.RELEASED, JobStatus.PENDING)


SUSPECT_FROM = 2
"""A job under which so many workers died runs without company: whoever it may kill next, it kills alone.

Once is no ground for suspicion: all that ran beside the one that did it have crashed once, or a machine was lost. With
the usual `MAX_CRASHES` of 3 no job is failed for what another did.
"""


def line_of(task_type: str, model_profile: str) -> str:
    """What jobs of a kind wait in that have no queue. No name of a queue has a space in it."""
    return f"{task_type} {model_profile}"


class Job(Struct, frozen=True, kw_only=True):
    """One unit of AI work, in full."""

    id: JobId
    seq: int
    """Its place among its equals; kept by retries and give-backs."""
    owner_service: str
    owner_ref: str
    task_type: str
    model_profile: str
    queue: str | None
    priority: Priority
    level: int
    """How urgent it is in its line: its priority, or more where it has waited long (lower is more urgent)."""
    status: JobStatus
    input: Raw | None
    """None where it was not asked for (lists)."""
    result: Raw | None = None
    failure: Failure | None = None
    """The last failure: why it failed or was cancelled, or what its last run met while it is pending."""
    attempts: int = 0
    max_attempts: int
    crashes: int = 0
    give_backs: int = 0
    number: int = 1
    """Counts the changes of its state; 1 is its submission."""
    progress: Raw | None = None
    """The last that a worker reported."""
    labels: dict[str, str] = {}
    batch_id: UUID | None = None
    run_at: datetime
    deadline_at: datetime | None = None
    """Not started for the first time by then, it is cancelled."""
    due: bool
    """Whether `run_at` had passed when last looked at: jobs that are not due lie outside the ready index."""
    lease: Lease | None = None
    lease_expires_at: datetime | None = None
    lease_timeout: timedelta | None = None
    """How long a renewal by an external worker lasts; None for a built-in one, whose heartbeat renews it."""
    worker_id: str | None = None
    trial: bool = False
    """Whether its run was let through a half-open circuit; known of a job that is read whole."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    updated_at: datetime

    @property
    def suspect(self) -> bool:
        """As that of a `LeasedJob`."""
        return self.crashes >= SUSPECT_FROM

    @property
    def line(self) -> str:
        """What it waits in: its queue, or the jobs of its kind where it has none."""
        return self.queue or line_of(self.task_type, self.model_profile)

    def claim(
        self,
        token: LeaseToken,
        worker_id: str,
        expires_at: datetime,
        now: datetime,
        lease_timeout: timedelta | None = None,
    ) -> Job:
        """Start a run. Only a pending job that is due can be claimed.

        Args:
            lease_timeout: given by an external worker, whose expired lease is a failed attempt and not a crash.
        """
        if self.status is not JobStatus.PENDING or not self.due:
            raise InvalidTransition(f"A job that is {self.status} cannot be claimed.")
        return replace(
            self,
            status=JobStatus.RUNNING,
            number=self.number + 1,
            lease=Lease(self.id, token),
            lease_expires_at=expires_at,
            lease_timeout=lease_timeout,
            worker_id=worker_id,
            started_at=now,
            updated_at=now,
        )

    @property
    def waited(self) -> timedelta:
        """For how long it had been due when its last run began."""
        began = self.started_at or self.created_at
        return max(began - max(self.run_at, self.created_at), timedelta(0))

    def leased(self) -> LeasedJob:
        """The running job as its worker holds it.

        Raises:
            InvalidTransition: it is not running.
        """
        if self.lease is None or self.input is None:
            raise InvalidTransition("Only a running job has a lease.")
        return LeasedJob(
            lease=self.lease,
            task_type=self.task_type,
            model_profile=self.model_profile,
            owner_service=self.owner_service,
            queue=self.queue,
            priority=self.priority,
            attempts=self.attempts,
            max_attempts=self.max_attempts,
            give_backs=self.give_backs,
            number=self.number,
            input=self.input,
            trial=self.trial,
            waited=self.waited.total_seconds(),
            started_at=self.started_at,
            crashes=self.crashes,
        )

    def renew(self, lease: Lease, expires_at: datetime) -> Job:
        self._must_hold(lease)
        return replace(self, lease_expires_at=expires_at)

    def settle(self, settlement: Settlement, now: datetime) -> Job:
        """End the current run as its holder says.

        Raises:
            LeaseLost: the run no longer holds the job; nothing changes.
        """
        self._must_hold(settlement.lease)
        job = self._without_lease(settlement.status, now)
        counted = settlement.outcome in {RunOutcome.COMPLETED, RunOutcome.FAILED, RunOutcome.EXPIRED}
        given_back = settlement.outcome is RunOutcome.GIVEN_BACK
        return replace(
            job,
            attempts=job.attempts + counted,
            give_backs=job.give_backs + given_back,
            result=None if settlement.result is None else Raw(settlement.result),
            failure=None if settlement.status is JobStatus.COMPLETED else settlement.failure or job.failure,
            run_at=now + settlement.delay if settlement.delay else job.run_at,
            due=settlement.delay == IMMEDIATELY,
        )

    def preempt(self, now: datetime) -> Job:
        """Take the job from its worker for a more urgent one: it goes back unharmed, in its old place."""
        if self.status is not JobStatus.RUNNING:
            raise InvalidTransition(f"A job that is {self.status} has no slot to give.")
        return replace(self._without_lease(JobStatus.PENDING, now), due=True)

    def expire(self, now: datetime) -> Job:
        """Cancel a job that was not started for the first time by its deadline; any other stays as it is."""
        late = self.deadline_at is not None and self.deadline_at <= now
        if not late or self.status is not JobStatus.PENDING or self.started_at is not None:
            return self
        return self.cancel(now, DEADLINE_PASSED)

    def rescue(self, max_crashes: int, retry_delay: timedelta, now: datetime) -> Job:
        """Take the job from a worker that is gone.

        From a built-in one it goes back at once, uncounted, or fails after too many crashes. An external one's lease
        that ran out is a failed attempt: tried again after `retry_delay`, or failed for good.
        """
        if self.status is not JobStatus.RUNNING or self.lease is None:
            raise InvalidTransition(f"A job that is {self.status} has no worker to be rescued from.")
        if self.lease_timeout is not None:
            last = self.attempts + 1 >= self.max_attempts
            status, delay = (JobStatus.FAILED, IMMEDIATELY) if last else (JobStatus.PENDING, retry_delay)
            return self.settle(Settlement(self.lease, RunOutcome.EXPIRED, status, failure=EXPIRED, delay=delay), now)
        crashes = self.crashes + 1
        hopeless = crashes >= max_crashes
        job = self._without_lease(JobStatus.FAILED if hopeless else JobStatus.PENDING, now)
        return replace(job, crashes=crashes, failure=crash(crashes, hopeless=hopeless))

    def cancel(self, now: datetime, failure: Failure | None = None) -> Job:
        """Stop the job for good. Cancelling it again changes nothing."""
        match self.status:
            case JobStatus.CANCELLED:
                return self
            case JobStatus.COMPLETED | JobStatus.FAILED:
                raise InvalidTransition(f"The job is {self.status}: only a pending or running job can be cancelled.")
            case JobStatus.PENDING | JobStatus.RUNNING:
                return replace(self._without_lease(JobStatus.CANCELLED, now), failure=failure or CANCELLED_BY_CALLER)

    def retry(self, now: datetime) -> Job:
        """Start afresh by hand: counts, result and error are reset, the history of runs is kept."""
        if self.status in {JobStatus.PENDING, JobStatus.COMPLETED}:
            raise InvalidTransition(
                f"The job is {self.status}: only a failed, cancelled or running job can be retried."
            )
        return replace(
            self._without_lease(JobStatus.PENDING, now),
            attempts=0,
            crashes=0,
            give_backs=0,
            result=None,
            failure=None,
            level=int(self.priority),
            run_at=now,
            due=True,
            deadline_at=None,
        )

    def promote(self, now: datetime) -> Job:
        """Move a pending job whose time has come among those that may be claimed."""
        ready = self.status is JobStatus.PENDING and self.run_at <= now
        return replace(self, due=True) if ready and not self.due else self

    def route(self, queue: str) -> Job:
        """Let a pending job that had no queue wait in this one, in its old place."""
        unserved = self.queue is None and self.status is JobStatus.PENDING and self.due
        return replace(self, queue=queue) if unserved else self

    def _without_lease(self, status: JobStatus, now: datetime) -> Job:
        return replace(
            self,
            status=status,
            number=self.number + 1,
            lease=None,
            lease_expires_at=None,
            lease_timeout=None,
            worker_id=None,
            trial=False,
            finished_at=now if status.final else None,
            updated_at=now,
        )

    def _must_hold(self, lease: Lease) -> None:
        if self.lease != lease:
            raise LeaseLost


CANCELLED_BY_CALLER = Failure(ErrorCode.CANCELLED, "Cancelled on request.")
OUT_OF_TIME = Failure(ErrorCode.CANCELLED, "It was not answered within its caller's time.")
CALLER_WENT_AWAY = Failure(ErrorCode.CANCELLED, "Its caller went away.")
BEGUN_AGAIN = Failure(ErrorCode.CANCELLED, "Its run was taken from its worker after its text had begun.")
DEADLINE_PASSED = Failure(ErrorCode.CANCELLED, "It was not started by its deadline.")


EXPIRED = Failure(ErrorCode.STALE_WORKER, "Its external worker did not renew the lease in time.")

CRASHED = "Its worker died while running it; it went back to its place."
CRASHED_TOO_OFTEN = "Its worker died %s times while running it; it is not tried again."


def crash(crashes: int, *, hopeless: bool) -> Failure:
    """What a job says of a worker that died while running it."""
    return Failure(ErrorCode.STALE_WORKER, CRASHED_TOO_OFTEN % crashes if hopeless else CRASHED)
