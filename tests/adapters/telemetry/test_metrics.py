"""What changes each metric that a process counts; and that labels stay few, and say nothing that they must not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from adapters.telemetry.bounded import Bounded
from adapters.telemetry.catalogue import CATALOGUE, Kind
from domain.errors import ErrorCode, Failure, RunFailed
from domain.job import JobStatus, LeasedJob, Priority, RunOutcome, Settlement
from domain.telemetry import Answer, Change, Server
from tests.adapters.telemetry.reading import OPENMETRICS, metrics, of, read
from tests.factories import PROFILE, QUEUE, job_event, leased_job, running_job, stored_job
from tests.fakes import FakeClock

LLM = {"queue": QUEUE, "task_type": "llm_chat"}
SERVER = Server(profile=PROFILE, provider="vllm", model="Qwen/Qwen2.5-14B", operation="chat", host="10.0.0.7")


def ended(job: LeasedJob, **changes: Any) -> tuple[LeasedJob, Settlement]:
    return job, replace(job.complete(b"{}"), **changes)


def test_submitted_jobs_are_counted_and_their_commit_is_timed():
    counted = metrics()
    counted.submitted([stored_job(), stored_job(), stored_job(priority=Priority.HIGH, queue=None)], 0.02)
    page = read(counted)
    assert of(page, "aijobs_submitted_total", **LLM, priority="normal") == 2
    assert of(page, "aijobs_submitted_total", queue="none", task_type="llm_chat", priority="high") == 1
    assert of(page, "aijobs_submit_seconds_sum") == 0.02
    assert (of(page, "aijobs_submit_jobs_sum"), of(page, "aijobs_submit_jobs_count")) == (3, 1)


def test_a_submission_that_finds_its_job_again_stores_nothing():
    counted = metrics()
    counted.submitted([], 0.02)
    assert of(read(counted), "aijobs_submit_seconds_count") == 0


def test_a_run_is_timed_from_its_claim_to_its_end():
    clock = FakeClock()
    counted, job = metrics(monotonic=clock.monotonic), leased_job(waited=7.0, attempts=1)
    counted.exchanged([], [], [job], 0.004)
    began = read(counted)
    assert of(began, "aijobs_runs_started_total", **LLM) == 1
    assert of(began, "aijobs_wait_seconds_sum", queue=QUEUE, priority="normal") == 7
    assert of(began, "aijobs_exchange_claimed_sum") == 1

    clock.advance(timedelta(seconds=90))
    counted.exchanged([ended(job)], [], [], 0.006)
    page = read(counted)
    assert of(page, "aijobs_run_seconds_sum", **LLM) == 90
    assert of(page, "aijobs_run_seconds_bucket", **LLM, le="60.0") == 0
    assert of(page, "aijobs_run_seconds_bucket", **LLM, le="120.0") == 1
    assert of(page, "aijobs_gpu_seconds_total", queue=QUEUE, owner="beeline") == 90
    assert of(page, "aijobs_runs_ended_total", **LLM, outcome="completed", error_code="") == 1
    assert of(page, "aijobs_jobs_finished_total", **LLM, status="completed", error_code="") == 1
    assert of(page, "aijobs_job_attempts_sum", queue=QUEUE) == 2
    assert of(page, "aijobs_exchange_settled_sum") == 1
    assert of(page, "aijobs_exchange_seconds_sum") == pytest.approx(0.01)


def test_a_failed_run_says_why_and_is_no_finished_job_while_it_is_tried_again():
    counted, job = metrics(), leased_job()
    failure = Failure(ErrorCode.TIMEOUT, "It took too long.")
    again = ended(job, outcome=RunOutcome.FAILED, status=JobStatus.PENDING, result=None, failure=failure)
    counted.exchanged([again], [], [], 0.001)
    page = read(counted)
    assert of(page, "aijobs_runs_ended_total", **LLM, outcome="failed", error_code="timeout") == 1
    assert not [name for name, _ in page if name.startswith(("aijobs_jobs_finished", "aijobs_job_attempts"))]

    counted.exchanged([ended(job, outcome=RunOutcome.FAILED, status=JobStatus.FAILED, failure=failure)], [], [], 0.0)
    assert of(read(counted), "aijobs_jobs_finished_total", **LLM, status="failed", error_code="timeout") == 1


def test_a_run_that_lost_its_job_held_its_slot_all_the_same():
    clock = FakeClock()
    counted, job = metrics(monotonic=clock.monotonic), leased_job()
    counted.exchanged([], [], [job], 0.0)
    clock.advance(timedelta(seconds=3))
    counted.exchanged([], [job], [], 0.0)
    page = read(counted)
    assert of(page, "aijobs_leases_lost_total", queue=QUEUE) == 1
    assert of(page, "aijobs_runs_ended_total", **LLM, outcome="lost", error_code="") == 1
    assert of(page, "aijobs_gpu_seconds_total", queue=QUEUE, owner="beeline") == 3


def test_an_external_workers_run_is_timed_wherever_its_end_is_told():
    there, here = metrics(), metrics()
    began = datetime.now(UTC) - timedelta(seconds=30)
    lent = running_job(started_at=began, run_at=began - timedelta(seconds=5), created_at=began - timedelta(seconds=5))
    there.lent([lent])
    page = read(there)
    assert of(page, "aijobs_runs_started_total", **LLM) == 1
    assert of(page, "aijobs_wait_seconds_sum", queue=QUEUE, priority="normal") == 5
    here.exchanged([ended(lent.leased())], [], [], 0.0)
    assert of(read(here), "aijobs_run_seconds_sum", **LLM) == pytest.approx(30, abs=5)


def test_a_job_without_a_queue_takes_no_gpu_time_of_ours():
    counted, job = metrics(), leased_job(queue=None, started_at=datetime.now(UTC))
    counted.exchanged([ended(job)], [], [], 0.0)
    page = read(counted)
    assert of(page, "aijobs_jobs_finished_total", queue="none", task_type="llm_chat", status="completed", error_code="")
    assert not [name for name, _ in page if name.startswith("aijobs_gpu")]


@pytest.mark.parametrize(
    ("change", "kind", "finished"),
    [
        (Change.CANCELLED, "cancelled", {"status": "cancelled", "error_code": "cancelled"}),
        (Change.EXPIRED, "cancelled", {"status": "cancelled", "error_code": "cancelled"}),
        (Change.RESCUED, "failed", {"status": "failed", "error_code": "stale_worker"}),
        (Change.RESCUED, "pending", None),
        (Change.RETRIED, "pending", None),
        (Change.PREEMPTED, "pending", None),
    ],
)
def test_other_changes_are_counted_and_those_that_end_a_job(change: Change, kind: str, finished: dict[str, str] | None):
    counted = metrics()
    counted.changed(change, [job_event(kind=kind), job_event(kind=kind)])
    page = read(counted)
    assert of(page, "aijobs_state_changes_total", change=change.value) == 2
    assert of(page, "aijobs_jobs_finished_total", **LLM, **(finished or {})) == (2 if finished else 0)


def test_jobs_that_became_due_are_counted():
    counted = metrics()
    counted.promoted({QUEUE: 3, "gpu.speech": 4})
    assert of(read(counted), "aijobs_state_changes_total", change="promoted") == 7


def test_tickets_are_counted_and_those_that_had_to_be_replaced_and_those_in_vain():
    counted = metrics()
    counted.woken(QUEUE, 5)
    counted.woken(QUEUE, 2, again=True)
    counted.woken_in_vain(QUEUE)
    page = read(counted)
    assert of(page, "aijobs_tickets_published_total", queue=QUEUE) == 7
    assert of(page, "aijobs_tickets_topped_up_total", queue=QUEUE) == 2
    assert of(page, "aijobs_tickets_empty_total", queue=QUEUE) == 1


def test_renewals_are_counted():
    counted = metrics()
    counted.renewed(4, 1)
    assert of(read(counted), "aijobs_leases_renewed_total") == 4


def test_counters_of_configured_queues_begin_at_zero():
    page = read(metrics(queues=[QUEUE]))
    assert page["aijobs_leases_lost_total", frozenset({("queue", QUEUE)})] == 0
    assert page["aijobs_state_changes_total", frozenset({("change", "rescued")})] == 0


def test_a_call_that_is_answered_tells_how_long_it_took_and_what_it_cost():
    clock = FakeClock()
    counted = metrics(monotonic=clock.monotonic)
    call = counted.calling(leased_job(), SERVER)
    clock.advance(timedelta(seconds=0.5))
    call.first_token()
    clock.advance(timedelta(seconds=2))
    call.answered(Answer(model="qwen", input_tokens=300, output_tokens=40))
    page = read(counted)
    assert of(page, "aijobs_provider_calls_total", profile=PROFILE, provider="vllm", error_code="") == 1
    assert of(page, "aijobs_provider_call_seconds_sum", profile=PROFILE, provider="vllm") == 2.5
    assert of(page, "aijobs_provider_first_token_seconds_sum", profile=PROFILE) == 0.5
    assert of(page, "aijobs_provider_tokens_total", profile=PROFILE, direction="input") == 300
    assert of(page, "aijobs_provider_tokens_total", profile=PROFILE, direction="output") == 40


def test_of_a_transcription_the_length_of_its_recording_is_counted():
    counted = metrics()
    counted.calling(leased_job(), SERVER).answered(Answer(audio_seconds=61.5))
    assert of(read(counted), "aijobs_provider_audio_seconds_total", profile=PROFILE) == 61.5


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunFailed(ErrorCode.RATE_LIMITED, "Later."), "rate_limited"),
        (ValueError("secret"), "internal_error"),
        (KeyboardInterrupt(), "cancelled"),
    ],
)
def test_a_call_that_fails_says_by_which_code(error: BaseException, code: str):
    counted = metrics()
    counted.calling(leased_job(), SERVER).failed(error)
    page = read(counted)
    assert of(page, "aijobs_provider_calls_total", profile=PROFILE, provider="vllm", error_code=code) == 1
    assert of(page, "aijobs_provider_call_seconds_count", profile=PROFILE, provider="vllm") == 1


def test_rounds_and_what_was_pruned_are_told():
    counted = metrics()
    counted.led(0.3)
    counted.pruned("jobs", "completed", 500)
    page = read(counted)
    assert of(page, "aijobs_scheduler_round_seconds_sum") == pytest.approx(0.3)
    assert of(page, "aijobs_pruned_total", what="jobs", status="completed") == 500


def test_a_process_tells_its_version_and_what_it_does():
    counted = metrics(roles=["api"])
    assert of(read(counted), "aijobs_build_info", version="1.2.3", role="api") == 1


def test_ten_thousand_owners_are_a_hundred_and_others():
    counted = metrics()
    for number in range(10_000):
        job = leased_job(owner_service=f"owner-{number}", started_at=datetime.now(UTC))
        counted.exchanged([ended(job)], [], [], 0.0)
    owners = {dict(labels)["owner"] for name, labels in read(counted) if name == "aijobs_gpu_seconds_total"}
    assert len(owners) == 101
    assert {"owner-0", "owner-99", "other"} <= owners


def test_what_callers_make_up_is_told_as_other():
    counted = metrics()
    for number in range(1_000):
        counted.submitted([stored_job(task_type=f"made.up.{number}", queue=f"q{number}")], 0.0)
        counted.requested("GET" if number else "BREW", None, 404, 0.001)
        counted.calling(leased_job(), replace(SERVER, profile=f"profile-{number}")).answered(Answer())
    page = read(counted)
    assert of(page, "aijobs_submitted_total", queue="other", task_type="other", priority="normal") == 1_000
    assert of(page, "aijobs_http_requests_total", method="GET", route="unknown", status="404") == 999
    assert of(page, "aijobs_http_requests_total", method="other", route="unknown", status="404") == 1
    assert of(page, "aijobs_provider_calls_total", profile="other", provider="vllm", error_code="") == 1_000


def test_what_is_configured_later_gets_its_name():
    configured: set[str] = set()
    label = Bounded(configured.__contains__)
    assert label("gpu.new") == "other"
    configured.add("gpu.new")
    assert (label("gpu.new"), label(None)) == ("gpu.new", "none")


def test_no_label_holds_an_id_an_input_an_address_or_what_an_error_said():
    counted = metrics()
    job = leased_job(input=Raw(b'{"user":"top secret"}'), owner_service="beeline")
    failure = Failure(ErrorCode.BAD_RESPONSE, "top secret")
    counted.submitted([stored_job(input=job.input, owner_ref="beeline/17", labels={"call": "top secret"})], 0.0)
    counted.exchanged([ended(job, status=JobStatus.FAILED, failure=failure)], [leased_job()], [job], 0.0)
    counted.calling(job, SERVER).failed(RunFailed(ErrorCode.BAD_RESPONSE, "top secret"))
    text = counted.page("")[1].decode()
    for unspeakable in ("secret", "beeline/17", str(job.id), str(job.lease.token), SERVER.host):
        assert unspeakable not in text


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", OPENMETRICS])
def test_prometheus_can_read_it_in_either_form(accept: str):
    counted = metrics(queues=[QUEUE])
    job = leased_job()
    counted.exchanged([ended(job)], [], [job], 0.0)
    assert of(read(counted, accept), "aijobs_runs_started_total", **LLM) == 1


def test_the_start_of_a_run_whose_end_is_never_told_is_forgotten_at_last():
    counted, jobs = metrics(remembers=3), [leased_job(started_at=None) for _ in range(5)]
    counted.exchanged([], [], jobs, 0.0)
    counted.exchanged([ended(job) for job in jobs], [], [], 0.0)
    assert of(read(counted), "aijobs_run_seconds_count", **LLM) == 3


def test_names_are_as_prometheus_wants_them():
    for metric in CATALOGUE:
        assert metric.name.startswith("aijobs_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM), metric.name
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
