from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from domain.errors import ErrorCode, Failure
from domain.job import JobStatus, RunOutcome, Settlement
from domain.ports import JobStore
from tests.adapters.rigs import Rig
from tests.adapters.store.states import A_MINUTE, A_MOMENT, rescue_late
from tests.factories import QUEUE, new_lease
from tests.moves import (
    ENDINGS,
    TIMED_OUT,
    WAIT,
    End,
    cancel,
    complete,
    fail,
    give_back,
    run_one,
    settle,
    several,
    statuses,
    take,
    taken_ids,
    try_again,
)

every_ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)

AWKWARD = """'; DROP TABLE jobs; -- "quoted" \\ % $1 {} \t\n ünïcødé 日本語 🦊 """
LONG = (AWKWARD * 20)[:500]


async def test_a_completed_job_has_its_result(rig: Rig):
    held = await run_one(rig.store)
    await rig.advance(A_MINUTE)
    before = await rig.store.get(held.id)
    await settle(rig.store, held.complete(b'{"content": "Hello"}'))
    job = await rig.store.get(held.id)
    assert job == before.settle(held.complete(b'{"content": "Hello"}'), await rig.now())
    assert job.result is not None
    assert bytes(job.result) == b'{"content": "Hello"}'


@every_ending
async def test_a_run_ends_as_the_domain_says(rig: Rig, end: End):
    first = await run_one(rig.store)
    await settle(rig.store, try_again(first, timedelta(0)))
    [held] = await take(rig.store)
    await rig.advance(A_MINUTE)
    before = await rig.store.get(held.id)
    await settle(rig.store, end(held))
    assert await rig.store.get(held.id) == before.settle(end(held), await rig.now())


@pytest.mark.parametrize("end", [try_again, give_back])
async def test_a_job_that_must_wait_is_due_after_its_wait(rig: Rig, end: End):
    held = await run_one(rig.store)
    await settle(rig.store, end(held))
    await rig.advance(WAIT - A_MOMENT)
    assert await rig.store.promote_due() == {}
    assert await take(rig.store) == []
    await rig.advance(A_MOMENT)
    assert await rig.store.promote_due() == {QUEUE: 1}
    assert await taken_ids(rig.store) == [held.id]


async def test_fractions_of_a_second_of_a_wait_are_kept(rig: Rig):
    held = await run_one(rig.store)
    await settle(rig.store, try_again(held, timedelta(seconds=1, microseconds=234_567)))
    job = await rig.store.get(held.id)
    assert job.run_at - await rig.now() == timedelta(seconds=1, microseconds=234_567)


@pytest.mark.parametrize("code", ErrorCode)
async def test_every_code_is_kept_with_its_text(store: JobStore, code: ErrorCode):
    held = await run_one(store)
    failure = Failure(code, LONG)
    await settle(store, Settlement(held.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=failure))
    assert (await store.get(held.id)).failure == failure


async def test_a_released_job_keeps_its_last_failure_and_its_place(store: JobStore):
    first, second = await several(store, 2)
    [held] = await take(store)
    await settle(store, try_again(held, timedelta(0)))
    [held] = await take(store)
    await settle(store, held.release())
    job = await store.get(first.id)
    assert (job.failure, job.attempts, job.seq) == (TIMED_OUT, 1, first.seq)
    assert await taken_ids(store, limit=9) == [first.id, second.id]


async def test_a_retried_job_goes_before_those_that_came_after_it(rig: Rig):
    [held, *_] = [await run_one(rig.store), *await several(rig.store, 2)]
    await settle(rig.store, try_again(held))
    [younger] = await taken_ids(rig.store)
    await rig.advance(WAIT)
    await rig.store.promote_due()
    assert (await taken_ids(rig.store))[0] == held.id != younger


@pytest.mark.parametrize("size", [2, 2_000_000])
async def test_a_result_is_kept_byte_for_byte(store: JobStore, size: int):
    held = await run_one(store)
    result = b'{ "b":1, "a":"\\u0000 \xc3\xa9' + b"x" * size + b'"}'
    await settle(store, held.complete(result))
    stored = (await store.get(held.id)).result
    assert stored is not None
    assert bytes(stored) == result


async def test_many_runs_end_in_one_go_each_in_its_own_way(rig: Rig):
    await several(rig.store, 10)
    held = await take(rig.store, limit=10)
    ends = [end for end in ENDINGS.values() for _ in range(2)]
    before = [await rig.store.get(run.id) for run in held]
    await settle(rig.store, *(end(run) for end, run in zip(ends, held, strict=True)))
    now = await rig.now()
    assert [await rig.store.get(run.id) for run in held] == [
        job.settle(end(run), now) for job, end, run in zip(before, ends, held, strict=True)
    ]


async def test_a_text_that_cannot_be_stored_is_refused_alone_or_stored(store: JobStore):
    await several(store, 3)
    first, awkward, last = await take(store, limit=3)
    failure = Failure(ErrorCode.PROVIDER_ERROR, "half of it \x00 is binary")
    bad = Settlement(awkward.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=failure)
    outcome = await store.exchange([complete(first), bad, complete(last)], None)
    assert set(outcome.refused) <= {awkward.lease}
    assert outcome.lost == frozenset()
    expected = JobStatus.RUNNING if outcome.refused else JobStatus.FAILED
    states = await statuses(store, [first.id, awkward.id, last.id])
    assert list(states.values()).count(JobStatus.COMPLETED) == 2
    assert states[awkward.id] is expected


@every_ending
async def test_a_lease_that_was_never_given_out_changes_nothing(store: JobStore, end: End):
    held = await run_one(store)
    before = await store.get(held.id)
    forged, unknown = replace(held, lease=new_lease(held.id)), replace(held, lease=new_lease())
    outcome = await store.exchange([end(forged), end(unknown)], None)
    assert outcome.lost == {forged.lease, unknown.lease}
    assert await store.get(held.id) == before


@every_ending
async def test_a_lease_speaks_for_its_own_job_only(store: JobStore, end: End):
    await several(store, 2)
    mine, other = await take(store, limit=2)
    crossed = replace(mine, lease=replace(mine.lease, job_id=other.id))
    assert (await store.exchange([end(crossed)], None)).lost == {crossed.lease}
    assert (await store.get(other.id)).status is JobStatus.RUNNING


@every_ending
async def test_a_rescued_job_is_not_ended_by_its_first_worker(rig: Rig, end: End):
    held = await run_one(rig.store)
    await rescue_late(rig)
    [again] = await take(rig.store, worker_id="worker-2")
    before = await rig.store.get(held.id)
    assert (await rig.store.exchange([end(held)], None)).lost == {held.lease}
    assert await rig.store.get(held.id) == before
    await settle(rig.store, complete(again))


@every_ending
async def test_a_cancelled_job_stays_cancelled(store: JobStore, end: End):
    held = await run_one(store)
    await cancel(store, held.id)
    cancelled = await store.get(held.id)
    assert (await store.exchange([end(held)], None)).lost == {held.lease}
    assert await store.get(held.id) == cancelled


@every_ending
async def test_a_job_retried_by_hand_is_not_ended_by_its_old_run(store: JobStore, end: End):
    held = await run_one(store)
    await store.retry([held.id])
    retried = await store.get(held.id)
    assert (await store.exchange([end(held)], None)).lost == {held.lease}
    assert await store.get(held.id) == retried


@every_ending
async def test_the_same_ending_again_is_a_success_that_changes_nothing(rig: Rig, end: End):
    held = await run_one(rig.store)
    await settle(rig.store, end(held))
    before = await rig.store.get(held.id)
    await rig.advance(A_MINUTE)
    await settle(rig.store, end(held))
    assert await rig.store.get(held.id) == before


@every_ending
async def test_the_same_ending_again_is_a_success_even_if_the_job_runs_anew(rig: Rig, end: End):
    held = await run_one(rig.store)
    await settle(rig.store, end(held))
    if (await rig.store.get(held.id)).status is JobStatus.FAILED:
        await rig.store.retry([held.id])
    await rig.advance(A_MINUTE)
    await rig.store.promote_due()
    await take(rig.store)
    before = await rig.store.get(held.id)
    await settle(rig.store, end(held))
    assert await rig.store.get(held.id) == before


@pytest.mark.parametrize(
    ("end", "other"),
    [
        pytest.param(end, other, id=f"{name}, then {then}")
        for name, end in ENDINGS.items()
        for then, other in ENDINGS.items()
        if {name, then} != {"fail", "try again"} and name != then
    ],
)
async def test_another_ending_of_a_run_that_has_ended_is_lost(store: JobStore, end: End, other: End):
    held = await run_one(store)
    await settle(store, end(held))
    before = await store.get(held.id)
    assert (await store.exchange([other(held)], None)).lost == {held.lease}
    assert await store.get(held.id) == before


@pytest.mark.parametrize("late_first", [True, False])
async def test_a_late_run_that_ends_together_with_the_jobs_next_run_is_lost_alone(rig: Rig, late_first: bool):
    late = await run_one(rig.store)
    await rescue_late(rig)
    [current] = await take(rig.store)
    ended = [late.complete(b'{"content": "too late"}'), current.release()]
    outcome = await rig.store.exchange(ended if late_first else ended[::-1], None)
    assert outcome.lost == {late.lease}
    job = await rig.store.get(late.id)
    assert (job.status, job.result) == (JobStatus.PENDING, None)
    assert (await rig.store.exchange([late.complete(b"{}")], None)).lost == {late.lease}


async def test_those_that_are_lost_do_not_keep_their_neighbours_from_being_stored(store: JobStore):
    await several(store, 3)
    first, gone, last = await take(store, limit=3)
    await cancel(store, gone.id)
    outcome = await store.exchange([complete(first), complete(gone), fail(last)], None)
    assert outcome.lost == {gone.lease}
    assert await statuses(store, [first.id, gone.id, last.id]) == {
        first.id: JobStatus.COMPLETED,
        gone.id: JobStatus.CANCELLED,
        last.id: JobStatus.FAILED,
    }
