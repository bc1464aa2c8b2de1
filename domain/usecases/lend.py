"""Lend jobs to workers outside: they claim over HTTP, keep their lease by heartbeats, and say how the run ended.

They compete with the built-in workers for the same rows, and what they report passes the same table and the same fence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from domain.access import Caller
from domain.errors import Failure, JobNotFound, LeaseLost, TooLarge
from domain.events import PROGRESS, JobEvent
from domain.job import Job, JobStatus, Lease, LeasedJob, RunEnd, RunOutcome, Settlement
from domain.ports import Events, ExternalClaim, JobStore
from domain.results import check_result
from domain.telemetry import NO_TELEMETRY, Telemetry
from domain.usecases.wake import Wake
from domain.usecases.work import Ended, Work


@dataclass(frozen=True)
class Lend:
    jobs: JobStore
    work: Work
    wake: Wake
    events: Events
    max_result_bytes: int
    telemetry: Telemetry = NO_TELEMETRY

    async def claim(self, caller: Caller, claim: ExternalClaim) -> list[Job]:
        """The most urgent due jobs among those that match, each whole and with its lease. Never one job to two.

        Raises:
            Forbidden: an owner is named that is not the caller's.
        """
        owners = caller.owners(claim.owner_services or ())
        claimed = await self.jobs.claim(replace(claim, owner_services=owners or None))
        self.telemetry.lent(claimed)
        self.events.publish([JobEvent.of(job, "running", job.number) for job in claimed])
        return claimed

    async def report(self, caller: Caller, lease: Lease, progress: Raw | None) -> datetime:
        """Keep the job for another while, and say how far it is. Returns when the lease now runs out.

        Raises:
            JobNotFound, LeaseLost: the run must stop.
        """
        job = await self._own(caller, lease)
        expires_at, number = await self.jobs.report(lease, progress)
        if progress is not None:
            self.events.publish([JobEvent.of(job, PROGRESS, number)])
        return expires_at

    async def complete(self, caller: Caller, lease: Lease, result: bytes) -> Job:
        """Store the result. The same completion again changes nothing and is no error.

        Raises:
            BadInput: the result claims one of our schemas and does not fit it.
            TooLarge: it has more than `MAX_RESULT_BYTES`.
            JobNotFound, LeaseLost.
        """
        if len(result) > self.max_result_bytes:
            raise TooLarge(
                f"The result has {len(result)} bytes; at most {self.max_result_bytes} are accepted (MAX_RESULT_BYTES)."
            )
        check_result(result)
        completed = RunEnd(RunOutcome.COMPLETED)

        async def end(held: LeasedJob) -> Ended:
            return self.work.completed(held, result)

        job = await self._end(caller, lease, end, {completed})
        if job.result is not None and not _same(job.result, result):
            raise LeaseLost("This run was completed before, with another result; that one stands.")
        return job

    async def fail(self, caller: Caller, lease: Lease, failure: Failure) -> Job:
        """End the run by the retry table: pending again, or failed. The same failure again changes nothing.

        Raises:
            JobNotFound, LeaseLost.
        """
        ended_so = {RunEnd(outcome, failure.code) for outcome in (RunOutcome.FAILED, RunOutcome.GIVEN_BACK)}
        return await self._end(caller, lease, lambda held: self.work.reported(held, failure), ended_so)

    async def release(self, caller: Caller, lease: Lease) -> Job:
        """Give the job back unharmed: pending, in its old place, nothing counted.

        Raises:
            JobNotFound, LeaseLost.
        """

        async def end(held: LeasedJob) -> Ended:
            return self.work.released(held)

        return await self._end(caller, lease, end, {RunEnd(RunOutcome.RELEASED)})

    async def _end(
        self, caller: Caller, lease: Lease, end: Callable[[LeasedJob], Awaitable[Ended]], ended_so: set[RunEnd]
    ) -> Job:
        try:
            job = await self.jobs.get(lease.job_id)
        except JobNotFound:  # cancelled and erased, most likely: its run has a slot all the same
            await self._free_slot(lease)
            raise
        caller.must_own(job.owner_service)
        if job.lease == lease:
            outcome = await self.work.exchange([await end(job.leased())], None)
            lost = lease in outcome.lost
        else:  # most likely the repetition of a call whose answer was lost; if not, the run's slot at least is free now
            await self._free_slot(lease)
            lost = await self.jobs.run_end(lease) not in ended_so
        if job.queue:  # its slot is free, for this job again or for another
            await self.wake.for_jobs({job.queue: 1})
        if lost:
            raise LeaseLost
        return await self.jobs.get(lease.job_id)

    async def _free_slot(self, lease: Lease) -> None:
        """Of a run that no longer holds its job; of the job it changes nothing."""
        await self.jobs.exchange([Settlement(lease, RunOutcome.RELEASED, JobStatus.PENDING)], None)

    async def _own(self, caller: Caller, lease: Lease) -> Job:
        job = await self.jobs.get(lease.job_id)
        caller.must_own(job.owner_service)
        return job


def _same(stored: Raw, given: bytes) -> bool:
    return stored == given or msgspec.json.decode(stored) == msgspec.json.decode(given)
