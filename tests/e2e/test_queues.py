from __future__ import annotations

from typing import Any

from tests.e2e.conftest import Install
from tests.e2e.service import Api, eventually
from tests.servers.model_server import ModelServer, after, refuses, says


def queue_of(api: Api) -> dict[str, Any]:
    [queue] = api.http.get("/api/v1/queues").raise_for_status().json()["queues"]
    return dict(queue)


def steer(api: Api, path: str) -> dict[str, Any]:
    return dict(api.http.post(path).raise_for_status().json())


def test_a_paused_queue_ends_what_runs_and_starts_nothing_until_it_is_resumed(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL="100ms")
    api, worker = installation.serve_and_work()
    model.script(after(1, says("What ran goes on.")))
    running = api.submit()
    api.is_running(running)

    assert steer(api, "/api/v1/queues/gpu.llm/pause")["paused"]
    waiting = api.submit()
    assert api.finished(running)["result"]["content"] == "What ran goes on."
    assert api.get(waiting, wait=1)["status"] == "pending"

    for process in (api.process, worker):
        process.kill()
    api, _ = installation.serve_and_work()
    assert queue_of(api)["paused"]
    assert api.get(waiting, wait=1)["status"] == "pending"
    assert model.calls == 1

    assert steer(api, "/queue/resume")["paused"] is False
    assert api.finished(waiting)["status"] == "completed"


def test_an_operator_closes_a_circuit_once_the_key_is_mended(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_POLL_INTERVAL="100ms")
    api, _ = installation.serve_and_work()
    model.script(*[refuses(401, {"error": {"message": "This key is not known."}})] * 4)
    job = api.submit()

    def opened() -> dict[str, Any] | None:
        circuit = queue_of(api)["circuit"]
        return circuit if circuit["state"] == "open" else None

    circuit = eventually(opened, within=10, what="the circuit opens")
    assert circuit
    assert (circuit["reason"], circuit["model_profile"]) == ("auth_error", "scripted")
    assert "This key is not known." in circuit["message"]
    seen = api.get(job)
    assert (seen["status"], seen["attempts"], seen["error_code"]) == ("pending", 0, "auth_error")

    def completed() -> bool:
        steer(api, "/api/v1/queues/gpu.llm/close-circuit")
        return bool(api.get(job, wait=2)["status"] == "completed")

    eventually(completed, within=30, what="the job completes")
    assert queue_of(api)["circuit"]["state"] == "closed"
