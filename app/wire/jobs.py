"""Jobs as callers see them. `input` and `result` pass through as bytes, neither parsed nor written anew."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from app.wire.body import decode
from app.wire.cursor import decode_cursor, encode_cursor
from app.wire.query import decode_query
from domain.errors import BadInput, ErrorCode, JobNotFound, Problem
from domain.job import Job, JobId, JobStatus, Priority
from domain.ports import JobFilter
from domain.usecases.browse import Page
from domain.usecases.submit import Submission

LONGEST_WAIT = 60

# `$` alone would let a newline follow.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}$(?!\n)")]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
Moment = Annotated[datetime, Meta(tz=True)]
PriorityName = Literal["high", "normal", "low"]

PRIORITIES: dict[PriorityName, Priority] = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}
PRIORITY_NAMES = {priority: name for name, priority in PRIORITIES.items()}


class NewJob(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A job to be done."""

    owner_service: Annotated[Name, Meta(description="The calling service.")]
    task_type: Annotated[Name, Meta(description="What kind of work. One not served here waits for an external worker.")]
    model_profile: Annotated[Name, Meta(description="Which model runtime does it; one not served here waits likewise.")]
    input: Annotated[JsonObject, Meta(description="What the work needs; comes back byte for byte as it was sent.")]
    owner_ref: Annotated[str, Meta(max_length=500, description="The caller's own name for what the job is about.")] = ""
    priority: Annotated[PriorityName, Meta(description="Within a queue, higher ones start first.")] = "normal"
    max_attempts: Annotated[int, Meta(ge=1, le=100, description="Failed runs until the job fails for good.")] = 3
    run_at: Annotated[
        Moment | None,
        Meta(description="Not started before; with a time zone (RFC 3339). Left out: at once."),
    ] = None

    @classmethod
    def read(cls, body: bytes) -> NewJob:
        return decode(_new_job, body)

    def submission(self) -> Submission:
        """What the domain makes of it.

        Raises:
            BadInput: `run_at` is beyond the calendar.
        """
        return Submission(
            owner_service=self.owner_service,
            task_type=self.task_type,
            model_profile=self.model_profile,
            input=self.input,
            owner_ref=self.owner_ref,
            priority=PRIORITIES[self.priority],
            max_attempts=self.max_attempts,
            run_at=self.run_at and _in_utc(self.run_at),
        )


_new_job = msgspec.json.Decoder(NewJob)


class JobRow(Struct, kw_only=True, frozen=True):
    """A job in a list, without its input and result."""

    id: UUID
    owner_service: str
    owner_ref: str
    task_type: str
    model_profile: str
    priority: PriorityName
    status: JobStatus
    queue: Annotated[str | None, Meta(description="Null: no worker here serves it, only an external one can.")]
    error_code: Annotated[ErrorCode | None, Meta(description="Why it failed, or what its last run met.")]
    error_message: str | None
    attempts: Annotated[int, Meta(description="Runs that ended, failed or finished; not those given back.")]
    max_attempts: int
    crashes: Annotated[int, Meta(description="Runs whose built-in worker died.")]
    run_at: Annotated[Moment, Meta(description="Not started before; a scheduled retry moves it.")]
    worker_id: Annotated[str | None, Meta(description="Who runs it now.")]
    lease_expires_at: Moment | None
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    updated_at: Moment

    @classmethod
    def of(cls, job: Job) -> JobRow:
        return cls(**_seen(job))


class JobView(JobRow, kw_only=True, frozen=True):
    """A job, in full."""

    input: JsonObject
    result: JsonObject | None

    @classmethod
    def of(cls, job: Job) -> JobView:
        """The job must have been read with its input, not for a list."""
        if job.input is None:
            raise ValueError("a job without its input can only be a row")
        return cls(**_seen(job), input=job.input, result=job.result)


class JobPage(Struct, frozen=True):
    """Some jobs, newest first."""

    jobs: list[JobRow]
    next_cursor: Annotated[str | None, Meta(description="Send it as `cursor` for what follows; null at the end.")]

    @classmethod
    def of(cls, page: Page, where: JobFilter) -> JobPage:
        following = None if page.next_before is None else encode_cursor(page.next_before, where)
        return cls([JobRow.of(job) for job in page.jobs], following)


class JobsQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which jobs. Several values of one filter mean any of them."""

    owner_service: tuple[Name, ...] = ()
    task_type: tuple[Name, ...] = ()
    model_profile: tuple[Name, ...] = ()
    status: tuple[JobStatus, ...] = ()
    limit: Annotated[int, Meta(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[str, Meta(description="`next_cursor` of the page before, with the same filters.")] | UnsetType = (
        UNSET
    )

    @classmethod
    def read(cls, query_string: bytes) -> Self:
        return decode_query(cls, query_string)

    @property
    def where(self) -> JobFilter:
        return JobFilter(self.owner_service, self.task_type, self.model_profile, self.status)

    @property
    def before(self) -> int | None:
        return None if self.cursor is UNSET else decode_cursor(self.cursor, self.where)


class JobQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How to look at a job."""

    wait: (
        Annotated[
            float,
            Meta(ge=0, le=LONGEST_WAIT, description="Seconds to hold the answer until the job is final; default 0."),
        ]
        | UnsetType
    ) = UNSET

    @classmethod
    def read(cls, query_string: bytes, prefer: str | None) -> float:
        """Seconds to wait. The parameter wins over the header, of which what makes no sense is ignored (RFC 7240)."""
        wait = decode_query(cls, query_string).wait
        return preferred_wait(prefer or "") if wait is UNSET else wait


def preferred_wait(prefer: str) -> float:
    """The `wait` among the preferences of a `Prefer` header, at most a minute; 0 without one."""
    for preference in prefer.split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdigit():
            return min(float(seconds), LONGEST_WAIT)
    return 0


def read_job_id(text: str) -> JobId:
    """The id in a path.

    Raises:
        JobNotFound: no job can have such an id.
    """
    try:
        return JobId(msgspec.convert(text, UUID))
    except msgspec.ValidationError:
        raise JobNotFound from None


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise BadInput([Problem("/run_at", "The time is beyond the calendar.")]) from None


def _seen(job: Job) -> dict[str, Any]:
    failure = job.failure
    return {
        "id": job.id,
        "owner_service": job.owner_service,
        "owner_ref": job.owner_ref,
        "task_type": job.task_type,
        "model_profile": job.model_profile,
        "priority": PRIORITY_NAMES[job.priority],
        "status": job.status,
        "queue": job.queue,
        "error_code": failure and failure.code,
        "error_message": failure and failure.message,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "crashes": job.crashes,
        "run_at": job.run_at,
        "worker_id": job.worker_id,
        "lease_expires_at": job.lease_expires_at,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "updated_at": job.updated_at,
    }
