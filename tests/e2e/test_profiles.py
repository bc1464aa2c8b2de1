"""Model profiles in the configuration file: served, changed while the service runs, and falling back on one another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.configuration import Configuration
from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, Api, Installation, eventually
from tests.servers.counting import CountingServer
from tests.servers.rabbitmq import free_ports


@pytest.fixture
def counting() -> Iterator[CountingServer]:
    with CountingServer() as server:
        yield server


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return Configuration(tmp_path)


@pytest.fixture
def installation(
    install: Install, configuration: Configuration, database: str, vhost: str, counting: CountingServer
) -> Installation:
    return install(
        DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=counting.base_url, AI_SERVICE_CONFIG=str(configuration.path)
    )


def processes(installation: Installation) -> Api:
    return installation.serve_and_work()[0]


def one_process(installation: Installation) -> Api:
    return installation.up(AMQP_URL="")


@pytest.mark.parametrize("start", [processes, one_process])
def test_jobs_that_waited_run_once_a_changed_file_serves_their_profile(
    installation: Installation, configuration: Configuration, counting: CountingServer, start: Any
) -> None:
    api = start(installation)
    waiting = api.submit_many(3, model_profile="late")
    assert [(job["queue"], api.get(job)["waiting_for"]) for job in waiting] == [(None, "external_worker")] * 3

    configuration.says(profiles={"late": {"base_url": counting.base_url, "model": "later"}})
    done = api.all_finished(waiting)
    assert {(job["status"], job["queue"], job["result"]["provider"]) for job in done} == {
        ("completed", "gpu.llm", "openai")
    }
    assert api.submit(model_profile="late")["queue"] == "gpu.llm"

    configuration.says()
    eventually(
        lambda: api.submit(model_profile="late")["queue"] is None, within=10, what="the profile is no longer served"
    )


def test_where_the_first_server_is_gone_the_next_answers_and_every_call_is_told(
    installation: Installation, configuration: Configuration
) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}/v1"
    configuration.says(
        profiles={"first": {"provider": "vllm", "base_url": nobody, "model": "big", "fallbacks": [PROFILE]}}
    )
    api = processes(installation)
    job = api.finished(api.submit(model_profile="first"))

    assert (job["status"], job["attempts"], job["result"]["provider"]) == ("completed", 1, "openai")
    told = [(each["provider"], each["model"], each.get("error_code")) for each in job["result"]["attempts"]]
    assert told == [("vllm", "big", "provider_unavailable"), ("openai", PROFILE, None)]
    [run] = api.http.get(f"/api/v1/jobs/{job['id']}/runs").json()["runs"]
    assert run["attempts"] == job["result"]["attempts"]
