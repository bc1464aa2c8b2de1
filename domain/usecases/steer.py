"""Change a job's course from outside: cancel it, or start it afresh."""

from __future__ import annotations

from dataclasses import dataclass

from domain.job import Job, JobId
from domain.ports import JobStore
from domain.usecases.wake import Wake


@dataclass(frozen=True)
class Steer:
    jobs: JobStore
    wake: Wake

    async def cancel(self, job_id: JobId) -> Job:
        """Cancel a pending or running job; its worker learns of it at its next renewal. Twice is once.

        Raises:
            JobNotFound, InvalidTransition.
        """
        return await self.jobs.cancel(job_id)

    async def retry(self, job_id: JobId) -> Job:
        """Start a failed, cancelled or running job afresh.

        Raises:
            JobNotFound, InvalidTransition.
        """
        job = await self.jobs.retry(job_id)
        if job.queue:
            await self.wake.for_jobs({job.queue: 1})
        return job
