"""Counts what happens in a process, for Prometheus.

Each `Metrics` has a registry of its own: several installations may live in one process. A worker tells of thousands of
jobs a second: what Prometheus' library makes of labels is kept, and made only once.
"""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct
from prometheus_client import Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from adapters.telemetry.bounded import OTHER, Bounded
from adapters.telemetry.catalogue import BY_NAME, CATALOGUE, Kind
from adapters.telemetry.runs import MOST, Stopwatches
from domain.errors import ErrorCode, RunFailed
from domain.events import JobEvent
from domain.job import Job, JobStatus, LeasedJob, Priority, RunOutcome, Settlement
from domain.telemetry import Answer, Call, Change, Listener, Server

C = TypeVar("C", Counter, Histogram)

Sample = tuple[str, tuple[str, ...], float]
"""A metric's name, the values of its labels in their order, and its value."""

Reading = Callable[[], Iterable[Sample]]
"""What is looked at when somebody asks, on any thread; it waits for nothing."""

PRIORITIES = {priority: priority.name.lower() for priority in Priority}

COUNTED = frozenset({RunOutcome.COMPLETED, RunOutcome.FAILED, RunOutcome.EXPIRED})
"""Ends of runs that count as an attempt."""

LOST = "lost"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNKNOWN = "unknown"
UNANSWERED = "none"


class Labels(Struct, frozen=True, kw_only=True):
    """What labels may say by name."""

    queue: Bounded
    task_type: Bounded
    profile: Bounded
    owner: Bounded


class _Of(dict[tuple[str, ...], C], Generic[C]):
    """The counters of one metric, by the values of its labels."""

    def __init__(self, metric: C) -> None:
        super().__init__()
        self._metric: C = metric

    def __missing__(self, values: tuple[str, ...]) -> C:
        child: C = self._metric.labels(*values) if values else self._metric
        self[values] = child
        return child


class Metrics(Listener):
    def __init__(
        self,
        labels: Labels,
        *,
        version: str,
        roles: Sequence[str] = (),
        queues: Iterable[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
        remembers: int = MOST,
    ) -> None:
        """
        Args:
            roles: what the process does: `api`, `worker`, `scheduler`.
            queues: those whose counters begin at 0, so that their first event is seen to have come.
            remembers: starts of runs at once. That of one whose end is never told is forgotten at last.
        """
        self.labels = labels
        self._version = version
        self._monotonic = monotonic
        self._roles = roles
        self._readings: list[Reading] = [self._built]
        self._runs = Stopwatches(monotonic, remembers)
        self._families: list[Counter | Histogram] = []
        self._submitted = self._counter("aijobs_submitted_total")
        self._submit_seconds = self._histogram("aijobs_submit_seconds")[()]
        self._submit_jobs = self._histogram("aijobs_submit_jobs")[()]
        self._started = self._counter("aijobs_runs_started_total")
        self._wait = self._histogram("aijobs_wait_seconds")
        self._run = self._histogram("aijobs_run_seconds")
        self._ended = self._counter("aijobs_runs_ended_total")
        self._finished = self._counter("aijobs_jobs_finished_total")
        self._attempts = self._histogram("aijobs_job_attempts")
        self._gpu = self._counter("aijobs_gpu_seconds_total")
        self._changes = self._counter("aijobs_state_changes_total")
        self._published = self._counter("aijobs_tickets_published_total")
        self._topped_up = self._counter("aijobs_tickets_topped_up_total")
        self._empty = self._counter("aijobs_tickets_empty_total")
        self._renewed = self._counter("aijobs_leases_renewed_total")[()]
        self._lost = self._counter("aijobs_leases_lost_total")
        self._exchange = self._histogram("aijobs_exchange_seconds")[()]
        self._claimed = self._histogram("aijobs_exchange_claimed")[()]
        self._settled = self._histogram("aijobs_exchange_settled")[()]
        self._calls = self._counter("aijobs_provider_calls_total")
        self._call_seconds = self._histogram("aijobs_provider_call_seconds")
        self._first_token = self._histogram("aijobs_provider_first_token_seconds")
        self._tokens = self._counter("aijobs_provider_tokens_total")
        self._audio = self._counter("aijobs_provider_audio_seconds_total")
        self._requests = self._counter("aijobs_http_requests_total")
        self._request_seconds = self._histogram("aijobs_http_request_seconds")
        self._round = self._histogram("aijobs_scheduler_round_seconds")[()]
        self._pruned = self._counter("aijobs_pruned_total")
        self._begin_at_zero(queues)

    def read(self, reading: Reading) -> None:
        """Look there whenever somebody asks for the page."""
        self._readings.append(reading)

    def page(self, accept: str, figures: Iterable[Sample] = ()) -> tuple[str, bytes]:
        """All of it as Prometheus reads it: the content type, and the text.

        Args:
            accept: in which form it is wanted, as HTTP says it.
            figures: what is told besides.
        """
        encode, content_type = choose_encoder(accept)
        return content_type, encode(_Collected([*self._collected(), *_families([*self._read(), *figures])]))

    # Telemetry.

    def stopwatch(self) -> Callable[[], float]:
        began = self._monotonic()
        return lambda: self._monotonic() - began

    def submitted(self, jobs: Sequence[Job], seconds: float) -> None:
        if not jobs:
            return
        self._submit_seconds.observe(seconds)
        self._submit_jobs.observe(len(jobs))
        queue, task_type = self.labels.queue, self.labels.task_type
        kinds = Count((job.queue, job.task_type, job.priority) for job in jobs)
        for (of, kind, priority), count in kinds.items():
            self._submitted[queue(of), task_type(kind), PRIORITIES[priority]].inc(count)

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        self._exchange.observe(seconds)
        self._claimed.observe(len(claimed))
        self._settled.observe(len(settled))
        for job, settlement in settled:
            self._end(job, settlement)
        for job in lost:
            self._lose(job)
        for job in claimed:
            self._runs.start(job)
            self._start(job.queue, job.task_type, job.priority, job.waited)

    def lent(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._start(job.queue, job.task_type, job.priority, job.waited.total_seconds())

    def changed(self, change: Change, events: Sequence[JobEvent]) -> None:
        if not events:
            return
        self._changes[(change.value,)].inc(len(events))
        code = _code_of(change)
        for event in events:
            if event.kind in _FINAL:
                self._finished[
                    self.labels.queue(event.queue), self.labels.task_type(event.task_type), event.kind, code
                ].inc()

    def promoted(self, jobs: Mapping[str, int]) -> None:
        if jobs:
            self._changes[("promoted",)].inc(sum(jobs.values()))

    def calling(self, job: LeasedJob, server: Server) -> Call:
        return _MeasuredCall(self, self.labels.profile(server.profile), server.provider)

    def renewed(self, leases: int, lost: int) -> None:
        self._renewed.inc(leases)

    def woken(self, queue: str, tickets: int, *, again: bool = False) -> None:
        label = (self.labels.queue(queue),)
        self._published[label].inc(tickets)
        if again:
            self._topped_up[label].inc(tickets)

    def woken_in_vain(self, queue: str) -> None:
        self._empty[(self.labels.queue(queue),)].inc()

    def pruned(self, what: str, status: str, removed: int) -> None:
        self._pruned[what, status].inc(removed)

    def led(self, seconds: float) -> None:
        self._round.observe(seconds)

    def requested(self, method: str, route: str | None, status: int | None, seconds: float | None) -> None:
        """A request came to its end.

        Args:
            route: the template of its path; None where there is none.
            status: None: nobody was answered.
            seconds: to the first byte of the answer; None where the caller asked to be held.
        """
        route = route or UNKNOWN
        method = method if method in METHODS else OTHER
        self._requests[method, route, UNANSWERED if status is None else str(status)].inc()
        if seconds is not None and status is not None:
            self._request_seconds[(route,)].observe(seconds)

    def _start(self, queue: str | None, task_type: str, priority: Priority, waited: float) -> None:
        of = self.labels.queue(queue)
        self._started[of, self.labels.task_type(task_type)].inc()
        self._wait[of, PRIORITIES[priority]].observe(waited)

    def _end(self, job: LeasedJob, settlement: Settlement) -> None:
        queue, task_type = self.labels.queue(job.queue), self.labels.task_type(job.task_type)
        code = settlement.failure.code.value if settlement.failure else ""
        self._ended[queue, task_type, settlement.outcome.value, code].inc()
        self._spend(job, queue, task_type)
        if settlement.status in _FINAL:
            self._finished[queue, task_type, settlement.status.value, code].inc()
            self._attempts[(queue,)].observe(job.attempts + (settlement.outcome in COUNTED))

    def _lose(self, job: LeasedJob) -> None:
        queue, task_type = self.labels.queue(job.queue), self.labels.task_type(job.task_type)
        self._lost[(queue,)].inc()
        self._ended[queue, task_type, LOST, ""].inc()
        self._spend(job, queue, task_type)

    def _spend(self, job: LeasedJob, queue: str, task_type: str) -> None:
        seconds = self._runs.stop(job)
        if seconds is None:
            return
        self._run[queue, task_type].observe(seconds)
        if job.queue is not None:
            self._gpu[queue, self.labels.owner(job.owner_service)].inc(seconds)

    def _begin_at_zero(self, queues: Iterable[str]) -> None:
        for change in Change:
            self._changes[(change.value,)].inc(0)
        self._changes[("promoted",)].inc(0)
        for queue in map(self.labels.queue, queues):
            for metric in (self._published, self._topped_up, self._empty, self._lost):
                metric[(queue,)].inc(0)

    def _counter(self, name: str) -> _Of[Counter]:
        metric = BY_NAME[name]
        made = Counter(name, metric.says, metric.labels, registry=None)
        self._families.append(made)
        return _Of(made)

    def _histogram(self, name: str) -> _Of[Histogram]:
        metric = BY_NAME[name]
        made = Histogram(name, metric.says, metric.labels, buckets=metric.buckets, registry=None)
        self._families.append(made)
        return _Of(made)

    def _collected(self) -> Iterator[Family]:
        for each in self._families:
            for family in each.collect():
                # When each began to be counted is as many lines again, and of no use to Prometheus.
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                if family.samples:
                    yield family

    def _read(self) -> Iterator[Sample]:
        for reading in self._readings:
            yield from reading()

    def _built(self) -> Iterator[Sample]:
        for role in self._roles:
            yield "aijobs_build_info", (self._version, role), 1.0


_FINAL = frozenset(status.value for status in JobStatus if status.final)


class _MeasuredCall:
    def __init__(self, metrics: Metrics, profile: str, provider: str) -> None:
        self._metrics = metrics
        self._profile = profile
        self._provider = provider
        self._took = metrics.stopwatch()

    def first_token(self) -> None:
        self._metrics._first_token[(self._profile,)].observe(self._took())

    def answered(self, answer: Answer) -> None:
        self._end("")
        for direction, tokens in (("input", answer.input_tokens), ("output", answer.output_tokens)):
            if tokens:
                self._metrics._tokens[self._profile, direction].inc(tokens)
        if answer.audio_seconds:
            self._metrics._audio[(self._profile,)].inc(answer.audio_seconds)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, RunFailed):
            self._end(error.failure.code.value)
        else:
            self._end((ErrorCode.INTERNAL_ERROR if isinstance(error, Exception) else ErrorCode.CANCELLED).value)

    def _end(self, code: str) -> None:
        self._metrics._calls[self._profile, self._provider, code].inc()
        self._metrics._call_seconds[self._profile, self._provider].observe(self._took())


def _code_of(change: Change) -> str:
    """With which error code such a change ends a job, where it does."""
    return (ErrorCode.STALE_WORKER if change is Change.RESCUED else ErrorCode.CANCELLED).value


def _families(samples: Iterable[Sample]) -> list[Family]:
    """In the order of the catalogue."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample[0], []).append(sample)
    found: list[Family] = []
    for metric in CATALOGUE:
        if told := by_name.get(metric.name):
            made = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = made(metric.name, metric.says, labels=metric.labels)
            for _, values, value in told:
                family.add_metric(values, value)
            found.append(family)
    return found


class _Collected(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families
