"""Every revision, up, down and up again over data of all its predecessors: nothing is lost but what it brought."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from adapters.postgres.migrate import _on_connection, _scripts_newest_first, migrate, migrate_back
from tests.adapters.postgres.test_migrated_jobs import PASTS, store_as_the_first_version_did
from tests.adapters.postgres.test_migrations import up_to
from tests.factories import new_id

REVISIONS = sorted(script.revision for script in _scripts_newest_first())

FILLINGS = {
    "0001": (
        "SELECT setval('jobs_seq', 100)",
        """
        INSERT INTO workers (id, started_at, seen_at, slots_per_queue, worker_id, host, queues, running)
        VALUES (gen_random_uuid(), now(), now(), 4, 'worker-1', 'here', '{gpu.llm}', '[]')
        """,
        "INSERT INTO leader (name, holder, expires_at) VALUES ('scheduler', gen_random_uuid(), now())",
    ),
    "0002": (
        "UPDATE jobs SET deadline_at = now(), waited_ms = 7",
        """
        UPDATE jobs SET lease_timeout = '15 minutes'
        WHERE id = (SELECT id FROM jobs WHERE status = 'running' ORDER BY seq LIMIT 1)
        """,
        """
        UPDATE job_details
        SET labels = '{"shop": "7"}', batch_id = gen_random_uuid(), idempotency_key = 'key/' || seq,
            fingerprint = '\\x00'
        """,
        """
        INSERT INTO job_labels (name, value, created_at, seq, job_id)
        SELECT 'shop', '7', created_at, seq, job_id FROM job_details
        """,
        "INSERT INTO jobs_finished VALUES (now(), 'lion', 'completed', 2)",
        "INSERT INTO job_progress SELECT id, number, 1, now(), '{}' FROM jobs WHERE status = 'running'",
        """
        INSERT INTO runs (job_id, lease_token, started_at, ended_at, worker_id, outcome, number, became)
        SELECT job_id, gen_random_uuid(), started_at, ended_at, worker_id, 'expired', 99, 'pending' FROM runs LIMIT 1
        """,
    ),
    "0003": (
        "UPDATE lines SET clocks = '{1,2,3,4,5}', mean = 0.5",
        "UPDATE lanes SET vtime = 3, low_seq = 1",
        """
        INSERT INTO queues (name, paused, concurrency, adapted, adapting, circuit_state, circuit)
        VALUES ('gpu.llm', true, 8, 5, '{}', 'open', '{}')
        """,
        "INSERT INTO owners VALUES ('lion', 2, 3)",
        """
        INSERT INTO closing_slots
        SELECT gen_random_uuid(), id, line, level, owner_service, 1, now(), now() FROM jobs WHERE status = 'cancelled'
        """,
    ),
    "0004": ("UPDATE workers SET lock_key = 7", "UPDATE leader SET steady_since = to_timestamp(0)"),
    "0005": (
        "INSERT INTO uploads VALUES ('01980000-0000-7000-8000-000000000001', 3, now(), 'lion')",
        "INSERT INTO upload_chunks VALUES ('01980000-0000-7000-8000-000000000001', 0, 'abc')",
        "INSERT INTO upload_leftovers VALUES (gen_random_uuid(), now())",
        """
        INSERT INTO upload_jobs
        SELECT id, '01980000-0000-7000-8000-000000000001', 'lion' FROM jobs ORDER BY seq LIMIT 1
        """,
        "INSERT INTO run_attempts SELECT lease_token, job_id, '[]' FROM runs LIMIT 1",
    ),
    "0006": (),
    "0007": (
        "UPDATE line_states SET changes = 100",
        "UPDATE lane_states SET changes = 100",
        "INSERT INTO lines (name) VALUES ('gpu.tts')",
    ),
    "0008": ("UPDATE job_inputs SET traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'",),
}
"""What a program of each revision has stored beside jobs in every state. A new revision's is added here."""

COUNTED = ("job_counts", "job_count_changes")
"""Counts, which are noted anew by whatever touches a job."""

Contents = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database, statement_cache_size=0)
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)
    yield connection
    await connection.close()


async def fill(dsn: str, connection: asyncpg.Connection, newest: str) -> None:
    """Bring an empty database to a revision by way of all before it, each leaving something in what it brought."""
    for revision in REVISIONS[: REVISIONS.index(newest) + 1]:
        await _on_connection(dsn, partial(up_to, revision=revision))
        if revision == REVISIONS[0]:
            for seq, (status, outcomes, _) in enumerate(PASTS.values(), start=1):
                await store_as_the_first_version_did(connection, new_id(), seq, status, outcomes)
        for statement in FILLINGS.get(revision, ()):
            await connection.execute(statement)


async def contents(connection: asyncpg.Connection) -> Contents:
    """Every row of every table and view, and where the sequence stands."""
    tables = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S')"
    )
    found: Contents = {}
    for (table,) in tables:
        if table != "alembic_version":
            rows = await connection.fetch(f"SELECT * FROM {table}")
            found[table] = [dict(row) for row in rows]
    return found


def missing(known: Contents, seen: Contents) -> Contents:
    """Rows that were known and are not seen any more, columns that nobody knew aside."""
    gone: Contents = {}
    for table, rows in known.items():
        left = [{name: row.get(name) for name in rows[0]} for row in seen[table]]
        if lost := [row for row in rows if row not in left]:
            gone[table] = lost
    return gone


@pytest.mark.parametrize(("before", "after"), [*pairwise(REVISIONS)])
async def test_a_revision_keeps_all_that_was_stored_before_it_on_its_way_up_and_down(
    empty_database: str, connection: asyncpg.Connection, before: str, after: str
):
    await fill(empty_database, connection, before)
    stored = await contents(connection)
    assert [table for table, rows in stored.items() if not rows and table not in COUNTED] == []
    kept = {table: rows for table, rows in stored.items() if table not in COUNTED}

    await _on_connection(empty_database, partial(up_to, revision=after))
    assert not missing(kept, await contents(connection))
    for statement in FILLINGS.get(after, ()):
        await connection.execute(statement)
    assert await migrate_back(empty_database, before) == before
    assert not missing(kept, await contents(connection))
    assert {*await contents(connection)} == {*stored}
    await migrate(empty_database)
    assert not missing(kept, await contents(connection))


def test_every_revision_has_something_to_lose():
    assert sorted(FILLINGS) == REVISIONS, "FILLINGS says what programs of a new revision store"


async def test_counts_agree_with_the_jobs_after_the_way_down_and_up(
    empty_database: str, connection: asyncpg.Connection
):
    await fill(empty_database, connection, REVISIONS[-1])
    for revision in reversed(REVISIONS[1:]):
        await migrate_back(empty_database, revision)
        counted = await connection.fetch(
            """
            SELECT status, sum(jobs) FROM (
                SELECT status, jobs FROM job_counts UNION ALL SELECT status, jobs FROM job_count_changes
            ) AS c GROUP BY status HAVING sum(jobs) <> 0 ORDER BY status
            """
        )
        assert counted == await connection.fetch("SELECT status, count(*) FROM jobs GROUP BY status ORDER BY status")
        await migrate(empty_database)
