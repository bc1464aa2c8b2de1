"""Tell a waiting job's place in line, about how long it waits, and for what."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from msgspec import Struct

from domain.errors import StorageUnavailable
from domain.job import Job, JobStatus
from domain.ports import Demand, JobStore, Pace
from domain.usecases.report import Report
from domain.usecases.wake import DEAD_AFTER


class WaitingFor(StrEnum):
    """Why a pending job does not start."""

    SLOT = "slot"
    RUN_AT = "run_at"
    PAUSED = "paused"
    CIRCUIT = "circuit"
    WORKER = "worker"
    """No worker that lives serves its queue."""
    EXTERNAL_WORKER = "external_worker"


class Outlook(Struct, frozen=True):
    """What a pending job has before it; all None for any other."""

    position: int | None = None
    """Jobs that would be claimed before it if nothing else arrived."""
    eta_seconds: int | None = None
    """About how long until it starts; None where nothing like it was measured lately."""
    waiting_for: WaitingFor | None = None


@dataclass(frozen=True)
class Foresee:
    jobs: JobStore
    report: Report

    async def outlook(self, job: Job) -> Outlook:
        """How it stands with a job, by what is known now; nothing, while the storage is away.

        What has become of the job is told all the same: an outlook is no reason to call a stored job not stored.
        """
        try:
            return await self._outlook(job) if job.status is JobStatus.PENDING else Outlook()
        except StorageUnavailable:
            return Outlook()

    async def _outlook(self, job: Job) -> Outlook:
        if not job.due:
            return Outlook(waiting_for=WaitingFor.RUN_AT)
        prospect = await self.jobs.prospect(job, DEAD_AFTER)
        ahead, demand = prospect.ahead, prospect.demand
        paces = (await self.report.figures()).paces
        if demand is None:
            return Outlook(ahead, _eta_outside(job, ahead, paces), WaitingFor.EXTERNAL_WORKER)
        if demand.held:
            return Outlook(ahead, None, WaitingFor(demand.held))
        if not demand.slots:
            return Outlook(ahead, None, WaitingFor.WORKER)
        return Outlook(ahead, _eta(ahead, demand, paces), WaitingFor.SLOT)


def _eta(ahead: int, demand: Demand, paces: Iterable[Pace]) -> int | None:
    """Each slot takes the next job when its run ends: a run's mean time, divided by the slots, per job in line."""
    free = demand.idle if demand.room is None else min(demand.idle, demand.room)
    slots = max(1, demand.slots - demand.idle + free)
    in_line = ahead - free + 1
    if in_line <= 0:
        return 0
    alike = [pace for pace in paces if pace.queue == demand.queue]
    runs = sum(pace.runs for pace in alike)
    if not runs:
        return None
    mean = sum(pace.runs * pace.run_seconds for pace in alike) / runs
    return math.ceil(in_line * mean / slots)


def _eta_outside(job: Job, ahead: int, paces: Iterable[Pace]) -> int | None:
    """Nobody knows the slots of external workers: what counts is how many such runs ended lately."""
    kind = (None, job.task_type, job.model_profile)
    alike = (pace for pace in paces if (pace.queue, pace.task_type, pace.model_profile) == kind)
    return next((math.ceil((ahead + 1) * pace.within / pace.runs) for pace in alike), None)
