"""W11: how much longer a job, lists and figures take to read with a million stored jobs than with a thousand.

Each call goes through the whole API, in one process with the caller, so that no network hides what storage costs: from
the request to the answer. Calls with few and with many jobs take turns. A list is asked for by any single filter, with
values that many jobs have, that one has and that none has; all lists count together, and the worst one by its median.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, cast
from urllib.parse import urlencode

import asyncpg
import httpx

from adapters.postgres.migrate import migrate
from app import logs
from app.bootstrap import build
from app.http import create_app
from app.keyring import Keyring
from app.settings import from_env
from benchmarks.findings import Bar, Figure, Findings, quantile
from benchmarks.place import Place, tell
from domain.usecases.report import FIGURES_LAST

TITLE = "Read a job, lists and figures with 1,000 and with 1,000,000 stored jobs"
FEW, MANY = 1_000, 1_000_000
CALLS, LIST_CALLS = 200, 10
"""A round's calls: of each kind, and of each list."""
WARM_UP = 6
"""More than the five plans that PostgreSQL makes before it decides to keep one."""

JOB, LISTS, STATS, STATS_ANEW = "GET /jobs/{id}", "GET /jobs", "GET /stats", "GET /stats, read anew"

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
            id, seq, created_at, run_at, updated_at, finished_at, priority, level, max_attempts, due, status,
            queue, owner_service, task_type, model_profile, error_code
        )
        SELECT
            id, seq, created_at, created_at, now(), CASE WHEN status <> 'pending' THEN now() END, priority,
            priority, 3, true, status, queue, owner, task_type, profile,
            CASE WHEN i = 1000 THEN 'bad_audio' WHEN status = 'failed' THEN 'timeout'
                 WHEN status = 'cancelled' THEN 'cancelled' END
        FROM new
        RETURNING line, level, owner_service, seq, status
    ), body AS (
        INSERT INTO job_inputs SELECT id, '{"user": "Hello"}' FROM new
    ), label AS (
        INSERT INTO job_labels SELECT 'env', env, created_at, seq, id FROM new WHERE env IS NOT NULL
    ), run AS (
        INSERT INTO runs (
            job_id, lease_token, started_at, ended_at, waited_ms, number, became, worker_id, outcome
        )
        SELECT
            id, gen_random_uuid(), created_at + interval '1 s', created_at + interval '3 s', 1000, 3, status, 'gpu-1',
            'completed'
        FROM new
        WHERE status = 'completed'
    )
    SELECT reach_lanes(array_agg(line), array_agg(level), array_agg(owner_service), array_agg(seq))
    FROM (
        SELECT line, level, owner_service, min(seq) AS seq FROM job WHERE status = 'pending' GROUP BY 1, 2, 3
    ) AS lane
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


Call = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Stored:
    """An API over so many stored jobs, and what it is asked for."""

    jobs: int
    calls: dict[str, dict[str, Call]]
    """By their kind, then by what they ask for."""


def run(place: Place, rounds: int) -> Findings:
    logs.set_up(from_env({"LOG_LEVEL": "warning"}).logs)
    dsns = {jobs: place.database(f"browsing_{jobs}") for jobs in (FEW, MANY)}
    took = asyncio.run(compared(dsns, rounds))
    figures, bars = [], []
    for kind in (JOB, LISTS, STATS, STATS_ANEW):
        worst = []
        for jobs, kinds in took.items():
            rows = [[ms for calls in kinds[kind].values() for ms in calls[turn]] for turn in range(rounds)]
            figures += [
                Figure(kind, f"{name} of {jobs:,} jobs", "ms", tuple(quantile(row, share) for row in rows))
                for name, share in (("p50", 0.5), ("p99", 0.99))
            ]
            worst.append(figures[-1].median)
        bars.append(Bar(f"{kind}: p99 with {MANY:,} / {FEW:,} jobs", worst[1] / worst[0], 3, at_most=True))
    shares = dict(medians(took[FEW][LISTS], took[MANY][LISTS]))
    name = max(shares, key=lambda each: shares[each])
    bars.append(Bar(f"{LISTS}?{name}, the worst list: p50 with {MANY:,} / {FEW:,} jobs", shares[name], 3, at_most=True))
    return Findings(tuple(figures), tuple(bars), (f"{len(shares)} lists, {CALLS} calls of each other kind a round",))


def medians(few: dict[str, list[list[float]]], many: dict[str, list[list[float]]]) -> Iterator[tuple[str, float]]:
    """How much longer each takes, by its median over all rounds."""
    for name, calls in few.items():
        yield name, median(itertools.chain(*many[name])) / median(itertools.chain(*calls))


Took = dict[str, dict[str, list[list[float]]]]
"""Milliseconds of calls, by their kind, by what they asked for, by the round."""


async def compared(dsns: dict[int, str], rounds: int) -> dict[int, Took]:
    took: dict[int, Took] = {}
    for jobs, dsn in dsns.items():
        tell(f"W11: storing {jobs:,} jobs")
        await fill(dsn, jobs)
    async with serving(dsns[FEW], FEW) as few, serving(dsns[MANY], MANY) as many:
        both = (few, many)
        for each in both:
            took[each.jobs] = {kind: {name: [] for name in calls} for kind, calls in each.calls.items()}
            for call in itertools.chain(*(calls.values() for calls in each.calls.values())):
                for _ in range(WARM_UP):
                    await call()
        for turn in range(rounds):
            for kind, calls in few.calls.items():
                tell(f"W11 round {turn + 1} of {rounds}: {kind}")
                for name in calls:
                    rows: list[list[float]] = [[], []]
                    for _ in range(LIST_CALLS if kind == LISTS else CALLS):
                        for row, each in zip(rows, both, strict=True):
                            row.append(await milliseconds(each.calls[kind][name]))
                    for row, each in zip(rows, both, strict=True):
                        took[each.jobs][kind][name].append(row)
    return took


@asynccontextmanager
async def serving(dsn: str, jobs: int) -> AsyncIterator[Stored]:
    application = build(from_env({"DATABASE_URL": dsn, "AI_PROVIDER": "practice"}))
    async with application.core() as core:
        app = create_app(core.services, keyring=Keyring(), limits=application.settings.limits)
        transport = httpx.ASGITransport(cast("Any", app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1") as api:
            await core.scheduler.reconcile.round()  # as it does every second
            now, long_ago = await moments(dsn)
            ids = itertools.cycle(await some(dsn, CALLS))
            rarely = itertools.count(step=2 * FIGURES_LAST)

            async def job() -> None:
                (await api.get(f"/jobs/{next(ids)}")).raise_for_status()

            async def anew() -> None:
                # What a caller meets who asks rarely: figures that are read anew.
                core.services.report.monotonic = lambda: time.monotonic() + ahead
                ahead = next(rarely)
                (await api.get("/stats")).raise_for_status()

            yield Stored(
                jobs,
                {
                    JOB: {"": job},
                    LISTS: {
                        name: getting(api, f"/jobs?{urlencode(query)}") for name, query in lists(now, long_ago).items()
                    },
                    STATS: {"": getting(api, "/stats")},
                    STATS_ANEW: {"": anew},
                },
            )


def getting(api: httpx.AsyncClient, path: str) -> Call:
    async def get() -> None:
        (await api.get(path)).raise_for_status()

    return get


async def fill(dsn: str, jobs: int) -> None:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(FILL, jobs, BATCH, timeout=None)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def some(dsn: str, jobs: int) -> list[str]:
    """Ids of jobs of any age and state."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch(
        "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY seq) AS place, count(*) OVER () AS jobs FROM jobs) AS j"
        " WHERE place % greatest(jobs / $1 + 1, 1) = 0",
        jobs,
    )
    await connection.close()
    return [str(row["id"]) for row in rows]


async def moments(dsn: str) -> tuple[str, str]:
    connection = await asyncpg.connect(dsn)
    row = await connection.fetchrow("SELECT max(created_at) AS newest, min(created_at) AS oldest FROM jobs")
    await connection.close()
    assert row
    return row["newest"].isoformat(), row["oldest"].isoformat()


async def milliseconds(call: Call) -> float:
    start = time.perf_counter()
    await call()
    return (time.perf_counter() - start) * 1000
