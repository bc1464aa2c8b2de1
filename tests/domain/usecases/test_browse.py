from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from domain.access import ANYBODY, Caller
from domain.errors import Forbidden, JobNotFound
from domain.events import Progress, Pulse, StatusChange
from domain.job import JobId, JobStatus
from domain.ports import JobFilter, Listing, Place
from domain.usecases.browse import Browse, News, Page
from tests.factories import NOW, external_claim, new_id
from tests.fakes import FakeClock, FragileStore
from tests.moves import complete, each, ids, lease_of, lend_one, one, run_one, settle, several

LION, BEAR = Caller(owner="lion"), Caller(owner="bear")
A_MINUTE = timedelta(minutes=1)


@pytest.fixture
def browse(store: FragileStore) -> Browse:
    return Browse(store)


def listing(**changes: Any) -> Listing:
    return replace(Listing(limit=2), **changes)


async def all_pages(browse: Browse, first: Listing) -> list[Page]:
    pages = [await browse.page(ANYBODY, first)]
    while (place := pages[-1].following) is not None:
        pages.append(await browse.page(ANYBODY, replace(first, after=place)))
    return pages


class TestOne:
    @pytest.mark.parametrize("caller", [ANYBODY, LION])
    async def test_one_job_is_shown_whole(self, browse: Browse, store: FragileStore, caller: Caller):
        job = await one(store, owner_service="lion")
        assert await browse.one(caller, job.id) == job

    async def test_an_unknown_job_is_not_found(self, browse: Browse):
        with pytest.raises(JobNotFound):
            await browse.one(ANYBODY, new_id())

    async def test_another_owners_job_is_not_found_either(self, browse: Browse, store: FragileStore):
        job = await one(store, owner_service="lion")
        with pytest.raises(JobNotFound):
            await browse.one(BEAR, job.id)
        with pytest.raises(JobNotFound):
            await browse.runs(BEAR, job.id)
        with pytest.raises(JobNotFound):
            await browse.news(BEAR, job.id, number=0, report=(0, 0))

    async def test_its_runs_are_told(self, browse: Browse, store: FragileStore):
        held = await run_one(store, owner_service="lion")
        assert await browse.runs(LION, held.id) == await store.runs(held.id) != []


class TestPage:
    @pytest.mark.parametrize("newest_first", [True, False])
    @pytest.mark.parametrize(
        ("jobs", "sizes"), [(0, [0]), (1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2]), (5, [2, 2, 1])]
    )
    async def test_pages_follow_one_another_until_the_last(
        self, browse: Browse, store: FragileStore, jobs: int, sizes: list[int], newest_first: bool
    ):
        added = ids(await several(store, jobs))
        pages = await all_pages(browse, listing(newest_first=newest_first))
        assert [job.id for page in pages for job in page.jobs] == (added[::-1] if newest_first else added)
        assert [len(page.jobs) for page in pages] == sizes

    async def test_a_job_that_comes_meanwhile_moves_no_page(self, browse: Browse, store: FragileStore):
        first, second, _ = await several(store, 3)
        page = await browse.page(ANYBODY, listing(limit=1))
        await one(store)
        rest = await browse.page(ANYBODY, listing(after=page.following))
        assert ids(rest.jobs) == [second.id, first.id]

    async def test_oldest_first_the_last_page_shows_what_came_meanwhile(self, browse: Browse, store: FragileStore):
        _, second, third = await several(store, 3)
        page = await browse.page(ANYBODY, listing(limit=1, newest_first=False))
        late = await one(store)
        rest = await browse.page(ANYBODY, listing(limit=9, newest_first=False, after=page.following))
        assert ids(rest.jobs) == [second.id, third.id, late.id]

    async def test_the_place_is_that_of_the_last_job_shown(self, browse: Browse, store: FragileStore):
        _, second, _ = await several(store, 3)
        assert (await browse.page(ANYBODY, listing())).following == Place(second.created_at, second.seq)

    async def test_a_page_holds_matching_jobs_only(self, browse: Browse, store: FragileStore):
        _, wanted, _ = await each(store, {}, {"owner_service": "lion"}, {})
        page = await browse.page(ANYBODY, listing(where=JobFilter(owner_service=("lion",)), limit=1))
        assert (ids(page.jobs), page.following) == ([wanted.id], None)

    async def test_what_was_asked_for_of_each_job_is_shown(self, browse: Browse, store: FragileStore):
        held = await run_one(store)
        await settle(store, complete(held))
        [bare] = (await browse.page(ANYBODY, listing())).jobs
        [full] = (await browse.page(ANYBODY, listing(with_input=True, with_result=True))).jobs
        assert (bare.input, bare.result, full) == (None, None, await store.get(held.id))

    async def test_a_caller_with_an_owner_sees_that_owners_jobs(self, browse: Browse, store: FragileStore):
        _, own = await each(store, {"owner_service": "bear"}, {"owner_service": "lion"})
        for where in (JobFilter(), JobFilter(owner_service=("lion",))):
            assert ids((await browse.page(LION, listing(where=where))).jobs) == [own.id]

    async def test_to_ask_for_another_owners_jobs_is_forbidden(self, browse: Browse):
        with pytest.raises(Forbidden):
            await browse.page(LION, listing(where=JobFilter(owner_service=("lion", "bear"))))


class TestNews:
    async def test_all_is_new_to_whoever_knows_nothing(self, browse: Browse, store: FragileStore, clock: FakeClock):
        await one(store)
        clock.advance(A_MINUTE)
        [job] = await store.claim(external_claim())
        clock.advance(A_MINUTE)
        await store.report(lease_of(job), Raw(b'{"done": 1}'))
        assert await browse.news(ANYBODY, job.id, number=0, report=(0, 0)) == News(
            replace(await store.get(job.id), input=None, result=None),
            [
                StatusChange(1, JobStatus.PENDING, NOW),
                StatusChange(2, JobStatus.RUNNING, NOW + A_MINUTE),
            ],
            Progress(2, 1, NOW + 2 * A_MINUTE, Raw(b'{"done": 1}')),
            Pulse(JobStatus.RUNNING, 2, (2, 1)),
        )

    async def test_nothing_is_new_to_whoever_knows_it_all(self, browse: Browse, store: FragileStore):
        job = await lend_one(store)
        await store.report(lease_of(job), Raw(b"{}"))
        news = await browse.news(ANYBODY, job.id, number=2, report=(2, 1))
        assert (news.changes, news.progress) == ([], None)
        assert news.pulse == (await store.pulses([job.id]))[job.id]

    async def test_only_what_is_new_is_told(self, browse: Browse, store: FragileStore):
        job = await lend_one(store)
        await store.report(lease_of(job), Raw(b'{"done": 1}'))
        await store.report(lease_of(job), Raw(b'{"done": 2}'))
        news = await browse.news(ANYBODY, job.id, number=1, report=(2, 1))
        assert [change.number for change in news.changes] == [2]
        assert news.progress is not None
        assert (news.progress.number, news.progress.report, bytes(news.progress.data)) == (2, 2, b'{"done": 2}')

    async def test_the_first_report_of_a_new_run_is_newer_than_the_last_of_an_old_one(
        self, browse: Browse, store: FragileStore
    ):
        job = await lend_one(store)
        await store.report(lease_of(job), Raw(b"{}"))
        await settle(store, job.leased().release())
        [again] = await store.claim(external_claim())
        await store.report(lease_of(again), Raw(b'{"again": true}'))
        news = await browse.news(ANYBODY, job.id, number=4, report=(2, 9))
        assert news.progress is not None
        assert (news.progress.number, news.progress.report) == (4, 1)

    async def test_changes_after_the_job_was_read_wait_for_the_next_look(
        self, browse: Browse, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        held = await run_one(store)
        changes = store.changes

        async def ends_meanwhile(*asked: Any) -> list[StatusChange]:
            await settle(store, complete(held))
            return await changes(*asked)

        monkeypatch.setattr(store, "changes", ends_meanwhile)
        news = await browse.news(ANYBODY, held.id, number=0, report=(0, 0))
        assert (news.job.status, [change.number for change in news.changes]) == (JobStatus.RUNNING, [1, 2])

    async def test_so_does_the_progress_of_a_run_that_began_after_it(
        self, browse: Browse, store: FragileStore, monkeypatch: pytest.MonkeyPatch
    ):
        job = await one(store)
        progress = store.progress

        async def begins_meanwhile(job_id: JobId) -> Progress | None:
            [lent] = await store.claim(external_claim())
            await store.report(lease_of(lent), Raw(b"{}"))
            return await progress(job_id)

        monkeypatch.setattr(store, "progress", begins_meanwhile)
        news = await browse.news(ANYBODY, job.id, number=0, report=(0, 0))
        assert ([change.number for change in news.changes], news.progress) == ([1], None)

    async def test_told_events_leave_the_job_and_its_pulse(self, browse: Browse, store: FragileStore):
        job = await lend_one(store)
        await store.report(lease_of(job), Raw(b"{}"))
        news = await browse.news(ANYBODY, job.id, number=0, report=(0, 0))
        assert news.without_events() == News(news.job, [], None, news.pulse)
