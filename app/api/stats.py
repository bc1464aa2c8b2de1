"""Figures over HTTP: jobs, queues, workers."""

from __future__ import annotations

from litestar import Controller, get

from app.api.documents import Answer, operation, refusals
from app.api.injected import Calling, Injected
from app.wire import examples
from app.wire.queues import QueueList
from app.wire.stats import StatsView, WorkerList
from domain.access import Right


class Figures(Controller):
    tags = ("figures",)
    opt = {"right": Right.READ}  # noqa: RUF012  # as Litestar declares it

    @get(
        "/stats",
        operation_id="get_stats",
        summary="Count jobs, and tell how fast they go",
        description="Of the caller's jobs; read anew every two seconds, `as_of` says when.",
        operation_class=operation(Answer(200, examples.STATS, "The figures."), *refusals()),
    )
    async def stats(self, services: Injected, caller: Calling) -> StatsView:
        return StatsView.of(await services.report.stats(caller))

    @get(
        "/queues",
        operation_id="list_queues",
        summary="List the GPU queues",
        description=(
            "Every queue that is configured, has jobs, or is served by a worker that lives: its jobs, who serves it, "
            "what limits it and what holds it. Jobs are counted anew every two seconds."
        ),
        operation_class=operation(Answer(200, examples.QUEUES, "The queues."), *refusals()),
    )
    async def queues(self, services: Injected, caller: Calling) -> QueueList:
        return QueueList.of(await services.report.queues(caller))

    @get(
        "/workers",
        operation_id="list_workers",
        summary="List the workers",
        description="Built-in worker processes that live. External workers are known by the jobs that they hold.",
        operation_class=operation(Answer(200, examples.WORKERS, "The workers."), *refusals()),
    )
    async def workers(self, services: Injected) -> WorkerList:
        return WorkerList.of(await services.report.workers())
