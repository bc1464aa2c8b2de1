from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from adapters.embedded.postgres import EmbeddedPostgres
from tests.e2e.conftest import Install
from tests.e2e.service import Api, eventually
from tests.servers.model_server import ModelServer, after, says
from tests.servers.tcp_proxy import TcpProxy


def is_away(answer: httpx.Response) -> bool:
    return (
        answer.status_code == 503
        and answer.headers["content-type"] == "application/problem+json"
        and int(answer.headers["retry-after"]) > 0
        and answer.json()["type"] == "urn:problem:ai-service:storage-unavailable"
    )


def tells_that_storage_is_away(api: Api, job: dict[str, str]) -> None:
    assert is_away(api.http.get(f"/api/v1/jobs/{job['id']}"))
    assert is_away(api.http.get("/api/v1/jobs"))
    body = {"owner_service": "e2e", "task_type": "llm_chat", "model_profile": "scripted", "input": {"user": "Hi"}}
    assert is_away(api.http.post("/api/v1/jobs", json=body))
    assert api.http.get("/readyz").status_code == 503
    assert api.http.get("/healthz").status_code == 200


@pytest.mark.timeout(180)
def test_a_restart_of_postgresql_loses_no_job_and_burns_no_attempt(
    install: Install, tmp_path: Path, vhost: str, model: ModelServer
) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as postgres, TcpProxy("127.0.0.1", port_of(postgres)) as door:
        through_the_door = re.sub(r":\d+/", f":{door.port}/", postgres.dsn)
        installation = install(
            DATABASE_URL=through_the_door, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="4"
        )
        model.default = after(0.4, says("The answer."))
        api = installation.serve()
        worker = installation.worker()
        scheduler = installation.scheduler()
        jobs = api.submit_many(60)
        model.wait_until(lambda server: server.calls > 8)

        door.shut()
        postgres.stop()
        eventually(lambda: api.http.get("/readyz").status_code == 503, within=10, what="the API is not ready")
        tells_that_storage_is_away(api, jobs[0])
        eventually(lambda: model.running == 0, within=10, what="what ran has ended meanwhile")
        postgres.start()
        door.target = port_of(postgres)
        door.open()

        eventually(lambda: api.http.get("/readyz").status_code == 200, within=10, what="the API is ready again")
        done = api.all_finished(jobs, within=60)
        assert {(job["status"], job["attempts"], job["crashes"]) for job in done} == {("completed", 1, 0)}
        assert model.calls == 60, "an answer that came during the outage was kept until it could be stored"
        worker.answers("/readyz")
        assert scheduler.running


def port_of(postgres: EmbeddedPostgres) -> int:
    port = urlsplit(postgres.dsn).port
    assert port is not None
    return port
