"""How much longer lists and figures take with a million stored jobs than with a thousand.

Each call goes through the whole API, in one process with the caller; the figure is the median of several. A list is
asked for by any single filter, with values that many jobs have, that one has, and that none has.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import asyncpg
import httpx

from adapters.embedded.postgres import EmbeddedPostgres
from adapters.postgres.migrate import migrate
from app import logs
from app.bootstrap import build
from app.http import create_app
from app.keyring import Keyring
from app.settings import from_env
from domain.usecases.report import FIGURES_LAST

FEW, MANY = 1_000, 1_000_000
CALLS = 15
WARM_UP = 6
"""More than the five plans that PostgreSQL makes before it decides to keep one."""

BATCH = "00000000-0000-7000-8000-000000000001"

FILL = """
    WITH new AS MATERIALIZED (
        SELECT
            i, gen_random_uuid() AS id, nextval('jobs_seq') AS seq,
            now() - ($1::integer - i) * interval '50 ms' AS created_at,
            CASE
                WHEN i % 1000 = 0 THEN 'failed'
                WHEN i % 1001 = 0 THEN 'cancelled'
                WHEN i % 10 = 3 THEN 'pending'
                ELSE 'completed'
            END AS status,
            CASE WHEN i % 7 = 0 THEN 'lion' WHEN i = 5 THEN 'rare' ELSE 'telephony' END AS owner,
            CASE WHEN i % 3 = 0 THEN 'transcribe' WHEN i = 5 THEN 'rare' ELSE 'llm_chat' END AS task_type,
            CASE WHEN i = 5 THEN 'rare' ELSE 'profile-' || i % 5 END AS profile,
            CASE WHEN i = 5 THEN 'rare' WHEN i % 3 = 0 THEN NULL ELSE 'gpu.llm' END AS queue,
            (ARRAY[1, 3, 3, 5])[1 + i % 4]::smallint AS priority,
            CASE WHEN i = 5 THEN 'rare' WHEN i % 2 = 0 THEN 'prod' END AS env
        FROM generate_series(1, $1::integer) AS i
    ), detail AS (
        INSERT INTO job_details (
            job_id, seq, created_at, owner_service, owner_ref, task_type, model_profile, queue, priority, labels,
            batch_id
        )
        SELECT
            id, seq, created_at, owner, 'ref/' || i, task_type, profile, queue, priority,
            CASE WHEN env IS NOT NULL THEN jsonb_build_object('env', env) END,
            CASE WHEN i % 100 = 0 THEN $2::uuid END
        FROM new
    ), job AS (
        INSERT INTO jobs (
            id, seq, created_at, run_at, updated_at, finished_at, priority, max_attempts, due, status, queue,
            owner_service, task_type, model_profile, error_code
        )
        SELECT
            id, seq, created_at, created_at, now(), CASE WHEN status <> 'pending' THEN now() END, priority, 3, true,
            status, queue, owner, task_type, profile,
            CASE WHEN i = 1000 THEN 'bad_audio' WHEN status = 'failed' THEN 'timeout'
                 WHEN status = 'cancelled' THEN 'cancelled' END
        FROM new
    ), body AS (
        INSERT INTO job_inputs SELECT id, '{"user": "Hello"}' FROM new
    ), label AS (
        INSERT INTO job_labels SELECT 'env', env, created_at, seq, id FROM new WHERE env IS NOT NULL
    )
    INSERT INTO runs (
        job_id, lease_token, started_at, ended_at, waited_ms, number, became, worker_id, outcome
    )
    SELECT
        id, gen_random_uuid(), created_at + interval '1 s', created_at + interval '3 s', 1000, 3, status, 'gpu-1',
        'completed'
    FROM new
    WHERE status = 'completed'
"""


def lists(now: str, long_ago: str) -> dict[str, list[tuple[str, str]]]:
    """The query of each list, by its name."""
    values = {
        "owner_service": ["telephony", "rare", "nobody"],
        "owner_ref": ["ref/17", "nothing"],
        "task_type": ["llm_chat", "rare", "nothing"],
        "model_profile": ["profile-1", "rare", "nothing"],
        "queue": ["gpu.llm", "rare", "nothing"],
        "status": ["pending", "running", "completed", "failed", "cancelled"],
        "error_code": ["timeout", "bad_audio", "unknown"],
        "priority": ["high", "normal", "low"],
        "batch_id": [BATCH, BATCH[:-1] + "2"],
        "label.env": ["prod", "rare", "nothing"],
    }
    single = {f"{name}={value}": [(name, value)] for name, all_of in values.items() for value in all_of}
    single |= {
        f"{name}={when}": [(name, moment)]
        for name in ("created_after", "created_before")
        for when, moment in {"newest": now, "oldest": long_ago}.items()
    }
    several = {f"{name}=…": [(name, value) for value in all_of] for name, all_of in values.items() if len(all_of) > 2}
    return {"no filter": [], **single, **several}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=FEW)
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    logs.set_up(from_env({"LOG_LEVEL": "warning"}).logs)
    figures = asyncio.run(compare(arguments.few, arguments.many))
    print(f"{'median milliseconds':36} {arguments.few:>10,} {arguments.many:>10,}   ratio")
    for name, (few, many) in figures.items():
        print(f"{name:36} {few:10.2f} {many:10.2f} {many / few:7.2f}")
    print(f"worst ratio {max(many / few for few, many in figures.values()):.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


async def compare(few: int, many: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each call, with few and with many jobs."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as postgres:
        first, second = [await measured(postgres.dsn, jobs) for jobs in (few, many)]
    return {name: (first[name], second[name]) for name in first}


async def measured(dsn: str, jobs: int) -> dict[str, float]:
    print(f"storing {jobs:,} jobs ...", file=sys.stderr)
    await fill(dsn, jobs)
    application = build(from_env({"DATABASE_URL": dsn, "AI_PROVIDER": "practice"}))
    async with application.core() as core:
        app = create_app(core.services, keyring=Keyring(), limits=application.settings.limits)
        transport = httpx.ASGITransport(cast("Any", app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1") as api:
            await core.scheduler.reconcile.round()  # as it does every second
            now, long_ago = await moments(dsn)
            figures = {}
            for name, query in lists(now, long_ago).items():
                print(f"{jobs:,} jobs: {name} ...", file=sys.stderr)
                figures[f"GET /jobs {name}"] = await median_ms(getting(api, f"/jobs?{urlencode(query)}"))
            figures["GET /stats"] = await median_ms(getting(api, "/stats"))
            # What a caller meets who asks rarely: figures that are read anew.
            ages = itertools.count(step=2 * FIGURES_LAST)
            core.services.report.monotonic = lambda: time.monotonic() + next(ages)
            figures["GET /stats, read anew"] = await median_ms(getting(api, "/stats"))
    return figures


def getting(api: httpx.AsyncClient, path: str) -> Callable[[], Awaitable[None]]:
    async def get() -> None:
        (await api.get(path)).raise_for_status()

    return get


async def fill(dsn: str, jobs: int) -> None:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "TRUNCATE jobs, job_details, job_inputs, job_labels, runs, job_counts, job_count_changes, jobs_finished"
    )
    await connection.execute(FILL, jobs, BATCH)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def moments(dsn: str) -> tuple[str, str]:
    connection = await asyncpg.connect(dsn)
    row = await connection.fetchrow("SELECT max(created_at) AS newest, min(created_at) AS oldest FROM jobs")
    await connection.close()
    assert row
    return row["newest"].isoformat(), row["oldest"].isoformat()


async def median_ms(call: Callable[[], Awaitable[None]]) -> float:
    took = []
    for _ in range(WARM_UP + CALLS):
        start = time.perf_counter()
        await call()
        took.append((time.perf_counter() - start) * 1000)
    return statistics.median(took[WARM_UP:])


if __name__ == "__main__":
    main()
