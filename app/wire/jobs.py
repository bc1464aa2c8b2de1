"""Jobs as callers see them. `input`, `result` and `progress` pass through as bytes, neither parsed nor written anew."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from app.wire.fields import PRIORITY_NAMES, JsonObject, Moment, PriorityName
from app.wire.query import decode_query
from domain.errors import ErrorCode, JobNotFound
from domain.job import Job, JobId, JobStatus
from domain.usecases.outlook import Outlook, WaitingFor

LONGEST_WAIT = 60


class JobRow(Struct, kw_only=True, frozen=True):
    """A job in a list: without its input and result, unless they were asked for."""

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
    progress: Annotated[JsonObject | None, Meta(description="The last that a worker reported.")]
    run_at: Annotated[Moment, Meta(description="Not started before; a scheduled retry moves it.")]
    deadline_at: Annotated[Moment | None, Meta(description="Not started for the first time by then, it is cancelled.")]
    worker_id: Annotated[str | None, Meta(description="Who runs it now.")]
    lease_expires_at: Moment | None
    batch_id: Annotated[UUID | None, Meta(description="Shared by the jobs of one batch.")]
    labels: Annotated[dict[str, str], Meta(description="The caller's own.")]
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    updated_at: Moment
    position: Annotated[
        int | None,
        Meta(description="Pending and due: jobs before it in line, an estimate from 1,000 on. Null in lists."),
    ] = None
    eta_seconds: Annotated[
        int | None,
        Meta(description="About how long until it starts; null where nothing like it ran lately. Null in lists."),
    ] = None
    waiting_for: Annotated[WaitingFor | None, Meta(description="Why a pending job does not start. Null in lists.")] = (
        None
    )
    input: JsonObject | UnsetType = UNSET
    result: JsonObject | UnsetType | None = UNSET

    @classmethod
    def of(cls, job: Job, *, with_input: bool = False, with_result: bool = False) -> JobRow:
        return cls(
            **seen(job),
            input=job.input if with_input and job.input is not None else UNSET,
            result=job.result if with_result else UNSET,
        )


class JobView(JobRow, kw_only=True, frozen=True):
    """A job, in full."""

    input: JsonObject
    result: JsonObject | None

    @classmethod
    def whole(cls, job: Job, outlook: Outlook | None = None) -> JobView:
        """The job must have been read with its input, not for a list."""
        if job.input is None:
            raise ValueError("a job without its input can only be a row")
        return cls(**seen(job, outlook), input=job.input, result=job.result)


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


def seen(job: Job, outlook: Outlook | None = None) -> dict[str, Any]:
    """The fields of a row."""
    failure, outlook = job.failure, outlook or Outlook()
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
        "progress": job.progress,
        "run_at": job.run_at,
        "deadline_at": job.deadline_at,
        "worker_id": job.worker_id,
        "lease_expires_at": job.lease_expires_at,
        "batch_id": job.batch_id,
        "labels": job.labels,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "updated_at": job.updated_at,
        "position": outlook.position,
        "eta_seconds": outlook.eta_seconds,
        "waiting_for": outlook.waiting_for,
    }
