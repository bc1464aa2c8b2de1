"""The stores behind a real PgBouncer that shares three server connections among all of its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from structlog.testing import capture_logs

from adapters.postgres.migrate import migrate, revision
from adapters.postgres.pool import create_pool, fetch, transaction
from adapters.postgres.pooler import KEEPALIVES, is_direct
from adapters.postgres.store import PostgresJobStore
from domain.errors import JobNotFound, LeaseLost, StorageUnavailable
from domain.job import JobId
from tests.adapters.postgres.test_errors import EVERY_CALL
from tests.factories import new_claim
from tests.moves import several
from tests.servers.pgbouncer import SERVER_CONNECTIONS, PgBouncer
from tests.servers.postgres import Databases

CLIENTS = 20
ROUNDS = 30


@pytest.fixture
def through(pgbouncer: PgBouncer, database: str) -> str:
    """The test's database, through PgBouncer."""
    return pgbouncer.dsn(database)


@pytest.fixture
async def pools(through: str) -> AsyncIterator[list[asyncpg.Pool]]:
    """Those of as many processes."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(create_pool(through, max_size=2, application_name=f"process {n}"))
            for n in range(CLIENTS)
        ]


async def test_only_a_session_of_postgresqls_own_is_direct(through: str, database: str):
    for dsn, direct in ((through, False), (database, True)):
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            assert await is_direct(connection) is direct
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            assert (connection.get_server_pid() == backend) is direct
        finally:
            await connection.close()


async def test_direct_sessions_notice_when_their_client_is_gone(database: str):
    async with create_pool(database, max_size=1, application_name="test") as pool:
        for name, value in KEEPALIVES.items():
            assert await pool.fetchval("SELECT current_setting($1)", name) == value


async def test_processes_that_share_sessions_each_get_the_answers_to_their_own_statements(
    pools: list[asyncpg.Pool],
):
    async def ask(client: int) -> None:
        for number in range(ROUNDS):
            statement = f"SELECT $1::int AS client, {number} AS number, $2::text[] AS names"
            [row] = await fetch(pools[client], statement, [client, ["a", str(client)]])
            assert tuple(row) == (client, number, ["a", str(client)])

    await asyncio.gather(*map(ask, range(CLIENTS)))
    backends = await asyncio.gather(*(fetch(pool, "SELECT pg_backend_pid() AS pid", []) for pool in pools))
    assert len({rows[0]["pid"] for rows in backends}) <= SERVER_CONNECTIONS


async def test_prepared_statements_would_be_met_by_strangers(through: str):
    """What this is all about: asyncpg as it comes, which keeps statements prepared."""

    async def ask(pool: asyncpg.Pool, client: int) -> None:
        for round_ in range(ROUNDS):
            assert await pool.fetchval(f"SELECT $1::int + {round_ % 3}", client) == client + round_ % 3

    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(asyncpg.create_pool(through, min_size=0, max_size=2))
            for _ in range(CLIENTS)
        ]
        asked = await asyncio.gather(*map(ask, pools, range(CLIENTS)), return_exceptions=True)
    assert any(isinstance(outcome, asyncpg.PostgresError) for outcome in asked)


async def test_an_unnamed_pooler_is_found_out_once(through: str):
    with capture_logs() as events:
        async with create_pool(through, max_size=3, application_name="test") as pool:
            await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.05)") for _ in range(3)))
    assert 1 <= len([event for event in events if event["event"] == "a pooler found before postgresql"]) <= 3


async def test_every_call_works_and_leaves_nothing_with_a_shared_session(through: str):
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(create_pool(through, max_size=1, application_name=name))
            for name in EVERY_CALL
        ]
        calls = [call(PostgresJobStore(pool)) for call, pool in zip(EVERY_CALL.values(), clients, strict=True)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, JobNotFound | LeaseLost) for error in errors), errors
    left = await _in_every_session(through)
    assert {row["prepared"] for row in left} == {0}
    assert {row["keepalives"] for row in left}.isdisjoint(KEEPALIVES.values())


async def _in_every_session(dsn: str) -> list[asyncpg.Record]:
    """What PgBouncer's server connections are set to, each held so that the next one is another."""
    statement = """
        SELECT pg_backend_pid() AS pid, current_setting('tcp_keepalives_idle') AS keepalives,
               (SELECT count(*) FROM pg_prepared_statements WHERE name <> '') AS prepared
    """
    async with AsyncExitStack() as stack:
        rows = []
        for _ in range(SERVER_CONNECTIONS):
            connection = await asyncpg.connect(dsn, statement_cache_size=0)
            stack.push_async_callback(connection.close)
            await stack.enter_async_context(connection.transaction())
            rows += await connection.fetch(statement)
    assert len({row["pid"] for row in rows}) == SERVER_CONNECTIONS
    return rows


async def test_migrations_run_even_through_it(databases: Databases, pgbouncer: PgBouncer):
    database = databases.create(migrated=False)
    try:
        made = await asyncio.gather(*(migrate(pgbouncer.dsn(database)) for _ in range(CLIENTS)))
        assert set(made) == {(await revision(database))[1]}
        assert {row["prepared"] for row in await _in_every_session(pgbouncer.dsn(database))} == {0}
    finally:
        databases.drop(database)


async def test_claimers_that_share_sessions_never_get_one_job_twice(pools: list[asyncpg.Pool], database: str):
    stores = [PostgresJobStore(pool) for pool in pools]
    jobs = await several(stores[0], 200)

    claimed: list[JobId] = []

    async def claim(store: PostgresJobStore) -> None:
        while found := (await store.exchange([], new_claim(limit=3))).claimed:
            claimed.extend(held.id for held in found)
            await store.exchange([held.complete(b"{}") for held in found], None)

    await asyncio.gather(*map(claim, stores))
    assert sorted(claimed) == sorted(job.id for job in jobs)


async def test_a_transaction_whose_process_hangs_frees_its_locks(through: str, database: str):
    async with create_pool(through, max_size=1, application_name="test") as pool:
        with pytest.raises(StorageUnavailable):
            await _hang(pool, database)
        assert await fetch(pool, "SELECT 1 AS works", [])


async def _hang(pool: asyncpg.Pool, database: str) -> None:
    async with transaction(pool) as run:
        [row] = await run(
            "SELECT pg_backend_pid() AS pid, current_setting('idle_in_transaction_session_timeout') AS t", []
        )
        assert row["t"] == "10s"
        await run("SELECT set_config('idle_in_transaction_session_timeout', '50ms', true)", [])
        await _gone(database, row["pid"])
        await run("SELECT 1", [])


async def _gone(dsn: str, pid: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(10):
            while await connection.fetchval("SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid):
                pass
    finally:
        await connection.close()
