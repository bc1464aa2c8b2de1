"""Figures: jobs, workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from app.wire.fields import Moment
from domain.errors import ErrorCode
from domain.job import JobStatus
from domain.ports import Finished, LiveWorker, Quantiles
from domain.usecases.report import Counts, Stats


class StateCounts(Struct, kw_only=True, frozen=True):
    """Jobs by their state."""

    pending: int
    running: int
    completed: int
    failed: int
    cancelled: int


class QueueCounts(StateCounts, kw_only=True, frozen=True):
    queue: Annotated[str | None, Meta(description="Null: jobs that only external workers can do.")]
    due: Annotated[int, Meta(description="Pending jobs that could start now.")]


class TaskTypeCounts(StateCounts, kw_only=True, frozen=True):
    task_type: str


class OwnerCounts(StateCounts, kw_only=True, frozen=True):
    owner_service: str


class ErrorCount(Struct, frozen=True):
    """Jobs whose last failure was this."""

    error_code: ErrorCode
    jobs: int


class FinishedCounts(Struct, kw_only=True, frozen=True):
    """Jobs that became final."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0


class Throughput(Struct, kw_only=True, frozen=True):
    last_minute: FinishedCounts
    last_5_minutes: FinishedCounts
    last_hour: FinishedCounts

    @classmethod
    def of(cls, finished: Iterable[Finished]) -> Throughput:
        sums: dict[str, dict[str, int]] = {window: {} for window in cls.__struct_fields__}
        for each in finished:
            for window, counts in sums.items():
                counts[each.status] = counts.get(each.status, 0) + getattr(each, window)
        return cls(**{window: FinishedCounts(**counts) for window, counts in sums.items()})


class QuantilesView(Struct, frozen=True):
    """Seconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, quantiles: Quantiles) -> QuantilesView:
        return cls(quantiles.p50, quantiles.p95, quantiles.p99)


class StatsView(Struct, kw_only=True, frozen=True):
    """The figures of the caller's jobs."""

    as_of: Annotated[Moment, Meta(description="When they were read; at most some seconds ago.")]
    jobs: StateCounts
    by_queue: list[QueueCounts]
    by_task_type: list[TaskTypeCounts]
    by_owner: list[OwnerCounts]
    by_error_code: list[ErrorCount]
    oldest_due_seconds: Annotated[
        float | None, Meta(description="For how long the job that has waited longest could have started.")
    ]
    throughput: Throughput
    wait_seconds: Annotated[
        QuantilesView | None, Meta(description="From due to started, of runs that ended within five minutes.")
    ]
    run_seconds: Annotated[QuantilesView | None, Meta(description="From start to end, of the same runs.")]

    @classmethod
    def of(cls, stats: Stats) -> StatsView:
        waited, ran = stats.durations.waited, stats.durations.ran
        return cls(
            as_of=stats.as_of,
            jobs=StateCounts(**_states(stats.total)),
            by_queue=[
                QueueCounts(queue=queue, due=counts.due, **_states(counts))
                for queue, counts in sorted(stats.by_queue.items(), key=lambda item: (item[0] is None, item[0] or ""))
            ],
            by_task_type=[
                TaskTypeCounts(task_type=name, **_states(counts)) for name, counts in sorted(stats.by_task_type.items())
            ],
            by_owner=[
                OwnerCounts(owner_service=name, **_states(counts)) for name, counts in sorted(stats.by_owner.items())
            ],
            by_error_code=_most_first(stats.by_error_code),
            oldest_due_seconds=stats.oldest_due_seconds,
            throughput=Throughput.of(stats.finished),
            wait_seconds=QuantilesView.of(waited) if waited else None,
            run_seconds=QuantilesView.of(ran) if ran else None,
        )


class WorkerView(Struct, kw_only=True, frozen=True):
    """A built-in worker process that lives."""

    worker_id: str
    host: str
    queues: list[str]
    slots_per_queue: int
    running: Annotated[dict[str, int], Meta(description="Jobs that it runs, by queue.")]
    started_at: Moment
    seen_at: Moment

    @classmethod
    def of(cls, worker: LiveWorker) -> WorkerView:
        return cls(
            worker_id=worker.worker_id,
            host=worker.host,
            queues=list(worker.queues),
            slots_per_queue=worker.slots_per_queue,
            running=dict(worker.running),
            started_at=worker.started_at,
            seen_at=worker.seen_at,
        )


class WorkerList(Struct, frozen=True):
    workers: list[WorkerView]

    @classmethod
    def of(cls, workers: Iterable[LiveWorker]) -> WorkerList:
        return cls([WorkerView.of(worker) for worker in workers])


def _states(counts: Counts) -> dict[str, int]:
    return {status.value: getattr(counts, status) for status in JobStatus}


def _most_first(counts: Mapping[ErrorCode, int]) -> list[ErrorCount]:
    return [ErrorCount(code, jobs) for code, jobs in sorted(counts.items(), key=lambda item: -item[1])]
