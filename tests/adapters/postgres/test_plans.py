"""The plans of the statements that run all the time: by index, whatever PostgreSQL knows of the tables.

asyncpg prepares every statement and plpgsql keeps its plans, so it is the generic plan that counts. It may be made
while a table is empty, and then serves until that table is analysed.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import adapters.postgres
from adapters.postgres.listing import listing
from adapters.postgres.migrate import migrate
from adapters.postgres.pool import query
from adapters.postgres.store import IN_ORDER
from domain.errors import ErrorCode
from domain.job import JobStatus, Priority
from domain.ports import JobFilter, Listing
from tests.servers.postgres import Databases

FUNCTIONS = Path(adapters.postgres.__file__).parent / "functions"

JOBS = 30_000
SCANNED = re.compile(r"Seq Scan on (jobs|runs|job_(?!progress|count)\w+)")
"""What is read from end to end though it is large: lines, lanes and slots that are being closed are few."""
NOBODY = UUID(int=0)
FIRST = datetime(2026, 3, 1, tzinfo=UTC)
LAST = FIRST + timedelta(milliseconds=JOBS)

FILL = f"""
    INSERT INTO jobs (
        id, seq, created_at, run_at, updated_at, priority, level, max_attempts, due, status, queue, owner_service,
        task_type, model_profile, started_at, lease_token, lease_expires_at, worker_id, finished_at, error_code
    )
    SELECT
        gen_random_uuid(), n, '{FIRST.isoformat()}'::timestamptz + n * interval '1 ms', now(), now(),
        1 + 2 * (n % 3), 1 + 2 * (n % 3), 3, n % 10 <> 2,
        CASE WHEN n % 100 = 0 THEN 'running' WHEN n % 200 = 1 THEN 'failed' WHEN n % 2 = 1 THEN 'completed'
             ELSE 'pending' END,
        CASE WHEN n = 10 THEN 'rare' WHEN n % 7 <> 0 THEN 'gpu.' || n % 3 END,
        CASE WHEN n = 7 THEN 'rare' ELSE 'owner-' || n % 7 END,
        CASE WHEN n = 8 THEN 'rare' ELSE 'llm_chat' END,
        CASE WHEN n = 9 THEN 'rare' ELSE 'qwen' END,
        CASE WHEN n % 100 = 0 THEN now() END, CASE WHEN n % 100 = 0 THEN gen_random_uuid() END,
        CASE WHEN n % 100 = 0 THEN now() END,
        CASE WHEN n % 100 = 0 THEN 'worker' END, CASE WHEN n % 2 = 1 THEN now() END,
        CASE WHEN n = 1 THEN 'bad_audio' WHEN n % 200 = 1 THEN 'timeout' END
    FROM generate_series(1, {JOBS}) AS n;
    INSERT INTO lines (name) SELECT DISTINCT line FROM jobs;
    INSERT INTO lanes (line, level, owner_service) SELECT DISTINCT line, level, owner_service FROM jobs;
    INSERT INTO job_details (
        job_id, seq, created_at, owner_service, owner_ref, task_type, model_profile, queue, priority, labels, batch_id
    )
    SELECT
        id, seq, created_at, owner_service, 'ref/' || seq, task_type, model_profile, queue, priority,
        '{{"env": "test"}}', CASE WHEN seq % 100 = 0 THEN '{NOBODY}'::uuid END
    FROM jobs;
    INSERT INTO job_labels
    SELECT 'env', CASE WHEN seq = 11 THEN 'rare' ELSE 'test' END, created_at, seq, job_id FROM job_details;
    INSERT INTO job_inputs SELECT id, '{{}}' FROM jobs;
    INSERT INTO job_results SELECT id, '{{}}' FROM jobs WHERE status = 'completed';
    INSERT INTO runs (job_id, lease_token, started_at, ended_at, worker_id, outcome, number, became)
    SELECT id, gen_random_uuid(), now(), now(), 'worker', status, 3, status FROM jobs
    WHERE status IN ('completed', 'failed');
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


async def test_promotion_reads_the_index_of_what_waits(connection: asyncpg.Connection):
    ready = below("Limit", await plan(connection, query("promote_due")))
    assert "Index Scan using jobs_scheduled on jobs" in ready
    assert "Sort" not in ready


async def test_orphans_are_found_among_the_running(connection: asyncpg.Connection):
    assert "jobs_leases" in await plan(connection, query("release_orphans"))


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
async def test_jobs_are_read_by_primary_keys(connection: asyncpg.Connection):
    read = await plan(connection, query("get_jobs"))
    assert {"jobs_pkey", "job_details_pkey", "job_inputs_pkey", "job_results_pkey"} <= set(
        re.findall(r"\w+_pkey", read)
    )
    # There are few lines, and here no progress.
    assert "Seq Scan" not in read.replace("Seq Scan on job_progress", "").replace("Seq Scan on line_states", "")


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
@pytest.mark.parametrize("name", ["cancel_jobs", "retry_jobs", "erase_jobs", "lock_old_jobs"])
async def test_jobs_are_steered_by_their_primary_key(connection: asyncpg.Connection, name: str):
    steer = await plan(connection, query(name))
    assert "jobs_pkey" in steer
    assert "Seq Scan on jobs" not in steer


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
@pytest.mark.parametrize("name", ["ahead", "oldest_due_by_queue", "age"])
async def test_a_place_in_line_is_read_from_the_line(connection: asyncpg.Connection, name: str):
    read = await plan(connection, query(name))
    assert "jobs_ready" in read
    assert not SCANNED.search(read)


FILTERS = {
    "none": JobFilter(),
    "a common owner": JobFilter(owner_service=("owner-1",)),
    "a rare owner": JobFilter(owner_service=("rare",)),
    "an unknown owner": JobFilter(owner_service=("nobody",)),
    "two owners": JobFilter(owner_service=("owner-1", "rare")),
    "a reference": JobFilter(owner_ref=("ref/17",)),
    "a common task type": JobFilter(task_type=("llm_chat",)),
    "a rare task type": JobFilter(task_type=("rare",)),
    "three task types, one of them unknown": JobFilter(task_type=("llm_chat", "rare", "nothing")),
    "a common profile": JobFilter(model_profile=("qwen",)),
    "a rare profile": JobFilter(model_profile=("rare",)),
    "a queue": JobFilter(queue=("gpu.1",)),
    "a rare queue": JobFilter(queue=("rare",)),
    "a priority": JobFilter(priority=(Priority.LOW,)),
    "two priorities": JobFilter(priority=(Priority.LOW, Priority.HIGH)),
    "a batch": JobFilter(batch_id=(NOBODY,)),
    **{str(status): JobFilter(status=(status,)) for status in JobStatus},
    "all states": JobFilter(status=tuple(JobStatus)),
    "a common code": JobFilter(error_code=(ErrorCode.TIMEOUT,)),
    "a rare code": JobFilter(error_code=(ErrorCode.BAD_AUDIO,)),
    "a common label": JobFilter(labels=(("env", ("test",)),)),
    "a rare label": JobFilter(labels=(("env", ("rare",)),)),
    "two values of a label": JobFilter(labels=(("env", ("test", "rare")),)),
    "the last second": JobFilter(created_from=LAST - timedelta(seconds=1)),
    "the first second": JobFilter(created_before=FIRST + timedelta(seconds=1)),
    "the future": JobFilter(created_from=LAST + timedelta(days=1)),
    "an owner's failed jobs": JobFilter(owner_service=("rare",), status=(JobStatus.FAILED,)),
}


@pytest.mark.parametrize("filled", ["analysed"], indirect=True)
@pytest.mark.parametrize("newest_first", [True, False], ids=["newest", "oldest"])
@pytest.mark.parametrize("where", FILTERS.values(), ids=FILTERS)
async def test_a_list_looks_at_little_more_than_its_page(
    connection: asyncpg.Connection, where: JobFilter, newest_first: bool
):
    await connection.execute("SET plan_cache_mode = force_custom_plan")
    statement, arguments = listing(Listing(where=where, limit=50, newest_first=newest_first))
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", *arguments)
    assert looked_at(json.loads(rows[0][0])[0]["Plan"]) < JOBS / 15


WALKS = {
    "of a common state": ("walk_state", "completed", 1_000),
    "of a rare state": ("walk_state", "failed", 1_000),
    # By creation as well: past jobs of the six others, there.
    "of a common owner": ("walk_owner", "owner-1", 7 * 500 + 1_500),
    "of a rare owner": ("walk_owner", "rare", 10),
}


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
@pytest.mark.parametrize("after", [FIRST, FIRST + timedelta(milliseconds=JOBS // 2)], ids=["first", "half-way"])
@pytest.mark.parametrize(("name", "of", "most"), WALKS.values(), ids=WALKS)
async def test_a_walk_over_old_jobs_looks_at_one_stretch(
    connection: asyncpg.Connection, name: str, of: str, most: int, after: datetime
):
    arguments = [of, after, 0, timedelta(days=1), 500]
    async with connection.transaction():
        await connection.execute(IN_ORDER)
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query(name)}", *arguments)
    assert looked_at(json.loads(rows[0][0])[0]["Plan"]) <= most


def looked_at(node: dict[str, Any]) -> float:
    """Rows that a plan's scans met."""
    met = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) if "Scan" in node["Node Type"] else 0
    return float(met * node["Actual Loops"] + sum(looked_at(child) for child in node.get("Plans", ())))


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
@pytest.mark.parametrize(
    "name", ["renew_leases", "run_outcomes", "promote_due", "expire_deadlines", "runs", "oldest_finished"]
)
async def test_what_runs_all_the_time_scans_no_table(connection: asyncpg.Connection, name: str):
    assert not SCANNED.search(await plan(connection, query(name)))


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
async def test_demand_counts_a_quiet_queue_in_the_ready_index(connection: asyncpg.Connection):
    # With 30 jobs due in each of three queues, reading through would be as good: here a third of the table is due.
    await connection.execute("SET enable_seqscan = off")
    assert "jobs_ready" in await plan(connection, query("demand"))


@pytest.mark.parametrize("filled", ["empty"], indirect=True)
@pytest.mark.parametrize("function", [path.stem for path in FUNCTIONS.glob("*.sql")])
async def test_no_function_is_compiled(connection: asyncpg.Connection, function: str):
    compiled = await connection.fetchval(
        """
        SELECT lanname = 'plpgsql' AND NOT coalesce(proconfig @> '{jit=off}', false)
        FROM pg_proc JOIN pg_language AS l ON l.oid = prolang
        WHERE proname = $1
        """,
        function,
    )
    assert compiled is False


CALLS = {
    "a claim": "SELECT * FROM claim_jobs('gpu.0', '{llm_chat}', '{qwen}', 'worker', interval '15s', true, 4)",
    "a claim from outside": (
        "SELECT * FROM claim_for_external('theirs', interval '15s', 4, '{llm_chat}', '{qwen}', NULL, NULL)"
    ),
    "a claim with a reserved share": (
        "WITH shared AS (INSERT INTO queues (name, reserved_share) VALUES ('gpu.0', 0.2)) "
        "SELECT * FROM claim_jobs('gpu.0', '{llm_chat}', '{qwen}', 'worker', interval '15s', true, 4)"
    ),
    "a settlement": (
        "WITH ended AS MATERIALIZED (SELECT array_agg(id) AS ids, array_agg(lease_token) AS tokens FROM (SELECT * FROM "
        "jobs WHERE status = 'running' AND lease_expires_at <= now() ORDER BY lease_expires_at LIMIT 4) AS r) "
        "SELECT s.* FROM ended, settle_jobs(ended.ids, ended.tokens, '{completed,completed,completed,completed}', "
        "'{completed,completed,completed,completed}', '{a,b,c,d}', '{NULL,NULL,NULL,NULL}', '{NULL,NULL,NULL,NULL}', "
        "'{0,0,0,0}', NULL) AS s"
    ),
    "a rescue": (
        "SELECT * FROM rescue_jobs(3, 'stale_worker', 'crashed', 'crashed %s', 'expired', interval '0', interval '2s', "
        "interval '15s', interval '0', false, 10)"
    ),
    "a preemption": "SELECT * FROM preempt_jobs('gpu.0', interval '15s')",
    "freeing abandoned slots": "SELECT free_abandoned_slots(interval '0')",
}


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_function_reads_few_jobs_among_many(filled: str, call: str):
    connection = await asyncpg.connect(filled)
    reads = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs'"
    await connection.execute("SELECT pg_stat_force_next_flush()")
    before = await connection.fetchval(reads)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SET LOCAL enable_seqscan = off")
    await connection.fetch(call)
    await transaction.rollback()
    await connection.execute("SELECT pg_stat_force_next_flush()")
    assert await connection.fetchval(reads) - before < 1_000
    await connection.close()


@pytest.mark.parametrize("filled", ["filled", "analysed"], indirect=True)
async def test_a_claim_of_what_is_rare_reads_no_further_than_the_last_match(filled: str):
    connection = await asyncpg.connect(filled)
    reads = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs'"
    await connection.execute("SELECT pg_stat_force_next_flush()")
    before = await connection.fetchval(reads)
    transaction = connection.transaction()
    await transaction.start()
    claimed = await connection.fetch(
        "SELECT * FROM claim_for_external('theirs', interval '15s', 4, '{rare}', NULL, NULL, NULL)"
    )
    await transaction.rollback()
    await connection.execute("SELECT pg_stat_force_next_flush()")
    assert len(claimed) == 1
    assert await connection.fetchval(reads) - before < 200
    await connection.close()


async def test_a_plan_made_over_no_jobs_reads_few_of_many(empty_database: str):
    """What a connection does that has asked an empty table a few times, before the first batch came."""
    await migrate(empty_database)
    connection = await asyncpg.connect(empty_database)
    claim = "SELECT * FROM claim_jobs('gpu.0', '{llm_chat}', '{qwen}', 'worker', interval '15s', false, 20)"
    reads = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs'"
    await connection.execute("INSERT INTO lines (name) VALUES ('gpu.0')")
    await connection.execute("INSERT INTO lanes (line, level, owner_service) VALUES ('gpu.0', 1, 'owner-1')")
    for _ in range(10):
        await connection.execute(claim)
    await connection.execute("DELETE FROM lanes")
    await connection.execute("DELETE FROM lines")
    await connection.execute(FILL)
    await connection.execute("SELECT pg_stat_force_next_flush()")
    before = await connection.fetchval(reads)
    claimed = [len(await connection.fetch(claim)) for _ in range(3)]
    await connection.execute("SELECT pg_stat_force_next_flush()")
    after = await connection.fetchval(reads)
    await connection.close()
    assert claimed == [20, 20, 20]
    assert after - before < 20 * sum(claimed)
