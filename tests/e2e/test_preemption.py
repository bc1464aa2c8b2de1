"""An urgent job takes the slot of a low one, where the queue's policy allows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation
from tests.servers.model_server import ModelServer, after, says

SLOTS = 4
AT_ONCE = 1.5
"""Seconds from the submission of a high job to its call, on a busy machine too."""
LONG = after(60, says("Too late."))


def configured(folder: Path, text: str = '[queues."gpu.llm"]\npreempt = true\n') -> str:
    (path := folder / "policies.toml").write_text(text)
    return str(path)


def separate_processes(installation: Installation) -> Api:
    api, worker = installation.serve_and_work()
    worker.says("event-listener")
    return api


def one_process(installation: Installation) -> Api:
    return installation.up(AMQP_URL="")


def busy(api: Api, model: ModelServer, **fields: Any) -> list[dict[str, Any]]:
    """Jobs at their provider that would take a minute, on every slot."""
    model.script(*[LONG] * SLOTS)
    jobs = api.submit_many(SLOTS, **fields)
    model.wait_until(lambda server: server.running == SLOTS)
    return jobs


def unharmed(installation: Installation) -> list[tuple[Any, ...]]:
    rows = installation.rows("SELECT id, run_at, seq, attempts, crashes, give_backs, error_code FROM jobs ORDER BY seq")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("start", [separate_processes, one_process])
def test_a_high_job_starts_at_once_on_the_slot_of_a_low_one_which_goes_back_unharmed(
    install: Install,
    database: str,
    vhost: str,
    model: ModelServer,
    tmp_path: Path,
    start: Callable[[Installation], Api],
) -> None:
    installation = install(
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=model.base_url,
        WORKER_CLAIM_LIMIT=str(SLOTS),
        AI_SERVICE_CONFIG=configured(tmp_path),
    )
    api = start(installation)
    low = busy(api, model, priority="low")
    before = unharmed(installation)

    model.script(after(0.5, says("The urgent answer.")))
    began = time.monotonic()
    high = api.submit(priority="high")
    model.wait_until(lambda server: server.calls == SLOTS + 1)
    assert time.monotonic() - began < AT_ONCE
    assert (model.hang_ups, model.most_at_once) == (1, SLOTS)
    assert unharmed(installation)[:SLOTS] == before
    assert api.get(low[-1])["status"] == "pending", "the run that had got least done was stopped"

    assert api.finished(high)["result"]["content"] == "The urgent answer."
    victim = api.finished(low[-1])
    assert (victim["status"], victim["attempts"], victim["crashes"]) == ("completed", 1, 0)
    runs = api.http.get(f"/api/v1/jobs/{victim['id']}/runs").json()["runs"]
    assert [run["outcome"] for run in runs] == ["preempted", "completed"]
    assert [api.get(job)["status"] for job in low[:-1]] == ["running"] * (SLOTS - 1)


def test_more_high_jobs_than_low_ones_run_take_no_slot_of_a_normal_one(
    install: Install, database: str, model: ModelServer, tmp_path: Path
) -> None:
    installation = install(
        DATABASE_URL=database,
        LLM_BASE_URL=model.base_url,
        WORKER_CLAIM_LIMIT=str(SLOTS),
        AI_SERVICE_CONFIG=configured(tmp_path),
    )
    api = installation.up()
    model.script(*[LONG] * SLOTS)
    low = api.submit(priority="low")
    api.is_running(low)
    normal = api.submit_many(SLOTS - 1)
    model.wait_until(lambda server: server.running == SLOTS)

    high = api.submit_batch(SLOTS, priority="high")
    api.all_finished(high)
    assert [api.get(job)["status"] for job in normal] == ["running"] * (SLOTS - 1)
    assert model.hang_ups == 1
    assert api.finished(low)["status"] == "completed"
    outcomes = installation.rows("SELECT job_id::text, outcome FROM runs WHERE outcome <> 'completed'")
    assert [tuple(row) for row in outcomes] == [(low["id"], "preempted")]


def test_no_low_job_makes_room_for_a_high_one_whose_owner_runs_as_many_as_it_may(
    install: Install, database: str, model: ModelServer, tmp_path: Path
) -> None:
    installation = install(
        DATABASE_URL=database,
        LLM_BASE_URL=model.base_url,
        WORKER_CLAIM_LIMIT=str(SLOTS),
        AI_SERVICE_CONFIG=configured(
            tmp_path, '[queues."gpu.llm"]\npreempt = true\n[owners.greedy]\nmax_running = 1\n'
        ),
    )
    api = installation.up()
    busy(api, model, priority="low")
    model.script(after(2.5, says("The first.")), after(0.1, says("The second.")))
    first, second = api.submit_many(2, priority="high", owner_service="greedy")
    api.finished(first)
    assert model.hang_ups == 1
    assert api.finished(second)["status"] == "completed"
    assert model.most_at_once == SLOTS


def test_without_leave_no_job_makes_room_for_another(install: Install, database: str, model: ModelServer) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=model.base_url, WORKER_CLAIM_LIMIT=str(SLOTS))
    api = installation.up()
    busy(api, model, priority="low")
    high = api.submit(priority="high")
    seen = api.get(high, wait=2.5)
    assert (seen["status"], seen["waiting_for"]) == ("pending", "slot")
    assert model.hang_ups == 0
