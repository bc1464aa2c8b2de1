"""What PostgreSQL tells of its health, and of who has waited longest."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from adapters.postgres.store import PostgresJobStore
from adapters.postgres.vitals import TABLES, PostgresVitals
from tests.factories import QUEUE, new_job


async def test_it_tells_of_every_table_of_ours(pool: asyncpg.Pool):
    ours = await pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace "
        "AND relname <> 'alembic_version' ORDER BY relname"
    )
    assert [row["relname"] for row in ours] == sorted(TABLES)
    assert sorted((await PostgresVitals(pool).vitals()).tables) == sorted(TABLES)


async def test_it_tells_its_size_its_sessions_and_what_is_not_added_up(store: PostgresJobStore, pool: asyncpg.Pool):
    await store.add([new_job()])
    vitals = await PostgresVitals(pool).vitals()
    assert vitals.size_bytes > 1_000_000
    assert vitals.connections >= 1
    assert vitals.unfolded_changes == 1
    await store.fold_tallies()
    assert (await PostgresVitals(pool).vitals()).unfolded_changes == 0


async def test_it_tells_how_old_the_oldest_snapshot_is(store: PostgresJobStore, pool: asyncpg.Pool):
    async with pool.acquire() as forgotten, forgotten.transaction(isolation="repeatable_read"):
        before = await PostgresVitals(pool).vitals()
        await forgotten.fetchval("SELECT count(*) FROM jobs")
        for _ in range(5):
            await store.add([new_job()])
        vitals = await PostgresVitals(pool).vitals()
        assert vitals.oldest_snapshot_seconds > before.oldest_snapshot_seconds
        assert vitals.oldest_snapshot_transactions >= 5


async def test_a_forgotten_session_that_has_written_is_as_old_as_one_that_reads(
    store: PostgresJobStore, pool: asyncpg.Pool
):
    async with pool.acquire() as forgotten, forgotten.transaction():
        await forgotten.execute("CREATE TEMPORARY TABLE written ()")
        for _ in range(5):
            await store.add([new_job()])
        assert await forgotten.fetchval(
            "SELECT backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        vitals = await PostgresVitals(pool).vitals()
        assert vitals.oldest_snapshot_seconds > 0
        assert vitals.oldest_snapshot_transactions >= 5


async def test_a_user_needs_one_right_to_see_how_old_the_sessions_of_others_are(database: str, pool: asyncpg.Pool):
    """As the pages say: without it the alert about old snapshots sees the service's own sessions only."""
    role = f"watcher_{uuid4().hex}"
    await pool.execute(f"CREATE ROLE {role}")

    async def as_watcher(connection: PoolConnectionProxy) -> None:
        await connection.execute(f"SET ROLE {role}")

    async def seen() -> tuple[bool, bool]:
        async with asyncpg.create_pool(database, min_size=0, max_size=1, setup=as_watcher) as watching:
            vitals = await PostgresVitals(watching).vitals()
            return vitals.oldest_snapshot_seconds > 0, vitals.connections > 1

    await pool.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    async with pool.acquire() as forgotten, forgotten.transaction(isolation="repeatable_read"):
        await forgotten.fetchval("SELECT count(*) FROM jobs")
        assert await seen() == (False, False)
        await pool.execute(f"GRANT pg_read_all_stats TO {role}")
        assert await seen() == (True, True)
    await pool.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_first_in_line_of_each_queue_tells_how_long_it_waits(store: PostgresJobStore, pool: asyncpg.Pool):
    vitals = PostgresVitals(pool)
    assert await vitals.oldest_due() == {}
    old, _, _ = await store.add([new_job(), new_job(queue="gpu.speech"), new_job(queue=None)])
    await store.add([new_job(run_at=old.job.created_at + timedelta(days=1))])
    await pool.execute(
        "UPDATE jobs SET created_at = now() - interval '90 s', run_at = now() - interval '60 s' WHERE id = $1",
        old.job.id,
    )
    oldest = await vitals.oldest_due()
    assert set(oldest) == {QUEUE, "gpu.speech", None}
    assert 60 <= (oldest[QUEUE] or 0) < 90
    assert (oldest["gpu.speech"] or 0) < 60
