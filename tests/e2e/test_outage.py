"""What becomes of jobs while their model server is away."""

from __future__ import annotations

from tests.e2e.conftest import Install
from tests.e2e.service import eventually
from tests.servers.model_server import ModelServer

SLOTS = 2


def test_jobs_whose_model_server_is_down_go_back_uncounted_and_no_other_is_started(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS)
    )
    api, _ = installation.serve_and_work()
    model.go_down()
    api.submit_many(10)
    eventually(
        lambda: installation.rows("SELECT FROM jobs WHERE give_backs > 0"), within=10, what="one of them met the outage"
    )
    eventually(
        lambda: not installation.rows("SELECT FROM jobs WHERE status = 'running'"), within=10, what="nothing runs"
    )

    assert installation.rows("SELECT status, attempts, count(*) FROM jobs GROUP BY 1, 2") == [("pending", 0, 10)]
    runs = installation.rows("SELECT outcome, error_code FROM runs")
    assert {tuple(run) for run in runs} == {("given_back", "provider_unavailable")}
    assert len(runs) <= 2 * SLOTS
    assert installation.rows("SELECT name FROM queues WHERE circuit_state = 'open'") == [("gpu.llm",)]
