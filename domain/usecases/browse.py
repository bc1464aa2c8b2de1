"""Look at jobs."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from domain.access import Caller
from domain.events import Progress, Pulse, StatusChange
from domain.job import Job, JobId, RunRecord
from domain.ports import JobStore, Listing, Place
from domain.results import content_of


class Page(Struct, frozen=True):
    """Some jobs, and where the list goes on, or None at the end."""

    jobs: list[Job]
    following: Place | None


class News(Struct, frozen=True):
    """What happened to a job since a reader last looked."""

    job: Job
    """Without its input and result."""
    changes: list[StatusChange]
    progress: Progress | None
    """The last report, where it is newer."""
    pulse: Pulse
    """How far the job was when this was read."""
    content: str | None = None
    """What a chat answered, once it has completed."""

    def without_events(self) -> News:
        """The same look, once its events have been told."""
        return replace(self, changes=[], progress=None)


@dataclass(frozen=True)
class Browse:
    jobs: JobStore

    async def one(self, caller: Caller, job_id: JobId) -> Job:
        """The whole job.

        Raises:
            JobNotFound: there is none, or it is another owner's.
        """
        job = await self.jobs.get(job_id)
        caller.must_own(job.owner_service)
        return job

    async def page(self, caller: Caller, listing: Listing) -> Page:
        """Matching jobs.

        Raises:
            Forbidden: an owner is named that is not the caller's.
        """
        where = replace(listing.where, owner_service=caller.owners(listing.where.owner_service))
        found = await self.jobs.find(replace(listing, where=where, limit=listing.limit + 1))
        jobs = found[: listing.limit]
        return Page(jobs, Place(jobs[-1].created_at, jobs[-1].seq) if len(found) > listing.limit else None)

    async def runs(self, caller: Caller, job_id: JobId) -> list[RunRecord]:
        """The job's runs, oldest first.

        Raises:
            JobNotFound.
        """
        await self.one(caller, job_id)
        return await self.jobs.runs(job_id)

    async def news(self, caller: Caller, job_id: JobId, *, number: int, report: tuple[int, int]) -> News:
        """What is new about a job.

        Args:
            number: the last change of its state that is known.
            report: the last report of progress that is known: of which run, and which one.

        Raises:
            JobNotFound.
        """
        # The job first: whatever it has come to, the changes that led there are read after it.
        whole = await self.one(caller, job_id)
        job = replace(whole, input=None, result=None)
        changes = await self.jobs.changes(job_id, number)
        progress = await self.jobs.progress(job_id)
        told = (progress.number, progress.report) if progress else (0, 0)
        return News(
            job,
            # What has happened since the job was read comes with the next look, all of it in its order.
            [change for change in changes if change.number <= job.number],
            progress if told > report and told[0] <= job.number else None,
            Pulse(job.status, job.number, told),
            None if whole.result is None else content_of(whole.result),
        )
