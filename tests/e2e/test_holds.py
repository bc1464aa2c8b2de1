"""Queues that are paused and stopped: from a moment on nothing of them starts, wherever it might."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Timer
from typing import Any

import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, Api, Installation, Process, eventually
from tests.servers.counting import CountingServer

QUEUE = "/api/v1/queues/gpu.llm"
SLOTS = 3
SOON = 2.0
"""Seconds within which a hold is obeyed everywhere."""

AT_ONCE = 1.5
"""Seconds within which a job starts after a hold; far less than the poll interval of these workers."""

Start = Callable[[Installation], tuple[Api, list[Process]]]


@pytest.fixture
def counting() -> Iterator[CountingServer]:
    with CountingServer(takes=0.3) as server:
        yield server


def separate_processes(installation: Installation) -> tuple[Api, list[Process]]:
    api, worker = installation.serve_and_work()
    return api, [worker, installation.worker()]


def one_process(installation: Installation) -> tuple[Api, list[Process]]:
    return installation.up(AMQP_URL=""), []


def submit(api: Api, count: int, **fields: Any) -> None:
    job = {"owner_service": "e2e", "task_type": "chat_completion", "model_profile": PROFILE, "input": {"user": "Hello"}}
    answer = api.http.post("/api/v1/jobs/batch", json={"defaults": {**job, **fields}, "jobs": [{}] * count})
    assert answer.status_code == 201, answer.text


def ask(api: Api, path: str) -> Any:
    answer = api.http.post(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def lent(api: Api, **wanted: Any) -> list[dict[str, Any]]:
    answer = api.http.post("/api/v1/jobs/claim", json={"worker_id": "outside", **wanted})
    assert answer.status_code == 200, answer.text
    jobs: list[dict[str, Any]] = answer.json()["jobs"]
    return jobs


def drained(counting: CountingServer, held_at: float) -> int:
    """Blocks until nothing runs any more. How many calls there were; none of them began too late."""
    eventually(lambda: counting.running == 0 and time.monotonic() > held_at + SOON, within=10, what="all have finished")
    late = [call.began - held_at for call in counting.begun if call.began > held_at]
    print(f"calls after the hold: {late}")
    assert max(late, default=0.0) < SOON
    return len(counting.begun)


def starts_again(counting: CountingServer, calls: int) -> None:
    began = time.monotonic()
    eventually(lambda: len(counting.begun) > calls, within=10, what="a job starts")
    print(f"first call {counting.begun[calls].began - began:.3f} s after the hold")
    assert counting.begun[calls].began - began < AT_ONCE


@pytest.mark.timeout(180)
@pytest.mark.parametrize("start", [separate_processes, one_process])
def test_a_held_queue_starts_nothing_anywhere_until_it_is_let_go_whatever_is_restarted(
    install: Install, database: str, vhost: str, counting: CountingServer, start: Start
) -> None:
    installation = install(
        DATABASE_URL=database,
        AMQP_URL=vhost,
        LLM_BASE_URL=counting.base_url,
        WORKER_CLAIM_LIMIT=str(SLOTS),
        WORKER_POLL_INTERVAL="60s",
        SHUTDOWN_GRACE="1s",
    )
    api, workers = start(installation)
    submit(api, 400)
    submit(api, 3, task_type="measure", model_profile="ruler")
    eventually(lambda: len(counting.begun) > 2 * SLOTS, within=20, what="jobs run")

    assert ask(api, f"{QUEUE}/pause")["paused"]
    calls = drained(counting, time.monotonic())
    assert lent(api, queues=["gpu.llm"]) == []
    assert [job["task_type"] for job in lent(api)] == ["measure"], "it has no queue"

    ask(api, f"{QUEUE}/resume")
    starts_again(counting, calls)
    ask(api, f"{QUEUE}/pause")
    eventually(lambda: counting.running == 0, within=10, what="all have finished")
    calls = len(counting.begun)
    ask(api, f"{QUEUE}/resume")
    starts_again(counting, calls)
    stopped = ask(api, "/queue/stop")
    calls = drained(counting, time.monotonic())
    assert (stopped["running"], stopped["paused"]) == (False, False)
    both = ask(api, "/queue/pause?queue=gpu.llm")
    assert (both["running"], both["paused"]) == (False, True)

    for process in [*workers, api.process]:
        process.kill()
    api, _ = start(installation)
    status = api.http.get("/queue/status").json()
    assert (status["running"], status["paused"]) == (False, True)
    ask(api, "/queue/start")
    assert len(counting.begun) == calls
    assert lent(api, queues=["gpu.llm"]) == []
    assert [job["task_type"] for job in lent(api)] == ["measure"]

    ask(api, "/queue/resume")
    starts_again(counting, calls)
    [outside] = lent(api, queues=["gpu.llm"])
    assert api.get(outside)["status"] == "running"
    assert installation.rows("SELECT count(*) FROM jobs WHERE status IN ('failed', 'cancelled')") == [(0,)]
    assert installation.rows("SELECT count(*) FROM runs WHERE outcome NOT IN ('completed', 'crashed')") == [(0,)]


def test_a_waiting_worker_outside_gets_its_job_soon_after_the_hold(
    install: Install, database: str, counting: CountingServer
) -> None:
    installation = install(DATABASE_URL=database, LLM_BASE_URL=counting.base_url)
    api = installation.serve()
    ask(api, "/queue/pause")
    submit(api, 1)
    let_go: list[float] = []

    def let_it_go() -> None:
        ask(installation.api(api.process), "/queue/resume")
        let_go.append(time.monotonic())

    Timer(0.5, let_it_go).start()
    [job] = lent(api, wait=20)
    assert job["status"] == "running"
    assert time.monotonic() - let_go[0] < SOON
