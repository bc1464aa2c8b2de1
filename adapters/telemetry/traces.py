"""Spans for OpenTelemetry: a request, the submission of its jobs, what each waits, its runs, their calls of models.

A submission's trace holds the request, `submit`, and `wait` of each job, which may end hours later in another process.
A run is a trace of its own, linked to what it waited: so a job that is tried ten times in two days stays readable. What
is asked and answered never gets into a span.

Loaded only where an exporter is configured: it takes 20 MB.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from adapters.telemetry import names
from adapters.telemetry.context import current
from adapters.telemetry.runs import remember
from domain.errors import RunFailed
from domain.job import Job, JobStatus, Lease, LeasedJob, RunOutcome, Settlement
from domain.telemetry import Answer, Call, Listener, NoCall, Server

MOST_SPANS = 100
"""Jobs of one commit that are named in spans of their own."""

SENT_WITHIN = 3.0
"""Seconds that an ending process gives a collector that does not answer."""

QUIET_PATHS = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
"""Asked all the time, by machines."""

_propagator = TraceContextTextMapPropagator()


class Traces(Listener):
    def __init__(self, role: str, version: str, exporter: SpanExporter | None = None) -> None:
        """
        Args:
            role: what the process is, as operators know it.
            exporter: None: what the standard's variables (`OTEL_EXPORTER_OTLP_ENDPOINT` ...) describe.
        """
        told = {
            SERVICE_NAME: "ai-service",
            SERVICE_VERSION: version,
            SERVICE_INSTANCE_ID: uuid4().hex,
            names.ROLE: role,
        }
        resource = Resource.create(told).merge(OTELResourceDetector().detect())
        self._processor = BatchSpanProcessor(exporter or OTLPSpanExporter())
        self._tracer = self._tracer_of(TracerProvider(resource=resource, shutdown_on_exit=False), version)
        # The runs of a submission that is traced: a sampler would decide anew, for they are traces of their own.
        self._sure = self._tracer_of(TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False), version)
        self._runs: dict[Lease, Span] = {}

    def _tracer_of(self, provider: TracerProvider, version: str) -> Tracer:
        provider.add_span_processor(self._processor)
        return provider.get_tracer("ai-service", version)

    def close(self) -> None:
        """Send what there is. Blocks for `SENT_WITHIN` seconds at most, whatever ails the collector."""
        sending = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(SENT_WITHIN)

    @contextmanager
    def answering(self, scope: Mapping[str, Any], answered: Callable[[], int | None]) -> Iterator[None]:
        """A request that is being answered; it continues its caller's trace.

        Args:
            scope: of ASGI; the framework notes in it which route was taken.
            answered: the status that was answered with, if any was yet.
        """
        if scope["path"] in QUIET_PATHS:
            yield
            return
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method,
            context=_of(current.get()),
            kind=SpanKind.SERVER,
            # What an exception says may be a job's own.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            token = current.set(_traceparent(span) or current.get())
            try:
                yield
            except Exception as error:
                _failed(span, error)
                raise
            finally:
                current.reset(token)
                _end_request(span, method, scope.get("path_template"), answered())

    def traceparent(self) -> str | None:
        return current.get()

    def submitted(self, jobs: Sequence[Job], seconds: float) -> None:
        if not trace.get_current_span().get_span_context().is_valid:
            return
        ended = time.time_ns()
        attributes: dict[str, str | int] = {names.JOBS: len(jobs)}
        if len(jobs) == 1:
            attributes |= _named(jobs[0])
        elif jobs:
            attributes[names.BATCH_ID] = str(jobs[0].batch_id)
        span = self._tracer.start_span("submit", attributes=attributes, start_time=ended - round(seconds * 1e9))
        span.end(ended)

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        for job, settlement in settled:
            if span := self._runs.pop(job.lease, None):
                _end(span, settlement)
        for job in lost:
            if span := self._runs.pop(job.lease, None):
                span.set_attribute(names.OUTCOME, "lost")
                span.end()
        for job in claimed:
            self._begin(job)

    def calling(self, job: LeasedJob, server: Server) -> Call:
        run = self._runs.get(job.lease)
        if run is None:
            return NoCall()
        attributes: dict[str, str | int] = {
            names.OPERATION: server.operation,
            names.PROVIDER: server.provider,
            names.REQUEST_MODEL: server.model,
            names.PROFILE: server.profile,
        }
        if server.host:
            attributes[names.SERVER_ADDRESS] = server.host
        if server.port:
            attributes[names.SERVER_PORT] = server.port
        span = self._tracer.start_span(
            f"{server.operation} {server.model}",
            context=trace.set_span_in_context(run, Context()),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )
        return _Call(span)

    def _begin(self, job: LeasedJob) -> None:
        submission = _span_of(job.traceparent)
        if submission and not submission.trace_flags.sampled:
            return  # its caller does not want it traced
        now = time.time_ns()
        links = []
        if submission:
            wait = self._tracer.start_span(
                "wait", context=_of(job.traceparent), attributes=_named(job), start_time=now - round(job.waited * 1e9)
            )
            wait.end(now)
            links.append(Link(wait.get_span_context()))
        run = (self._sure if submission else self._tracer).start_span(
            f"run {job.task_type}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes={**_named(job), names.ATTEMPT: job.attempts + 1, names.PRIORITY: job.priority.name.lower()},
            links=links,
            start_time=now,
        )
        remember(self._runs, job.lease, run)


class _Call:
    def __init__(self, span: Span) -> None:
        self._span = span
        self._began = time.monotonic()

    def first_token(self) -> None:
        self._span.set_attribute(names.FIRST_CHUNK, time.monotonic() - self._began)

    def answered(self, answer: Answer) -> None:
        told = {
            names.RESPONSE_MODEL: answer.model or None,
            names.INPUT_TOKENS: answer.input_tokens,
            names.OUTPUT_TOKENS: answer.output_tokens,
            names.FINISH_REASONS: (answer.finish_reason,) if answer.finish_reason else None,
            names.AUDIO_SECONDS: answer.audio_seconds,
        }
        self._span.set_attributes({name: value for name, value in told.items() if value is not None})
        self._span.end()

    def failed(self, error: BaseException) -> None:
        _failed(self._span, error)
        self._span.end()


def _failed(span: Span, error: BaseException) -> None:
    kind = error.failure.code.value if isinstance(error, RunFailed) else type(error).__name__
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR))


def _end_request(span: Span, method: str, route: str | None, status: int | None) -> None:
    span.set_attribute(names.METHOD, method)
    if route:
        span.update_name(f"{method} {route}")
        span.set_attribute(names.ROUTE, route)
    if status is not None:
        span.set_attribute(names.STATUS_CODE, status)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))


def _end(span: Span, settlement: Settlement) -> None:
    span.set_attributes({names.OUTCOME: settlement.outcome.value, names.STATUS: settlement.status.value})
    if settlement.failure:
        span.set_attribute(names.ERROR_TYPE, settlement.failure.code.value)
    if settlement.outcome is RunOutcome.FAILED or settlement.status is JobStatus.FAILED:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _named(job: Job | LeasedJob) -> dict[str, str | int]:
    named: dict[str, str | int] = {
        names.JOB_ID: str(job.id),
        names.TASK_TYPE: job.task_type,
        names.OWNER: job.owner_service,
    }
    return named | ({names.QUEUE: job.queue} if job.queue else {})


def _of(traceparent: str | None) -> Context:
    return _propagator.extract({"traceparent": traceparent} if traceparent else {}, Context())


def _span_of(traceparent: str | None) -> SpanContext | None:
    context = trace.get_current_span(_of(traceparent)).get_span_context()
    return context if context.is_valid else None


def _traceparent(span: Span) -> str | None:
    """None where OpenTelemetry is off."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get("traceparent")
