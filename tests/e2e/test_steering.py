from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, eventually
from tests.servers.model_server import ModelServer, after, refuses, says

AT_ONCE = 1.0
"""Seconds in which a call is closed whose job is taken away."""

BY_THE_BEAT = 3.0
"""The same where no event tells the worker: its heartbeat comes every two seconds."""


def at_its_provider(api: Api, model: ModelServer) -> dict[str, Any]:
    """A job whose provider call is open and would take a minute."""
    model.script(after(60, says("Too late.")))
    open_before = model.running
    job = api.submit()
    model.wait_until(lambda server: server.running == open_before + 1)
    return job


def seconds_to_hang_up(model: ModelServer, hang_ups: int) -> float:
    began = time.monotonic()
    model.wait_until(lambda server: server.hang_ups == hang_ups)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("together", "broker", "within"),
    [(False, True, AT_ONCE), (False, False, BY_THE_BEAT), (True, False, AT_ONCE)],
    ids=["processes with RabbitMQ", "processes without a broker", "one process"],
)
def test_the_call_of_a_job_that_is_cancelled_or_retried_is_closed_at_once(
    request: pytest.FixtureRequest,
    install: Install,
    database: str,
    model: ModelServer,
    together: bool,
    broker: bool,
    within: float,
) -> None:
    vhost = request.getfixturevalue("vhost") if broker else ""
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="1")
    if together:
        api = installation.up()
    else:
        api, worker = installation.serve_and_work()
        if broker:
            worker.says("event-listener")

    cancelled = at_its_provider(api, model)
    assert api.cancel(cancelled)["status"] == "cancelled"
    assert seconds_to_hang_up(model, 1) < within

    retried = at_its_provider(api, model)  # on the slot that the first one left
    api.retry(retried)
    assert seconds_to_hang_up(model, 2) < within
    assert api.finished(retried)["attempts"] == 1

    assert api.get(cancelled)["status"] == "cancelled"
    assert model.most_at_once == 1
    assert installation.rows("SELECT outcome FROM runs ORDER BY started_at") == [
        ("cancelled",),
        ("retried",),
        ("completed",),
    ]


@pytest.mark.timeout(120)
def test_a_queue_is_never_overfull_however_many_jobs_are_taken_from_their_runs(
    install: Install, database: str, vhost: str, model: ModelServer, tmp_path: Path
) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('[queues."gpu.llm"]\nconcurrency = 3\n')
    installation = install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, AI_SERVICE_CONFIG=str(config)
    )
    api, _ = installation.serve_and_work()
    installation.worker()
    installation.rows(
        "INSERT INTO queues (name, concurrency) VALUES ('gpu.llm', 3) ON CONFLICT (name) DO UPDATE SET concurrency = 3"
    )
    model.default = after(0.2, says("Done."))
    api.submit_many(50)

    dice = random.Random(50)
    unfinished = {"status": ["pending", "running"]}
    while jobs := api.http.get("/api/v1/jobs", params=unfinished).json()["jobs"]:
        for job in jobs:
            if job["status"] == "running" and dice.random() < 0.5:
                api.http.post(f"/api/v1/jobs/{job['id']}/{dice.choice(['cancel', 'retry'])}")

    assert model.most_at_once == 3
    assert model.hang_ups > 5
    eventually(lambda: not installation.rows("SELECT FROM closing_slots"), within=5, what="every slot is free")
    assert installation.rows("SELECT busy FROM lines") == [(0,)]


def test_a_run_that_takes_longer_than_its_task_type_may_ends_and_a_changed_limit_holds_for_the_next_run(
    install: Install, database: str, model: ModelServer, tmp_path: Path
) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('[task_types.chat_completion]\nmax_run_time = "500ms"\n')
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, AI_SERVICE_CONFIG=str(config))
    api, worker = installation.serve_and_work()

    model.script(after(60, says("Too late.")))
    late = api.finished(api.submit(max_attempts=1))
    assert (late["status"], late["error_code"]) == ("failed", "timeout")
    assert "task_types.chat_completion.max_run_time" in late["error_message"]
    model.wait_until(lambda server: server.hang_ups == 1)

    config.write_text('[task_types.chat_completion]\nmax_run_time = "1h"\n')
    eventually(
        lambda: api.finished(api.submit()) and "configuration read again" in worker.said,
        within=10,
        what="a run begins after a look at the file",
    )
    model.script(after(1, says("In time.")))
    assert api.finished(api.submit(max_attempts=1))["result"]["content"] == "In time."


def test_a_cancelled_job_stops_at_its_provider_and_a_failed_one_completes_when_it_is_retried(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)
    api, _ = installation.serve_and_work()

    model.script(after(60, says("Too late.")))
    job = api.submit()
    api.is_running(job)
    model.wait_until(lambda server: server.running == 1)
    assert api.cancel(job)["status"] == "cancelled"
    model.wait_until(lambda server: server.hang_ups == 1)
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


def test_the_job_behind_one_that_is_cancelled_starts_at_once_on_its_slot(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT="1")
    api, worker = installation.serve_and_work()
    worker.says("event-listener")
    cancelled = at_its_provider(api, model)
    behind = api.submit()

    began = time.monotonic()
    api.cancel(cancelled)
    model.wait_until(lambda server: server.calls == 2)
    assert time.monotonic() - began < AT_ONCE
    assert (model.hang_ups, model.most_at_once) == (1, 1)
    assert api.finished(behind)["status"] == "completed"
