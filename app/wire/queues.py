"""Queues as operators see them: their jobs, who serves them, what limits them and what holds them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from app.wire.fields import Moment, Name
from app.wire.query import decode_query
from domain.circuit import Circuit, CircuitState
from domain.errors import ErrorCode
from domain.ports import BrokerQueue
from domain.usecases.report import QueueReport, Standing


class CircuitView(Struct, kw_only=True, frozen=True):
    """Whether a queue is held because its model server is sick."""

    state: Annotated[
        CircuitState, Meta(description="Open: nothing starts. Half open: one job is tried, and its end decides.")
    ]
    reason: Annotated[ErrorCode | None, Meta(description="Why it opened; null while it is closed.")]
    message: Annotated[
        str | None, Meta(description="The same in words, for callers with the right `operate`; null for others.")
    ]
    model_profile: Annotated[str | None, Meta(description="The profile whose server is sick.")]
    opened_at: Moment | None
    probe_at: Annotated[Moment | None, Meta(description="Not before this is the server asked again.")]

    @classmethod
    def of(cls, circuit: Circuit) -> CircuitView:
        return cls(
            state=circuit.state,
            reason=circuit.reason,
            message=circuit.message or None,
            model_profile=circuit.model_profile,
            opened_at=circuit.opened_at,
            probe_at=circuit.probe_at,
        )


class BrokerQueueView(Struct, kw_only=True, frozen=True):
    """What RabbitMQ counts of a queue, some seconds ago: tickets that wake workers, not jobs."""

    ready: Annotated[int, Meta(description="Tickets that wait for an idle slot.")]
    unacked: Annotated[int, Meta(description="Tickets that woke a worker and are not acknowledged yet.")]
    consumers: Annotated[int, Meta(description="Worker processes that take its tickets.")]

    @classmethod
    def of(cls, queue: BrokerQueue) -> BrokerQueueView:
        return cls(ready=queue.ready, unacked=queue.unacked, consumers=queue.consumers)


class QueueView(Struct, kw_only=True, frozen=True):
    """A GPU queue, and who serves it."""

    name: str
    paused: Annotated[bool, Meta(description="Nothing starts; what runs goes on.")]
    stopped: Annotated[bool, Meta(description="The same by a second flag, which start and stop change.")]
    circuit: CircuitView
    pending: int
    due: Annotated[int, Meta(description="Pending jobs that could start now.")]
    running: int
    busy: Annotated[
        int, Meta(description="Slots that are taken, over all workers: by running jobs, and by calls being closed.")
    ]
    concurrency: Annotated[
        int | None,
        Meta(description="Most slots that may be busy at once, as configured; null: its workers' slots."),
    ]
    effective_limit: Annotated[
        int | None, Meta(description="The same as it is now: less where the queue adapts to its model server.")
    ]
    adaptive: Annotated[bool, Meta(description="Whether the limit follows what the model server can take.")]
    preempt: Annotated[bool, Meta(description="Whether a high job takes the slot of a running low one.")]
    reserved_share: Annotated[
        float, Meta(description="The part of its time that goes to less urgent jobs while more urgent ones wait.")
    ]
    ageing_seconds: Annotated[
        float | None,
        Meta(description="After each such wait a job counts as more urgent; null: never."),
    ]
    workers: Annotated[int, Meta(description="Built-in workers that live and serve it.")]
    slots: Annotated[int, Meta(description="Jobs that they can run at once.")]
    idle: Annotated[int, Meta(description="Slots that run nothing.")]
    broker: Annotated[
        BrokerQueueView | None,
        Meta(description="What lies in RabbitMQ; null: no RABBITMQ_MANAGEMENT_URL is configured, or it tells nothing."),
    ]

    @classmethod
    def of(cls, queue: QueueReport) -> QueueView:
        state, policy = queue.state, queue.state.policy
        return cls(
            name=state.name,
            paused=state.paused,
            stopped=state.stopped,
            circuit=CircuitView.of(state.circuit),
            pending=queue.jobs.pending,
            due=queue.jobs.due,
            running=queue.jobs.running,
            busy=state.busy,
            concurrency=policy.concurrency,
            effective_limit=state.limit,
            adaptive=policy.adaptive,
            preempt=policy.preempt,
            reserved_share=policy.reserved_share,
            ageing_seconds=policy.ageing.total_seconds() if policy.ageing else None,
            workers=queue.workers,
            slots=queue.slots,
            idle=queue.idle,
            broker=BrokerQueueView.of(queue.broker) if queue.broker else None,
        )


class QueueList(Struct, frozen=True):
    queues: list[QueueView]

    @classmethod
    def of(cls, queues: Iterable[QueueReport]) -> QueueList:
        return cls([QueueView.of(queue) for queue in queues])


class QueueStatusView(Struct, kw_only=True, frozen=True):
    """How one queue stands, or all of them taken as one."""

    running: Annotated[bool, Meta(description="False: stopped. Of all queues: every one of them is.")]
    paused: Annotated[bool, Meta(description="True: paused. Of all queues: every one of them is.")]
    queue_size: Annotated[int, Meta(description="Jobs that wait.")]
    current_job_id: Annotated[UUID | None, Meta(description="The first of those below.")]
    current_job_ids: Annotated[
        list[UUID], Meta(description="The caller's running jobs, those submitted first; 100 at most.")
    ]
    queues: list[QueueView]

    @classmethod
    def of(cls, standing: Standing) -> QueueStatusView:
        return cls(
            running=standing.started,
            paused=standing.paused,
            queue_size=standing.pending,
            current_job_id=next(iter(standing.running_jobs), None),
            current_job_ids=list(standing.running_jobs),
            queues=[QueueView.of(queue) for queue in standing.queues],
        )


class QueueQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which queue."""

    queue: Annotated[Name, Meta(description="Only this one; left out: all of them.")] | UnsetType = UNSET

    @classmethod
    def read(cls, query_string: bytes) -> str | None:
        """Its name, or None for all.

        Raises:
            BadInput.
        """
        queue = decode_query(cls, query_string).queue
        return None if queue is UNSET else queue
