"""One scheduler of several leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from adapters.postgres.leadership import PostgresLeadership
from tests.adapters.postgres_rig import FAKE_CLOCK, SEARCH_PATH
from tests.factories import NOW

TTL = timedelta(seconds=5)
A_MOMENT = timedelta(microseconds=1)

FIRST, SECOND, THIRD = uuid4(), uuid4(), uuid4()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """Their clock stands still until it is advanced."""
    async with asyncpg.create_pool(
        database, min_size=0, max_size=4, server_settings={"search_path": SEARCH_PATH}
    ) as pool:
        await pool.execute(FAKE_CLOCK)
        await pool.execute("INSERT INTO fake.clock VALUES ($1)", NOW)
        yield pool


@pytest.fixture
def leadership(pool: asyncpg.Pool) -> PostgresLeadership:
    return PostgresLeadership(pool)


async def advance(pool: asyncpg.Pool, by: timedelta) -> None:
    await pool.execute("UPDATE fake.clock SET now = now + $1::interval", by)


async def leaders(leadership: PostgresLeadership) -> list[UUID]:
    candidates = (FIRST, SECOND, THIRD)
    answers = await asyncio.gather(*(leadership.lead(candidate, TTL) for candidate in candidates))
    return [candidate for candidate, leads in zip(candidates, answers, strict=True) if leads is not None]


async def test_of_three_that_ask_at_once_one_leads_and_goes_on_leading(leadership: PostgresLeadership):
    [leader] = await leaders(leadership)
    assert await leaders(leadership) == [leader]


async def test_a_leader_that_keeps_asking_is_never_replaced(leadership: PostgresLeadership, pool: asyncpg.Pool):
    await leadership.lead(FIRST, TTL)
    for _ in range(4):
        await advance(pool, TTL / 2)
        assert await leaders(leadership) == [FIRST]


async def test_a_leader_that_falls_silent_is_replaced_when_its_time_is_over(
    leadership: PostgresLeadership, pool: asyncpg.Pool
):
    await leadership.lead(FIRST, TTL)
    await advance(pool, TTL)
    assert await leadership.lead(SECOND, TTL) is None
    await advance(pool, A_MOMENT)
    assert await leadership.lead(SECOND, TTL) is not None
    assert await leadership.lead(FIRST, TTL) is None


async def test_a_leader_that_resigns_is_replaced_at_once(leadership: PostgresLeadership):
    await leadership.lead(FIRST, TTL)
    await leadership.resign(FIRST)
    assert await leadership.lead(SECOND, TTL) is not None


async def test_who_does_not_lead_has_nothing_to_resign(leadership: PostgresLeadership):
    await leadership.lead(FIRST, TTL)
    await leadership.resign(SECOND)
    assert await leadership.lead(SECOND, TTL) is None


async def test_the_first_leader_has_seen_nothing_yet(leadership: PostgresLeadership):
    assert await leadership.lead(FIRST, TTL) == timedelta(0)


async def test_leaders_that_follow_one_another_have_seen_what_the_former_saw(
    leadership: PostgresLeadership, pool: asyncpg.Pool
):
    await leadership.lead(FIRST, TTL)
    await advance(pool, TTL)
    await leadership.lead(FIRST, TTL)
    await advance(pool, TTL)
    await leadership.resign(FIRST)
    assert await leadership.lead(SECOND, TTL) == 2 * TTL
    await advance(pool, 2 * TTL)
    assert await leadership.lead(THIRD, TTL) == 4 * TTL


@pytest.mark.parametrize("returning", [FIRST, SECOND], ids=["the same", "another"])
async def test_after_a_time_without_a_leader_nothing_is_known_of_it(
    leadership: PostgresLeadership, pool: asyncpg.Pool, returning: UUID
):
    await leadership.lead(FIRST, TTL)
    await advance(pool, 2 * TTL + A_MOMENT)
    assert await leadership.lead(returning, TTL) == timedelta(0)
