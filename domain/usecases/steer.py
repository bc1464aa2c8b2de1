"""Change jobs' course from outside: cancel them, start them afresh, erase them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from domain.access import Caller
from domain.errors import Failure, InvalidTransition
from domain.events import REVOKED
from domain.job import CANCELLED_BY_CALLER, FINAL, Job, JobId, JobStatus
from domain.ports import Events, JobFilter, JobStore, Listing, Place
from domain.telemetry import NO_TELEMETRY, Change, Telemetry
from domain.usecases.wake import Wake

CHUNK = 1_000
"""Jobs that one commit moves at most: keeps locks and memory small, however many match."""

CANCELLABLE = (JobStatus.PENDING, JobStatus.RUNNING)
RETRIED_BY_DEFAULT = (JobStatus.FAILED, JobStatus.RUNNING)

Move = Callable[[Sequence[JobId], Sequence[JobStatus]], Awaitable[int]]


class Steered(Struct, frozen=True):
    """How many jobs matched, and how many of them changed."""

    matched: int
    changed: int


class Erased(Struct, frozen=True):
    """How many jobs are gone, and how many stay because they have not ended."""

    erased: int
    unfinished: int


@dataclass(frozen=True)
class Steer:
    jobs: JobStore
    wake: Wake
    events: Events
    telemetry: Telemetry = NO_TELEMETRY

    async def cancel(self, caller: Caller, job_id: JobId) -> Job:
        """Cancel a pending or running job; its worker learns of it by the event, or at its next renewal. Twice is once.

        Raises:
            JobNotFound, InvalidTransition.
        """
        await self._own(caller, job_id)
        while not await self._cancel([job_id]):
            job = await self.jobs.get(job_id)
            if job.cancel(job.updated_at) is job:
                return job
        return await self.jobs.get(job_id)

    async def withdraw(self, caller: Caller, job_id: JobId) -> Job:
        """Cancel a job that has not started.

        Raises:
            JobNotFound.
            InvalidTransition: it is not pending.
        """
        await self._own(caller, job_id)
        withdrawn = await self._cancel([job_id], (JobStatus.PENDING,))
        job = await self.jobs.get(job_id)
        if not withdrawn:
            raise InvalidTransition(f"The job is {job.status}: only a pending one can be withdrawn.")
        return job

    async def stop(self, job_id: JobId, failure: Failure, among: Sequence[JobStatus] | None = None) -> bool:
        """Cancel a job for this reason. Returns whether it was pending or running, or in one of these states."""
        return await self._cancel([job_id], among, failure) > 0

    async def retry(self, caller: Caller, job_id: JobId) -> Job:
        """Start a failed, cancelled or running job afresh.

        Raises:
            JobNotFound, InvalidTransition.
        """
        await self._own(caller, job_id)
        while not await self._retry([job_id]):
            job = await self.jobs.get(job_id)
            job.retry(job.updated_at)
        return await self.jobs.get(job_id)

    async def erase(self, caller: Caller, job_id: JobId) -> None:
        """Delete a final job with all that is known of it.

        Raises:
            JobNotFound: there is none, also: it has been erased already.
            InvalidTransition: it has not ended.
        """
        job = await self._own(caller, job_id)
        while not await self.jobs.erase([job_id]):
            job = await self.jobs.get(job_id)
            if not job.status.final:
                raise InvalidTransition(f"The job is {job.status}: only a final job can be erased. Cancel it first.")

    async def cancel_all(self, caller: Caller, where: JobFilter, *, dry_run: bool) -> Steered:
        """Cancel what matches; without a state in the filter, what is pending or running.

        Raises:
            Forbidden: the filter names an owner that is not the caller's.
        """
        return await self._all(caller, where, CANCELLABLE, self._cancel, dry_run=dry_run)

    async def retry_all(self, caller: Caller, where: JobFilter, *, dry_run: bool) -> Steered:
        """Start afresh what matches; without a state in the filter, what has failed or is running.

        Raises:
            Forbidden: the filter names an owner that is not the caller's.
        """
        return await self._all(caller, where, RETRIED_BY_DEFAULT, self._retry, dry_run=dry_run)

    async def erase_all(self, caller: Caller, owner_service: str | None, owner_ref: str) -> Erased:
        """Delete an owner's final jobs of this reference; those that have not ended stay.

        Raises:
            Forbidden: the owner is not the caller's.
            BadInput: no owner is named, and the caller has none.
        """
        where = JobFilter(owner_service=(caller.owner_of(owner_service),), owner_ref=(owner_ref,))
        erased = await self._all(caller, where, tuple(FINAL), self._erase, dry_run=False)
        return Erased(erased.changed, await self.jobs.count(replace(where, status=CANCELLABLE)))

    async def _all(
        self, caller: Caller, where: JobFilter, by_default: tuple[JobStatus, ...], move: Move, *, dry_run: bool
    ) -> Steered:
        where = replace(where, owner_service=caller.owners(where.owner_service), status=where.status or by_default)
        if dry_run:
            return Steered(await self.jobs.count(where), 0)
        matched = changed = 0
        # Oldest first and never back: a job that comes to match again is not moved twice.
        listing: Listing | None = Listing(where=where, limit=CHUNK, newest_first=False)
        while listing:
            found = await self.jobs.find(listing)
            matched += len(found)
            # A job that was found pending may be running by now, and what runs was perhaps not to be touched.
            changed += await move([job.id for job in found], where.status) if found else 0
            last = found[-1] if len(found) == CHUNK else None
            listing = replace(listing, after=Place(last.created_at, last.seq)) if last else None
        return Steered(matched, changed)

    async def _cancel(
        self,
        job_ids: Sequence[JobId],
        among: Sequence[JobStatus] | None = None,
        failure: Failure = CANCELLED_BY_CALLER,
    ) -> int:
        cancelled = await self.jobs.cancel(job_ids, failure, among)
        self.telemetry.changed(Change.CANCELLED, cancelled)
        self.events.publish(cancelled)
        return len(cancelled)

    async def _retry(self, job_ids: Sequence[JobId], among: Sequence[JobStatus] | None = None) -> int:
        retried = await self.jobs.retry(job_ids, among)
        self.telemetry.changed(Change.RETRIED, retried)
        self.events.publish(retried)
        if among is None or JobStatus.RUNNING in among:
            # Which of them were running is not known here; a worker that holds none of them pays no heed.
            self.events.publish([replace(event, kind=REVOKED) for event in retried])
        await self.wake.for_jobs(Counter(event.queue for event in retried if event.queue))
        return len(retried)

    async def _erase(self, job_ids: Sequence[JobId], _among: Sequence[JobStatus]) -> int:
        return len(await self.jobs.erase(job_ids))

    async def _own(self, caller: Caller, job_id: JobId) -> Job:
        job = await self.jobs.get(job_id)
        caller.must_own(job.owner_service)
        return job
