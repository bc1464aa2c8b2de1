"""Reads that are asked for at about the same time travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from adapters.postgres.together import MOST_TOGETHER, ReadTogether
from domain.errors import StorageUnavailable
from domain.job import Job, JobId
from tests.factories import new_id, stored_job

PATIENCE = 10.0


class Shelf:
    """Answers when it is open."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.reads: list[list[JobId]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None
        self.together = ReadTogether(self.read)

    async def read(self, job_ids: Sequence[JobId]) -> Mapping[JobId, Job]:
        self.reads.append(list(job_ids))
        await self.open.wait()
        if self.error:
            raise self.error
        return {job_id: self.jobs[job_id] for job_id in job_ids if job_id in self.jobs}

    def ask(self, *job_ids: JobId) -> list[asyncio.Task[Job | None]]:
        return [asyncio.create_task(self.together.get(job_id)) for job_id in job_ids]

    async def is_read(self, times: int = 1) -> None:
        while len(self.reads) < times:  # noqa: ASYNC110  # a turn of the loop each
            await asyncio.sleep(0)


async def test_what_is_asked_during_a_read_goes_with_the_next() -> None:
    jobs = [stored_job() for _ in range(3)]
    shelf = Shelf(*jobs)
    first = shelf.ask(jobs[0].id)
    await shelf.is_read()
    later = shelf.ask(jobs[0].id, jobs[1].id, jobs[2].id)
    shelf.open.set()
    assert await asyncio.gather(*first, *later) == [jobs[0], *jobs]
    assert [len(read) for read in shelf.reads] == [1, 3]


async def test_one_read_is_of_so_many_jobs_at_most() -> None:
    jobs = [stored_job() for _ in range(MOST_TOGETHER + 1)]
    shelf = Shelf(*jobs)
    shelf.open.set()
    assert await asyncio.gather(*shelf.ask(*(job.id for job in jobs))) == jobs
    assert sorted(len(read) for read in shelf.reads) == [1, MOST_TOGETHER]


async def test_a_job_that_is_not_there_is_none() -> None:
    shelf = Shelf()
    shelf.open.set()
    assert await shelf.together.get(new_id()) is None


async def test_whoever_asked_hears_that_the_storage_is_away_and_the_next_read_is_made() -> None:
    job = stored_job()
    shelf = Shelf(job)
    shelf.open.set()
    shelf.error = StorageUnavailable()
    for asked in shelf.ask(job.id, new_id()):
        with pytest.raises(StorageUnavailable):
            await asked
    shelf.error = None
    assert await shelf.together.get(job.id) == job


async def test_who_goes_away_takes_nothing_from_those_who_ask_with_him() -> None:
    job = stored_job()
    shelf = Shelf(job)
    gone, stays = shelf.ask(job.id, job.id)
    await shelf.is_read()
    gone.cancel()
    shelf.open.set()
    assert await stays == job


async def test_when_a_read_is_given_up_nobody_waits_for_ever() -> None:
    jobs = [stored_job() for _ in range(2)]
    shelf = Shelf(*jobs)
    [first] = shelf.ask(jobs[0].id)
    await shelf.is_read()
    [next_] = shelf.ask(jobs[1].id)
    await asyncio.sleep(0)
    for flight in asyncio.all_tasks() - {asyncio.current_task(), first, next_}:
        flight.cancel()
    shelf.open.set()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StorageUnavailable):
            await first
        assert await next_ == jobs[1]


async def test_a_read_that_takes_long_holds_up_nobody_who_asks_later() -> None:
    jobs = [stored_job() for _ in range(2)]
    shelf = Shelf(*jobs)
    [first] = shelf.ask(jobs[0].id)
    await shelf.is_read()
    later = shelf.ask(jobs[1].id)
    async with asyncio.timeout(PATIENCE):
        await shelf.is_read(2)
    shelf.open.set()
    assert await asyncio.gather(first, *later) == jobs
