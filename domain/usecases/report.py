"""Tell how the service fares: whether it can do its work, how many jobs there are, how fast they go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from domain.access import Caller, Right
from domain.errors import ErrorCode, StorageUnavailable
from domain.job import JobId, JobStatus
from domain.ports import (
    BrokerFigures,
    BrokerQueue,
    BrokerState,
    Durations,
    Finished,
    JobFilter,
    JobStore,
    Listing,
    LiveWorker,
    Pace,
    Tally,
    Tickets,
)
from domain.queue import QueueState
from domain.usecases.operate import Operate
from domain.usecases.wake import DEAD_AFTER

K = TypeVar("K")

FIGURES_LAST = 2.0
"""Seconds for which figures are given out again before they are read anew."""

MOST_RUNNING = 100
"""Running jobs that are named at once."""

MOST_LOOKED_AT = 500
"""Running jobs among which those are looked for: read in the order of an index, however many jobs there are."""


class Readiness(Struct, frozen=True):
    """PostgreSQL is needed; without the broker the service is only slower."""

    storage: bool
    broker: bool


class Counts(Struct, frozen=True):
    """Jobs by their state."""

    pending: int = 0
    due: int = 0
    """Of the pending ones, those that could start now."""
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0


class Stats(Struct, frozen=True):
    """The figures of one owner's jobs, or of all."""

    as_of: datetime
    total: Counts
    by_queue: dict[str | None, Counts]
    by_task_type: dict[str, Counts]
    by_owner: dict[str, Counts]
    by_error_code: dict[ErrorCode, int]
    oldest_due_seconds: float | None
    finished: tuple[Finished, ...]
    durations: Durations


class QueueReport(Struct, frozen=True):
    """A queue: how it stands, its jobs, and who serves it."""

    state: QueueState
    jobs: Counts
    workers: int
    slots: int
    idle: int
    broker: BrokerQueue | None = None
    """What the broker holds of it; None: nobody can be asked, or it told nothing of this queue."""


class Standing(Struct, frozen=True):
    """How some queues stand, taken as one."""

    queues: tuple[QueueReport, ...]
    running_jobs: tuple[JobId, ...]
    """Of the caller's, those submitted first; at most `MOST_RUNNING`."""

    @property
    def started(self) -> bool:
        """Not where every one of them is stopped."""
        return not self.queues or not all(queue.state.stopped for queue in self.queues)

    @property
    def paused(self) -> bool:
        """Whether every one of them is."""
        return bool(self.queues) and all(queue.state.paused for queue in self.queues)

    @property
    def pending(self) -> int:
        return sum(queue.jobs.pending for queue in self.queues)


class Figures(Struct, frozen=True):
    """What was read of the storage at one moment."""

    as_of: datetime
    tallies: list[Tally]
    finished: list[Finished]
    paces: list[Pace]


@dataclass
class Report:
    jobs: JobStore
    tickets: Tickets
    broker: BrokerFigures
    operate: Operate
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    _figures: Figures | None = None
    _owned: dict[str | None, tuple[float, float | None, Durations]] = field(default_factory=dict)
    _read_at: float = 0.0
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def readiness(self) -> Readiness:
        try:
            await self.jobs.ping()
        except StorageUnavailable:
            storage = False
        else:
            storage = True
        return Readiness(storage=storage, broker=await self.tickets.reachable())

    async def figures(self) -> Figures:
        """The storage's figures, about two seconds old at most. While they are read anew, others get the old ones."""
        if self._figures is not None and self._reading.locked():
            return self._figures
        async with self._reading:
            if self._figures is None or self.monotonic() - self._read_at >= FIGURES_LAST:
                as_of = self.clock()
                self._figures = Figures(
                    as_of, await self.jobs.tallies(), await self.jobs.finished(), await self.jobs.paces()
                )
                self._read_at = self.monotonic()
            return self._figures

    async def stats(self, caller: Caller) -> Stats:
        """The figures of the caller's jobs."""
        figures = await self.figures()
        tallies = [tally for tally in figures.tallies if caller.owner in (None, tally.owner_service)]
        total = _counts(tallies)
        oldest_due, durations = await self._of_owner(caller.owner, any_due=total.due > 0)
        return Stats(
            as_of=figures.as_of,
            total=total,
            by_queue=_grouped((tally.queue, tally) for tally in tallies),
            by_task_type=_grouped((tally.task_type, tally) for tally in tallies),
            by_owner=_grouped((tally.owner_service, tally) for tally in tallies),
            by_error_code=_by_error_code(tallies),
            oldest_due_seconds=oldest_due,
            finished=tuple(each for each in figures.finished if caller.owner in (None, each.owner_service)),
            durations=durations,
        )

    async def queues(self, caller: Caller) -> list[QueueReport]:
        """Every queue that is configured, has jobs or is served by a live worker, in the order of their names."""
        queues, _ = await self.queues_and_workers(caller)
        return queues

    async def queues_and_workers(self, caller: Caller) -> tuple[list[QueueReport], list[LiveWorker]]:
        """As `queues` and `workers`, of one look."""
        states = {state.name: state for state in await self.operate.states()}
        workers = await self.workers()
        served = [queue for worker in workers for queue in worker.queues]
        found = [tally.queue for tally in (await self.figures()).tallies if tally.queue]
        names = sorted({*states, *served, *found})
        queues = await self._reports(caller, [states.get(name) or QueueState(name) for name in names], workers)
        return queues, workers

    async def each_queue(self, caller: Caller, states: Sequence[QueueState]) -> list[QueueReport]:
        """These queues, with their jobs and who serves them."""
        return await self._reports(caller, states, await self.workers())

    async def standing(self, caller: Caller, states: Sequence[QueueState]) -> Standing:
        """How these queues stand, taken as one, with the running jobs that the caller may see."""
        return Standing(
            tuple(await self.each_queue(caller, states)),
            tuple(await self._running(caller, {state.name for state in states})),
        )

    async def workers(self) -> list[LiveWorker]:
        """Worker processes that live."""
        return await self.jobs.workers(DEAD_AFTER)

    async def broker_state(self) -> BrokerState | None:
        """What the broker told of itself, seconds ago at most; None where nobody can be asked about it."""
        return await self.broker.look()

    async def _reports(
        self, caller: Caller, states: Iterable[QueueState], workers: Sequence[LiveWorker]
    ) -> list[QueueReport]:
        counts = _grouped((tally.queue, tally) for tally in (await self.figures()).tallies)
        told = await self.broker_state()
        lying = told.queues if told else {}
        return [
            _queue_report(_shown_to(caller, state), counts.get(state.name, Counts()), workers, lying.get(state.name))
            for state in states
        ]

    async def _running(self, caller: Caller, queues: Set[str]) -> list[JobId]:
        where = JobFilter(status=(JobStatus.RUNNING,))
        jobs = await self.jobs.find(Listing(where=where, limit=MOST_LOOKED_AT, newest_first=False))
        seen = [job.id for job in jobs if job.queue in queues and caller.owner in (None, job.owner_service)]
        return seen[:MOST_RUNNING]

    async def _of_owner(self, owner: str | None, *, any_due: bool) -> tuple[float | None, Durations]:
        read_at, oldest_due, durations = self._owned.get(owner, (float("-inf"), None, Durations(None, None)))
        if self.monotonic() - read_at >= FIGURES_LAST:
            oldest_due = await self.jobs.oldest_due(owner) if any_due else None
            durations = await self.jobs.durations(owner)
            self._owned[owner] = (self.monotonic(), oldest_due, durations)
        return oldest_due, durations


def _queue_report(
    state: QueueState, counts: Counts, workers: Iterable[LiveWorker], broker: BrokerQueue | None
) -> QueueReport:
    serving = [worker for worker in workers if state.name in worker.queues]
    slots = sum(worker.slots_per_queue for worker in serving)
    busy = sum(worker.running.get(state.name, 0) for worker in serving)
    return QueueReport(state, counts, len(serving), slots, max(0, slots - busy), broker)


def _shown_to(caller: Caller, state: QueueState) -> QueueState:
    """Why a circuit is open is said in words to operators only: they are those of another owner's job."""
    if Right.OPERATE in caller.rights or not state.circuit.message:
        return state
    return replace(state, circuit=replace(state.circuit, message=""))


def _grouped(tallies: Iterable[tuple[K, Tally]]) -> dict[K, Counts]:
    groups: dict[K, list[Tally]] = {}
    for key, tally in tallies:
        groups.setdefault(key, []).append(tally)
    return {key: _counts(group) for key, group in groups.items()}


def _counts(tallies: Iterable[Tally]) -> Counts:
    counts = dict.fromkeys(Counts.__struct_fields__, 0)
    for tally in tallies:
        counts[tally.status] += tally.jobs
        if tally.status is JobStatus.PENDING and tally.due:
            counts["due"] += tally.jobs
    return Counts(**counts)


def _by_error_code(tallies: Iterable[Tally]) -> dict[ErrorCode, int]:
    codes: dict[ErrorCode, int] = {}
    for tally in tallies:
        if tally.error_code:
            codes[tally.error_code] = codes.get(tally.error_code, 0) + tally.jobs
    return codes
