from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, eventually
from tests.servers.vllm import Vllm

JOBS = 200


def test_an_adaptive_queue_uses_its_server_fully_and_is_never_refused(
    install: Install, database: str, tmp_path: Path
) -> None:
    (path := tmp_path / "configuration.json").write_text(
        json.dumps({"queues": {"gpu.llm": {"concurrency": 32, "adaptive": True}}})
    )
    with Vllm(capacity=6, waiting_room=6, service_time=0.3) as server:
        installation = install(
            DATABASE_URL=database,
            LLM_BASE_URL=server.base_url,
            AI_SERVICE_CONFIG=str(path),
            WORKER_CLAIM_LIMIT="32",
            WORKER_POLL_INTERVAL="100ms",
        )
        api, _ = installation.serve_and_work()
        defaults = {"owner_service": "e2e", "task_type": "llm_chat", "model_profile": PROFILE}
        batch = {"defaults": defaults, "jobs": [{"input": {"user": "Hello"}}] * JOBS}
        api.http.post("/api/v1/jobs/batch", json=batch).raise_for_status()
        eventually(lambda: server.completed == JOBS, within=60, what="all jobs are completed")

        queues = api.http.get("/api/v1/queues").raise_for_status().json()["queues"]
    [shown] = [queue for queue in queues if queue["name"] == "gpu.llm"]
    assert 6 <= shown["effective_limit"] <= 8
    assert (shown["concurrency"], shown["adaptive"]) == (32, True)
    assert server.refused == 0
    assert server.most_working == 6
