"""What happens to a job, as others hear of it: a hint to go and look, never the truth."""

from __future__ import annotations

from datetime import datetime

from msgspec import Raw, Struct

from domain.errors import Failure
from domain.job import Job, JobId, JobStatus, LeasedJob

PROGRESS = "progress"
REVOKED = "revoked"
FOLLOWED = "followed"
"""Somebody reads along: the run is to tell all of its text so far, and to go on telling it for a while."""

TAKEN_AWAY = frozenset({JobStatus.CANCELLED.value, REVOKED})
"""Kinds of events by which a run may have lost its job."""


class JobEvent(Struct, frozen=True):
    """Something that happened to a job."""

    job_id: JobId
    owner_service: str
    task_type: str
    queue: str | None
    kind: str
    """The state that it is in now; `progress` where its run reported some, `revoked` where that perhaps lost it,
    `followed` where somebody reads what it answers."""
    number: int
    """Counts the changes of the job's state; 1 is its submission. Progress carries that of its run's start."""

    @classmethod
    def of(cls, job: Job | LeasedJob, kind: str, number: int) -> JobEvent:
        return cls(job.id, job.owner_service, job.task_type, job.queue, kind, number)


class StatusChange(Struct, frozen=True):
    """One change of a job's state, as its history tells it."""

    number: int
    status: JobStatus
    at: datetime
    failure: Failure | None = None


class Progress(Struct, frozen=True):
    """The last that a run told of itself."""

    number: int
    """The change of state that began the run."""
    report: int
    """Counts the reports of the run from 1."""
    at: datetime
    data: Raw


class Pulse(Struct, frozen=True):
    """What tells whether there is anything new about a job."""

    status: JobStatus
    number: int
    progress: tuple[int, int] = (0, 0)
    """The last report: the number of its run's start, and its own."""
