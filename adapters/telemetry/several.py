"""Several who hear of what happens: metrics, the log, traces."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from domain.events import JobEvent
from domain.job import Job, LeasedJob, Settlement
from domain.telemetry import Answer, Call, Change, Server, Telemetry


class Several:
    """Tells each in turn."""

    def __init__(self, *listeners: Telemetry) -> None:
        self._listeners = listeners

    def traceparent(self) -> str | None:
        return next(filter(None, (each.traceparent() for each in self._listeners)), None)

    def stopwatch(self) -> Callable[[], float]:
        return partial(_since, time.perf_counter())

    def submitted(self, jobs: Sequence[Job], seconds: float) -> None:
        for each in self._listeners:
            each.submitted(jobs, seconds)

    def exchanged(
        self,
        settled: Sequence[tuple[LeasedJob, Settlement]],
        lost: Sequence[LeasedJob],
        claimed: Sequence[LeasedJob],
        seconds: float,
    ) -> None:
        for each in self._listeners:
            each.exchanged(settled, lost, claimed, seconds)

    def lent(self, jobs: Sequence[Job]) -> None:
        for each in self._listeners:
            each.lent(jobs)

    def changed(self, change: Change, events: Sequence[JobEvent]) -> None:
        for each in self._listeners:
            each.changed(change, events)

    def promoted(self, jobs: Mapping[str, int]) -> None:
        for each in self._listeners:
            each.promoted(jobs)

    def pruned(self, what: str, status: str, removed: int) -> None:
        for each in self._listeners:
            each.pruned(what, status, removed)

    def calling(self, job: LeasedJob, server: Server) -> Call:
        return _SeveralCalls([each.calling(job, server) for each in self._listeners])

    def renewed(self, leases: int, lost: int) -> None:
        for each in self._listeners:
            each.renewed(leases, lost)

    def woken(self, queue: str, tickets: int, *, again: bool = False) -> None:
        for each in self._listeners:
            each.woken(queue, tickets, again=again)

    def woken_in_vain(self, queue: str) -> None:
        for each in self._listeners:
            each.woken_in_vain(queue)


class _SeveralCalls:
    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls

    def first_token(self) -> None:
        for each in self._calls:
            each.first_token()

    def answered(self, answer: Answer) -> None:
        for each in self._calls:
            each.answered(answer)

    def failed(self, error: BaseException) -> None:
        for each in self._calls:
            each.failed(error)


def _since(began: float) -> float:
    return time.perf_counter() - began
