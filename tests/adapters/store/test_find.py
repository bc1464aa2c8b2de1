from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from domain.errors import ErrorCode, Failure
from domain.job import Job, JobId, JobStatus, Priority, RunOutcome, Settlement
from domain.ports import JobFilter, JobStore, Listing, Place
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MOMENT
from tests.factories import NOW, new_id, new_job
from tests.moves import cancel, complete, each, found, ids, lend_one, one, run_one, settle, several, take

FIRST_BATCH, SECOND_BATCH = UUID(int=1), UUID(int=2)

ZOO: dict[str, dict[str, Any]] = {
    "A": {"labels": {"team": "red", "stage": "test"}, "owner_ref": "call/1"},
    "B": {"task_type": "transcribe", "model_profile": "whisper-large-v3", "queue": "gpu.speech"},
    "C": {"owner_service": "lion", "task_type": "transcribe", "model_profile": "whisperx", "batch_id": FIRST_BATCH},
    "D": {"owner_service": "bear", "queue": None, "priority": Priority.HIGH, "batch_id": FIRST_BATCH},
    "E": {"owner_service": "bear", "priority": Priority.LOW, "labels": {"team": "blue"}, "batch_id": SECOND_BATCH},
    "F": {"owner_ref": "call/1", "labels": {"team": "red", "stage": "live"}, "priority": Priority.HIGH},
    "G": {"owner_ref": "call/2", "labels": {"stage": "test"}},
}
"""Created in this order, one moment after the other."""


FILTERS: list[tuple[JobFilter, str]] = [
    (JobFilter(), "ABCDEFG"),
    (JobFilter(owner_service=("beeline",)), "ABFG"),
    (JobFilter(owner_service=("lion", "bear")), "CDE"),
    (JobFilter(owner_service=("nobody",)), ""),
    (JobFilter(owner_service=("BEELINE",)), ""),
    (JobFilter(owner_service=("bee%",)), ""),
    (JobFilter(owner_ref=("call/1",)), "AF"),
    (JobFilter(owner_ref=("call/1", "call/2")), "AFG"),
    (JobFilter(owner_ref=("",)), "BCDE"),
    (JobFilter(owner_ref=("call/_",)), ""),
    (JobFilter(task_type=("transcribe",)), "BC"),
    (JobFilter(task_type=("transcribe", "llm_chat")), "ABCDEFG"),
    (JobFilter(model_profile=("whisperx", "none")), "C"),
    (JobFilter(queue=("gpu.speech",)), "B"),
    (JobFilter(queue=("gpu.speech", "gpu.llm")), "ABCEFG"),
    (JobFilter(status=(JobStatus.RUNNING,)), "A"),
    (JobFilter(status=(JobStatus.PENDING, JobStatus.CANCELLED)), "BCDG"),
    (JobFilter(status=(JobStatus.COMPLETED, JobStatus.FAILED)), "EF"),
    (JobFilter(error_code=(ErrorCode.TIMEOUT,)), "E"),
    (JobFilter(error_code=(ErrorCode.CANCELLED, ErrorCode.RATE_LIMITED)), "DG"),
    (JobFilter(error_code=(ErrorCode.BAD_AUDIO,)), ""),
    (JobFilter(priority=(Priority.HIGH,)), "DF"),
    (JobFilter(priority=(Priority.HIGH, Priority.LOW)), "DEF"),
    (JobFilter(batch_id=(FIRST_BATCH,)), "CD"),
    (JobFilter(batch_id=(FIRST_BATCH, SECOND_BATCH)), "CDE"),
    (JobFilter(batch_id=(UUID(int=3),)), ""),
    (JobFilter(labels=(("team", ("red",)),)), "AF"),
    (JobFilter(labels=(("team", ("red", "blue")),)), "AEF"),
    (JobFilter(labels=(("stage", ("test",)),)), "AG"),
    (JobFilter(labels=(("team", ("red",)), ("stage", ("test",)))), "A"),
    (JobFilter(labels=(("team", ("red", "blue")), ("stage", ("test", "live")))), "AF"),
    (JobFilter(labels=(("team", ("test",)),)), ""),
    (JobFilter(labels=(("Team", ("red",)),)), ""),
    (JobFilter(created_from=NOW + 3 * A_MOMENT), "DEFG"),
    (JobFilter(created_before=NOW + 3 * A_MOMENT), "ABC"),
    (JobFilter(created_from=NOW + 2 * A_MOMENT, created_before=NOW + 5 * A_MOMENT), "CDE"),
    (JobFilter(created_from=NOW + 2 * A_MOMENT, created_before=NOW + 2 * A_MOMENT), ""),
    (JobFilter(owner_service=("beeline",), task_type=("transcribe",)), "B"),
    (JobFilter(owner_service=("lion", "bear"), status=(JobStatus.CANCELLED,)), "D"),
    (JobFilter(status=(JobStatus.FAILED,), error_code=(ErrorCode.TIMEOUT,)), "E"),
    (JobFilter(labels=(("stage", ("test",)),), status=(JobStatus.PENDING,), owner_ref=("call/2",)), "G"),
    (JobFilter(owner_service=("beeline",), model_profile=("whisperx",)), ""),
]


async def fill(rig: Rig) -> dict[str, Job]:
    jobs = {}
    for name, changes in ZOO.items():
        jobs[name] = await one(rig.store, **changes)
        await rig.advance(A_MOMENT)
    high, running, limited, timed_out = await take(rig.store, limit=9)
    assert [high.id, running.id, limited.id, timed_out.id] == [jobs[name].id for name in "FAGE"]
    await settle(
        rig.store,
        complete(high),
        Settlement(timed_out.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=Failure(ErrorCode.TIMEOUT)),
        Settlement(limited.lease, RunOutcome.GIVEN_BACK, JobStatus.PENDING, failure=Failure(ErrorCode.RATE_LIMITED)),
    )
    await cancel(rig.store, jobs["D"].id)
    return jobs


def named(names: str, jobs: dict[str, Job]) -> list[JobId]:
    return [jobs[name].id for name in names]


async def test_a_filter_finds_what_matches_it_all_in_either_order(rig: Rig):
    jobs = await fill(rig)
    for where, expected in FILTERS:
        assert await found(rig.store, where, newest_first=False) == named(expected, jobs), where
        assert await found(rig.store, where) == named(expected[::-1], jobs), where


async def test_a_filter_counts_what_it_finds(rig: Rig):
    await fill(rig)
    assert [await rig.store.count(where) for where, _ in FILTERS] == [len(expected) for _, expected in FILTERS]


def given(where: JobFilter) -> dict[str, Any]:
    return {name: value for name in JobFilter.__struct_fields__ if (value := getattr(where, name))}


async def test_two_filters_together_find_what_each_of_them_finds(rig: Rig):
    jobs = await fill(rig)
    one_of_each = {frozenset(given(where)): (where, names) for where, names in reversed(FILTERS)}.values()
    for (first, these), (second, those) in combinations(one_of_each, 2):
        if given(first).keys().isdisjoint(given(second)):
            expected = "".join(name for name in these if name in those)
            where = JobFilter(**given(first), **given(second))
            assert await found(rig.store, where, newest_first=False) == named(expected, jobs), where


async def test_ids_are_a_filter_like_any_other(rig: Rig):
    jobs = await fill(rig)
    where = JobFilter(ids=(jobs["C"].id, new_id(), jobs["A"].id, jobs["F"].id))
    assert await found(rig.store, where) == named("FCA", jobs)
    assert await found(rig.store, replace(where, status=(JobStatus.PENDING,))) == named("C", jobs)
    assert await rig.store.count(where) == 3
    assert await rig.store.count(JobFilter(ids=(new_id(),))) == 0


async def test_many_ids_and_values_are_as_good_as_one(store: JobStore):
    jobs = await several(store, 300)
    await several(store, 5)
    where = JobFilter(ids=tuple(ids(jobs)), owner_service=("beeline", *(f"owner-{n}" for n in range(99))))
    assert await found(store, where) == ids(jobs)[::-1]
    assert await store.count(where) == 300


@pytest.mark.parametrize("with_input", [True, False])
@pytest.mark.parametrize("with_result", [True, False])
async def test_found_jobs_are_whole_but_for_input_and_result_that_nobody_asked_for(
    store: JobStore, with_input: bool, with_result: bool
):
    held = await run_one(store, labels={"team": "red"}, batch_id=FIRST_BATCH, owner_ref="call/1")
    await settle(store, complete(held))
    pending = await one(store)
    whole = [await store.get(held.id), await store.get(pending.id)]
    listing = Listing(limit=9, newest_first=False, with_input=with_input, with_result=with_result)
    assert await store.find(listing) == [
        replace(job, input=job.input if with_input else None, result=job.result if with_result else None)
        for job in whole
    ]


async def test_running_jobs_are_listed_with_their_lease_and_progress(store: JobStore):
    job = await lend_one(store)
    [listed] = await store.find(Listing(limit=1, with_input=True))
    assert listed == job == await store.get(job.id)


async def test_jobs_of_one_moment_are_ordered_as_they_were_given(store: JobStore):
    jobs = ids(await several(store, 3))
    assert (await found(store), await found(store, newest_first=False)) == (jobs[::-1], jobs)


async def test_no_more_are_found_than_asked_for(store: JobStore):
    jobs = ids(await several(store, 3))
    assert (await found(store, limit=2), await found(store, limit=2, newest_first=False)) == (jobs[:0:-1], jobs[:2])


async def test_the_count_knows_no_limit(store: JobStore):
    await several(store, 1_200)
    assert await store.count(JobFilter()) == 1_200


async def test_a_place_need_not_be_a_jobs_that_matches_or_still_exists(store: JobStore):
    first, second, third = await several(store, 3)
    await cancel(store, second.id)
    await store.erase([second.id])
    after = Place(second.created_at, second.seq)
    assert await found(store, after=after) == [first.id]
    assert await found(store, after=after, newest_first=False) == [third.id]


async def test_at_the_end_there_is_nothing(store: JobStore):
    [first, *_, last] = await several(store, 3)
    assert await found(store, after=Place(first.created_at, first.seq)) == []
    assert await found(store, after=Place(last.created_at, last.seq), newest_first=False) == []


PAGED = [
    JobFilter(),
    JobFilter(owner_service=("lion",)),
    JobFilter(status=(JobStatus.PENDING,)),
    JobFilter(owner_service=("lion",), status=(JobStatus.PENDING,), created_from=NOW),
    JobFilter(labels=(("team", ("red", "blue")),)),
]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("where", PAGED)
async def test_pages_lose_and_repeat_nothing_while_jobs_are_added(rig: Rig, where: JobFilter, newest_first: bool):
    """Those that were there at first are seen, each once, in their order."""
    matching = {"owner_service": "lion", "labels": {"team": "red"}}
    at_first: list[JobId] = []
    for _ in range(4):
        at_first += ids(await each(rig.store, matching, {**matching, "labels": {"team": "blue"}}))
        await rig.advance(A_MOMENT)

    seen: list[JobId] = []
    page: Sequence[Job] = ()
    listing = Listing(where=where, limit=3, newest_first=newest_first)
    while not seen or page:
        page = await rig.store.find(listing)
        seen += ids(page)
        if page:
            listing = replace(listing, after=Place(page[-1].created_at, page[-1].seq))
        if len(seen) < 12:
            await each(rig.store, matching)
            await rig.advance(A_MOMENT)

    assert len(seen) == len(set(seen))
    assert [job_id for job_id in seen if job_id in at_first] == (at_first[::-1] if newest_first else at_first)
    assert newest_first is (seen[-1] == at_first[0])


async def test_a_page_of_many_of_one_moment_goes_on_where_the_last_one_ended(store: JobStore):
    jobs = ids([added.job for added in await store.add([new_job() for _ in range(7)])])
    first = await store.find(Listing(limit=4, newest_first=False))
    rest = await found(store, limit=9, newest_first=False, after=Place(first[-1].created_at, first[-1].seq))
    assert ids(first) + rest == jobs
