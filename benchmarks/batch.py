"""How fast a batch of 10,000 jobs is stored through HTTP, beside a bare COPY of the same rows into the same tables.

The API is a process of its own (`ai-service serve`); both write to one PostgreSQL, in turns. Also how much the API
process grows by it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from adapters.embedded.postgres import EmbeddedPostgres
from app.bootstrap import new_job_id
from app.server import bind
from domain.job import Priority

INPUT = {"user": "Summarise this call: " + "x" * 180}
JOB = {"owner_ref": "beeline/4711", "labels": {"campaign": "spring"}, "input": INPUT}
DEFAULTS = {"owner_service": "telephony", "task_type": "call_analysis", "model_profile": "practice"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    figures = compare(arguments.jobs, arguments.rounds)
    for name in ("HTTP batch", "bare COPY"):
        rates = figures[name]
        print(
            f"{name:12} median {statistics.median(rates):8.0f} jobs/s   min {min(rates):8.0f}   max {max(rates):8.0f}"
        )
    print(f"batch / COPY {statistics.median(figures['HTTP batch']) / statistics.median(figures['bare COPY']):.2f}")
    print(f"the API process grew by at most {max(figures['growth MiB']):.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


def compare(jobs: int, rounds: int) -> dict[str, list[float]]:
    """Rates in jobs per second and the API's growth in MiB, by round."""
    figures: dict[str, list[float]] = {"HTTP batch": [], "bare COPY": [], "growth MiB": []}
    body = json.dumps({"defaults": DEFAULTS, "jobs": [JOB] * jobs}).encode()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
        serving(postgres.dsn) as api,
    ):
        url, process = api
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds} ...", file=sys.stderr)
            before = memory(process.pid, "VmRSS")
            took = submitted(url, body, jobs)
            figures["HTTP batch"].append(jobs / took)
            # The peak counts: of the first batch it is the whole growth.
            figures["growth MiB"].append((memory(process.pid, "VmHWM") - before) / 1024)
            figures["bare COPY"].append(jobs / asyncio.run(copied(postgres.dsn, jobs)))
    return figures


@contextmanager
def serving(dsn: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with bind("127.0.0.1", 0, "HTTP_PORT") as listener:
        port = listener.getsockname()[1]
    environment = {**os.environ, "DATABASE_URL": dsn, "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port)}
    command = [str(Path(sys.executable).with_name("ai-service")), "serve"]
    settings = {"AI_PROVIDER": "practice", "LOG_LEVEL": "warning"}
    process = subprocess.Popen(command, env=environment | settings)
    url = f"http://127.0.0.1:{port}"
    try:
        ready(url)
        yield url, process
    finally:
        process.terminate()
        process.wait(30)


def ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the API did not become ready within a minute")


def submitted(url: str, body: bytes, jobs: int) -> float:
    """Seconds that the batch takes."""
    start = time.perf_counter()
    answer = httpx.post(f"{url}/api/v1/jobs/batch", content=body, timeout=60, trust_env=False)
    took = time.perf_counter() - start
    if answer.json().get("created") != jobs:
        raise SystemExit(f"the batch was answered with {answer.status_code}: {answer.text[:500]}")
    return took


def memory(pid: int, field: str) -> int:
    """Kibibytes, as Linux counts them."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:")))


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
            ["id", "seq", "created_at", "owner_service", "task_type", "model_profile", "status", "priority", "queue",
             "max_attempts", "run_at", "due", "updated_at"],
            [(id_, seq, now, *kind, "pending", normal, "gpu.llm", 3, now, True, now) for id_, seq in places],
        ),
        "job_inputs": (["job_id", "input"], [(id_, data) for id_ in ids]),
        "job_labels": (
            ["name", "value", "created_at", "seq", "job_id"],
            [("campaign", "spring", now, seq, id_) for id_, seq in places],
        ),
    }  # fmt: skip


if __name__ == "__main__":
    main()
