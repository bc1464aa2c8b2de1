"""Values that are valid as they come; a test names only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

from msgspec import Raw
from msgspec.structs import replace

from domain.events import JobEvent
from domain.identity import job_id
from domain.job import Job, JobId, JobStatus, Lease, LeasedJob, LeaseToken, NewJob, Priority
from domain.ports import Claim, ExternalClaim, WorkerBeat
from domain.usecases.submit import Submission

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEASE = timedelta(seconds=30)
QUEUE = "gpu.llm"
PROFILE = "qwen2.5-14b"
NO_JOB = "019ca945-0a00-7000-8000-000000000000"
"""An id that no job has; the same in every process, as the names of tests must be."""

CHAT_INPUT = Raw(b'{"user": "Hello"}')

_milliseconds = count(1_772_366_400_000)


def new_id() -> JobId:
    """Later ones sort after earlier ones."""
    return job_id(next(_milliseconds), uuid4().bytes)


def new_lease(of: JobId | None = None) -> Lease:
    return Lease(of or new_id(), LeaseToken(uuid4()))


def new_job(**changes: Any) -> NewJob:
    job = NewJob(
        id=new_id(),
        owner_service="beeline",
        task_type="llm_chat",
        model_profile=PROFILE,
        input=CHAT_INPUT,
        queue=QUEUE,
    )
    return replace(job, **changes)


def submission(**changes: Any) -> Submission:
    wanted = Submission(owner_service="beeline", task_type="llm_chat", model_profile=PROFILE, input=CHAT_INPUT)
    return replace(wanted, **changes)


def stored_job(**changes: Any) -> Job:
    """A pending job that is due."""
    job = Job(
        id=new_id(),
        seq=1,
        owner_service="beeline",
        owner_ref="",
        task_type="llm_chat",
        model_profile=PROFILE,
        queue=QUEUE,
        priority=Priority.NORMAL,
        level=3,
        status=JobStatus.PENDING,
        input=CHAT_INPUT,
        max_attempts=3,
        run_at=NOW,
        due=True,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(job, **changes)


def running_job(**changes: Any) -> Job:
    return replace(stored_job().claim(LeaseToken(uuid4()), "worker-1", NOW + LEASE, NOW), **changes)


def leased_job(**changes: Any) -> LeasedJob:
    return replace(running_job().leased(), **changes)


def new_claim(**changes: Any) -> Claim:
    claim = Claim(
        queue=QUEUE,
        task_types=("llm_chat",),
        model_profiles=(PROFILE,),
        worker_id="worker-1",
        lease=LEASE,
        limit=1,
        alone=True,
    )
    return replace(claim, **changes)


def external_claim(**changes: Any) -> ExternalClaim:
    """Of an external worker who takes anything."""
    return replace(ExternalClaim(worker_id="theirs", lease=LEASE), **changes)


def job_event(**changes: Any) -> JobEvent:
    event = JobEvent(
        job_id=new_id(), owner_service="beeline", task_type="llm_chat", queue=QUEUE, kind="pending", number=1
    )
    return replace(event, **changes)


def new_beat(**changes: Any) -> WorkerBeat:
    beat = WorkerBeat(
        id=uuid4(),
        worker_id="worker-1",
        host="gpu-1",
        queues=(QUEUE,),
        slots_per_queue=4,
        running={},
        model_profiles=(PROFILE,),
    )
    return replace(beat, **changes)
