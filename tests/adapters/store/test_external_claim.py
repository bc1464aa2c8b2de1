from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw

from domain.job import Job, JobId, JobStatus, Priority
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, A_MOMENT, STATES, State, crashed, pending, released, retried
from tests.factories import LEASE, PROFILE
from tests.moves import (
    complete,
    each,
    ids,
    lease_of,
    lend,
    lend_one,
    lent_ids,
    one,
    release,
    run_one,
    settle,
    several,
    take,
    taken_ids,
    try_again,
)

CLAIMABLE = {pending, released, crashed, retried}

ZOO: dict[str, dict[str, Any]] = {
    "A": {},
    "B": {"task_type": "transcribe", "queue": "gpu.speech", "model_profile": "whisper-large-v3"},
    "C": {"owner_service": "lion", "task_type": "their_own", "queue": None},
    "D": {"owner_service": "lion", "model_profile": "theirs", "queue": None},
    "E": {"owner_service": "bear", "task_type": "their_own", "model_profile": "theirs", "queue": None},
    "F": {"owner_service": "bear"},
}


async def fill(store: JobStore) -> dict[str, Job]:
    return dict(zip(ZOO, await each(store, *ZOO.values()), strict=True))


@pytest.mark.parametrize(
    ("wanted", "claimed"),
    [
        ({}, "ABCDEF"),
        ({"task_types": ("llm_chat",)}, "ADF"),
        ({"task_types": ("transcribe", "their_own")}, "BCE"),
        ({"task_types": ("nobodys",)}, ""),
        ({"model_profiles": ("theirs",)}, "DE"),
        ({"model_profiles": ("theirs", PROFILE)}, "ACDEF"),
        ({"owner_services": ("lion",)}, "CD"),
        ({"owner_services": ("lion", "bear")}, "CDEF"),
        ({"queues": ("gpu.speech",)}, "B"),
        ({"queues": ("gpu.speech", "gpu.llm", "gpu.llm", "gpu.none")}, "ABF"),
        ({"queues": ("gpu.none",)}, ""),
        ({"task_types": ("their_own",), "model_profiles": ("theirs",)}, "E"),
        ({"task_types": ("llm_chat",), "owner_services": ("bear",)}, "F"),
        ({"task_types": ("llm_chat",), "owner_services": ("bear", "lion"), "queues": ("gpu.llm",)}, "F"),
        ({"owner_services": ("bear",), "queues": ("gpu.speech",)}, ""),
        ({"task_types": ()}, ""),
        ({"model_profiles": ()}, ""),
        ({"owner_services": ()}, ""),
        ({"queues": ()}, ""),
    ],
)
async def test_a_claim_takes_what_matches_it_all(store: JobStore, wanted: dict[str, Any], claimed: str):
    jobs = await fill(store)
    assert await lent_ids(store, limit=9, **wanted) == [jobs[name].id for name in claimed]
    assert len(await lent_ids(store, limit=9)) == len(ZOO) - len(claimed)


@pytest.mark.parametrize("state", STATES)
async def test_only_a_pending_job_that_is_due_is_taken(rig: Rig, state: State):
    job_id = await state(rig)
    assert await lent_ids(rig.store) == ([job_id] if state in CLAIMABLE else [])


@pytest.mark.parametrize("queue", [None, "gpu.llm"])
async def test_a_job_whose_time_has_not_come_is_not_taken(rig: Rig, queue: str | None):
    job = await one(rig.store, queue=queue, run_at=await rig.now() + A_MOMENT)
    assert await lent_ids(rig.store) == []
    await rig.advance(A_MOMENT)
    await rig.store.promote_due()
    assert await lent_ids(rig.store) == [job.id]


async def test_the_most_urgent_come_first_whatever_their_queue(store: JobStore):
    low, speech, none, high_none, second, high = await each(
        store,
        {"priority": Priority.LOW},
        {"queue": "gpu.speech"},
        {"queue": None},
        {"queue": None, "priority": Priority.HIGH, "task_type": "their_own"},
        {},
        {"priority": Priority.HIGH},
    )
    order = [high_none.id, high.id, speech.id, none.id, second.id, low.id]
    assert await lent_ids(store, limit=2) == order[:2]
    assert await lent_ids(store) == order[2:3]
    assert await lent_ids(store, limit=9) == order[3:]


async def test_jobs_without_a_queue_of_many_kinds_and_owners_come_in_their_common_order(store: JobStore):
    kinds = [
        {"queue": None, "owner_service": owner, "task_type": task, "model_profile": profile}
        for owner in ("zebra", "ant", "lion")
        for task in ("their_own", "another")
        for profile in ("theirs", "ours")
    ]
    jobs = await each(store, *kinds, *kinds)
    assert await lent_ids(store, limit=30) == ids(jobs)


async def test_a_claim_takes_no_more_than_its_limit(store: JobStore):
    jobs = ids(await several(store, 5))
    assert await lent_ids(store, limit=2) == jobs[:2]
    assert await lent_ids(store, limit=2) == jobs[2:4]


async def test_a_hundred_jobs_of_several_lines_are_taken_in_one_go(store: JobStore):
    lines: list[dict[str, Any]] = [
        {},
        {"queue": "gpu.speech"},
        {"queue": None},
        {"queue": None, "owner_service": "lion"},
    ]
    jobs = await each(store, *(lines * 30))
    assert await lent_ids(store, limit=100) == ids(jobs)[:100]
    assert await lent_ids(store, limit=100) == ids(jobs)[100:]


async def test_those_that_match_are_found_behind_many_that_do_not(store: JobStore):
    await several(store, 300, task_type="another")
    await several(store, 300, queue=None, owner_service="bear")
    wanted = await each(store, {}, {"queue": None})
    mine = {"task_types": ("llm_chat",), "owner_services": ("beeline",)}
    assert await lent_ids(store, limit=9, **mine) == ids(wanted)


async def test_a_lent_job_comes_whole_with_its_lease(rig: Rig):
    job = await one(rig.store, labels={"team": "red"}, owner_ref="call/7", input=Raw(b'{ "user":"Hi" }'))
    await rig.advance(A_MINUTE)
    [lent] = await lend(rig.store, worker_id="theirs-7", lease=2 * LEASE)
    now = await rig.now()
    assert lent == await rig.store.get(job.id)
    assert lent == job.claim(lease_of(lent).token, "theirs-7", now + 2 * LEASE, now, 2 * LEASE)


@pytest.mark.parametrize("lease", [timedelta(seconds=5), timedelta(days=1), timedelta(seconds=7, microseconds=123_456)])
async def test_a_lease_lasts_as_long_as_was_asked(rig: Rig, lease: timedelta):
    await one(rig.store)
    [job] = await lend(rig.store, lease=lease)
    assert (job.lease_expires_at, job.lease_timeout) == (await rig.now() + lease, lease)


async def test_every_run_has_its_own_token(store: JobStore):
    await several(store, 50)
    assert len({lease_of(job).token for job in await lend(store, limit=50)}) == 50


async def test_a_lent_job_is_not_taken_again_by_anybody(store: JobStore):
    await lend_one(store)
    assert (await lent_ids(store, limit=9), await taken_ids(store, limit=9)) == ([], [])


async def test_a_taken_job_is_not_lent(store: JobStore):
    held = await run_one(store)
    waiting = await one(store)
    assert await lent_ids(store, limit=9) == [waiting.id] != [held.id]


async def test_built_in_and_external_workers_take_turns_in_the_same_line(store: JobStore):
    jobs = ids(await several(store, 6))
    assert await taken_ids(store, limit=2) == jobs[:2]
    assert await lent_ids(store, limit=2) == jobs[2:4]
    assert await taken_ids(store, limit=2) == jobs[4:]


async def test_claims_that_arrive_together_never_share_a_job(store: JobStore):
    jobs = ids(await several(store, 30)) + ids(await several(store, 30, queue=None))

    async def outside(worker: int) -> list[JobId]:
        return await lent_ids(store, worker_id=f"theirs-{worker}", limit=7)

    async def inside(worker: int) -> list[JobId]:
        return await taken_ids(store, worker_id=f"worker-{worker}", limit=7)

    claims = await asyncio.gather(*(claim(n) for n in range(5) for claim in (outside, inside)))
    taken = [job_id for claimed in claims for job_id in claimed]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(jobs)


async def test_a_worker_that_keeps_asking_gets_every_job(store: JobStore):
    jobs = ids(await several(store, 13)) + ids(await several(store, 12, queue=None))
    taken: list[JobId] = []
    while claimed := await lent_ids(store, limit=4):
        taken += claimed
    assert taken == jobs


@pytest.mark.parametrize("queue", [None, "gpu.llm"])
async def test_a_lent_run_ends_like_any_other(rig: Rig, queue: str | None):
    await several(rig.store, 3, queue=queue)
    jobs = await lend(rig.store, limit=3)
    completed, again, released_ = (job.leased() for job in jobs)
    await rig.advance(A_MINUTE)
    endings = (complete(completed), try_again(again), release(released_))
    await settle(rig.store, *endings)
    now = await rig.now()
    assert [await rig.store.get(job.id) for job in jobs] == [
        job.settle(end, now) for job, end in zip(jobs, endings, strict=True)
    ]


async def test_a_job_that_came_back_from_outside_keeps_its_place_for_built_in_workers(store: JobStore):
    first = await lend_one(store)
    second = await one(store)
    await settle(store, first.leased().release())
    [held, _] = await take(store, limit=9)
    assert (held.id, (await store.get(held.id)).lease_timeout) == (first.id, None)
    assert (await store.get(second.id)).status is JobStatus.RUNNING
