"""Which workers are proven dead: real sessions, real locks, a real clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest

from adapters.postgres.pool import create_pool
from adapters.postgres.presence import presence
from adapters.postgres.store import PostgresJobStore
from domain.job import JobStatus, RunOutcome
from domain.ports import RescueTerms, WorkerBeat
from tests.factories import QUEUE, new_beat
from tests.moves import cancel, lend_one, one, several, take

TERMS = RescueTerms(max_crashes=3, retry_delay=timedelta(seconds=7))
A_MINUTE = timedelta(minutes=1)


class Workers:
    """Worker processes of which each has a session, like real ones."""

    def __init__(self, dsn: str, pool: asyncpg.Pool, stack: AsyncExitStack) -> None:
        self._dsn = dsn
        self._pool = pool
        self._stack = stack
        self._sessions: dict[str, AsyncExitStack] = {}
        self._beats: dict[str, WorkerBeat] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            session = self._sessions[name] = await self._stack.enter_async_context(AsyncExitStack())
            store = await session.enter_async_context(presence(self._dsn))
            await store.beat(self._beats.setdefault(name, new_beat(worker_id=name)))

    async def die(self, *names: str) -> None:
        """Their sessions end, and with them their locks."""
        for name in names:
            await self._sessions[name].aclose()

    async def fall_silent(self, *names: str, for_seconds: float = 2.5) -> None:
        """Their last beats are so old."""
        await self._pool.execute(
            "UPDATE workers SET seen_at = now() - make_interval(secs => $1) WHERE worker_id = ANY ($2)",
            for_seconds,
            names,
        )

    async def known(self) -> set[str]:
        return {row["worker_id"] for row in await self._pool.fetch("SELECT worker_id FROM workers")}


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with create_pool(database, max_size=4, application_name="test") as pool:
        yield pool


@pytest.fixture
def store(pool: asyncpg.Pool) -> PostgresJobStore:
    return PostgresJobStore(pool)


@pytest.fixture
async def workers(database: str, pool: asyncpg.Pool) -> AsyncIterator[Workers]:
    async with AsyncExitStack() as stack:
        yield Workers(database, pool, stack)


async def rescued(store: PostgresJobStore, terms: RescueTerms = TERMS) -> int:
    return len(await store.rescue(terms))


async def run(store: PostgresJobStore, worker: str, jobs: int = 1) -> None:
    await several(store, jobs)
    assert len(await take(store, worker_id=worker, lease=A_MINUTE, limit=jobs, alone=False)) == jobs


async def test_the_jobs_of_a_worker_whose_lock_is_gone_go_back_before_their_leases_end(
    store: PostgresJobStore, workers: Workers
):
    await workers.come("dead", "alive")
    await run(store, "dead", 2)
    await run(store, "alive")
    await workers.die("dead")
    await workers.fall_silent("dead", "alive")
    events = await store.rescue(TERMS)
    assert [event.kind for event in events] == [JobStatus.PENDING] * 2
    for event in events:
        job = await store.get(event.job_id)
        assert (job.crashes, job.attempts) == (1, 0)
        assert [run.outcome for run in await store.runs(job.id)] == [RunOutcome.CRASHED]
    assert await rescued(store) == 0
    assert await workers.known() == {"alive"}


async def test_a_lock_alone_proves_nothing(store: PostgresJobStore, workers: Workers):
    """A connection may break; the worker has another within a second."""
    await workers.come("reconnecting")
    await run(store, "reconnecting")
    await workers.die("reconnecting")
    assert await rescued(store) == 0
    await workers.come("reconnecting")
    await workers.fall_silent("reconnecting")
    assert await rescued(store) == 0


async def test_silence_alone_proves_nothing(store: PostgresJobStore, workers: Workers):
    await workers.come("stopped")
    await run(store, "stopped")
    await workers.fall_silent("stopped", for_seconds=14)
    assert await rescued(store) == 0


async def test_a_worker_without_a_lock_keeps_its_jobs_until_their_leases_end(store: PostgresJobStore, workers: Workers):
    await store.beat(new_beat(worker_id="behind a pooler"))
    await run(store, "behind a pooler")
    await workers.fall_silent("behind a pooler", for_seconds=14)
    assert await rescued(store) == 0


async def test_the_jobs_of_a_worker_outside_have_their_own_leases(store: PostgresJobStore, workers: Workers):
    await workers.come("theirs")
    await lend_one(store)
    await workers.die("theirs")
    await workers.fall_silent("theirs")
    assert await rescued(store) == 0


@pytest.mark.parametrize(
    ("all_of_them", "dying", "believed"), [(3, 3, True), (7, 4, False), (8, 4, True), (4, 4, False)]
)
async def test_many_deaths_at_once_are_not_believed(
    store: PostgresJobStore, workers: Workers, all_of_them: int, dying: int, believed: bool
):
    names = [f"worker-{number}" for number in range(all_of_them)]
    await workers.come(*names)
    for name in names[:dying]:
        await run(store, name)
    await workers.die(*names[:dying])
    await workers.fall_silent(*names[:dying])
    assert await rescued(store) == dying * believed


async def test_many_deaths_one_after_the_other_are_believed(store: PostgresJobStore, workers: Workers):
    names = ["one", "two", "three", "four"]
    await workers.come(*names)
    for seconds, name in zip((2.5, 6, 9, 13.5), names, strict=True):
        await run(store, name)
        await workers.die(name)
        await workers.fall_silent(name, for_seconds=seconds)
    assert await rescued(store) == 4


async def test_its_slots_that_were_being_closed_are_free_too(
    store: PostgresJobStore, workers: Workers, pool: asyncpg.Pool
):
    await workers.come("dead")
    await run(store, "dead")
    [held] = [row["id"] for row in await pool.fetch("SELECT id FROM jobs WHERE status = 'running'")]
    await cancel(store, held)
    assert await store.free_abandoned_slots() == 0
    await workers.die("dead")
    await workers.fall_silent("dead")
    assert await rescued(store) == 0
    assert await store.free_abandoned_slots() == 1
    assert await pool.fetchval("SELECT busy FROM lines WHERE name = $1", QUEUE) == 0


async def test_a_session_that_has_not_seen_enough_rescues_nobody(
    store: PostgresJobStore, workers: Workers, pool: asyncpg.Pool
):
    """PostgreSQL may have been away: after a restart no session is older."""
    await workers.come("dead")
    await run(store, "dead", 2)
    await workers.die("dead")
    await workers.fall_silent("dead")
    await pool.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE seq = 1")
    careful = RescueTerms(3, timedelta(0), steady=timedelta(hours=1))
    assert await rescued(store, careful) == 0
    await cancel(store, *[row["id"] for row in await pool.fetch("SELECT id FROM jobs ORDER BY seq LIMIT 1")])
    await pool.execute("UPDATE closing_slots SET expires_at = now() - interval '1 second'")
    assert await store.free_abandoned_slots(careful.steady) == 0
    [session] = await pool.fetch("SELECT has_seen('0 seconds') AS now, has_seen('1 hour') AS long")
    assert dict(session) == {"now": True, "long": False}


async def test_where_no_worker_can_be_alive_all_their_jobs_go_back_at_once(store: PostgresJobStore, workers: Workers):
    lent = await lend_one(store)
    await store._pool.execute("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE id = $1", lent.id)
    await workers.come("before the restart")
    await run(store, "before the restart", 2)
    assert await rescued(store, RescueTerms(3, timedelta(0), everyone=True)) == 2
    assert await rescued(store, RescueTerms(3, timedelta(0), everyone=True)) == 0


async def test_a_worker_that_comes_back_with_a_new_lock_lives(store: PostgresJobStore, workers: Workers):
    await workers.come("restless")
    [first] = await store.workers(A_MINUTE)
    await workers.die("restless")
    await workers.fall_silent("restless")
    await rescued(store)
    await workers.come("restless")
    await one(store)
    assert len(await take(store, worker_id="restless")) == 1
    assert await rescued(store) == 0
    assert [worker.worker_id for worker in await store.workers(A_MINUTE)] == [first.worker_id]
