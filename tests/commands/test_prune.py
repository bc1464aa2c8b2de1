"""`ai-service prune`, as an operator runs it beside a service."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters.postgres.pool import create_pool
from adapters.postgres.store import PostgresJobStore
from app.cli import cli
from tests.moves import cancel, found, several

FORTY_DAYS_AGO = """
    UPDATE jobs SET created_at = created_at - interval '40 days', finished_at = finished_at - interval '40 days';
    UPDATE job_details SET created_at = created_at - interval '40 days';
"""


def prune(database: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from app.cli import main; main()", "prune", *options],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def with_store(database: str, work: Callable[[PostgresJobStore], Coroutine[Any, Any, Any]], then: str = "") -> Any:
    async def run() -> Any:
        async with create_pool(database, max_size=1, application_name="test") as pool:
            done = await work(PostgresJobStore(pool))
            if then:
                await pool.execute(then)
            return done

    return asyncio.run(run())


def left(database: str) -> int:
    return len(with_store(database, found))


@pytest.fixture
def old_jobs(database: str) -> str:
    """A database with five cancelled jobs, forty days old, of two owners."""

    async def work(store: PostgresJobStore) -> None:
        jobs = await several(store, 3, owner_service="beeline") + await several(store, 2, owner_service="lion")
        await cancel(store, *(job.id for job in jobs))

    with_store(database, work, FORTY_DAYS_AGO)
    return database


def test_a_dry_run_tells_what_would_go_and_then_it_goes(old_jobs: str, tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text('[owners.lion]\nretention = {cancelled = "forever"}\n')
    told = prune(old_jobs, "--dry-run", "--json", AI_SERVICE_CONFIG=str(file))
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {
        "owner_service": "beeline",
        "status": "cancelled",
        "jobs": 3,
        "dry_run": True,
    }
    assert left(old_jobs) == 5
    done = prune(old_jobs, AI_SERVICE_CONFIG=str(file))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "3 jobs removed.")
    assert left(old_jobs) == 2


def test_another_age_must_be_agreed_to(old_jobs: str):
    asked = prune(old_jobs, "--older-than", "39d", "--owner", "beeline")
    assert asked.returncode == 1
    assert "Remove 3 jobs? Nobody is there to answer: --yes does it without asking." in asked.stderr
    assert left(old_jobs) == 5
    done = prune(old_jobs, "--older-than", "39d", "--owner", "beeline", "--yes", RETENTION_CANCELLED="365d")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "3 jobs removed.")
    assert left(old_jobs) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--status", "running"], "running jobs are never removed: only completed, failed, cancelled ones."),
        (["--older-than", "soon"], "'soon' cannot be used; expected a duration such as 500ms, 2s, 5m, 1h30m or 30d."),
    ],
)
def test_wrong_use_is_told(options: list[str], told: str):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["prune", *options])
    assert done.exit_code == 2
    assert told in done.stderr


def test_where_there_is_nothing_to_prune_one_line_says_so(tmp_path: Path):
    done = prune("", DATA_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"ai-service: DATA_DIR: {tmp_path} holds no data of an embedded PostgreSQL.\n"
