"""A job store in memory: the domain's own transitions over a dictionary.

For tests and as the reference that the PostgreSQL store is compared with; nothing outlives the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

from msgspec.structs import replace

from domain.errors import JobNotFound, LeaseLost
from domain.job import Job, JobId, JobStatus, Lease, LeasedJob, LeaseToken, NewJob, RunOutcome, Settlement
from domain.ports import DEMAND_LIMIT, Claim, Demand, Exchange, JobFilter, WorkerBeat


class MemoryJobStore:
    """Passes the same conformance suite as the PostgreSQL store. One event loop only."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._seq = count(1)
        self._jobs: dict[JobId, Job] = {}
        self._ended: dict[Lease, RunOutcome] = {}
        self._beats: dict[UUID, tuple[WorkerBeat, datetime]] = {}

    async def add(self, jobs: Sequence[NewJob]) -> list[Job]:
        now = self._now()
        for new in jobs:
            if new.id not in self._jobs:
                self._jobs[new.id] = _stored(new, next(self._seq), now)
        return [self._jobs[new.id] for new in jobs]

    async def get(self, job_id: JobId) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound from None

    async def statuses(self, job_ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        return {job_id: self._jobs[job_id].status for job_id in job_ids if job_id in self._jobs}

    async def find(self, where: JobFilter, *, limit: int, before: int | None = None) -> list[Job]:
        newest_first = sorted(self._jobs.values(), key=lambda job: -job.seq)
        matching = (job for job in newest_first if _matches(job, where) and (before is None or job.seq < before))
        return [replace(job, input=None, result=None) for job, _ in zip(matching, range(limit), strict=False)]

    async def exchange(self, settlements: Sequence[Settlement], claim: Claim | None) -> Exchange:
        lost = frozenset(settlement.lease for settlement in settlements if not self._settle(settlement))
        return Exchange(self._claim(claim) if claim else (), lost)

    async def renew(self, leases: Sequence[Lease], lease: timedelta) -> frozenset[Lease]:
        lost = set()
        for held in leases:
            try:
                self._put((await self.get(held.job_id)).renew(held, self._now() + lease))
            except (JobNotFound, LeaseLost):
                lost.add(held)
        return frozenset(lost)

    async def release_orphans(self, worker_id: str, queue: str, held: Sequence[Lease]) -> int:
        orphans = [
            job.leased().release()
            for job in self._jobs.values()
            if (job.status, job.worker_id, job.queue) == (JobStatus.RUNNING, worker_id, queue) and job.lease not in held
        ]
        return sum(self._settle(settlement) for settlement in orphans)

    async def cancel(self, job_id: JobId) -> Job:
        job = await self.get(job_id)
        return self._put(job.cancel(self._now()), ended=job.lease, outcome=RunOutcome.CANCELLED)

    async def retry(self, job_id: JobId) -> Job:
        job = await self.get(job_id)
        return self._put(job.retry(self._now()), ended=job.lease, outcome=RunOutcome.RETRIED)

    async def promote_due(self) -> dict[str, int]:
        now = self._now()
        promoted = [self._put(job.promote(now)) for job in list(self._jobs.values()) if not job.due]
        return _by_queue(job for job in promoted if job.due)

    async def rescue_expired(self, max_crashes: int) -> dict[str, int]:
        now = self._now()
        expired = [job for job in self._jobs.values() if job.lease_expires_at and job.lease_expires_at < now]
        rescued = [
            self._put(job.rescue(max_crashes, now), ended=job.lease, outcome=RunOutcome.CRASHED) for job in expired
        ]
        return _by_queue(job for job in rescued if job.status is JobStatus.PENDING)

    async def demand(self, queues: Sequence[str], alive_within: timedelta) -> list[Demand]:
        alive = [beat for beat, at in self._beats.values() if at > self._now() - alive_within]
        return [self._demand(queue, alive) for queue in queues]

    async def beat(self, beat: WorkerBeat) -> None:
        self._beats[beat.id] = (beat, self._now())

    async def forget_worker(self, worker: UUID, older_than: timedelta) -> None:
        gone_before = self._now() - older_than
        self._beats = {id_: seen for id_, seen in self._beats.items() if id_ != worker and seen[1] >= gone_before}

    async def ping(self) -> None:
        pass

    def _put(self, job: Job, *, ended: Lease | None = None, outcome: RunOutcome = RunOutcome.COMPLETED) -> Job:
        if ended and job.lease != ended:
            self._ended[ended] = outcome
        self._jobs[job.id] = job
        return job

    def _settle(self, settlement: Settlement) -> bool:
        lease = settlement.lease
        try:
            job = self._jobs[lease.job_id].settle(settlement, self._now())
        except (KeyError, LeaseLost):
            return self._ended.get(lease) is settlement.outcome
        self._put(job, ended=lease, outcome=settlement.outcome)
        return True

    def _claim(self, claim: Claim) -> tuple[LeasedJob, ...]:
        now = self._now()
        claimable = sorted(
            (job for job in self._jobs.values() if _claimable(job, claim)),
            key=lambda job: (job.priority, job.seq),
        )
        return tuple(
            self._put(job.claim(LeaseToken(uuid4()), claim.worker_id, now + claim.lease, now)).leased()
            for job in claimable[: claim.limit]
        )

    def _demand(self, queue: str, alive: list[WorkerBeat]) -> Demand:
        serving = [beat for beat in alive if queue in beat.queues]
        due = sum(job.queue == queue and job.status is JobStatus.PENDING and job.due for job in self._jobs.values())
        slots = sum(beat.slots_per_queue for beat in serving)
        busy = sum(beat.running.get(queue, 0) for beat in serving)
        return Demand(queue, min(due, DEMAND_LIMIT), slots, slots - busy)


def _by_queue(jobs: Iterable[Job]) -> dict[str, int]:
    return dict(Counter(job.queue for job in jobs if job.queue))


def _stored(new: NewJob, seq: int, now: datetime) -> Job:
    run_at = new.run_at or now
    return new.stored(seq, run_at=run_at, due=run_at <= now, now=now)


def _claimable(job: Job, claim: Claim) -> bool:
    pending = job.status is JobStatus.PENDING and job.due
    served = job.task_type in claim.task_types and job.model_profile in claim.model_profiles
    return pending and served and job.queue == claim.queue


def _matches(job: Job, where: JobFilter) -> bool:
    wanted = (
        (where.owner_service, job.owner_service),
        (where.task_type, job.task_type),
        (where.model_profile, job.model_profile),
        (where.status, job.status),
    )
    return all(not values or value in values for values, value in wanted)
