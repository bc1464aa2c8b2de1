"""The stores behind a real PgBouncer that shares three server connections among all of its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

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
from tests.docs.test_documents import blocks
from tests.factories import new_claim
from tests.moves import one, several
from tests.servers.pgbouncer import SERVER_CONNECTIONS, PgBouncer
from tests.servers.postgres import Databases
from tests.servers.tcp_proxy import TcpProxy

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


@pytest.fixture
def in_turn(databases: Databases, pgbouncer: PgBouncer) -> Iterator[PgBouncer]:
    """Gives no client the same session twice in a row: what is left in one is never taken back."""
    in_turn = PgBouncer(databases.server, settings="server_round_robin = 1")
    in_turn.start()
    yield in_turn
    in_turn.stop()


async def test_every_call_works_and_leaves_nothing_with_a_shared_session(
    in_turn: PgBouncer, databases: Databases, database: str
):
    databases.execute(database, f"ALTER DATABASE {database.rpartition('/')[2]} SET jit = on")
    through = in_turn.dsn(database)
    await _in_every_session(through)
    for name, call in EVERY_CALL.items():
        async with create_pool(through, max_size=1, application_name=name) as pool:
            with suppress(JobNotFound, LeaseLost):
                await call(PostgresJobStore(pool))
    left = await _in_every_session(through)
    assert {row["prepared"] for row in left} == {0}
    assert {row["jit"] for row in left} == {"on"}
    assert {row["keepalives"] for row in left}.isdisjoint(KEEPALIVES.values())


async def _in_every_session(dsn: str) -> list[asyncpg.Record]:
    """What PgBouncer's server connections are set to, each held so that the next one is another."""
    statement = """
        SELECT pg_backend_pid() AS pid, current_setting('tcp_keepalives_idle') AS keepalives,
               current_setting('jit') AS jit,
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
        made = await asyncio.gather(*(migrate(pgbouncer.dsn(database)) for _ in range(5)))
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


async def test_a_pooler_that_restarts_under_its_clients_is_only_unavailable(own_pgbouncer: PgBouncer, database: str):
    refused: list[StorageUnavailable] = []
    restarted = asyncio.Event()

    async def ask(pool: asyncpg.Pool) -> None:
        answered_after_it = 0
        while answered_after_it < 3:
            await asyncio.sleep(0)
            try:
                await fetch(pool, "SELECT $1::text[]", [["a"]])
                async with transaction(pool) as run:
                    await run("SELECT $1::int", [1])
                answered_after_it += restarted.is_set()
            except StorageUnavailable as error:
                refused.append(error)

    async with AsyncExitStack() as stack, asyncio.timeout(50):
        through = own_pgbouncer.dsn(database)
        pools = [
            await stack.enter_async_context(create_pool(through, max_size=2, application_name="test"))
            for _ in range(CLIENTS)
        ]
        asking = asyncio.gather(*map(ask, pools))
        await asyncio.to_thread(own_pgbouncer.restart)
        await _end_sessions(database)
        restarted.set()
        await asking
    assert refused


async def _end_sessions(database: str) -> None:
    """As PostgreSQL does when it is shut down in a hurry."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


@pytest.fixture
def crowded(databases: Databases, pgbouncer: PgBouncer) -> Iterator[PgBouncer]:
    """One server connection, waited for a second at most, and room for three clients."""
    crowded = PgBouncer(databases.server, pool_size=1, clients=3, settings="query_wait_timeout = 1")
    crowded.start()
    yield crowded
    crowded.stop()


@pytest.mark.parametrize("pooled", [True, False], ids=["told", "found out"])
async def test_a_session_that_does_not_get_free_in_time_is_unavailable(
    crowded: PgBouncer, database: str, *, pooled: bool
):
    through = crowded.dsn(database)
    async with create_pool(through, max_size=2, application_name="test", pooled=pooled) as pool:
        async with transaction(pool) as run:
            await run("SELECT 1", [])
            assert "query_wait_timeout" in await _why_unavailable(pool)
        assert await fetch(pool, "SELECT 3", [])


async def _place(dsn: str) -> asyncpg.Connection:
    """A connection, once whoever saw that PgBouncer is there has left his."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncpg.connect(dsn, statement_cache_size=0)
            except asyncpg.ProtocolViolationError:
                await asyncio.sleep(0.05)


async def test_one_client_too_many_is_unavailable(crowded: PgBouncer, database: str):
    through = crowded.dsn(database)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            stack.push_async_callback((await _place(through)).close)
        async with create_pool(through, max_size=1, application_name="test") as pool:
            assert "no more connections allowed" in await _why_unavailable(pool)


@pytest.mark.usefixtures("pgbouncer")
async def test_a_postgresql_that_is_away_behind_its_pooler_is_unavailable_until_it_is_back(
    databases: Databases, database: str
):
    server = urlsplit(databases.server)
    with TcpProxy(server.hostname or "", server.port or 0) as door:
        behind = server._replace(netloc=f"{server.username}:{server.password}@127.0.0.1:{door.port}").geturl()
        pooler = PgBouncer(behind, settings="query_wait_timeout = 2")
        await asyncio.to_thread(pooler.start)
        try:
            async with create_pool(pooler.dsn(database), max_size=2, application_name="test") as pool:
                assert await fetch(pool, "SELECT 1", [])
                door.shut()
                assert "server_login_retry" in " ".join([await _why_unavailable(pool) for _ in range(5)])
                door.open()
                async with asyncio.timeout(20):
                    while not await _works(pool):
                        pass
        finally:
            await asyncio.to_thread(pooler.stop)


async def _why_unavailable(pool: asyncpg.Pool) -> str:
    with pytest.raises(StorageUnavailable) as raised:
        await fetch(pool, "SELECT 1", [])
    return str(raised.value.__cause__)


async def _works(pool: asyncpg.Pool) -> bool:
    try:
        return bool(await fetch(pool, "SELECT 1", []))
    except StorageUnavailable:
        return False


async def test_a_database_that_the_pooler_does_not_find_is_unavailable(pgbouncer: PgBouncer, databases: Databases):
    nowhere = f"{databases.server.rpartition('/')[0]}/not_there"
    async with create_pool(pgbouncer.dsn(nowhere), max_size=1, application_name="test") as pool:
        assert "not_there" in await _why_unavailable(pool)


async def test_the_pooler_of_the_page_serves(databases: Databases, database: str, pgbouncer: PgBouncer):
    [page] = blocks("docs/operations.md", "ini")
    told = [line for line in page.partition("[pgbouncer]")[2].splitlines() if not line.startswith(("listen_", "auth_"))]
    shown = PgBouncer(databases.server, settings="\n".join(told))
    await asyncio.to_thread(shown.start)
    try:
        async with create_pool(shown.dsn(database), max_size=2, application_name="test", pooled=True) as pool:
            store = PostgresJobStore(pool)
            job = await one(store)
            assert await store.get(job.id) == job
    finally:
        await asyncio.to_thread(shown.stop)
