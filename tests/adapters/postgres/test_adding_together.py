"""Jobs that are submitted together share a statement and its commit, and nothing else: each stands or falls alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest
from msgspec import Raw

from adapters.postgres.adding import LARGEST_TOGETHER, MOST_TOGETHER, AddTogether
from adapters.postgres.pool import create_pool, transaction
from adapters.postgres.store import PostgresJobStore
from domain.errors import KeyReused, NoSuchUpload, StorageUnavailable, TooManyPending
from domain.job import IdempotencyKey, JobId, NewJob
from domain.ports import Added
from tests.factories import new_id, new_job
from tests.moves import found, one
from tests.servers.rabbitmq import free_ports

CALLERS = 40
PATIENCE = 10.0
COMMITS = "SELECT count(DISTINCT xmin::text) FROM jobs"
HOLD = "LOCK TABLE job_details IN EXCLUSIVE MODE"


def keyed(key: str, fingerprint: bytes = b"1") -> NewJob:
    return new_job(idempotency=IdempotencyKey(key, fingerprint))


def others() -> list[NewJob]:
    """Some with a key and some without."""
    return [keyed(f"other-{place}") if place % 3 else new_job() for place in range(CALLERS)]


async def submit(store: PostgresJobStore, *jobs: NewJob, **ceilings: int) -> list[Added | BaseException]:
    """All at once, each by a caller of its own."""
    answers = await asyncio.gather(*(store.add([job], ceilings) for job in jobs), return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else answer[0] for answer in answers]


async def stored(store: PostgresJobStore) -> set[JobId]:
    return set(await found(store))


async def blocked(pool: asyncpg.Pool, statements: int = 1) -> None:
    async with asyncio.timeout(PATIENCE):
        while await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < statements:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_jobs_that_are_submitted_together_share_commits_and_keep_their_order(
    pool: asyncpg.Pool, store: PostgresJobStore
):
    jobs = [new_job(owner_ref=f"call/{place}") for place in range(3 * MOST_TOGETHER)]
    answers = await submit(store, *jobs)
    assert [
        (answer.job.id, answer.job.owner_ref, answer.created) for answer in answers if isinstance(answer, Added)
    ] == [(job.id, job.owner_ref, True) for job in jobs]
    seqs = [answer.job.seq for answer in answers if isinstance(answer, Added)]
    assert seqs == sorted(seqs)
    assert await pool.fetchval(COMMITS) <= 4


async def test_each_is_told_of_its_own_job(store: PostgresJobStore):
    jobs = others()
    for job, answer in zip(jobs, await submit(store, *jobs), strict=True):
        assert isinstance(answer, Added)
        assert await store.get(job.id) == answer.job


REFUSED: Mapping[str, tuple[dict[str, Any], type[Exception]]] = {
    "its owner has too many": ({"owner_service": "full"}, TooManyPending),
    "its upload is not there": ({"upload_id": new_id()}, NoSuchUpload),
    "its key was used otherwise": ({"idempotency": IdempotencyKey("used", b"2")}, KeyReused),
    "it cannot be stored": ({"owner_ref": "\0"}, asyncpg.DataError),
    "it has a key and cannot be stored": (
        {"owner_ref": "\0", "idempotency": IdempotencyKey("new", b"1")},
        asyncpg.DataError,
    ),
}


@pytest.mark.parametrize(("changes", "error"), REFUSED.values(), ids=REFUSED)
async def test_one_that_is_refused_is_refused_alone(
    store: PostgresJobStore, changes: dict[str, Any], error: type[Exception]
):
    await store.add([keyed("used", b"1")])
    await one(store, owner_service="full")
    jobs = others()
    half = CALLERS // 2
    answers = await submit(store, *jobs[:half], new_job(**changes), *jobs[half:], full=1)
    assert isinstance(answers.pop(half), error)
    assert all(isinstance(answer, Added) and answer.created for answer in answers)
    assert {job.id for job in jobs} < await stored(store)


async def test_of_twins_among_them_one_is_stored_and_the_others_find_it(store: PostgresJobStore):
    twins = [keyed("twin") for _ in range(5)]
    answers = [answer for answer in await submit(store, *others(), *twins) if isinstance(answer, Added)]
    assert [answer.created for answer in answers[CALLERS:]].count(True) == 1
    assert len({answer.job.id for answer in answers[CALLERS:]}) == 1
    assert len(await stored(store)) == CALLERS + 1


async def test_of_two_with_one_key_that_differ_one_is_refused(store: PostgresJobStore):
    answers = await submit(store, *others(), keyed("one", b"1"), keyed("one", b"2"))
    assert {type(answer) for answer in answers[CALLERS:]} == {Added, KeyReused}
    assert len(await stored(store)) == CALLERS + 1


async def test_the_same_job_sent_twice_at_once_is_created_once(store: PostgresJobStore):
    job = new_job()
    answers = [answer for answer in await submit(store, job, job) if isinstance(answer, Added)]
    assert sorted(answer.created for answer in answers) == [False, True]


async def test_no_more_get_in_together_than_a_ceiling_allows(store: PostgresJobStore):
    answers = await submit(store, *(new_job(owner_service="few") for _ in range(10)), *others(), few=3)
    assert sum(isinstance(answer, TooManyPending) for answer in answers) == 7
    assert len(await stored(store)) == CALLERS + 3


async def test_who_leaves_takes_nobody_elses_job_with_him(pool: asyncpg.Pool, store: PostgresJobStore):
    jobs = [new_job() for _ in range(10)]
    async with transaction(pool) as run:
        await run(HOLD, [])
        in_flight = [asyncio.create_task(store.add([job])) for job in jobs]
        await blocked(pool)
        in_flight[3].cancel()
        await asyncio.wait([in_flight[3]])
    answers = await asyncio.gather(*in_flight, return_exceptions=True)
    assert isinstance(answers.pop(3), asyncio.CancelledError)
    assert all(isinstance(answer, list) and answer[0].created for answer in answers)
    assert {job.id for job in jobs} - {jobs[3].id} <= await stored(store)


async def test_who_leaves_before_it_flies_is_not_stored(pool: asyncpg.Pool, store: PostgresJobStore):
    first, gone, stays = new_job(), new_job(), new_job()
    async with transaction(pool) as run:
        await run(HOLD, [])
        in_flight = asyncio.create_task(store.add([first]))
        await blocked(pool)
        leaves, waits = (asyncio.create_task(store.add([job])) for job in (gone, stays))
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.wait([leaves])
    await asyncio.gather(in_flight, waits)
    assert await stored(store) == {first.id, stays.id}


async def test_while_the_storage_is_away_everybody_hears_it_and_later_all_goes_on(
    pool: asyncpg.Pool, store: PostgresJobStore
):
    await pool.execute("ALTER TABLE job_inputs RENAME TO away")
    assert {type(answer) for answer in await submit(store, *others())} == {StorageUnavailable}
    await pool.execute("ALTER TABLE away RENAME TO job_inputs")
    assert await stored(store) == set()
    assert {type(answer) for answer in await submit(store, *others())} == {Added}


@pytest.fixture
async def unreachable() -> AsyncIterator[asyncpg.Pool]:
    dsn = f"postgresql://nobody@127.0.0.1:{free_ports(1)[0]}/nothing"
    async with create_pool(dsn, max_size=3, application_name="test") as pool:
        yield pool


async def test_while_nothing_can_be_reached_everybody_hears_it(unreachable: asyncpg.Pool):
    answers = await submit(PostgresJobStore(unreachable), *others())
    assert {type(answer) for answer in answers} == {StorageUnavailable}


async def test_a_key_that_another_transaction_holds_holds_up_nobody_else(pool: asyncpg.Pool, store: PostgresJobStore):
    async with transaction(pool) as run:
        await run(
            "INSERT INTO job_details (job_id, seq, created_at, owner_service, owner_ref, task_type, model_profile,"
            " priority, idempotency_key, fingerprint) VALUES ($1, 0, now(), $2, '', 'x', 'x', 3, 'held', '1')",
            [new_id(), new_job().owner_service],
        )
        twin = asyncio.create_task(store.add([keyed("held")]))
        await blocked(pool)
        async with asyncio.timeout(PATIENCE):
            answers = await submit(store, *others())
        assert {type(answer) for answer in answers} == {Added}
        assert not twin.done()
        await run("DELETE FROM job_details WHERE idempotency_key = 'held'", [])
    [added] = await twin
    assert added.created


async def test_a_large_input_makes_nobody_wait(pool: asyncpg.Pool):
    adding = AddTogether(pool)
    large = new_job(input=Raw(b'"' + b"x" * LARGEST_TOGETHER + b'"'))
    answers = await asyncio.gather(adding.add([large], {}), *(adding.add([new_job()], {}) for _ in range(5)))
    assert all(added.created for [added] in answers)
    assert await pool.fetchval(COMMITS) >= 2
