"""Look at the installation as a whole, for the metrics that its leader exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from domain.access import Caller
from domain.backlog import Kind, backlog_seconds
from domain.job import JobStatus
from domain.ports import BrokerQueue, Pace, StorageVitals, Tally, Vitals
from domain.usecases.report import QueueReport, Report

MOST_PACES = 1_000
"""Kinds of runs whose pace is remembered."""


class QueueSurvey(Struct, frozen=True):
    report: QueueReport
    backlog_seconds: float
    oldest_due_seconds: float


class Installation(Struct, frozen=True, kw_only=True):
    """Everything at one moment, or nearly."""

    jobs: Mapping[tuple[str | None, JobStatus], int]
    """By queue and state; those without a queue as None."""
    due: Mapping[str | None, int]
    queues: tuple[QueueSurvey, ...]
    oldest_unserved_seconds: float | None
    """How long the first in line of those without a queue has been due; None: there are none, and never were."""
    workers: int
    oldest_finished: Mapping[JobStatus, float]
    """For how many seconds the oldest jobs of each final state have been final."""
    storage: StorageVitals
    broker: Mapping[str, BrokerQueue]
    """What the broker holds of those of our queues that it tells of."""


@dataclass
class Survey:
    report: Report
    vitals: Vitals
    _paces: dict[tuple[str | None, Kind], Pace] = field(default_factory=dict)
    """The last that was seen of each kind: where runs take longer than the storage looks back, none may have ended."""

    async def installation(self) -> Installation:
        """
        Raises:
            StorageUnavailable.
        """
        queues, workers = await self.report.queues_and_workers(Caller())
        figures = await self.report.figures()
        oldest = await self.vitals.oldest_due()
        self._remember(figures.paces)
        jobs, due = _counted(figures.tallies)
        return Installation(
            jobs=jobs,
            due=due,
            queues=tuple(
                QueueSurvey(queue, self._backlog(queue.state.name, figures.tallies), oldest.get(queue.state.name, 0.0))
                for queue in queues
            ),
            oldest_unserved_seconds=oldest.get(None),
            workers=len(workers),
            oldest_finished=await self.report.jobs.oldest_finished(),
            broker={queue.state.name: queue.broker for queue in queues if queue.broker},
            storage=await self.vitals.vitals(),
        )

    def _remember(self, paces: Iterable[Pace]) -> None:
        for pace in paces:
            self._paces[pace.queue, (pace.task_type, pace.model_profile)] = pace
        while len(self._paces) > MOST_PACES:
            del self._paces[next(iter(self._paces))]

    def _backlog(self, queue: str, tallies: Iterable[Tally]) -> float:
        jobs: Counter[Kind] = Counter()
        for tally in tallies:
            if tally.queue == queue and (_is_due(tally) or tally.status is JobStatus.RUNNING):
                jobs[tally.task_type, tally.model_profile] += tally.jobs
        return backlog_seconds(jobs, [pace for (of, _), pace in self._paces.items() if of == queue])


def _counted(tallies: Iterable[Tally]) -> tuple[dict[tuple[str | None, JobStatus], int], dict[str | None, int]]:
    jobs: Counter[tuple[str | None, JobStatus]] = Counter()
    due: Counter[str | None] = Counter()
    for tally in tallies:
        jobs[tally.queue, tally.status] += tally.jobs
        if _is_due(tally):
            due[tally.queue] += tally.jobs
    return dict(jobs), dict(due)


def _is_due(tally: Tally) -> bool:
    return tally.status is JobStatus.PENDING and tally.due
