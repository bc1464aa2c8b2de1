"""Rows of PostgreSQL as the domain's values."""

from __future__ import annotations

import asyncpg
import msgspec
from msgspec import Raw

from domain.errors import ErrorCode, Failure
from domain.events import JobEvent
from domain.job import Job, JobStatus, Lease, LeasedJob, Priority
from domain.retention import PastJob

_labels = msgspec.json.Decoder(dict[str, str])


def job_of(row: asyncpg.Record) -> Job:
    """A row of `jobs` with its details; input and result are None where they were not read."""
    return Job(
        id=row["id"],
        seq=row["seq"],
        owner_service=row["owner_service"],
        owner_ref=row["owner_ref"],
        task_type=row["task_type"],
        model_profile=row["model_profile"],
        queue=row["queue"],
        priority=Priority(row["priority"]),
        level=row["level"],
        status=JobStatus(row["status"]),
        input=_raw(row["input"]),
        result=_raw(row["result"]),
        failure=failure_of(row),
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        crashes=row["crashes"],
        give_backs=row["give_backs"],
        number=row["number"],
        progress=_raw(row["progress"]),
        labels=_labels.decode(row["labels"]) if row["labels"] else {},
        batch_id=row["batch_id"],
        run_at=row["run_at"],
        deadline_at=row["deadline_at"],
        due=row["due"],
        lease=Lease(row["id"], row["lease_token"]) if row["lease_token"] else None,
        lease_expires_at=row["lease_expires_at"],
        lease_timeout=row["lease_timeout"],
        trial=row.get("trial", False),
        worker_id=row["worker_id"] if row["lease_token"] else None,  # the row remembers its last one
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        updated_at=row["updated_at"],
    )


def past_job_of(row: asyncpg.Record) -> PastJob:
    return PastJob(
        id=row["id"],
        owner_service=row["owner_service"],
        status=JobStatus(row["status"]),
        number=row["number"],
        created_at=row["created_at"],
        seq=row["seq"],
        finished_at=row["finished_at"],
    )


def leased_of(row: asyncpg.Record) -> LeasedJob:
    """A row of the answer to a claim."""
    return LeasedJob(
        lease=Lease(row["job_id"], row["lease_token"]),
        task_type=row["task_type"],
        model_profile=row["model_profile"],
        owner_service=row["owner_service"],
        queue=row["queue"],
        priority=Priority(row["priority"]),
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        give_backs=row["give_backs"],
        number=row["number"],
        input=Raw(row["input"]),
        trial=row["trial"],
        crashes=row["crashes"],
        waited=row["waited_ms"] / 1000,
        traceparent=row["traceparent"],
    )


def event_of(row: asyncpg.Record) -> JobEvent:
    """A job that has just changed its state."""
    return JobEvent(row["id"], row["owner_service"], row["task_type"], row["queue"], row["status"], row["number"])


def failure_of(row: asyncpg.Record) -> Failure | None:
    code = code_of(row)
    return Failure(code, row["error_message"] or "") if code else None


def code_of(row: asyncpg.Record) -> ErrorCode | None:
    return ErrorCode(row["error_code"]) if row["error_code"] else None


def _raw(data: bytes | None) -> Raw | None:
    return None if data is None else Raw(data)
