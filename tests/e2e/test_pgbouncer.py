"""The whole service behind a PgBouncer that shares three server connections among all of its processes."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, eventually
from tests.servers.model_server import ModelServer, after, says
from tests.servers.pgbouncer import PgBouncer

JOBS = 500
LEFT_OPEN = "SELECT pid, state FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in tr%'"


@pytest.mark.timeout(200)
def test_neither_a_restart_of_pgbouncer_nor_a_crash_behind_it_loses_a_job_or_runs_one_twice(
    install: Install, database: str, own_pgbouncer: PgBouncer, model: ModelServer
) -> None:
    model.default = after(0.1, says("The answer."))
    installation = install(
        DATABASE_URL=own_pgbouncer.dsn(database),
        DATABASE_DIRECT_URL=database,
        LLM_BASE_URL=model.base_url,
        WORKER_POLL_INTERVAL="200ms",
        WORKER_CLAIM_LIMIT="8",
    )
    api, _ = installation.serve_and_work()
    doomed = installation.worker()
    installation.scheduler()
    jobs = api.submit_batch(JOBS)

    eventually(lambda: len(installation.rows(COMPLETED)) >= 100, within=30, what="a fifth is completed")
    own_pgbouncer.restart()
    eventually(lambda: len(installation.rows(COMPLETED)) >= 250, within=30, what="half is completed")
    eventually(lambda: model.running > 8, within=30, what="both workers run jobs")
    doomed.kill()
    eventually(lambda: len(installation.rows(COMPLETED)) == JOBS, within=90, what="all are completed")

    ended = installation.rows("SELECT j.id, j.attempts, j.crashes FROM jobs AS j")
    assert {str(row["id"]) for row in ended} == {job["id"] for job in jobs}
    assert {row["attempts"] for row in ended} == {1}
    assert 0 < sum(row["crashes"] for row in ended) <= 8
    counted = "SELECT job_id FROM runs WHERE outcome = 'completed' GROUP BY job_id HAVING count(*) <> 1"
    assert installation.rows(counted) == []
    assert installation.rows(LEFT_OPEN) == []
    everything_else_works(api, installation)


COMPLETED = "SELECT id FROM jobs WHERE status = 'completed'"


def everything_else_works(api: Api, installation: Installation) -> None:
    listed = api.http.get("/api/v1/jobs", params={"status": "completed", "limit": 500}).json()["jobs"]
    assert len(listed) == JOBS

    followed = api.submit(input={"user": "And this one"})
    with api.http.stream("GET", f"/api/v1/jobs/{followed['id']}/events") as events:
        names = [line.partition(": ")[2] for line in events.iter_lines() if line.startswith("event: ")]
    assert names[-1] == "done"

    keyed = {"idempotency_key": "once", "model_profile": "elsewhere"}
    waiting = api.submit(**keyed)
    body = {"owner_service": "e2e", "task_type": "chat_completion", "input": {"user": "Hello"}, **keyed}
    assert api.http.post("/api/v1/jobs", json=body).json()["id"] == waiting["id"]
    claim = api.http.post("/api/v1/jobs/claim", json={"worker_id": "somebody", "model_profiles": ["elsewhere"]}).json()
    [claimed] = claim["jobs"]
    assert claimed["id"] == waiting["id"]
    result = {"lease_token": claimed["lease_token"], "result": {"text": "Done."}}
    assert api.http.post(f"/api/v1/jobs/{claimed['id']}/complete", json=result).status_code == 200


@pytest.mark.timeout(90)
def test_without_a_direct_url_the_pooler_is_found_out_and_the_service_works_all_the_same(
    install: Install, empty_database: str, pgbouncer: PgBouncer, model: ModelServer
) -> None:
    model.default = says("The answer.")
    installation = install(
        DATABASE_URL=pgbouncer.dsn(empty_database), LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL="200ms"
    )
    api, worker = installation.serve_and_work()
    done = api.all_finished(api.submit_batch(50))
    assert {job["status"] for job in done} == {"completed"}
    worker.says("no lock behind a pooler")
    assert "a pooler found before postgresql" in api.process.said
    status, said = installation.run("doctor")
    assert status == 1
    assert "it leads to a pooler" in said
