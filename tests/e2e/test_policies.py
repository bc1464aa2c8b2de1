"""What the configuration file says of sharing: in force soon after it changes, and obeyed by all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.configuration import Configuration
from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, Api, Installation, eventually
from tests.servers.counting import CountingServer

QUEUE = "gpu.llm"
SEEN_WITHIN = 4.0
"""Seconds after which a changed file is in force: it is looked at every second, and so is what the leader does."""

JOB = {"owner_service": "e2e", "task_type": "chat_completion", "model_profile": PROFILE}


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
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=counting.base_url,
        AI_SERVICE_CONFIG=str(configuration.path),
        WORKER_CLAIM_LIMIT="8",
    )


def queue(api: Api) -> dict[str, Any]:
    [found] = api.http.get("/api/v1/queues").json()["queues"]
    shown: dict[str, Any] = found
    return shown


def sees(api: Api, **expected: Any) -> None:
    began = time.monotonic()
    eventually(lambda: expected.items() <= queue(api).items(), within=SEEN_WITHIN, what=f"GET /queues tells {expected}")
    print(f"seen after {time.monotonic() - began:.2f} s")


def submit(api: Api, says: str, count: int = 1, status: int = 201, **fields: Any) -> dict[str, Any]:
    job = {**JOB, "input": {"user": says}, **fields}
    answer = api.http.post("/api/v1/jobs/batch", json={"defaults": job, "jobs": [{}] * count})
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def pause(api: Api) -> None:
    assert api.http.post("/queue/pause").status_code == 200


def resume(api: Api) -> None:
    assert api.http.post("/queue/resume").status_code == 200


def said(counting: CountingServer, count: int, *, after: int = 0) -> list[str]:
    """Who was served by the next so many calls."""
    eventually(lambda: len(counting.begun) >= after + count, within=30, what=f"{after + count} calls")
    return [call.said for call in counting.begun[after : after + count]]


def separate_processes(installation: Installation) -> Api:
    return installation.serve_and_work()[0]


def one_process(installation: Installation) -> Api:
    return installation.up(AMQP_URL="")


@pytest.mark.parametrize("start", [separate_processes, one_process])
def test_a_changed_limit_is_shown_and_obeyed_and_a_file_in_disorder_changes_nothing(
    installation: Installation,
    configuration: Configuration,
    counting: CountingServer,
    start: Callable[[Installation], Api],
) -> None:
    configuration.says(queues={QUEUE: {"concurrency": 5}})
    counting.takes = 0.2
    api = start(installation)
    sees(api, concurrency=5, effective_limit=5)
    submit(api, "Hello", 1_000)
    eventually(lambda: counting.running == 5, within=10, what="five run")

    configuration.says(queues={QUEUE: {"concurrency": 2, "ageing": "90s"}})
    sees(api, concurrency=2, effective_limit=2, ageing_seconds=90.0)
    eventually(lambda: counting.running <= 2, within=5, what="two run")
    assert counting.most_at_once == 5
    counting.count_anew()

    configuration.is_text('{"queues": {"gpu.llm": {"concurrency": "many"}}}')
    api.process.says("configuration refused", within=SEEN_WITHIN)
    calls = len(counting.begun)
    eventually(lambda: len(counting.begun) > calls + 10, within=10, what="ten more jobs")
    assert queue(api)["concurrency"] == 2
    assert "many" not in api.process.said
    assert counting.most_at_once == 2

    configuration.says()
    sees(api, concurrency=None, effective_limit=None, ageing_seconds=None)
    eventually(lambda: counting.running == 8, within=10, what="all slots of the worker are used")


def test_changed_weights_change_who_is_next(
    installation: Installation, configuration: Configuration, counting: CountingServer
) -> None:
    configuration.says(queues={QUEUE: {"concurrency": 1}}, owners={"ann": {"weight": 3}})
    counting.takes = 0.05
    api, _ = installation.serve_and_work()
    sees(api, concurrency=1)
    pause(api)
    for owner in ("ann", "bob"):
        submit(api, owner, 200, owner_service=owner)
    resume(api)
    served = Counter(said(counting, 40))
    assert 26 <= served["ann"] <= 34, served

    configuration.says(queues={QUEUE: {"concurrency": 1, "ageing": "1h"}}, owners={"bob": {"weight": 3}})
    sees(api, ageing_seconds=3600.0)
    served = Counter(said(counting, 40, after=len(counting.begun)))
    assert 26 <= served["bob"] <= 34, served


def test_an_owner_with_too_many_waiting_jobs_is_refused_whole_but_what_it_repeats_is_answered(
    installation: Installation, configuration: Configuration
) -> None:
    configuration.says(owners={"e2e": {"max_pending": 5}})
    api = installation.serve()
    first = {**JOB, "input": {"user": "Hello"}, "idempotency_key": "first"}
    made = api.http.post("/api/v1/jobs", json=first)
    assert made.status_code == 201
    submit(api, "Hello", 3)
    refused = api.http.post("/api/v1/jobs/batch", json={"defaults": {**JOB, "input": {"user": "x"}}, "jobs": [{}, {}]})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert installation.rows("SELECT count(*) FROM jobs") == [(4,)]
    assert submit(api, "Hello")["created"] == 1
    refused = api.http.post("/api/v1/jobs", json={**JOB, "input": {"user": "Hello"}})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")

    again = api.http.post("/api/v1/jobs", json=first)
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    repeated = api.http.post("/api/v1/jobs/batch", json={"jobs": [first]})
    assert (repeated.status_code, repeated.json()["existing"]) == (201, 1)
    mixed = api.http.post("/api/v1/jobs/batch", json={"jobs": [first, {**first, "idempotency_key": "new"}]})
    assert mixed.status_code == 429
    submit(api, "Hello", 20, owner_service="other")

    configuration.says()
    eventually(
        lambda: api.http.post("/api/v1/jobs", json={**JOB, "input": {"user": "Hello"}}).status_code == 201,
        within=SEEN_WITHIN,
        what="no limit any more",
    )


def test_an_owner_never_runs_more_than_it_may_over_all_lines_and_others_go_on(
    installation: Installation, configuration: Configuration, counting: CountingServer
) -> None:
    configuration.says(owners={"ann": {"max_running": 3}})
    counting.takes = 0.1
    api, _ = installation.serve_and_work()
    installation.worker()
    outside = {"worker_id": "outside", "task_types": ["measure"], "limit": 2}
    submit(api, "ruler", 5, owner_service="ann", task_type="measure", model_profile="ruler")
    eventually(lambda: installation.rows("SELECT 1 FROM owners WHERE max_running = 3"), within=5, what="it is in force")
    held = api.http.post("/api/v1/jobs/claim", json=outside).json()["jobs"]
    assert len(held) == 2

    submit(api, "ann", 30, owner_service="ann")
    submit(api, "bob", 100, owner_service="bob")
    eventually(lambda: calls_of(counting, "bob") == 100, within=30, what="bob's all ran")
    assert 0 < calls_of(counting, "ann") < 30
    assert counting.most_of["ann"] == 1, "its two others run outside"
    assert counting.most_of["bob"] > 3

    for job in held:
        path = f"/api/v1/jobs/{job['id']}/complete"
        assert api.http.post(path, json={"lease_token": job["lease_token"], "result": {}}).status_code == 200
    eventually(lambda: calls_of(counting, "ann") == 30, within=30, what="ann's all ran")
    assert counting.most_of["ann"] == 3


def calls_of(counting: CountingServer, owner: str) -> int:
    return [call.said for call in counting.begun].count(owner)


def test_less_urgent_jobs_get_the_share_that_is_reserved_for_them(
    installation: Installation, configuration: Configuration, counting: CountingServer
) -> None:
    configuration.says(queues={QUEUE: {"concurrency": 1, "reserved_share": 0.25}})
    counting.takes = 0.05
    api, _ = installation.serve_and_work()
    sees(api, concurrency=1, reserved_share=0.25)
    pause(api)
    for priority in ("high", "low"):
        submit(api, priority, 100, priority=priority)
    resume(api)
    served = Counter(said(counting, 40, after=20))  # until some have ended nobody knows what one costs
    assert 7 <= served["low"] <= 13, served


def test_a_low_job_that_has_waited_long_goes_before_high_ones(
    installation: Installation, configuration: Configuration, counting: CountingServer
) -> None:
    configuration.says(queues={QUEUE: {"concurrency": 1, "ageing": "1s"}})
    counting.takes = 0.1
    api, _ = installation.serve_and_work()
    sees(api, concurrency=1, ageing_seconds=1.0)
    pause(api)
    submit(api, "low", priority="low", owner_service="ann")
    submit(api, "high", 150, priority="high", owner_service="bob")
    resume(api)
    eventually(lambda: "low" in {call.said for call in counting.begun}, within=20, what="the low job runs")
    assert len(counting.begun) < 120
