"""Several who hear of what happens: metrics, the log, traces."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

import structlog

from domain.events import JobEvent
from domain.job import Job, LeasedJob, Settlement
from domain.telemetry import Answer, Call, Change, Server, Telemetry

T = TypeVar("T")

log = structlog.get_logger()


class _All(Generic[T]):
    """Tells each in turn. Whatever goes wrong with one of them is no concern of the job that it is told of."""

    def __init__(self, listeners: Sequence[T]) -> None:
        self._listeners = listeners

    def _tell(self, tell: Callable[[T], object]) -> None:
        for each in self._listeners:
            try:
                tell(each)
            except Exception as error:  # a run must be stored, and its slot go on
                _complain(each, error)


class Several(_All[Telemetry]):
    def __init__(self, *listeners: Telemetry) -> None:
        super().__init__(listeners)

    def traceparent(self) -> str | None:
        known: list[str | None] = []
        self._tell(lambda each: known.append(each.traceparent()))
        return next(filter(None, known), None)

    def stopwatch(self) -> Callable[[], float]:
        return partial(_since, time.perf_counter())

    def submitted(self, jobs: Sequence[Job], seconds: float) -> None:
        self._tell(lambda each: each.submitted(jobs, seconds))

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        self._tell(lambda each: each.exchanged(settled, lost, claimed, seconds))

    def lent(self, jobs: Sequence[Job]) -> None:
        self._tell(lambda each: each.lent(jobs))

    def changed(self, change: Change, events: Sequence[JobEvent]) -> None:
        self._tell(lambda each: each.changed(change, events))

    def promoted(self, jobs: Mapping[str, int]) -> None:
        self._tell(lambda each: each.promoted(jobs))

    def pruned(self, what: str, status: str, removed: int) -> None:
        self._tell(lambda each: each.pruned(what, status, removed))

    def calling(self, job: LeasedJob, server: Server) -> Call:
        calls: list[Call] = []
        self._tell(lambda each: calls.append(each.calling(job, server)))
        return _SeveralCalls(calls)

    def renewed(self, leases: int, lost: int) -> None:
        self._tell(lambda each: each.renewed(leases, lost))

    def woken(self, queue: str, tickets: int, *, again: bool = False) -> None:
        self._tell(lambda each: each.woken(queue, tickets, again=again))

    def woken_in_vain(self, queue: str) -> None:
        self._tell(lambda each: each.woken_in_vain(queue))


class _SeveralCalls(_All[Call]):
    def first_token(self) -> None:
        self._tell(lambda each: each.first_token())

    def answered(self, answer: Answer) -> None:
        self._tell(lambda each: each.answered(answer))

    def failed(self, error: BaseException) -> None:
        self._tell(lambda each: each.failed(error))


def _complain(of: object, error: Exception) -> None:
    """By its type only: what it says may be a job's own."""
    with suppress(Exception):  # the log may be the one that fails
        log.error("telemetry failed", listener=type(of).__name__, error=type(error).__name__)


def _since(began: float) -> float:
    return time.perf_counter() - began
