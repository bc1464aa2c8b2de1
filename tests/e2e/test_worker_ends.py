"""How workers end, and what becomes of the jobs that they run then."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, eventually, ids, in_background
from tests.servers.model_server import ModelServer, after, says

SLOTS = 4
SOMEBODY_WAITS = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%Long poll%'
"""


def stored_once(installation: Installation, jobs: list[dict[str, Any]]) -> None:
    """Every job is completed, by one run, with one result."""
    done = installation.rows(
        """
        SELECT j.status, j.attempts, (SELECT count(*) FROM job_results AS r WHERE r.job_id = j.id),
            (SELECT count(*) FROM runs AS r WHERE r.job_id = j.id AND outcome = 'completed')
        FROM jobs AS j WHERE j.id = ANY ($1)
        """,
        ids(jobs),
    )
    assert done == [("completed", 1, 1, 1)] * len(jobs)


@pytest.mark.timeout(120)
def test_jobs_of_a_killed_worker_complete_elsewhere_and_count_a_crash_not_an_attempt(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS)
    )
    model.hold()
    api, doomed = installation.serve_and_work(WORKER_ID="doomed")
    jobs = api.submit_many(20)
    model.wait_until(lambda server: server.running == SLOTS)
    other = installation.worker(WORKER_ID="other")
    model.wait_until(lambda server: server.running == 2 * SLOTS)

    doomed.kill()
    model.let_go()

    jobs = api.all_finished(jobs, within=45)
    stored_once(installation, jobs)
    crashed = [job for job in jobs if job["crashes"]]
    assert len(crashed) == SLOTS
    assert {job["crashes"] for job in crashed} == {1}
    lost = installation.rows("SELECT job_id, split_part(worker_id, '/', 1) FROM runs WHERE outcome = 'crashed'")
    assert {tuple(run) for run in lost} == {(job_id, "doomed") for job_id in ids(crashed)}
    assert other.running


@pytest.mark.timeout(120)
def test_a_stopped_worker_finishes_what_is_short_and_hands_back_what_is_long(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS)
    )
    api, worker = installation.serve_and_work(WORKER_ID="leaving", SHUTDOWN_GRACE="2s")
    model.script(after(1, says("Short.")), after(1, says("Short.")), after(60, says("Long.")), after(60, says("Long.")))
    jobs = api.submit_many(6)
    model.wait_until(lambda server: server.running == SLOTS)

    worker.terminate()
    began = time.monotonic()
    assert worker.exit_code(within=8) == 0
    assert 1.5 < time.monotonic() - began < 8

    assert installation.rows("SELECT status, attempts, crashes, count(*) FROM jobs GROUP BY 1, 2, 3 ORDER BY 1") == [
        ("completed", 1, 0, 2),
        ("pending", 0, 0, 4),
    ]
    assert installation.rows("SELECT count(*) FROM workers") == [(0,)]

    installation.worker(WORKER_ID="staying")
    jobs = api.all_finished(jobs)
    stored_once(installation, jobs)
    assert {job["crashes"] for job in jobs} == {0}
    assert installation.rows("SELECT outcome, count(*) FROM runs GROUP BY 1 ORDER BY 1") == [
        ("completed", 6),
        ("released", 2),
    ]


def test_the_api_and_the_scheduler_stop_at_once_although_callers_wait(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)
    api = installation.serve()
    scheduler = installation.scheduler()
    job = api.submit()
    refused = in_background(lambda: wait_again_and_again(api, job))
    eventually(lambda: installation.rows(SOMEBODY_WAITS), within=5, what="the caller waits")

    api.process.terminate()
    scheduler.terminate()

    assert (api.process.exit_code(within=10), scheduler.exit_code(within=10)) == (0, 0)
    assert refused()


def wait_again_and_again(api: Api, job: dict[str, Any]) -> bool:
    """Wait for the job anew whenever the waiting ends, until the API is gone."""
    while True:
        try:
            assert api.get(job, wait=60)["status"] == "pending"
        except httpx.TransportError:
            return True


def test_the_service_in_one_process_stops_at_once_although_callers_wait(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, SHUTDOWN_GRACE="500ms")
    model.hold()
    api = installation.up()
    answer = in_background(lambda: api.get(api.submit(), wait=60))
    model.wait_until(lambda server: server.running == 1)

    api.process.terminate()

    assert api.process.exit_code(within=5) == 0
    assert answer()["status"] in {"running", "pending"}
    assert installation.rows("SELECT status, attempts, crashes FROM jobs") == [("pending", 0, 0)]
