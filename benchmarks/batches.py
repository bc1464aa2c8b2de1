"""W8: how fast a batch of 10,000 jobs is stored through HTTP, beside a bare COPY of the same rows into the same tables.

The API is a process of its own (`ai-service serve`); both write to one PostgreSQL, in turns. A batch counts from the
request, whose body lies ready, to its answer; COPY from the start of its transaction to its commit, its rows ready as
well. Also how much the API process grows by it at its most.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from itertools import repeat
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from adapters.postgres.migrate import migrate
from app.bootstrap import new_job_id
from benchmarks.findings import Bar, Figure, Findings
from benchmarks.place import Place, tell
from benchmarks.serving import memory, serving
from domain.job import Priority

TITLE = "Store a batch of 10,000 jobs through HTTP, one API process"
JOBS = 10_000

INPUT = {"user": "Summarise this call: " + "x" * 180}
JOB = {"owner_ref": "beeline/4711", "labels": {"campaign": "spring"}, "input": INPUT}
DEFAULTS = {"owner_service": "telephony", "task_type": "call_analysis", "model_profile": "practice"}


def run(place: Place, rounds: int) -> Findings:
    dsn = place.database("batches")
    asyncio.run(migrate(dsn))
    body = json.dumps({"defaults": DEFAULTS, "jobs": [JOB] * JOBS}).encode()
    batches, copies = [], []
    with serving(dsn) as (url, process):
        before = memory(process.pid, "VmRSS")
        submitted(url, body, JOBS)
        asyncio.run(copied(dsn, JOBS))
        for turn in range(rounds):
            tell(f"W8 round {turn + 1} of {rounds}")
            batches.append(JOBS / submitted(url, body, JOBS))
            copies.append(JOBS / asyncio.run(copied(dsn, JOBS)))
        growth = memory(process.pid, "VmHWM") - before
    figures = (
        Figure("ours", "stored", "jobs/s", tuple(batches)),
        Figure("bare COPY", "stored", "jobs/s", tuple(copies)),
        Figure("ours", "grew by", "MB", (growth,)),
    )
    bar = Bar("ours / bare COPY", figures[0].median / figures[1].median, 0.3)
    return Findings(
        figures, (bar,), ("A round before the first is not counted: it finds connections and plans unmade",)
    )


def submitted(url: str, body: bytes, jobs: int) -> float:
    """Seconds that the batch takes."""
    start = time.perf_counter()
    answer = httpx.post(f"{url}/api/v1/jobs/batch", content=body, timeout=60, trust_env=False)
    took = time.perf_counter() - start
    if answer.json().get("created") != jobs:
        raise SystemExit(f"the batch was answered with {answer.status_code}: {answer.text[:500]}")
    return took


async def copied(dsn: str, jobs: int) -> float:
    """Seconds that COPY takes in one transaction, its rows ready beforehand."""
    rows = made(jobs)
    connection = await asyncpg.connect(dsn)
    start = time.perf_counter()
    async with connection.transaction():
        for table, (columns, records) in rows.items():
            await connection.copy_records_to_table(table, columns=columns, records=records)
    took = time.perf_counter() - start
    await connection.close()
    return took


def made(jobs: int) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    """The rows of each table, as the batch makes them."""
    now, batch = datetime.now(UTC), UUID(int=time.time_ns())
    first = time.time_ns()
    ids = [new_job_id() for _ in range(jobs)]
    labels, data = json.dumps(JOB["labels"]), json.dumps(INPUT).encode()
    kind = (DEFAULTS["owner_service"], DEFAULTS["task_type"], DEFAULTS["model_profile"])
    normal = int(Priority.NORMAL)
    places = list(zip(ids, range(first, first + jobs), strict=True))
    return {
        "job_details": (
            ["job_id", "seq", "created_at", "owner_service", "task_type", "model_profile", "owner_ref", "queue",
             "priority", "labels", "batch_id"],
            [(id_, seq, now, *kind, JOB["owner_ref"], "gpu.llm", normal, labels, batch) for id_, seq in places],
        ),
        "jobs": (
            ["id", "seq", "created_at", "owner_service", "task_type", "model_profile", "status", "priority", "level",
             "queue", "max_attempts", "run_at", "due", "updated_at"],
            [(id_, seq, now, *kind, "pending", normal, normal, "gpu.llm", 3, now, True, now) for id_, seq in places],
        ),
        "job_inputs": (["job_id", "input"], list(zip(ids, repeat(data), strict=False))),
        "job_labels": (
            ["name", "value", "created_at", "seq", "job_id"],
            [("campaign", "spring", now, seq, id_) for id_, seq in places],
        ),
    }  # fmt: skip
