"""Look at jobs."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct

from domain.job import Job, JobId
from domain.ports import JobFilter, JobStore


class Page(Struct, frozen=True):
    """Some jobs, newest first, and the `seq` to go on from, or None at the end."""

    jobs: list[Job]
    next_before: int | None


@dataclass(frozen=True)
class Browse:
    jobs: JobStore

    async def one(self, job_id: JobId) -> Job:
        """The whole job.

        Raises:
            JobNotFound: there is none.
        """
        return await self.jobs.get(job_id)

    async def page(self, where: JobFilter, *, limit: int, before: int | None = None) -> Page:
        """Matching jobs without input and result."""
        found = await self.jobs.find(where, limit=limit + 1, before=before)
        jobs = found[:limit]
        return Page(jobs, jobs[-1].seq if len(found) > limit else None)
