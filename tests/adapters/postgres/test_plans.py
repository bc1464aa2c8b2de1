"""The plans of the statements that run all the time: by index, whatever PostgreSQL knows of the tables.

asyncpg prepares every statement and plpgsql keeps its plans, so it is the generic plan that counts. It may be made
while a table is empty, and then serves until that table is analysed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

import adapters.postgres
from adapters.postgres.listing import listing
from adapters.postgres.migrate import migrate
from adapters.postgres.pool import query
from domain.job import JobStatus
from domain.ports import JobFilter
from tests.servers.postgres import Databases

FUNCTIONS = Path(adapters.postgres.__file__).parent / "functions"

JOBS = 30_000

FILL = f"""
    INSERT INTO jobs (
        id, seq, run_at, updated_at, priority, max_attempts, due, status, queue, owner_service, task_type,
        model_profile, lease_token, lease_expires_at, worker_id, finished_at
    )
    SELECT
        gen_random_uuid(), n, now(), now(), 1 + 2 * (n % 3), 3, n % 10 <> 2,
        CASE WHEN n % 100 = 0 THEN 'running' WHEN n % 2 = 1 THEN 'completed' ELSE 'pending' END,
        'gpu.' || n % 3, 'owner-' || n % 7, 'llm_chat', 'qwen',
        CASE WHEN n % 100 = 0 THEN gen_random_uuid() END, CASE WHEN n % 100 = 0 THEN now() END,
        CASE WHEN n % 100 = 0 THEN 'worker' END, CASE WHEN n % 2 = 1 THEN now() END
    FROM generate_series(1, {JOBS}) AS n;
    INSERT INTO job_details SELECT id, seq, now(), owner_service, '', task_type, model_profile FROM jobs;
    INSERT INTO job_inputs SELECT id, '{{}}' FROM jobs;
    INSERT INTO job_results SELECT id, '{{}}' FROM jobs WHERE status = 'completed';
    INSERT INTO runs (job_id, lease_token, started_at, ended_at, worker_id, outcome)
    SELECT id, gen_random_uuid(), now(), now(), 'worker', 'completed' FROM jobs WHERE status = 'completed';
"""

STATES = {
    "empty": "",
    "filled": f"ALTER TABLE jobs SET (autovacuum_enabled = false); {FILL}",
    "analysed": f"{FILL} ANALYZE",
}


@pytest.fixture(scope="module", params=STATES)
def filled(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A database of many jobs: the planner knows of them, knows only the size of their files, or met none so far."""
    dsn = databases.create()
    if STATES[request.param]:
        databases.execute(dsn, STATES[request.param])
    yield dsn
    databases.drop(dsn)


@pytest.fixture
async def connection(filled: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(filled, server_settings={"plan_cache_mode": "force_generic_plan", "jit": "off"})
    yield connection
    await connection.close()


def statement_in(function: str) -> str:
    """The first statement in a function's body, its parameters numbered."""
    text = (FUNCTIONS / f"{function}.sql").read_text(encoding="utf-8")
    head, _, body = text.partition("\nBEGIN\n")
    statement = body.partition(";\n")[0].replace("RETURN QUERY", "").replace(" INTO settled", "")
    parameters = re.findall(r"^    (p_\w+) ([\w\[\]]+),?$", head, re.M)
    for place, (name, kind) in enumerate(parameters, start=1):
        statement = re.sub(rf"\b{name}\b", f"${place}::{kind}", statement)
    assert "p_" not in statement
    return statement


def settings_of(function: str) -> str:
    """What the function sets for itself, as statements."""
    text = (FUNCTIONS / f"{function}.sql").read_text(encoding="utf-8")
    return ";".join(re.findall(r"^SET .*$", text, re.M))


async def plan(connection: asyncpg.Connection, statement: str) -> str:
    await connection.execute(f"PREPARE examined AS {statement}")
    try:
        parameters = await connection.fetchval(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'examined'"
        )
        given = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
        rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE examined{given}")
    finally:
        await connection.execute("DEALLOCATE examined")
    return "\n".join(row[0] for row in rows)


async def plan_in(connection: asyncpg.Connection, function: str) -> str:
    await connection.execute(settings_of(function))
    return await plan(connection, statement_in(function))


def below(node: str, text: str) -> str:
    """The part of a plan that hangs below its first node of this name."""
    lines = text.splitlines()
    first = next(place for place, line in enumerate(lines) if node in line)
    depth = len(lines[first]) - len(lines[first].lstrip())
    deeper = []
    for line in lines[first + 1 :]:
        if len(line) - len(line.lstrip()) <= depth:
            break
        deeper.append(line)
    return "\n".join(deeper)


async def test_a_claim_reads_the_ready_index_in_its_order(connection: asyncpg.Connection):
    claim = await plan_in(connection, "claim_jobs")
    inner = below("Limit", claim)
    assert "Index Scan using jobs_ready on jobs" in inner
    assert "Sort" not in inner
    assert "Seq Scan" not in claim
    assert "jobs_pkey" in below("Update on jobs", claim)
    assert "job_inputs_pkey" in claim


async def test_a_settlement_goes_by_primary_key(connection: asyncpg.Connection):
    settle = await plan_in(connection, "settle_jobs")
    assert "jobs_pkey" in below("Update on jobs", settle)
    assert "jobs_leases" not in settle
    assert "Seq Scan" not in settle


async def test_promotion_reads_the_index_of_what_waits(connection: asyncpg.Connection):
    ready = below("Limit", await plan(connection, query("promote_due")))
    assert "Index Scan using jobs_scheduled on jobs" in ready
    assert "Sort" not in ready


async def test_a_rescue_reads_the_index_of_leases(connection: asyncpg.Connection):
    dead = below("Limit", await plan(connection, query("rescue_expired")))
    assert "Index Scan using jobs_leases on jobs" in dead
    assert "Sort" not in dead


async def test_orphans_are_found_among_the_running(connection: asyncpg.Connection):
    assert "jobs_leases" in below("LockRows", await plan(connection, query("release_orphans")))


async def test_a_job_is_read_by_primary_keys(connection: asyncpg.Connection):
    read = await plan(connection, query("get_job"))
    assert {"jobs_pkey", "job_details_pkey", "job_inputs_pkey", "job_results_pkey"} <= set(
        re.findall(r"\w+_pkey", read)
    )
    assert "Seq Scan" not in read


@pytest.mark.parametrize("name", ["cancel_job", "retry_job"])
async def test_a_job_is_steered_by_its_primary_key(connection: asyncpg.Connection, name: str):
    steer = await plan(connection, query(name))
    assert steer.count("using jobs_pkey on jobs") == 2
    assert "Seq Scan on jobs" not in steer


async def test_a_list_reads_newest_first_without_sorting(connection: asyncpg.Connection):
    page = await plan(connection, listing(JobFilter(), limit=50, before=1_000)[0])
    assert "Index Scan Backward using job_details_seq" in page
    assert "Sort" not in page


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
@pytest.mark.parametrize(
    "where",
    [
        pytest.param(JobFilter(owner_service=("owner-1",)), id="owner"),
        pytest.param(JobFilter(owner_service=("owner-1",), status=(JobStatus.PENDING,)), id="owner and status"),
        pytest.param(JobFilter(task_type=("llm_chat",), model_profile=("qwen",)), id="task type and model"),
    ],
)
async def test_a_filtered_list_stops_when_its_page_is_full(connection: asyncpg.Connection, where: JobFilter):
    page = await plan(connection, listing(where, limit=50, before=None)[0])
    assert "Index Scan Backward using job_details_" in page
    assert "Sort" not in page
    assert "Seq Scan" not in page


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
@pytest.mark.parametrize("name", ["renew_leases", "job_statuses", "ended_runs", "promote_due", "rescue_expired"])
async def test_what_runs_all_the_time_scans_no_table(connection: asyncpg.Connection, name: str):
    assert "Seq Scan" not in await plan(connection, query(name))


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
async def test_demand_counts_a_quiet_queue_in_the_ready_index(connection: asyncpg.Connection):
    # With 30 jobs due in each of three queues, reading through would be as good: here a third of the table is due.
    await connection.execute("SET enable_seqscan = off")
    assert "jobs_ready" in await plan(connection, query("demand"))


@pytest.mark.parametrize("filled", ["empty"], indirect=True)
@pytest.mark.parametrize("function", ["claim_jobs", "settle_jobs", "exchange_jobs"])
async def test_no_function_is_compiled(connection: asyncpg.Connection, function: str):
    settings = await connection.fetchval("SELECT proconfig FROM pg_proc WHERE proname = $1", function)
    assert "jit=off" in settings


async def test_a_plan_made_over_no_jobs_does_not_scan_many(empty_database: str):
    """What a connection does that has asked an empty table a few times, before the first batch came."""
    await migrate(empty_database)
    connection = await asyncpg.connect(empty_database)
    claim = "SELECT * FROM claim_jobs('gpu.0', '{llm_chat}', '{qwen2.5-14b}', 'worker', interval '15s', 4)"
    for _ in range(10):
        await connection.execute(claim)
    await connection.execute(FILL)
    await connection.execute("SELECT pg_stat_force_next_flush()")
    before = await connection.fetchval("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'jobs'")
    for _ in range(3):
        await connection.execute(claim)
    await connection.execute("SELECT pg_stat_force_next_flush()")
    after = await connection.fetchval("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'jobs'")
    await connection.close()
    assert after == before
