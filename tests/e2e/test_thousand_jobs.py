"""A thousand jobs through every process there is, against a model server that misbehaves in every way it knows."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, eventually
from tests.servers.rabbitmq import free_ports

JOBS = 1_000
CHAOS = [
    *("--error-rate", "400=0.01", "--error-rate", "429=0.04", "--error-rate", "500=0.04", "--error-rate", "503=0.02"),
    *("--stream-fault", "disconnect=0.04", "--stream-fault", "truncate=0.04", "--stream-fault", "malformed=0.04"),
    *("--stream-fault", "stall=0.01", "--stream-stall-seconds", "30"),
]
FINAL = "status IN ('completed', 'failed', 'cancelled')"
# The last where the server answered its list of models with 503 too, as it does now and then.
GIVEN_BACK = {"rate_limited", "auth_error", "quota_exhausted", "provider_unavailable"}
NEVER_RETRIED = {"bad_input", "context_length"}


def max_attempts(number: int) -> int:
    """Every tenth job has a single attempt, so that some fail for good."""
    return 1 if number % 10 == 0 else 10


@pytest.mark.timeout(240)
def test_a_thousand_jobs_end_as_the_contract_says_whatever_the_model_server_does(
    install: Install, database: str, vhost: str
) -> None:
    [port] = free_ports(1)
    installation = install(
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=f"http://127.0.0.1:{port}/v1",
        LLM_TIMEOUT="3s",
        WORKER_CLAIM_LIMIT="24",
        LOG_LEVEL="info",
    )
    llmock = installation.start(
        *("serve", "--port", str(port), "--response-style", "echo", "--log-level", "warning", *CHAOS), script="llmock"
    )
    llmock.url = f"http://127.0.0.1:{port}"
    llmock.answers("/health")
    api = installation.serve()
    installation.scheduler()
    for _ in range(2):
        installation.worker()

    submitted = submit_all(api)
    eventually(lambda: count(installation, FINAL) == JOBS, within=180, what="all jobs are final")

    jobs = installation.rows("SELECT j.*, d.owner_ref FROM jobs AS j JOIN job_details AS d ON d.job_id = j.id")
    runs = installation.rows("SELECT * FROM runs ORDER BY ended_at")
    results = {row["job_id"]: row["result"] for row in installation.rows("SELECT * FROM job_results")}
    tell(jobs, runs)
    assert {str(job["id"]) for job in jobs} == {job["id"] for job in submitted}
    for job in jobs:
        ended_as_it_should(job, [run for run in runs if run["job_id"] == job["id"]], results.get(job["id"]))


def submit_all(api: Api) -> list[dict[str, Any]]:
    def submit(number: int) -> dict[str, Any]:
        return api.submit(
            owner_ref=str(number), input={"user": f"number {number} of many"}, max_attempts=max_attempts(number)
        )

    with ThreadPoolExecutor(4) as callers:
        return list(callers.map(submit, range(JOBS)))


def count(installation: Installation, condition: str) -> int:
    return int(installation.rows(f"SELECT count(*) FROM jobs WHERE {condition}")[0][0])


def ended_as_it_should(job: Any, runs: list[Any], result: bytes | None) -> None:
    outcomes = Counter(run["outcome"] for run in runs)
    story = f"{dict(job)}\n{[dict(run) for run in runs]}"
    assert outcomes.keys() <= {"completed", "failed", "given_back"}, story
    assert job["attempts"] == outcomes["completed"] + outcomes["failed"], story
    assert job["give_backs"] == outcomes["given_back"], story
    assert job["crashes"] == 0, story
    assert {run["error_code"] for run in runs if run["outcome"] == "given_back"} <= GIVEN_BACK, story
    last = runs[-1]
    if job["status"] == "completed":
        assert outcomes["completed"] == 1, story
        assert last["outcome"] == "completed", story
        assert job["error_code"] is None, story
        assert result is not None, story
        assert f"number {job['owner_ref']} of many" in json.loads(result)["content"], story
    else:
        assert job["status"] == "failed", story
        assert outcomes["completed"] == 0, story
        assert job["error_code"] == last["error_code"], story
        assert job["attempts"] == job["max_attempts"] or job["error_code"] in NEVER_RETRIED, story
        assert result is None, story


def tell(jobs: list[Any], runs: list[Any]) -> None:
    ends = Counter(f"{job['status']}{' ' + job['error_code'] if job['error_code'] else ''}" for job in jobs)
    hows = Counter(f"{run['outcome']}{' ' + run['error_code'] if run['error_code'] else ''}" for run in runs)
    took = max(job["finished_at"] for job in jobs) - min(run["started_at"] for run in runs)
    print(f"{len(jobs)} jobs in {took.total_seconds():.1f} s: {dict(ends.most_common())}")
    print(f"{len(runs)} runs: {dict(hows.most_common())}")
