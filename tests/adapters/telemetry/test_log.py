from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from adapters.telemetry.log import MOST_LINES, Log
from domain.errors import ErrorCode, Failure
from domain.events import JobEvent
from domain.job import JobStatus, LeasedJob, RunOutcome, Settlement
from domain.telemetry import Change
from tests.factories import running_job, stored_job

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "the customer's card is 4111"


def held(**changes: Any) -> LeasedJob:
    return replace(running_job().leased(), started_at=None, **changes)


def told(*happened: Callable[[Log], None]) -> Sequence[Any]:
    log = Log()
    with capture_logs() as events:
        for each in happened:
            each(log)
    return events


def ended(job: LeasedJob, settlement: Settlement) -> Any:
    [_, event] = told(
        lambda log: log.exchanged([], [], [job], 0.1), lambda log: log.exchanged([(job, settlement)], [], [], 0.1)
    )
    return event


def test_a_submitted_job_is_one_line_that_names_it():
    job = stored_job()
    [event] = told(lambda log: log.submitted([job], 0.1))
    assert event == {
        "event": "job submitted",
        "log_level": "info",
        "job_id": str(job.id),
        "task_type": job.task_type,
        "queue": job.queue,
        "owner": job.owner_service,
        "priority": "normal",
    }


def test_a_large_batch_is_one_line_with_its_id():
    batch_id = uuid4()
    jobs = [stored_job(batch_id=batch_id) for _ in range(MOST_LINES + 1)]
    [event] = told(lambda log: log.submitted(jobs, 0.1))
    assert (event["event"], event["batch_id"], event["jobs"]) == ("jobs submitted", str(batch_id), len(jobs))


def test_a_large_batch_of_several_owners_is_put_down_to_none_of_them():
    jobs = [stored_job(owner_service=f"shop-{number}") for number in range(MOST_LINES + 1)]
    [mixed] = told(lambda log: log.submitted(jobs, 0.1))
    [same] = told(lambda log: log.submitted([stored_job(owner_service="shop") for _ in jobs], 0.1))
    assert (mixed["owner"], same["owner"]) == (None, "shop")


def test_a_run_is_told_when_it_starts_with_what_it_waited_and_its_trace():
    job = held(waited=1.5, traceparent=TRACEPARENT)
    [event] = told(lambda log: log.exchanged([], [], [job], 0.1))
    assert (event["event"], event["attempt"], event["waited_ms"]) == ("job started", 1, 1500)
    assert event["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


TIMED_OUT = Failure(ErrorCode.TIMEOUT, SECRET)


@pytest.mark.parametrize(
    ("outcome", "status", "said", "code"),
    [
        (RunOutcome.COMPLETED, JobStatus.COMPLETED, "job completed", None),
        (RunOutcome.FAILED, JobStatus.FAILED, "job failed", "timeout"),
        (RunOutcome.FAILED, JobStatus.PENDING, "job to be tried again", "timeout"),
        (RunOutcome.GIVEN_BACK, JobStatus.PENDING, "job given back", "timeout"),
        (RunOutcome.RELEASED, JobStatus.PENDING, "job released", None),
    ],
)
def test_every_end_of_a_run_has_a_line_of_its_own(outcome: RunOutcome, status: JobStatus, said: str, code: str | None):
    job = held()
    failure = TIMED_OUT if code else None
    event = ended(job, Settlement(job.lease, outcome, status, failure=failure, delay=timedelta(seconds=30)))
    assert (event["event"], event.get("error_code")) == (said, code)
    assert event.get("again_in_ms") == (30_000 if status is JobStatus.PENDING else None)
    assert 0 <= event["duration_ms"] < 10_000
    assert SECRET not in str(event)


def test_a_run_that_had_lost_its_job_is_told_as_one_without_effect():
    job = held()
    [event] = told(lambda log: log.exchanged([], [job], [], 0.1))
    assert (event["event"], event["log_level"]) == ("run without effect", "warning")


def test_an_external_workers_run_is_told_with_its_worker_and_its_time():
    job = running_job(worker_id="gpu-keeper")
    [event] = told(lambda log: log.lent([job]))
    assert (event["event"], event["worker_id"], event["attempt"]) == ("job started", "gpu-keeper", 1)
    external = job.leased()
    [event] = told(lambda log: log.exchanged([(external, external.complete(b"{}"))], [], [], 0.1))
    assert event["duration_ms"] > 0


@pytest.mark.parametrize("change", Change)
def test_whatever_else_changes_a_job_is_told_with_the_state_that_follows(change: Change):
    event = JobEvent.of(stored_job(), JobStatus.PENDING, 2)
    [line] = told(lambda log: log.changed(change, [event]))
    assert (line["event"], line["status"], line["job_id"]) == (f"job {change}", "pending", str(event.job_id))
