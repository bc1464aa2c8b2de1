"""The installation as a whole, in metrics."""

from __future__ import annotations

from collections.abc import Iterator

from adapters.telemetry.bounded import Bounded
from adapters.telemetry.metrics import Sample
from domain.circuit import CircuitState
from domain.job import JobStatus
from domain.ports import StorageVitals
from domain.usecases.survey import Installation, QueueSurvey


def samples(installation: Installation, label: Bounded) -> Iterator[Sample]:
    """
    Args:
        label: of queues.
    """
    queues: dict[str | None, None] = {queue.report.state.name: None for queue in installation.queues}
    queues |= {queue: None for queue, _ in installation.jobs}
    for queue in queues:
        for status in JobStatus:
            yield "aijobs_jobs", (label(queue), status.value), installation.jobs.get((queue, status), 0)
        yield "aijobs_jobs_due", (label(queue),), installation.due.get(queue, 0)
    for surveyed in installation.queues:
        yield from _of_queue(surveyed, label(surveyed.report.state.name))
    if installation.oldest_unserved_seconds is not None:
        yield "aijobs_oldest_due_seconds", (label(None),), installation.oldest_unserved_seconds
    yield "aijobs_workers", (), installation.workers
    for name, held in installation.broker.items():
        yield "aijobs_tickets_ready", (label(name),), held.ready
        yield "aijobs_tickets_unacked", (label(name),), held.unacked
        yield "aijobs_consumers", (label(name),), held.consumers
    for status, seconds in installation.oldest_finished.items():
        yield "aijobs_oldest_finished_seconds", (status.value,), seconds
    yield from _of_storage(installation.storage)


def _of_queue(surveyed: QueueSurvey, queue: str) -> Iterator[Sample]:
    report, state = surveyed.report, surveyed.report.state
    yield "aijobs_backlog_seconds", (queue,), surveyed.backlog_seconds
    yield "aijobs_oldest_due_seconds", (queue,), surveyed.oldest_due_seconds
    yield "aijobs_queue_workers", (queue,), report.workers
    yield "aijobs_queue_slots", (queue,), report.slots
    yield "aijobs_queue_slots_busy", (queue,), state.busy
    circuit = state.circuit.state
    held = {"paused": state.paused, "stopped": state.stopped, "circuit": circuit is not CircuitState.CLOSED}
    for why, holds in held.items():
        yield "aijobs_queue_held", (queue, why), float(holds)
    if state.limit is not None:
        yield "aijobs_queue_limit", (queue,), state.limit
    for each in CircuitState:
        yield "aijobs_circuit_state", (queue, each.value), float(each is circuit)


def _of_storage(storage: StorageVitals) -> Iterator[Sample]:
    for name, table in storage.tables.items():
        yield "aijobs_postgres_dead_tuples", (name,), table.dead
        yield "aijobs_postgres_live_tuples", (name,), table.live
    yield "aijobs_postgres_oldest_snapshot_seconds", (), storage.oldest_snapshot_seconds
    yield "aijobs_postgres_oldest_snapshot_transactions", (), storage.oldest_snapshot_transactions
    yield "aijobs_postgres_size_bytes", (), storage.size_bytes
    yield "aijobs_postgres_connections", (), storage.connections
    yield "aijobs_unfolded_changes", (), storage.unfolded_changes
