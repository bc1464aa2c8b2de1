"""What every job store does. A new one is entered in `RIGS` (conftest.py) and has to pass all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Raw
from msgspec.structs import asdict, replace

from domain.errors import ErrorCode, Failure, InvalidTransition, JobNotFound
from domain.job import (
    CANCELLED_BY_CALLER,
    Job,
    JobId,
    JobStatus,
    LeasedJob,
    Priority,
    RunOutcome,
    Settlement,
    crash,
)
from domain.ports import DEMAND_LIMIT, Demand, JobFilter, JobStore
from tests.adapters.rigs import Rig
from tests.factories import LEASE, QUEUE, new_beat, new_claim, new_id, new_job, new_lease

A_MOMENT = timedelta(microseconds=1)
A_MINUTE = timedelta(minutes=1)
WAIT = timedelta(seconds=30)
ALIVE_WITHIN = timedelta(seconds=15)
MAX_CRASHES = 3

TIMED_OUT = Failure(ErrorCode.TIMEOUT, "No answer within 5 minutes.")
AWKWARD = """'; DROP TABLE jobs; -- "quoted" \\ % $1 {} \t\n ünïcødé 日本語 🦊 """
LONG = (AWKWARD * 20)[:500]
LONG_NAME = "A9._:/@+-z" * 10


async def one(store: JobStore, **changes: Any) -> Job:
    [job] = await store.add([new_job(**changes)])
    return job


async def several(store: JobStore, how_many: int, **changes: Any) -> list[Job]:
    return await store.add([new_job(**changes) for _ in range(how_many)])


async def take(store: JobStore, **claim: Any) -> list[LeasedJob]:
    return list((await store.exchange([], new_claim(**claim))).claimed)


async def taken_ids(store: JobStore, **claim: Any) -> list[JobId]:
    return [held.id for held in await take(store, **claim)]


async def run_one(store: JobStore, **changes: Any) -> LeasedJob:
    """A job that is running."""
    await one(store, **changes)
    [held] = await take(store)
    return held


async def settle(store: JobStore, *settlements: Settlement) -> None:
    outcome = await store.exchange(settlements, None)
    assert (outcome.claimed, outcome.lost, dict(outcome.refused)) == ((), frozenset(), {})


async def crash_once(rig: Rig, *, max_crashes: int = MAX_CRASHES) -> dict[str, int]:
    await rig.advance(LEASE + A_MOMENT)
    return await rig.store.rescue_expired(max_crashes)


def ids(jobs: list[Job]) -> list[JobId]:
    return [job.id for job in jobs]


def try_again(held: LeasedJob, delay: timedelta = WAIT) -> Settlement:
    return Settlement(held.lease, RunOutcome.FAILED, JobStatus.PENDING, failure=TIMED_OUT, delay=delay)


def fail(held: LeasedJob) -> Settlement:
    return Settlement(held.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=TIMED_OUT)


def give_back(held: LeasedJob) -> Settlement:
    limited = Failure(ErrorCode.RATE_LIMITED, "Slow down.")
    return Settlement(held.lease, RunOutcome.GIVEN_BACK, JobStatus.PENDING, failure=limited, delay=WAIT)


def complete(held: LeasedJob) -> Settlement:
    return held.complete(b'{"content": "Hello"}')


def release(held: LeasedJob) -> Settlement:
    return held.release()


ENDINGS: dict[str, Callable[[LeasedJob], Settlement]] = {
    "complete": complete,
    "try again": try_again,
    "fail": fail,
    "give back": give_back,
    "release": release,
}
every_ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)


class TestAdd:
    async def test_a_new_job_has_every_field_as_sent_and_the_stores_own_times(self, rig: Rig):
        now = await rig.now()
        sent = new_job(
            owner_service="lion",
            owner_ref="beeline/42",
            task_type="their_own",
            model_profile="m@1:2/3+4",
            queue="gpu.speech",
            priority=Priority.HIGH,
            max_attempts=7,
            run_at=now + A_MINUTE,
        )
        [job] = await rig.store.add([sent])
        assert job == Job(
            **{name: value for name, value in asdict(sent).items() if name != "run_at"},
            seq=job.seq,
            status=JobStatus.PENDING,
            run_at=now + A_MINUTE,
            due=False,
            created_at=now,
            updated_at=now,
        )

    async def test_what_add_returns_is_what_is_stored(self, store: JobStore):
        job = await one(store)
        assert await store.get(job.id) == job

    async def test_without_a_time_of_its_own_a_job_is_due_now(self, rig: Rig):
        job = await one(rig.store)
        assert (job.run_at, job.due) == (await rig.now(), True)

    async def test_a_time_that_has_passed_is_kept_and_due(self, rig: Rig):
        earlier = await rig.now() - A_MINUTE
        job = await one(rig.store, run_at=earlier)
        assert (job.run_at, job.due) == (earlier, True)

    async def test_jobs_take_their_places_in_the_order_given(self, store: JobStore):
        sent = [new_job() for _ in range(5)]
        sent.reverse()
        jobs = [*await store.add(sent), await one(store)]
        assert ids(jobs[:5]) == [job.id for job in sent]
        assert [job.seq for job in jobs] == sorted({job.seq for job in jobs})

    async def test_adding_a_job_again_changes_nothing(self, rig: Rig):
        job = await one(rig.store)
        [held] = await take(rig.store)
        await rig.advance(A_MINUTE)
        [again] = await rig.store.add([new_job(id=job.id, owner_ref="other", priority=Priority.HIGH)])
        assert again == await rig.store.get(job.id)
        assert (again.lease, again.owner_ref, again.created_at) == (held.lease, "", job.created_at)

    async def test_known_jobs_among_new_ones_keep_their_places(self, store: JobStore):
        known = await one(store)
        first, last = new_job(), new_job()
        jobs = await store.add([first, new_job(id=known.id), last])
        assert ids(jobs) == [first.id, known.id, last.id]
        assert jobs[1] == known
        assert ids(await store.find(JobFilter(), limit=9)) == [last.id, first.id, known.id]

    async def test_a_job_given_twice_in_one_go_is_one_job(self, store: JobStore):
        sent = new_job()
        jobs = await store.add([sent, replace(sent, owner_ref="twin")])
        assert jobs[0] == jobs[1]
        assert jobs[0].owner_ref == ""

    async def test_nothing_is_added_to_nothing(self, store: JobStore):
        assert await store.add([]) == []

    async def test_five_hundred_jobs_are_stored_in_one_go(self, store: JobStore):
        jobs = await several(store, 500)
        assert ids(await store.find(JobFilter(), limit=1_000)) == ids(jobs)[::-1]

    @pytest.mark.parametrize(
        "given",
        [
            pytest.param(b"{}", id="empty"),
            pytest.param(b'{ "b" :1,\n\t"a":2.50, "c": 1e3 }', id="spaces, order, numbers"),
            pytest.param(b'{"a":1,"a":2}', id="a name twice"),
            pytest.param('{"text":"Ünïcødé 日本語 🦊 \\u00e9 \\ud83e\\udd8a"}'.encode(), id="unicode"),
            pytest.param(b'{"text":"\\u0000 \\" \\\\ \' % $1"}', id="escapes"),
            pytest.param(b'{"big":123456789012345678901234567890}', id="a large number"),
            pytest.param(b'{"text":"' + b"x" * 1_048_000 + b'"}', id="1 MiB"),
        ],
    )
    async def test_an_input_is_kept_byte_for_byte(self, store: JobStore, given: bytes):
        job = await one(store, input=Raw(given))
        [held] = await take(store)
        stored = (await store.get(job.id)).input
        assert stored is not None
        assert (bytes(stored), bytes(held.input)) == (given, given)

    async def test_names_and_texts_may_be_as_long_and_odd_as_the_contract_allows(self, store: JobStore):
        names = dict.fromkeys(("owner_service", "task_type", "model_profile", "queue"), LONG_NAME)
        job = await store.get((await one(store, owner_ref=LONG, **names)).id)
        assert {name: getattr(job, name) for name in names} == names
        assert job.owner_ref == LONG
        assert await taken_ids(
            store, queue=LONG_NAME, task_types=(LONG_NAME,), model_profiles=(LONG_NAME,), worker_id=LONG
        ) == [job.id]
        assert (await store.get(job.id)).worker_id == LONG


class TestLook:
    async def test_an_unknown_job_is_not_found(self, store: JobStore):
        with pytest.raises(JobNotFound):
            await store.get(new_id())

    async def test_the_states_of_those_that_exist_are_told(self, store: JobStore):
        running, pending = await several(store, 2)
        await take(store)
        assert await store.statuses([running.id, new_id(), pending.id]) == {
            running.id: JobStatus.RUNNING,
            pending.id: JobStatus.PENDING,
        }

    async def test_nobodys_states_are_none(self, store: JobStore):
        await one(store)
        assert await store.statuses([]) == {}

    async def test_found_jobs_are_whole_but_for_input_and_result(self, store: JobStore):
        held = await run_one(store)
        await settle(store, complete(held))
        [found] = await store.find(JobFilter(), limit=1)
        assert found == replace(await store.get(held.id), input=None, result=None)

    async def test_jobs_are_found_newest_first(self, store: JobStore):
        jobs = await several(store, 3)
        assert ids(await store.find(JobFilter(), limit=9)) == ids(jobs)[::-1]

    async def test_no_more_are_found_than_asked_for(self, store: JobStore):
        jobs = await several(store, 3)
        assert ids(await store.find(JobFilter(), limit=2)) == ids(jobs)[:0:-1]

    async def test_what_was_seen_before_is_left_out(self, store: JobStore):
        first, second, third = await several(store, 3)
        assert ids(await store.find(JobFilter(), limit=9, before=third.seq)) == [second.id, first.id]
        assert await store.find(JobFilter(), limit=9, before=first.seq) == []

    @pytest.mark.parametrize(
        ("where", "found"),
        [
            (JobFilter(), "ABCD"),
            (JobFilter(owner_service=("beeline",)), "AB"),
            (JobFilter(owner_service=("beeline", "lion")), "ABC"),
            (JobFilter(task_type=("transcribe",)), "BC"),
            (JobFilter(model_profile=("whisperx", "none")), "C"),
            (JobFilter(status=(JobStatus.RUNNING,)), "A"),
            (JobFilter(status=(JobStatus.PENDING, JobStatus.CANCELLED)), "BCD"),
            (JobFilter(owner_service=("beeline",), task_type=("transcribe",)), "B"),
            (JobFilter(owner_service=("lion", "bear"), status=(JobStatus.CANCELLED,)), "D"),
            (JobFilter(owner_service=("beeline",), model_profile=("whisperx",)), ""),
            (JobFilter(owner_service=("nobody",)), ""),
            (JobFilter(owner_service=("BEELINE",)), ""),
            (JobFilter(owner_service=("bee%",)), ""),
        ],
    )
    async def test_a_filter_finds_what_matches_it_all(self, store: JobStore, where: JobFilter, found: str):
        jobs = {
            "A": new_job(),
            "B": new_job(task_type="transcribe", model_profile="whisper-large-v3"),
            "C": new_job(owner_service="lion", task_type="transcribe", model_profile="whisperx"),
            "D": new_job(owner_service="bear", queue=None),
        }
        await store.add(list(jobs.values()))
        await take(store)
        await store.cancel(jobs["D"].id)
        assert ids(await store.find(where, limit=9)) == [jobs[name].id for name in reversed(found)]

    async def test_filter_limit_and_place_go_together(self, store: JobStore):
        mine: list[Job] = []
        for _ in range(3):
            mine.append(await one(store, owner_service="lion"))
            await one(store)
        assert ids(await store.find(JobFilter(owner_service=("lion",)), limit=1, before=mine[2].seq)) == [mine[1].id]

    async def test_the_store_answers(self, store: JobStore):
        await store.ping()


class TestClaim:
    async def test_a_profile_that_the_worker_does_not_serve_is_left_to_others(self, store: JobStore):
        [foreign, own] = await store.add([new_job(model_profile="another"), new_job()])

        claimed = (await store.exchange([], new_claim(limit=2))).claimed

        assert [job.id for job in claimed] == [own.id]
        assert (await store.get(foreign.id)).status is JobStatus.PENDING

    async def test_the_most_urgent_come_first_and_equals_in_their_order(self, store: JobStore):
        low, first, high, second = await store.add(
            [new_job(priority=Priority.LOW), new_job(), new_job(priority=Priority.HIGH), new_job()]
        )
        assert await taken_ids(store, limit=9) == [high.id, first.id, second.id, low.id]

    async def test_a_claim_takes_no_more_than_its_limit(self, store: JobStore):
        jobs = await several(store, 5)
        assert await taken_ids(store, limit=2) == ids(jobs)[:2]
        assert await taken_ids(store, limit=2) == ids(jobs)[2:4]

    async def test_a_claim_of_nothing_gets_nothing(self, store: JobStore):
        job = await one(store)
        assert await taken_ids(store, limit=0) == []
        assert (await store.get(job.id)).status is JobStatus.PENDING

    async def test_other_queues_are_left_alone(self, store: JobStore):
        await store.add([new_job(queue="gpu.speech"), new_job(queue=None)])
        assert await taken_ids(store, limit=9) == []

    async def test_only_these_task_types_are_taken(self, store: JobStore):
        chat, _, summary = await store.add(
            [new_job(), new_job(task_type="embedding"), new_job(task_type="transcript_summary")]
        )
        assert await taken_ids(store, task_types=("transcript_summary", "llm_chat"), limit=9) == [chat.id, summary.id]

    async def test_without_task_types_nothing_is_taken(self, store: JobStore):
        await one(store)
        assert await taken_ids(store, task_types=()) == []

    async def test_a_running_job_is_not_taken_again(self, store: JobStore):
        await one(store)
        assert len(await take(store)) == 1
        assert await take(store) == []

    async def test_not_even_when_its_lease_has_run_out(self, rig: Rig):
        await run_one(rig.store)
        await rig.advance(10 * LEASE)
        assert await take(rig.store) == []

    async def test_a_job_that_is_not_due_is_not_taken(self, rig: Rig):
        await one(rig.store, run_at=await rig.now() + A_MOMENT)
        assert await take(rig.store) == []

    async def test_final_jobs_are_not_taken(self, store: JobStore):
        first, second = await run_one(store), await run_one(store)
        cancelled = await one(store)
        await settle(store, complete(first), fail(second))
        await store.cancel(cancelled.id)
        assert await take(store, limit=9) == []

    async def test_a_taken_job_runs_with_a_lease_from_now_on(self, rig: Rig):
        await one(rig.store)
        await rig.advance(A_MINUTE)
        [held] = await take(rig.store, worker_id="worker-7", lease=LEASE)
        job, now = await rig.store.get(held.id), await rig.now()
        assert (job.status, job.worker_id, job.lease) == (JobStatus.RUNNING, "worker-7", held.lease)
        assert (job.lease_expires_at, job.started_at, job.updated_at) == (now + LEASE, now, now)

    async def test_its_worker_gets_what_a_run_needs(self, store: JobStore):
        held = await run_one(store, priority=Priority.HIGH, max_attempts=5, input=Raw(b'{"user": "Hi"}'))
        await settle(store, try_again(held, timedelta(0)))
        [again] = await take(store)
        assert again == (await store.get(held.id)).leased()
        assert (again.attempts, again.max_attempts, again.lease != held.lease) == (1, 5, True)

    async def test_every_run_has_its_own_token(self, store: JobStore):
        await several(store, 50)
        assert len({held.lease.token for held in await take(store, limit=50)}) == 50

    async def test_claims_that_arrive_together_never_share_a_job(self, store: JobStore):
        jobs = await several(store, 60)
        claims = (taken_ids(store, worker_id=f"worker-{n}", limit=7) for n in range(10))
        taken = [job_id for claimed in await asyncio.gather(*claims) for job_id in claimed]
        assert len(taken) == len(set(taken))
        assert set(taken) <= set(ids(jobs))

    async def test_a_worker_that_keeps_asking_gets_every_job(self, store: JobStore):
        jobs = await several(store, 25)
        taken: list[JobId] = []
        while claimed := await taken_ids(store, limit=4):
            taken += claimed
        assert taken == ids(jobs)


class TestSettle:
    async def test_a_completed_job_has_its_result(self, rig: Rig):
        held = await run_one(rig.store)
        await rig.advance(A_MINUTE)
        before = await rig.store.get(held.id)
        await settle(rig.store, held.complete(b'{"content": "Hello"}'))
        job = await rig.store.get(held.id)
        assert job == before.settle(held.complete(b'{"content": "Hello"}'), await rig.now())
        assert job.result is not None
        assert bytes(job.result) == b'{"content": "Hello"}'

    @every_ending
    async def test_a_run_ends_as_the_domain_says(self, rig: Rig, end: Callable[[LeasedJob], Settlement]):
        first = await run_one(rig.store)
        await settle(rig.store, try_again(first, timedelta(0)))
        [held] = await take(rig.store)
        await rig.advance(A_MINUTE)
        before = await rig.store.get(held.id)
        await settle(rig.store, end(held))
        assert await rig.store.get(held.id) == before.settle(end(held), await rig.now())

    @pytest.mark.parametrize("end", [try_again, give_back])
    async def test_a_job_that_must_wait_is_due_after_its_wait(self, rig: Rig, end: Callable[[LeasedJob], Settlement]):
        held = await run_one(rig.store)
        await settle(rig.store, end(held))
        await rig.advance(WAIT - A_MOMENT)
        assert await rig.store.promote_due() == {}
        assert await take(rig.store) == []
        await rig.advance(A_MOMENT)
        assert await rig.store.promote_due() == {QUEUE: 1}
        assert await taken_ids(rig.store) == [held.id]

    async def test_fractions_of_a_second_of_a_wait_are_kept(self, rig: Rig):
        held = await run_one(rig.store)
        await settle(rig.store, try_again(held, timedelta(seconds=1, microseconds=234_567)))
        job = await rig.store.get(held.id)
        assert job.run_at - await rig.now() == timedelta(seconds=1, microseconds=234_567)

    @pytest.mark.parametrize("code", ErrorCode)
    async def test_every_code_is_kept_with_its_text(self, store: JobStore, code: ErrorCode):
        held = await run_one(store)
        failure = Failure(code, LONG)
        await settle(store, Settlement(held.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=failure))
        assert (await store.get(held.id)).failure == failure

    async def test_a_released_job_keeps_its_last_failure_and_its_place(self, store: JobStore):
        first, second = await several(store, 2)
        [held] = await take(store)
        await settle(store, try_again(held, timedelta(0)))
        [held] = await take(store)
        await settle(store, held.release())
        job = await store.get(first.id)
        assert (job.failure, job.attempts, job.seq) == (TIMED_OUT, 1, first.seq)
        assert await taken_ids(store, limit=9) == [first.id, second.id]

    async def test_a_retried_job_goes_before_those_that_came_after_it(self, rig: Rig):
        [held, *_] = [await run_one(rig.store), *await several(rig.store, 2)]
        await settle(rig.store, try_again(held))
        [younger] = await taken_ids(rig.store)
        await rig.advance(WAIT)
        await rig.store.promote_due()
        assert (await taken_ids(rig.store))[0] == held.id != younger

    @pytest.mark.parametrize("size", [2, 2_000_000])
    async def test_a_result_is_kept_byte_for_byte(self, store: JobStore, size: int):
        held = await run_one(store)
        result = b'{ "b":1, "a":"\\u0000 \xc3\xa9' + b"x" * size + b'"}'
        await settle(store, held.complete(result))
        stored = (await store.get(held.id)).result
        assert stored is not None
        assert bytes(stored) == result

    async def test_many_runs_end_in_one_go_each_in_its_own_way(self, rig: Rig):
        await several(rig.store, 10)
        held = await take(rig.store, limit=10)
        ends = [end for end in ENDINGS.values() for _ in range(2)]
        before = [await rig.store.get(run.id) for run in held]
        await settle(rig.store, *(end(run) for end, run in zip(ends, held, strict=True)))
        now = await rig.now()
        assert [await rig.store.get(run.id) for run in held] == [
            job.settle(end(run), now) for job, end, run in zip(before, ends, held, strict=True)
        ]

    async def test_a_text_that_cannot_be_stored_is_refused_alone_or_stored(self, store: JobStore):
        await several(store, 3)
        first, awkward, last = await take(store, limit=3)
        failure = Failure(ErrorCode.PROVIDER_ERROR, "half of it \x00 is binary")
        bad = Settlement(awkward.lease, RunOutcome.FAILED, JobStatus.FAILED, failure=failure)
        outcome = await store.exchange([complete(first), bad, complete(last)], None)
        assert set(outcome.refused) <= {awkward.lease}
        assert outcome.lost == frozenset()
        expected = JobStatus.RUNNING if outcome.refused else JobStatus.FAILED
        states = await store.statuses([first.id, awkward.id, last.id])
        assert list(states.values()).count(JobStatus.COMPLETED) == 2
        assert states[awkward.id] is expected

    @every_ending
    async def test_a_lease_that_was_never_given_out_changes_nothing(
        self, store: JobStore, end: Callable[[LeasedJob], Settlement]
    ):
        held = await run_one(store)
        before = await store.get(held.id)
        forged, unknown = replace(held, lease=new_lease(held.id)), replace(held, lease=new_lease())
        outcome = await store.exchange([end(forged), end(unknown)], None)
        assert outcome.lost == {forged.lease, unknown.lease}
        assert await store.get(held.id) == before

    @every_ending
    async def test_a_lease_speaks_for_its_own_job_only(self, store: JobStore, end: Callable[[LeasedJob], Settlement]):
        await several(store, 2)
        mine, other = await take(store, limit=2)
        crossed = replace(mine, lease=replace(mine.lease, job_id=other.id))
        assert (await store.exchange([end(crossed)], None)).lost == {crossed.lease}
        assert (await store.get(other.id)).status is JobStatus.RUNNING

    @every_ending
    async def test_a_rescued_job_is_not_ended_by_its_first_worker(
        self, rig: Rig, end: Callable[[LeasedJob], Settlement]
    ):
        held = await run_one(rig.store)
        await crash_once(rig)
        [again] = await take(rig.store, worker_id="worker-2")
        before = await rig.store.get(held.id)
        assert (await rig.store.exchange([end(held)], None)).lost == {held.lease}
        assert await rig.store.get(held.id) == before
        await settle(rig.store, complete(again))

    @every_ending
    async def test_a_cancelled_job_stays_cancelled(self, store: JobStore, end: Callable[[LeasedJob], Settlement]):
        held = await run_one(store)
        cancelled = await store.cancel(held.id)
        assert (await store.exchange([end(held)], None)).lost == {held.lease}
        assert await store.get(held.id) == cancelled

    @every_ending
    async def test_a_job_retried_by_hand_is_not_ended_by_its_old_run(
        self, store: JobStore, end: Callable[[LeasedJob], Settlement]
    ):
        held = await run_one(store)
        retried = await store.retry(held.id)
        assert (await store.exchange([end(held)], None)).lost == {held.lease}
        assert await store.get(held.id) == retried

    @every_ending
    async def test_the_same_ending_again_is_a_success_that_changes_nothing(
        self, rig: Rig, end: Callable[[LeasedJob], Settlement]
    ):
        held = await run_one(rig.store)
        await settle(rig.store, end(held))
        before = await rig.store.get(held.id)
        await rig.advance(A_MINUTE)
        await settle(rig.store, end(held))
        assert await rig.store.get(held.id) == before

    @every_ending
    async def test_the_same_ending_again_is_a_success_even_if_the_job_runs_anew(
        self, rig: Rig, end: Callable[[LeasedJob], Settlement]
    ):
        held = await run_one(rig.store)
        await settle(rig.store, end(held))
        if (await rig.store.get(held.id)).status is JobStatus.FAILED:
            await rig.store.retry(held.id)
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
    async def test_another_ending_of_a_run_that_has_ended_is_lost(
        self, store: JobStore, end: Callable[[LeasedJob], Settlement], other: Callable[[LeasedJob], Settlement]
    ):
        held = await run_one(store)
        await settle(store, end(held))
        before = await store.get(held.id)
        assert (await store.exchange([other(held)], None)).lost == {held.lease}
        assert await store.get(held.id) == before

    @pytest.mark.parametrize("late_first", [True, False])
    async def test_a_late_run_that_ends_together_with_the_jobs_next_run_is_lost_alone(self, rig: Rig, late_first: bool):
        late = await run_one(rig.store)
        await crash_once(rig)
        [current] = await take(rig.store)
        ended = [late.complete(b'{"content": "too late"}'), current.release()]
        outcome = await rig.store.exchange(ended if late_first else ended[::-1], None)
        assert outcome.lost == {late.lease}
        job = await rig.store.get(late.id)
        assert (job.status, job.result) == (JobStatus.PENDING, None)
        assert (await rig.store.exchange([late.complete(b"{}")], None)).lost == {late.lease}

    async def test_those_that_are_lost_do_not_keep_their_neighbours_from_being_stored(self, store: JobStore):
        await several(store, 3)
        first, gone, last = await take(store, limit=3)
        await store.cancel(gone.id)
        outcome = await store.exchange([complete(first), complete(gone), fail(last)], None)
        assert outcome.lost == {gone.lease}
        assert await store.statuses([first.id, gone.id, last.id]) == {
            first.id: JobStatus.COMPLETED,
            gone.id: JobStatus.CANCELLED,
            last.id: JobStatus.FAILED,
        }


class TestExchange:
    async def test_nothing_for_nothing(self, store: JobStore):
        outcome = await store.exchange([], None)
        assert (outcome.claimed, outcome.lost, dict(outcome.refused)) == ((), frozenset(), {})

    async def test_what_ends_and_what_starts_go_in_one_exchange(self, store: JobStore):
        first, second = await several(store, 2)
        [held] = await take(store)
        outcome = await store.exchange([complete(held)], new_claim(limit=9))
        assert [run.id for run in outcome.claimed] == [second.id]
        assert (await store.get(first.id)).status is JobStatus.COMPLETED

    async def test_a_job_given_back_unharmed_can_be_taken_at_once_in_its_old_place(self, store: JobStore):
        first, second = await several(store, 2)
        [held] = await take(store)
        outcome = await store.exchange([held.release()], new_claim(limit=9))
        assert [run.id for run in outcome.claimed] == [first.id, second.id]
        assert outcome.claimed[0].lease != held.lease

    async def test_a_run_taken_at_once_knows_what_the_last_one_counted(self, store: JobStore):
        held = await run_one(store)
        [again] = (await store.exchange([try_again(held, timedelta(0))], new_claim())).claimed
        assert again == (await store.get(held.id)).leased()
        assert again.attempts == 1

    async def test_a_job_that_must_wait_is_not_taken_at_once(self, store: JobStore):
        held = await run_one(store)
        assert (await store.exchange([try_again(held)], new_claim())).claimed == ()

    async def test_a_lost_ending_does_not_keep_the_claim_from_being_served(self, store: JobStore):
        held = await run_one(store)
        await store.cancel(held.id)
        waiting = await one(store)
        outcome = await store.exchange([complete(held)], new_claim())
        assert ([run.id for run in outcome.claimed], outcome.lost) == ([waiting.id], frozenset({held.lease}))


class TestRenew:
    async def test_a_lease_lasts_from_the_renewal_on(self, rig: Rig):
        held = await run_one(rig.store)
        await rig.advance(LEASE / 2)
        before = await rig.store.get(held.id)
        assert await rig.store.renew([held.lease], A_MINUTE) == frozenset()
        assert await rig.store.get(held.id) == replace(before, lease_expires_at=await rig.now() + A_MINUTE)

    async def test_a_renewed_job_is_not_rescued(self, rig: Rig):
        held = await run_one(rig.store)
        await rig.advance(LEASE)
        await rig.store.renew([held.lease], LEASE)
        await rig.advance(LEASE)
        assert await rig.store.rescue_expired(MAX_CRASHES) == {}

    async def test_a_late_renewal_counts_while_nobody_has_rescued_the_job(self, rig: Rig):
        held = await run_one(rig.store)
        await rig.advance(10 * LEASE)
        assert await rig.store.renew([held.lease], LEASE) == frozenset()
        assert await rig.store.rescue_expired(MAX_CRASHES) == {}

    async def test_those_that_are_lost_are_told_and_the_others_renewed(self, rig: Rig):
        await several(rig.store, 6)
        kept, cancelled, retried, ended, released, rescued = await take(rig.store, limit=6)
        await rig.advance(LEASE)
        await rig.store.renew([run.lease for run in (kept, cancelled, retried, ended, released)], LEASE)
        await rig.advance(A_MOMENT)
        await rig.store.rescue_expired(MAX_CRASHES)
        await rig.store.cancel(cancelled.id)
        await rig.store.retry(retried.id)
        await settle(rig.store, complete(ended), released.release())
        stale = [run.lease for run in (cancelled, retried, ended, released, rescued)]
        unknown, forged = new_lease(), new_lease(kept.id)
        before = [await rig.store.get(lease.job_id) for lease in stale]
        assert await rig.store.renew([kept.lease, *stale, unknown, forged], A_MINUTE) == {*stale, unknown, forged}
        assert (await rig.store.get(kept.id)).lease_expires_at == await rig.now() + A_MINUTE
        assert [await rig.store.get(lease.job_id) for lease in stale] == before

    async def test_the_lease_of_an_earlier_run_is_lost(self, store: JobStore):
        held = await run_one(store)
        [again] = (await store.exchange([held.release()], new_claim())).claimed
        assert await store.renew([held.lease, again.lease], LEASE) == {held.lease}

    async def test_nothing_to_renew(self, store: JobStore):
        assert await store.renew([], LEASE) == frozenset()


class TestOrphans:
    async def test_what_its_worker_does_not_know_of_goes_back_unharmed(self, rig: Rig):
        await several(rig.store, 3)
        held, *orphans = await take(rig.store, limit=3)
        before = [await rig.store.get(orphan.id) for orphan in orphans]
        await rig.advance(timedelta(seconds=1))
        assert await rig.store.release_orphans("worker-1", QUEUE, [held.lease]) == 2
        now = await rig.now()
        assert [await rig.store.get(orphan.id) for orphan in orphans] == [
            job.settle(orphan.release(), now) for job, orphan in zip(before, orphans, strict=True)
        ]
        assert (await rig.store.get(held.id)).lease == held.lease

    async def test_the_jobs_of_other_workers_are_left_alone(self, store: JobStore):
        held = await run_one(store)
        assert await store.release_orphans("worker-2", QUEUE, []) == 0
        assert (await store.get(held.id)).lease == held.lease

    async def test_its_jobs_of_other_queues_are_left_alone(self, store: JobStore):
        held = await run_one(store)
        assert await store.release_orphans("worker-1", "gpu.speech", []) == 0
        assert (await store.get(held.id)).lease == held.lease

    async def test_a_worker_that_knows_nothing_keeps_nothing(self, store: JobStore):
        held = await run_one(store)
        assert await store.release_orphans("worker-1", QUEUE, []) == 1
        assert await store.renew([held.lease], LEASE) == {held.lease}
        assert await taken_ids(store) == [held.id]

    async def test_an_earlier_run_of_the_same_worker_does_not_stand_for_this_one(self, store: JobStore):
        held = await run_one(store)
        [again] = (await store.exchange([held.release()], new_claim())).claimed
        assert await store.release_orphans("worker-1", QUEUE, [held.lease]) == 1
        assert (await store.get(again.id)).status is JobStatus.PENDING

    async def test_what_has_ended_is_no_orphan(self, store: JobStore):
        held = await run_one(store)
        await settle(store, complete(held))
        assert await store.release_orphans("worker-1", QUEUE, []) == 0


async def pending(rig: Rig) -> JobId:
    return (await one(rig.store)).id


async def waiting(rig: Rig) -> JobId:
    return (await one(rig.store, run_at=await rig.now() + 60 * A_MINUTE)).id


async def running(rig: Rig) -> JobId:
    return (await run_one(rig.store)).id


async def completed(rig: Rig) -> JobId:
    held = await run_one(rig.store)
    await settle(rig.store, complete(held))
    return held.id


async def failed(rig: Rig) -> JobId:
    held = await run_one(rig.store)
    await settle(rig.store, fail(held))
    return held.id


async def cancelled(rig: Rig) -> JobId:
    return (await rig.store.cancel(await running(rig))).id


async def given_back(rig: Rig) -> JobId:
    held = await run_one(rig.store)
    await settle(rig.store, give_back(held))
    return held.id


async def crashed(rig: Rig) -> JobId:
    held = await run_one(rig.store)
    await crash_once(rig)
    return held.id


class TestSteer:
    @pytest.mark.parametrize("state", [pending, waiting, running, cancelled, given_back, crashed])
    async def test_a_job_is_cancelled_as_the_domain_says(self, rig: Rig, state: Any):
        before = await rig.store.get(await state(rig))
        await rig.advance(A_MINUTE)
        job = await rig.store.cancel(before.id)
        assert job == before.cancel(await rig.now())
        assert job == await rig.store.get(job.id)
        assert (job.status, job.failure) == (JobStatus.CANCELLED, CANCELLED_BY_CALLER)

    @pytest.mark.parametrize("state", [completed, failed])
    async def test_a_job_that_has_ended_cannot_be_cancelled(self, rig: Rig, state: Any):
        before = await rig.store.get(await state(rig))
        with pytest.raises(InvalidTransition, match=before.status):
            await rig.store.cancel(before.id)
        assert await rig.store.get(before.id) == before

    @pytest.mark.parametrize("state", [running, failed, cancelled])
    async def test_a_job_is_retried_as_the_domain_says(self, rig: Rig, state: Any):
        before = await rig.store.get(await state(rig))
        await rig.advance(A_MINUTE)
        job = await rig.store.retry(before.id)
        assert job == before.retry(await rig.now())
        assert job == await rig.store.get(job.id)
        assert await taken_ids(rig.store) == [job.id]

    @pytest.mark.parametrize("state", [pending, waiting, completed, given_back, crashed])
    async def test_a_job_that_is_pending_or_completed_cannot_be_retried(self, rig: Rig, state: Any):
        before = await rig.store.get(await state(rig))
        with pytest.raises(InvalidTransition, match=before.status):
            await rig.store.retry(before.id)
        assert await rig.store.get(before.id) == before

    async def test_a_retry_forgets_what_was_counted(self, rig: Rig):
        held = await run_one(rig.store)
        await settle(rig.store, try_again(held, timedelta(0)))
        [held] = await take(rig.store)
        await crash_once(rig)
        [held] = await take(rig.store)
        await settle(rig.store, give_back(held))
        await rig.store.cancel(held.id)
        job = await rig.store.retry(held.id)
        assert (job.attempts, job.crashes, job.give_backs, job.failure) == (0, 0, 0, None)
        assert (job.finished_at, job.run_at, job.due) == (None, await rig.now(), True)

    async def test_a_retried_job_keeps_its_old_place(self, store: JobStore):
        held = await run_one(store)
        await settle(store, fail(held))
        younger = await one(store)
        await store.retry(held.id)
        assert await taken_ids(store, limit=9) == [held.id, younger.id]

    async def test_an_unknown_job_can_be_neither_cancelled_nor_retried(self, store: JobStore):
        with pytest.raises(JobNotFound):
            await store.cancel(new_id())
        with pytest.raises(JobNotFound):
            await store.retry(new_id())


class TestPromote:
    async def test_what_has_become_due_is_promoted_and_counted_by_queue(self, rig: Rig):
        at = await rig.now() + A_MINUTE
        await rig.store.add(
            [
                new_job(run_at=at),
                new_job(run_at=at - A_MOMENT),
                new_job(run_at=at, queue="gpu.speech"),
                new_job(run_at=at, queue=None),
                new_job(run_at=at + A_MOMENT),
                new_job(),
            ]
        )
        await rig.advance(A_MINUTE)
        assert await rig.store.promote_due() == {QUEUE: 2, "gpu.speech": 1}
        assert [job.due for job in await rig.store.find(JobFilter(), limit=9)] == [True, False, True, True, True, True]

    async def test_nothing_is_promoted_twice(self, rig: Rig):
        await one(rig.store, run_at=await rig.now() + A_MINUTE)
        await rig.advance(A_MINUTE)
        assert await rig.store.promote_due() == {QUEUE: 1}
        assert await rig.store.promote_due() == {}

    async def test_a_promotion_changes_nothing_else(self, rig: Rig):
        job = await one(rig.store, run_at=await rig.now() + A_MINUTE)
        await rig.advance(A_MINUTE)
        await rig.store.promote_due()
        assert await rig.store.get(job.id) == replace(job, due=True)

    async def test_a_cancelled_job_is_not_promoted(self, rig: Rig):
        job = await one(rig.store, run_at=await rig.now() + A_MINUTE)
        cancelled = await rig.store.cancel(job.id)
        await rig.advance(A_MINUTE)
        assert await rig.store.promote_due() == {}
        assert await rig.store.get(job.id) == cancelled

    async def test_a_promoted_job_goes_before_those_that_came_after_it(self, rig: Rig):
        planned = await one(rig.store, run_at=await rig.now() + A_MINUTE)
        younger = await several(rig.store, 2)
        assert await taken_ids(rig.store) == [younger[0].id]
        await rig.advance(A_MINUTE)
        await rig.store.promote_due()
        assert await taken_ids(rig.store, limit=9) == [planned.id, younger[1].id]


class TestRescue:
    async def test_a_job_goes_back_when_its_lease_has_run_out(self, rig: Rig):
        held = await run_one(rig.store)
        before = await rig.store.get(held.id)
        assert await crash_once(rig) == {QUEUE: 1}
        job = await rig.store.get(held.id)
        assert job == before.rescue(MAX_CRASHES, await rig.now())
        assert (job.status, job.crashes, job.attempts) == (JobStatus.PENDING, 1, 0)
        assert job.failure == crash(1, hopeless=False)

    async def test_a_live_lease_is_left_alone_to_its_last_moment(self, rig: Rig):
        held = await run_one(rig.store)
        before = await rig.store.get(held.id)
        await rig.advance(LEASE)
        assert await rig.store.rescue_expired(MAX_CRASHES) == {}
        assert await rig.store.get(held.id) == before

    async def test_only_those_whose_lease_has_run_out_are_rescued(self, rig: Rig):
        await several(rig.store, 2)
        [short] = await take(rig.store, lease=LEASE)
        [long] = await take(rig.store, lease=2 * LEASE)
        assert await crash_once(rig) == {QUEUE: 1}
        assert await rig.store.statuses([short.id, long.id]) == {
            short.id: JobStatus.PENDING,
            long.id: JobStatus.RUNNING,
        }

    async def test_a_job_whose_worker_dies_too_often_fails(self, rig: Rig):
        job = await one(rig.store)
        went_back = []
        for _ in range(MAX_CRASHES):
            await take(rig.store)
            went_back.append(await crash_once(rig))
        job = await rig.store.get(job.id)
        assert went_back == [{QUEUE: 1}, {QUEUE: 1}, {}]
        assert (job.status, job.crashes, job.attempts) == (JobStatus.FAILED, MAX_CRASHES, 0)
        assert job.failure == crash(MAX_CRASHES, hopeless=True)
        assert (job.finished_at, job.lease, job.worker_id) == (await rig.now(), None, None)

    async def test_those_that_went_back_are_counted_by_queue(self, rig: Rig):
        await rig.store.add([new_job(), new_job(queue="gpu.speech"), new_job(queue="gpu.speech")])
        await take(rig.store)
        await take(rig.store, queue="gpu.speech", limit=2)
        assert await crash_once(rig) == {QUEUE: 1, "gpu.speech": 2}

    async def test_a_rescued_job_can_be_taken_at_once_in_its_old_place(self, rig: Rig):
        held = await run_one(rig.store)
        younger = await one(rig.store)
        await crash_once(rig)
        assert await taken_ids(rig.store, limit=9) == [held.id, younger.id]

    async def test_nothing_is_rescued_twice(self, rig: Rig):
        await run_one(rig.store)
        assert await crash_once(rig) == {QUEUE: 1}
        assert await rig.store.rescue_expired(MAX_CRASHES) == {}

    @pytest.mark.parametrize("state", [pending, completed, failed, cancelled, given_back])
    async def test_a_job_that_does_not_run_needs_no_rescue(self, rig: Rig, state: Any):
        before = await rig.store.get(await state(rig))
        assert await crash_once(rig) == {}
        assert await rig.store.get(before.id) == before


async def demand_for(store: JobStore, *queues: str) -> dict[str, Demand]:
    found = await store.demand(queues, ALIVE_WITHIN)
    assert len(found) == len(queues)
    return {demand.queue: demand for demand in found}


class TestDemand:
    async def test_nobody_and_nothing(self, store: JobStore):
        assert await demand_for(store, QUEUE) == {QUEUE: Demand(QUEUE, due=0, slots=0, idle=0)}

    async def test_no_queue_has_no_demand(self, store: JobStore):
        await one(store)
        assert await store.demand([], ALIVE_WITHIN) == []

    async def test_only_pending_jobs_that_are_due_count(self, rig: Rig):
        await several(rig.store, 4)
        held, _ = await take(rig.store, limit=2)
        await settle(rig.store, try_again(held))
        await rig.store.add([new_job(run_at=await rig.now() + A_MINUTE), new_job(queue=None)])
        await rig.store.add([new_job(queue="gpu.speech")])
        found = await demand_for(rig.store, QUEUE, "gpu.speech", "gpu.none")
        assert {queue: demand.due for queue, demand in found.items()} == {QUEUE: 2, "gpu.speech": 1, "gpu.none": 0}

    async def test_a_long_queue_is_counted_up_to_the_limit(self, store: JobStore):
        await several(store, DEMAND_LIMIT + 1)
        assert (await demand_for(store, QUEUE))[QUEUE].due == DEMAND_LIMIT

    async def test_a_worker_has_its_slots_in_each_of_its_queues(self, store: JobStore):
        await store.beat(new_beat(queues=(QUEUE, "gpu.speech"), slots_per_queue=4, running={QUEUE: 3}))
        found = await demand_for(store, QUEUE, "gpu.speech", "gpu.none")
        assert {(demand.slots, demand.idle) for demand in found.values()} == {(4, 1), (4, 4), (0, 0)}

    async def test_the_slots_of_all_its_workers_add_up(self, store: JobStore):
        await store.beat(new_beat(slots_per_queue=4, running={QUEUE: 4}))
        await store.beat(new_beat(slots_per_queue=2, running={QUEUE: 1}))
        assert (await demand_for(store, QUEUE))[QUEUE] == Demand(QUEUE, due=0, slots=6, idle=1)

    async def test_a_worker_is_believed_in_its_last_beat(self, store: JobStore):
        beat = new_beat(slots_per_queue=4, running={QUEUE: 4})
        await store.beat(beat)
        await store.beat(replace(beat, queues=(QUEUE, "gpu.speech"), slots_per_queue=2, running={}, host=AWKWARD))
        found = await demand_for(store, QUEUE, "gpu.speech")
        assert [(demand.slots, demand.idle) for demand in found.values()] == [(2, 2), (2, 2)]

    async def test_a_worker_that_was_not_heard_of_for_too_long_does_not_count(self, rig: Rig):
        silent, alive = new_beat(), new_beat(slots_per_queue=2)
        await rig.store.beat(silent)
        await rig.store.beat(alive)
        await rig.advance(ALIVE_WITHIN - A_MOMENT)
        assert (await demand_for(rig.store, QUEUE))[QUEUE].slots == 6
        await rig.store.beat(alive)
        await rig.advance(A_MOMENT)
        assert (await demand_for(rig.store, QUEUE))[QUEUE].slots == 2

    async def test_a_worker_that_beats_again_counts_again(self, rig: Rig):
        beat = new_beat()
        await rig.store.beat(beat)
        await rig.advance(A_MINUTE)
        await rig.store.beat(beat)
        assert (await demand_for(rig.store, QUEUE))[QUEUE].slots == 4

    async def test_a_worker_that_has_left_does_not_count(self, store: JobStore):
        gone, other = new_beat(), new_beat(slots_per_queue=1)
        await store.beat(gone)
        await store.beat(other)
        await store.forget_worker(gone.id, A_MINUTE)
        assert (await demand_for(store, QUEUE))[QUEUE].slots == 1

    async def test_those_not_heard_of_for_long_are_struck_with_it(self, rig: Rig):
        await rig.store.beat(new_beat(slots_per_queue=1))
        await rig.advance(A_MINUTE)
        await rig.store.beat(new_beat(slots_per_queue=2))
        await rig.advance(A_MOMENT)
        await rig.store.forget_worker(uuid4(), A_MINUTE)
        [demand] = await rig.store.demand([QUEUE], 10 * A_MINUTE)
        assert demand.slots == 2
