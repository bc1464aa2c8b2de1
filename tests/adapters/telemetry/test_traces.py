from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from adapters.telemetry import names
from adapters.telemetry.requests import Requests
from adapters.telemetry.traces import Traces
from domain.errors import ErrorCode, Failure, RunFailed
from domain.job import JobStatus, LeasedJob, RunOutcome, Settlement
from domain.telemetry import Answer, Server
from tests.factories import running_job, stored_job

CALLERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_TRACED = CALLERS[:-1] + "0"
SECRET = "the customer's card is 4111"
SERVER = Server("qwen", "vllm", "qwen2.5-14b", "chat", "gpu-1", 8000)


async def nothing() -> Any:
    """No body comes."""


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Iterator[Traces]:
    traces = Traces("worker", "1.0", exporter)
    yield traces
    traces.close()


def seen(traces: Traces, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    traces._processor.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


def held(**changes: Any) -> LeasedJob:
    return replace(running_job().leased(), started_at=None, **changes)


def id_of(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context
    return context.trace_id, context.span_id


async def submit(traces: Traces, path: str = "/api/v1/jobs", *, status: int = 201, **headers: str) -> str | None:
    """Answer a request that submits a job. Returns the trace context that the job keeps."""
    kept = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal kept
        kept = traces.traceparent()
        traces.submitted([stored_job()], 0.01)
        scope["path_template"] = path
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(message: Any) -> None:
        pass

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": given}
    await Requests(app, traces.answering)(scope, nothing, send)
    return kept


async def test_a_request_continues_its_callers_trace_and_the_submission_lies_in_it(
    traces: Traces, exporter: InMemorySpanExporter
):
    kept = await submit(traces, traceparent=CALLERS)
    spans = seen(traces, exporter)
    request, submission = spans["POST /api/v1/jobs"], spans["submit"]
    assert request.kind is SpanKind.SERVER
    assert request.parent
    assert f"{request.parent.span_id:016x}" == CALLERS.split("-")[2]
    assert submission.parent == request.get_span_context()
    assert kept == "00-{:032x}-{:016x}-01".format(*id_of(request))
    assert request.attributes == {
        names.METHOD: "POST",
        names.ROUTE: "/api/v1/jobs",
        names.STATUS_CODE: 201,
    }


async def test_a_request_that_fails_for_us_is_an_error(traces: Traces, exporter: InMemorySpanExporter):
    await submit(traces, status=503)
    assert seen(traces, exporter)["POST /api/v1/jobs"].status.status_code is StatusCode.ERROR


async def test_a_request_that_breaks_off_says_over_what_kind_of_error_and_not_in_its_words(
    traces: Traces, exporter: InMemorySpanExporter
):
    with pytest.raises(LookupError), traces.answering({"path": "/api/v1/jobs", "method": "GET"}, lambda: 200):
        raise LookupError(SECRET)
    span = seen(traces, exporter)["GET"]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})[names.ERROR_TYPE] == "LookupError"
    assert SECRET not in span.to_json()


async def test_what_probes_ask_is_not_traced(traces: Traces, exporter: InMemorySpanExporter):
    assert await submit(traces, "/readyz") is None
    assert not seen(traces, exporter)


async def test_a_run_is_a_trace_of_its_own_that_is_linked_to_what_its_job_waited(
    traces: Traces, exporter: InMemorySpanExporter
):
    job = held(waited=2.0, traceparent=CALLERS)
    traces.exchanged([], [], [job], 0.01)
    traces.exchanged([(job, job.complete(b"{}"))], [], [], 0.01)
    spans = seen(traces, exporter)
    wait, run = spans["wait"], spans["run llm_chat"]
    assert wait.parent
    assert f"{wait.parent.span_id:016x}" == CALLERS.split("-")[2]
    assert (wait.end_time or 0) - (wait.start_time or 0) == 2_000_000_000
    assert (run.kind, run.parent) == (SpanKind.CONSUMER, None)
    assert [link.context for link in run.links] == [wait.get_span_context()]
    assert run.attributes
    assert run.attributes[names.JOB_ID] == str(job.id)
    assert run.attributes[names.OUTCOME] == "completed"


def test_a_call_of_a_model_lies_in_its_run_with_figures_and_without_content(
    traces: Traces, exporter: InMemorySpanExporter
):
    job = held(traceparent=CALLERS)
    traces.exchanged([], [], [job], 0.01)
    call = traces.calling(job, SERVER)
    call.first_token()
    call.answered(Answer("qwen2.5-14b-awq", 12, 34, "stop"))
    traces.exchanged([(job, job.complete(SECRET.encode()))], [], [], 0.01)
    spans = seen(traces, exporter)
    called = spans["chat qwen2.5-14b"]
    assert (called.kind, called.parent) == (SpanKind.CLIENT, spans["run llm_chat"].get_span_context())
    attributes = dict(called.attributes or {})
    assert attributes.pop(names.FIRST_CHUNK) >= 0  # type: ignore[operator]  # a number
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "qwen2.5-14b",
        "gen_ai.response.model": "qwen2.5-14b-awq",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "server.address": "gpu-1",
        "server.port": 8000,
        "aijobs.profile": "qwen",
    }
    assert SECRET not in "".join(span.to_json() for span in spans.values())


def test_a_call_that_failed_says_by_which_code_and_not_in_whose_words(traces: Traces, exporter: InMemorySpanExporter):
    job = held(traceparent=CALLERS)
    traces.exchanged([], [], [job], 0.01)
    traces.calling(job, SERVER).failed(RunFailed(ErrorCode.TIMEOUT, SECRET))
    failed = Settlement(job.lease, RunOutcome.FAILED, JobStatus.PENDING, failure=Failure(ErrorCode.TIMEOUT, SECRET))
    traces.exchanged([(job, failed)], [], [], 0.01)
    spans = seen(traces, exporter)
    for span in (spans["chat qwen2.5-14b"], spans["run llm_chat"]):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})[names.ERROR_TYPE] == "timeout"
    assert SECRET not in "".join(span.to_json() for span in spans.values())


def test_a_run_whose_job_was_taken_away_ends_as_lost(traces: Traces, exporter: InMemorySpanExporter):
    job = held(traceparent=CALLERS)
    traces.exchanged([], [], [job], 0.01)
    traces.exchanged([], [job], [], 0.01)
    assert (seen(traces, exporter)["run llm_chat"].attributes or {})[names.OUTCOME] == "lost"


def test_what_its_caller_does_not_want_traced_is_not(traces: Traces, exporter: InMemorySpanExporter):
    job = held(traceparent=NOT_TRACED)
    traces.exchanged([], [], [job], 0.01)
    traces.calling(job, SERVER).answered(Answer())
    traces.exchanged([(job, job.complete(b"{}"))], [], [], 0.01)
    assert not seen(traces, exporter)


def test_the_runs_of_a_traced_job_are_kept_whatever_the_sampler_says(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    traces = Traces("worker", "1.0", exporter)
    for job in (held(traceparent=CALLERS), held(traceparent=None)):
        traces.exchanged([], [], [job], 0.01)
        traces.exchanged([(job, job.complete(b"{}"))], [], [], 0.01)
    assert len([name for name in seen(traces, exporter) if name.startswith("run")]) == 1
    traces.close()


async def test_a_request_keeps_its_callers_trace_where_opentelemetry_is_off(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    traces = Traces("worker", "1.0", exporter)
    assert await submit(traces, traceparent=CALLERS) == CALLERS
    assert await submit(traces) is None
    traces.close()
