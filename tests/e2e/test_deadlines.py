from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.e2e.conftest import Install
from tests.e2e.service import eventually
from tests.servers.model_server import ModelServer, after, refuses, says

CANCELLED_WITHIN = timedelta(seconds=2)


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_job_that_waits_past_its_deadline_is_cancelled_and_never_sent_to_a_model(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="1")
    api, _ = installation.serve_and_work()
    model.script(after(60, says("Too late.")))
    running = api.submit(deadline_at=soon(6))
    api.is_running(running)
    behind = api.submit(deadline_at=soon(2))
    elsewhere = api.submit(deadline_at=soon(2), model_profile="served-by-nobody")

    for waiting in (behind, elsewhere):
        seen = api.finished(waiting)
        assert (seen["status"], seen["error_code"], seen["attempts"]) == ("cancelled", "cancelled", 0)
        assert "deadline" in seen["error_message"]
        late = datetime.fromisoformat(seen["finished_at"]) - datetime.fromisoformat(seen["deadline_at"])
        assert timedelta() <= late < CANCELLED_WITHIN
    eventually(lambda: datetime.now(UTC) > datetime.fromisoformat(running["deadline_at"]), within=10, what="it is late")
    assert api.get(running)["status"] == "running", "a deadline is one to start by"
    assert model.calls == 1


def test_a_job_that_was_started_in_time_is_tried_again_after_its_deadline(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, RETRY_DELAY_FAST="4s")
    api = installation.up()
    model.script(refuses(500, {"error": {"message": "Not now."}}))
    job = api.finished(api.submit(deadline_at=soon(1.5)))
    assert (job["status"], job["attempts"]) == ("completed", 2)
    assert datetime.fromisoformat(job["started_at"]) > datetime.fromisoformat(job["deadline_at"])


def test_a_job_that_meets_an_outage_before_its_deadline_completes_after_it(
    install: Install, database: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url)
    api = installation.up()
    model.go_down()
    job = api.submit(deadline_at=soon(2))
    api.opened()
    eventually(lambda: datetime.now(UTC) > datetime.fromisoformat(job["deadline_at"]), within=5, what="it is late")
    model.come_up()
    assert api.finished(job)["status"] == "completed"
