"""One example of each document, for the API's description. Being structs, they cannot drift from their schemas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from msgspec import Raw

from app.wire.health import Components, Liveness, ReadinessView
from app.wire.jobs import JobPage, JobRow, JobView, NewJob
from domain.job import JobStatus

JOB_ID = UUID("01981a52-1c00-7c4e-9d2f-3b1a5e6f7081")

_SUBMITTED = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
_INPUT = Raw(b'{"messages": [{"role": "user", "content": "Summarise this call: ..."}], "max_tokens": 400}')
_RESULT = Raw(
    b'{"schema_version": "ai.chat_result.v1", "content": "The caller asks for a refund.",'
    b' "model": "qwen2.5-14b", "duration_ms": 2840}'
)

NEW_JOB = NewJob(
    owner_service="beeline",
    owner_ref="beeline/call-4711",
    task_type="call_analysis",
    model_profile="qwen2.5-14b",
    priority="high",
    input=_INPUT,
)

ROW = JobRow(
    id=JOB_ID,
    owner_service=NEW_JOB.owner_service,
    owner_ref=NEW_JOB.owner_ref,
    task_type=NEW_JOB.task_type,
    model_profile=NEW_JOB.model_profile,
    priority=NEW_JOB.priority,
    status=JobStatus.COMPLETED,
    queue="gpu.llm",
    error_code=None,
    error_message=None,
    attempts=1,
    max_attempts=NEW_JOB.max_attempts,
    crashes=0,
    run_at=_SUBMITTED,
    worker_id=None,
    lease_expires_at=None,
    created_at=_SUBMITTED,
    started_at=_SUBMITTED + timedelta(seconds=1),
    finished_at=_SUBMITTED + timedelta(seconds=4),
    updated_at=_SUBMITTED + timedelta(seconds=4),
)

JOB = JobView(**{name: getattr(ROW, name) for name in ROW.__struct_fields__}, input=_INPUT, result=_RESULT)

PAGE = JobPage([ROW], "AAAAAAAAACrGVYfV4gEpJg")

ALIVE = Liveness()
READY = ReadinessView("degraded", Components(postgres="ok", broker="down"))
UNREADY = ReadinessView("down", Components(postgres="down", broker="ok"))
