"""One line in the log for each change of a job's state: what happened to which job, never what is in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import structlog

from adapters.telemetry.context import current, trace_id
from adapters.telemetry.runs import Stopwatches
from domain.events import JobEvent
from domain.job import Job, JobStatus, LeasedJob, RunOutcome, Settlement
from domain.telemetry import Change, Listener

log = structlog.get_logger()

MOST_LINES = 100
"""Jobs of one submission that get a line each; of a larger batch there is one line that tells its id."""

ENDS = {
    RunOutcome.COMPLETED: "job completed",
    RunOutcome.GIVEN_BACK: "job given back",
    RunOutcome.RELEASED: "job released",
}
"""How a run ended that did not fail."""


class Log(Listener):
    def __init__(self) -> None:
        self._runs = Stopwatches()

    def traceparent(self) -> str | None:
        return current.get()

    def submitted(self, jobs: Sequence[Job], seconds: float) -> None:
        if len(jobs) > MOST_LINES:
            log.info("jobs submitted", batch_id=str(jobs[0].batch_id), jobs=len(jobs), owner=_owner_of(jobs))
            return
        for job in jobs:
            log.info("job submitted", **_named(job), priority=job.priority.name.lower())

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        tells = log.is_enabled_for(logging.INFO)  # asked once: a busy worker ends thousands of runs a second
        for job, settlement in settled:
            duration_ms = self._duration_ms(job)
            if tells:
                _tell_end(job, settlement, duration_ms)
        for job in lost:
            log.warning("run without effect", **_of_run(job), duration_ms=self._duration_ms(job))
        for job in claimed:
            self._runs.start(job)
            if tells:
                log.info("job started", **_of_run(job), waited_ms=round(job.waited * 1000))

    def lent(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            waited_ms = round(job.waited.total_seconds() * 1000)
            log.info(
                "job started", **_named(job), attempt=job.attempts + 1, waited_ms=waited_ms, worker_id=job.worker_id
            )

    def changed(self, change: Change, events: Sequence[JobEvent]) -> None:
        for event in events:
            log.info(f"job {change}", **_of_event(event), status=str(event.kind))

    def _duration_ms(self, job: LeasedJob) -> int:
        return round((self._runs.stop(job) or 0.0) * 1000)


def _owner_of(jobs: Sequence[Job]) -> str | None:
    owners = {job.owner_service for job in jobs}
    return owners.pop() if len(owners) == 1 else None


def _tell_end(job: LeasedJob, settlement: Settlement, duration_ms: int) -> None:
    fields = {**_of_run(job), "duration_ms": duration_ms}
    if settlement.failure:
        fields["error_code"] = settlement.failure.code.value
    if settlement.status is JobStatus.PENDING:
        fields["again_in_ms"] = round(settlement.delay.total_seconds() * 1000)
    log.info(_said_of(settlement), **fields)


def _said_of(settlement: Settlement) -> str:
    if settlement.outcome in ENDS:
        return ENDS[settlement.outcome]
    return "job failed" if settlement.status.final else "job to be tried again"


def _named(job: Job | LeasedJob) -> dict[str, object]:
    return {"job_id": str(job.id), "task_type": job.task_type, "queue": job.queue, "owner": job.owner_service}


def _of_run(job: LeasedJob) -> dict[str, object]:
    fields = {**_named(job), "attempt": job.attempts + 1}
    if job.traceparent:
        fields["trace_id"] = trace_id(job.traceparent)
    return fields


def _of_event(event: JobEvent) -> dict[str, object]:
    return {
        "job_id": str(event.job_id),
        "task_type": event.task_type,
        "queue": event.queue,
        "owner": event.owner_service,
    }
