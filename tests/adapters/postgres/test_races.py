"""Statements that meet on the same rows: never a deadlock, never a job that two hold, never a fate that two decide."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from msgspec import Raw

from adapters.postgres.pool import query
from adapters.postgres.queues import PostgresQueueStore
from adapters.postgres.store import PostgresJobStore
from domain.errors import JobNotFound, LeaseLost, StorageUnavailable
from domain.job import IdempotencyKey, JobId, JobStatus, LeasedJob
from domain.policy import OwnerPolicy, Policies
from domain.ports import RescueTerms
from tests.factories import LEASE, new_beat, new_claim, new_job
from tests.moves import cancel, fail, found, ids, lease_of, lend, several, statuses, take

RETRY_DELAY = timedelta(seconds=7)
LOCK_OWNER = "SELECT FROM owners WHERE owner_service = $1 FOR UPDATE"


async def stored(store: PostgresJobStore, how_many: int) -> list[JobId]:
    return ids(await several(store, how_many))


async def taken(store: PostgresJobStore, how_many: int) -> list[LeasedJob]:
    await stored(store, how_many)
    return list((await store.exchange([], new_claim(limit=how_many))).claimed)


async def history(pool: asyncpg.Pool, job_id: JobId) -> list[str]:
    return [row["outcome"] for row in await pool.fetch("SELECT outcome FROM runs WHERE job_id = $1", job_id)]


async def drain(store: PostgresJobStore, worker: str, limit: int) -> list[JobId]:
    """Take and complete until nothing is left, as a worker does: what ended goes with the next claim."""
    runs: list[JobId] = []
    held: tuple[LeasedJob, ...] = ()
    while True:
        outcome = await store.exchange([job.complete(b"{}") for job in held], new_claim(worker_id=worker, limit=limit))
        assert not outcome.lost
        held = outcome.claimed
        if not held:
            return runs
        runs += [job.id for job in held]


@pytest.mark.parametrize(("claimers", "jobs", "limit"), [(2, 1_000, 7), (16, 2_000, 8)])
async def test_claimers_share_no_job_and_leave_none(
    store: PostgresJobStore, pool: asyncpg.Pool, claimers: int, jobs: int, limit: int
):
    sent = await stored(store, jobs)
    runs = await asyncio.gather(*(drain(store, f"worker-{n}", limit) for n in range(claimers)))
    # SKIP LOCKED: who met only locked rows goes home early; what those held back is for the next look.
    late = await drain(store, "worker-late", limit)
    assert Counter(job for run in [*runs, late] for job in run) == Counter(sent)
    assert await pool.fetchval("SELECT count(*) FROM runs") == jobs
    assert set((await statuses(store, sent)).values()) == {JobStatus.COMPLETED}


async def test_renewals_and_settlements_of_the_same_jobs_never_deadlock(store: PostgresJobStore, pool: asyncpg.Pool):
    for _ in range(20):
        held = await taken(store, 64)
        leases = [job.lease for job in held]
        await asyncio.gather(
            store.renew(leases, LEASE),
            store.exchange([job.complete(b"{}") for job in held[:32]], None),
            store.renew(leases[::-1], LEASE),
            store.exchange([job.release() for job in reversed(held[32:])], None),
            store.rescue(RescueTerms(3, RETRY_DELAY)),
        )
        await pool.execute("DELETE FROM jobs")


async def test_a_settlement_that_waited_for_a_cancel_frees_the_slot_all_the_same(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    for held in await taken(store, 50):
        await asyncio.gather(cancel(store, held.id), store.exchange([held.complete(b"{}")], None))
    assert await pool.fetchval("SELECT count(*) FROM closing_slots") == 0
    assert await pool.fetchval("SELECT sum(busy) FROM lines") == 0


async def test_a_claim_passes_over_jobs_that_are_locked_and_they_are_not_lost(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    jobs = await stored(store, 30)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM jobs WHERE id = ANY ($1::uuid[]) FOR UPDATE", jobs[:20])
        assert [held.id for held in await take(store)] == jobs[20:21]
        assert [held.id for held in await take(store, limit=5)] == jobs[21:26]
    assert [held.id for held in await take(store, limit=99)] == jobs[:20] + jobs[26:]


async def test_a_job_that_is_committed_after_later_ones_were_taken_is_found(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    async with pool.acquire() as connection, connection.transaction():
        seq = await connection.fetchval("SELECT nextval('jobs_seq')")
    later = await stored(store, 3)
    assert [held.id for held in await take(store, limit=2)] == later[:2]
    await pool.execute("UPDATE jobs SET seq = $1 WHERE id = $2", seq, later[2])
    await pool.execute("UPDATE line_states SET swept_at = now() - interval '10 seconds'")
    assert [held.id for held in await take(store, limit=2)] == later[2:]


async def test_of_a_cancel_and_a_completion_one_wins(store: PostgresJobStore, pool: asyncpg.Pool):
    for held in await taken(store, 50):
        cancelled, completed = await asyncio.gather(
            cancel(store, held.id), store.exchange([held.complete(b"{}")], None)
        )
        job = await store.get(held.id)
        assert bool(cancelled) is bool(completed.lost)
        if cancelled:
            assert (job.status, job.result, await history(pool, held.id)) == (JobStatus.CANCELLED, None, ["cancelled"])
        else:
            assert (job.status, await history(pool, held.id)) == (JobStatus.COMPLETED, ["completed"])
        assert [change.number for change in await store.changes(held.id, 0)] == [1, 2, 3]


async def test_a_run_that_is_cancelled_while_its_end_waits_for_the_row_frees_its_slot(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    [held] = await taken(store, 1)
    async with pool.acquire() as other, other.transaction():
        await other.execute(query("cancel_jobs"), [held.id], "cancelled", "Cancelled on request.", None)
        ending = asyncio.create_task(store.exchange([held.complete(b"{}")], None))
        while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.01)
    assert (await ending).lost == {held.lease}
    assert await pool.fetchval("SELECT count(*) FROM closing_slots") == 0
    assert await pool.fetchval("SELECT busy FROM lines") == 0


async def test_owners_are_configured_while_claims_lock_them(store: PostgresJobStore, pool: asyncpg.Pool):
    queues = PostgresQueueStore(pool)
    await queues.configure(Policies(owners={"ann": OwnerPolicy(max_running=1), "bob": OwnerPolicy(max_running=1)}), [])
    async with pool.acquire() as claiming, claiming.transaction():
        await claiming.execute(LOCK_OWNER, "ann")
        configuring = asyncio.create_task(queues.configure(Policies(owners={"bob": OwnerPolicy(max_running=2)}), []))
        while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.01)
        await claiming.execute(LOCK_OWNER, "bob")
    await configuring
    rows = await pool.fetch("SELECT owner_service, max_running FROM owners")
    assert [tuple(row) for row in rows] == [("bob", 2)]


async def test_no_run_ends_before_it_started_though_a_cancel_waited_for_its_claim(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    for _ in range(10):
        jobs = await stored(store, 200)
        await asyncio.gather(take(store, limit=200), cancel(store, *jobs), take(store, limit=200), store.retry(jobs))
        await cancel(store, *jobs)
    assert await pool.fetchval("SELECT count(*) FROM runs WHERE ended_at < started_at") == 0
    assert await pool.fetchval("SELECT count(*) FROM jobs WHERE finished_at < started_at") == 0


async def test_of_a_rescue_and_a_completion_one_wins(store: PostgresJobStore, pool: asyncpg.Pool):
    for _ in range(50):
        await stored(store, 1)
        [held] = (await store.exchange([], new_claim(lease=timedelta(microseconds=-1)))).claimed
        rescued, completed = await asyncio.gather(
            store.rescue(RescueTerms(3, RETRY_DELAY)), store.exchange([held.complete(b"{}")], None)
        )
        assert bool(rescued) is bool(completed.lost)
        assert await history(pool, held.id) == (["crashed"] if rescued else ["completed"])
        await pool.execute("DELETE FROM jobs")


@pytest.mark.parametrize("claim", [take, lend])
async def test_a_job_is_claimed_or_cancelled_or_both_in_turn(
    store: PostgresJobStore, pool: asyncpg.Pool, claim: Callable[[PostgresJobStore], Awaitable[list[object]]]
):
    for _ in range(50):
        [job_id] = await stored(store, 1)
        cancelled, claimed = await asyncio.gather(cancel(store, job_id), claim(store))
        job = await store.get(job_id)
        assert (len(cancelled), job.status, job.lease) == (1, JobStatus.CANCELLED, None)
        assert job.number == (3 if await history(pool, job_id) else 2)
        assert not claimed or await history(pool, job_id) == ["cancelled"]


async def test_of_two_retries_by_hand_one_takes_the_job_back(store: PostgresJobStore, pool: asyncpg.Pool):
    for held in await taken(store, 30):
        told = await asyncio.gather(store.retry([held.id]), store.retry([held.id]))
        assert sorted(len(events) for events in told) == [0, 1]
        assert await history(pool, held.id) == ["retried"]
        await cancel(store, held.id)


async def test_of_two_cancels_one_is_told(store: PostgresJobStore):
    for held in await taken(store, 30):
        told = await asyncio.gather(cancel(store, held.id), cancel(store, held.id))
        assert sorted(len(events) for events in told) == [0, 1]


async def test_many_that_are_steered_at_once_in_any_order_never_deadlock(store: PostgresJobStore):
    for _ in range(10):
        held = await taken(store, 64)
        jobs = [job.id for job in held]
        await asyncio.gather(
            cancel(store, *jobs),
            store.retry(jobs[::-1]),
            cancel(store, *jobs[::-1]),
            store.erase(jobs),
            store.exchange([job.complete(b"{}") for job in reversed(held)], new_claim(limit=64)),
            lend(store, limit=64),
        )
        await cancel(store, *jobs)
        await store.erase(jobs)
    assert await found(store) == []


async def test_a_job_that_is_renewed_in_time_is_not_rescued_at_the_same_moment(store: PostgresJobStore):
    for _ in range(30):
        await stored(store, 1)
        [held] = (await store.exchange([], new_claim(lease=timedelta(microseconds=-1)))).claimed
        lost, _ = await asyncio.gather(store.renew([held.lease], LEASE), store.rescue(RescueTerms(3, RETRY_DELAY)))
        job = await store.get(held.id)
        if job.lease == held.lease:
            assert lost == frozenset()
        else:
            assert job.status is JobStatus.PENDING
            assert await store.renew([held.lease], LEASE) == {held.lease}
        await cancel(store, held.id)


async def test_of_a_heartbeat_and_a_rescue_one_wins(store: PostgresJobStore, pool: asyncpg.Pool):
    for _ in range(50):
        await stored(store, 1)
        # So late that it may be rescued, and renewed by the worker all the same.
        [lent] = await lend(store, lease=timedelta(seconds=30))
        await pool.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE id = $1", lent.id)
        heartbeat, rescued = await asyncio.gather(
            store.report(lease_of(lent), Raw(b"{}")), store.rescue(RescueTerms(3, RETRY_DELAY)), return_exceptions=True
        )
        job = await store.get(lent.id)
        if rescued:
            assert isinstance(heartbeat, LeaseLost)
            assert (job.status, job.attempts, job.progress, await history(pool, job.id)) == (
                JobStatus.PENDING,
                1,
                None,
                ["expired"],
            )
        else:
            assert not isinstance(heartbeat, BaseException)
            assert (job.lease, job.lease_expires_at, job.progress) == (lent.lease, heartbeat[0], Raw(b"{}"))
        await cancel(store, lent.id)


async def everything_of(pool: asyncpg.Pool, job_id: JobId) -> dict[str, int]:
    """How many rows each table has of this job."""
    columns = await pool.fetch(
        """
        SELECT table_name, min(column_name) AS name
        FROM information_schema.columns
        WHERE table_schema = 'public' AND (column_name = 'job_id' OR (table_name, column_name) = ('jobs', 'id'))
        GROUP BY table_name
        """
    )
    assert len(columns) > 6
    rows = {
        table: await pool.fetchval(f"SELECT count(*) FROM {table} WHERE {column} = $1", job_id)
        for table, column in columns
    }
    return {table: number for table, number in rows.items() if number}


async def test_of_an_erasure_and_a_retry_one_wins(store: PostgresJobStore, pool: asyncpg.Pool):
    for held in await taken(store, 50):
        await store.exchange([fail(held)], None)
        erased, retried = await asyncio.gather(store.erase([held.id]), store.retry([held.id]))
        assert bool(erased) is not bool(retried)
        if erased:
            assert await everything_of(pool, held.id) == {}
            with pytest.raises(JobNotFound):
                await store.get(held.id)
        else:
            assert (await store.get(held.id)).status is JobStatus.PENDING
            await cancel(store, held.id)


STILL_CLOSING = {"closing_slots": 1}
"""The slot of a run whose job was taken from it: it is busy until its worker tells, or its lease runs out."""


async def test_an_erased_job_leaves_nothing_but_a_slot_that_is_still_busy_whatever_it_has_been_through(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    await store.add([new_job(labels={"team": "red"}, idempotency=IdempotencyKey("call-7", b"1"))])
    [lent] = await lend(store)
    await store.report(lease_of(lent), Raw(b"{}"))
    await store.retry([lent.id])
    await cancel(store, lent.id)
    await store.retry([lent.id])
    [held] = await take(store)
    await store.exchange([held.complete(b"{}")], None)
    assert len(await everything_of(pool, lent.id)) == 9
    await store.erase([lent.id])
    assert await everything_of(pool, lent.id) == STILL_CLOSING
    await store.exchange([lent.leased().release()], None)
    assert await everything_of(pool, lent.id) == {}


async def test_a_job_that_ran_anew_while_its_erasure_waited_is_not_half_erased(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    held = await taken(store, 2)
    await cancel(store, *(each.id for each in held))
    first, second = [row["id"] for row in await pool.fetch("SELECT id FROM jobs ORDER BY ctid")]
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        # The erasure stops at the first row, and has seen the other as it is now.
        await connection.execute("UPDATE jobs SET updated_at = now() WHERE id = $1", first)
        erasing = asyncio.create_task(store.erase([first, second]))
        while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            continue
        await store.retry([second])
        [again] = await take(store)
        await store.exchange([again.complete(b"{}")], None)
        await transaction.commit()
    erased = await erasing
    for job_id in (first, second):
        assert (await everything_of(pool, job_id) == STILL_CLOSING) is (job_id in erased)


async def test_a_submission_that_meets_the_erasure_of_its_twin_is_stored_or_finds_it(store: PostgresJobStore):
    key = IdempotencyKey("call-7", b"1")
    for _ in range(50):
        [[first]] = [await store.add([new_job(idempotency=key)])]
        await cancel(store, first.job.id)
        erased, [again] = await asyncio.gather(store.erase([first.job.id]), store.add([new_job(idempotency=key)]))
        assert erased == [first.job.id]
        assert await found(store) == ([again.job.id] if again.created else [])
        if again.created:
            await cancel(store, again.job.id)
            await store.erase([again.job.id])


async def test_the_same_jobs_added_by_two_at_once_are_stored_once(store: PostgresJobStore):
    sent = [new_job() for _ in range(100)]
    first, second = await asyncio.gather(store.add(sent), store.add(sent))
    assert [each.job.id for each in first] == [each.job.id for each in second] == [new.id for new in sent]
    assert [one.created + other.created for one, other in zip(first, second, strict=True)] == [1] * 100


async def test_a_claim_whose_jobs_cannot_be_read_holds_none(store: PostgresJobStore, pool: asyncpg.Pool):
    [job_id] = await stored(store, 1)
    await pool.execute("ALTER TABLE job_inputs RENAME TO elsewhere")
    with pytest.raises(StorageUnavailable):
        await lend(store)
    await pool.execute("ALTER TABLE elsewhere RENAME TO job_inputs")
    job = await store.get(job_id)
    assert (job.status, job.number) == (JobStatus.PENDING, 1)


async def test_a_claim_shows_nobody_elses_lease_whatever_happens_at_the_same_moment(store: PostgresJobStore):
    [job_id] = await stored(store, 1)
    for _ in range(30):
        mine, _, others = await asyncio.gather(
            lend(store, worker_id="mine"), store.retry([job_id]), lend(store, worker_id="others")
        )
        assert {job.worker_id for job in mine} <= {"mine"}
        assert {job.worker_id for job in others} <= {"others"}
        await store.retry([job_id])


async def test_figures_stay_right_while_jobs_change_and_the_changes_are_summed_up(store: PostgresJobStore):
    await several(store, 400)

    async def work(worker: int) -> None:
        for _ in range(5):
            await store.exchange([held.complete(b"{}") for held in await take(store, limit=8)], None)
            await store.exchange([job.leased().release() for job in await lend(store, limit=4)], None)
            await store.fold_tallies()

    await asyncio.gather(*(work(n) for n in range(8)))
    counts = Counter[str]()
    for tally in await store.tallies():
        counts[tally.status] += tally.jobs
    assert counts == {"completed": 320, "pending": 80}
    assert [finished.last_hour for finished in await store.finished()] == [320]


async def test_a_worker_row_of_another_version_does_not_stop_the_count(store: PostgresJobStore, pool: asyncpg.Pool):
    await store.beat(new_beat(slots_per_queue=4))
    await store.beat(new_beat(slots_per_queue=4))
    await pool.execute(
        "UPDATE workers SET running = '{\"gpu.llm\": null}' WHERE id = (SELECT min(id::text)::uuid FROM workers)"
    )
    [demand] = await store.demand(["gpu.llm"], LEASE)
    assert (demand.slots, demand.idle) == (8, 8)


async def test_a_plan_survives_a_change_of_the_tables_under_it(store: PostgresJobStore, pool: asyncpg.Pool):
    [job_id] = await stored(store, 1)
    before = await store.get(job_id)
    await pool.execute("ALTER TABLE jobs ADD COLUMN colour text")
    assert await store.get(job_id) == before
    [held] = (await store.exchange([], new_claim(worker_id=str(uuid4())))).claimed
    assert held.id == job_id
