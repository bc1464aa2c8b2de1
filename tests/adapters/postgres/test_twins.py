"""The same submission from many sides at once: one job, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from adapters.postgres.store import PostgresJobStore
from domain.errors import KeyReused
from domain.job import IdempotencyKey, NewJob
from tests.factories import new_job
from tests.moves import found

CALLERS = 50


@pytest.fixture
async def stores(database: str) -> AsyncIterator[list[PostgresJobStore]]:
    """Each with a connection of its own, which is open."""
    pools = [asyncpg.create_pool(database, min_size=1, max_size=1) for _ in range(CALLERS)]
    for pool in pools:
        await pool
    yield [PostgresJobStore(pool) for pool in pools]
    for pool in pools:
        await pool.close()


def keyed(key: str, fingerprint: bytes = b"1") -> NewJob:
    return new_job(idempotency=IdempotencyKey(key, fingerprint))


def batch(keys: Sequence[int]) -> list[NewJob]:
    return [keyed(f"call-{key}") for key in keys]


async def test_fifty_identical_submissions_make_one_job(stores: list[PostgresJobStore]):
    answers = await asyncio.gather(*(store.add([keyed("call-7")]) for store in stores))
    assert [added.created for [added] in answers].count(True) == 1
    assert len({added.job.id for [added] in answers}) == 1
    assert len(await found(stores[0])) == 1


async def test_of_two_submissions_with_one_key_one_is_stored_and_the_other_refused(stores: list[PostgresJobStore]):
    for place in range(20):
        answers = await asyncio.gather(
            stores[0].add([keyed(f"call-{place}", b"1")]),
            stores[1].add([keyed(f"call-{place}", b"2")]),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} == {KeyReused, list}
        assert len(await found(stores[0])) == place + 1


@pytest.mark.parametrize("jobs", [100, 2_500])
async def test_batches_with_the_same_keys_in_any_order_make_each_job_once(stores: list[PostgresJobStore], jobs: int):
    for start in (0, jobs, 2 * jobs):
        keys = range(start, start + jobs)
        forwards, backwards, shifted = await asyncio.gather(
            stores[0].add(batch(keys)),
            stores[1].add(batch(keys[::-1])),
            stores[2].add(batch([*keys[jobs // 2 :], *keys[: jobs // 2]])),
        )
        by_key = [added.job.id for added in forwards]
        assert [added.job.id for added in backwards] == by_key[::-1]
        assert [added.job.id for added in shifted] == by_key[jobs // 2 :] + by_key[: jobs // 2]
        assert sum(added.created for added in [*forwards, *backwards, *shifted]) == jobs


async def test_a_batch_and_single_submissions_of_its_keys_make_each_job_once(stores: list[PostgresJobStore]):
    keys = range(CALLERS - 1)
    many, *ones = await asyncio.gather(
        stores[0].add(batch(keys)),
        *(store.add([keyed(f"call-{key}")]) for store, key in zip(stores[1:], reversed(keys), strict=True)),
    )
    assert [added.job.id for added in many] == [added.job.id for [added] in reversed(ones)]
    assert len(await found(stores[0])) == len(keys)
