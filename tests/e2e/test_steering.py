from __future__ import annotations

from tests.e2e.conftest import Install
from tests.servers.model_server import ModelServer, after, refuses, says


def test_a_cancelled_job_stops_at_its_provider_and_a_failed_one_completes_when_it_is_retried(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)
    api = installation.serve()
    installation.worker()

    model.script(after(60, says("Too late.")))
    job = api.submit()
    api.is_running(job)
    model.wait_until(lambda server: server.running == 1)
    assert api.cancel(job)["status"] == "cancelled"
    model.wait_until(lambda server: server.hang_ups == 1, timeout=4)
    assert api.get(job)["status"] == "cancelled"

    model.script(refuses(400, {"error": {"message": "no"}}))
    failed = api.finished(api.submit())
    assert (failed["status"], failed["error_code"], failed["attempts"]) == ("failed", "bad_input", 1)
    assert api.retry(failed)["attempts"] == 0
    done = api.finished(failed)
    assert (done["status"], done["attempts"], done["result"]["content"]) == ("completed", 1, "The answer.")

    assert api.get(job)["status"] == "cancelled"
    assert installation.rows("SELECT outcome FROM runs ORDER BY started_at") == [
        ("cancelled",),
        ("failed",),
        ("completed",),
    ]
