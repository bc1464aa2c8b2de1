from __future__ import annotations

import pytest

from domain.errors import JobNotFound
from domain.ports import JobFilter
from domain.usecases.browse import Browse
from tests.factories import new_id, new_job
from tests.fakes import FragileStore


async def test_one_job_is_shown_whole(store: FragileStore):
    [job] = await store.add([new_job()])
    assert await Browse(store).one(job.id) == job


async def test_an_unknown_job_is_not_found(store: FragileStore):
    with pytest.raises(JobNotFound):
        await Browse(store).one(new_id())


@pytest.mark.parametrize(
    ("jobs", "pages"),
    [(0, [0]), (1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2]), (5, [2, 2, 1])],
)
async def test_pages_follow_one_another_until_the_last(store: FragileStore, jobs: int, pages: list[int]):
    added = await store.add([new_job() for _ in range(jobs)])
    browse = Browse(store)
    page = await browse.page(JobFilter(), limit=2)
    seen, sizes = list(page.jobs), [len(page.jobs)]
    while page.next_before is not None:
        page = await browse.page(JobFilter(), limit=2, before=page.next_before)
        seen += page.jobs
        sizes.append(len(page.jobs))
    assert [job.id for job in seen] == [job.id for job in reversed(added)]
    assert sizes == pages


async def test_a_job_that_comes_meanwhile_moves_no_page(store: FragileStore):
    first, second, _ = await store.add([new_job() for _ in range(3)])
    browse = Browse(store)
    page = await browse.page(JobFilter(), limit=1)
    await store.add([new_job()])
    rest = await browse.page(JobFilter(), limit=2, before=page.next_before)
    assert [job.id for job in rest.jobs] == [second.id, first.id]


async def test_a_page_holds_matching_jobs_only(store: FragileStore):
    _, wanted, _ = await store.add([new_job(), new_job(owner_service="lion"), new_job()])
    page = await Browse(store).page(JobFilter(owner_service=("lion",)), limit=1)
    assert ([job.id for job in page.jobs], page.next_before) == ([wanted.id], None)
