"""Figures: of jobs, queues and workers; and the place in line of a job that waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.app.conftest import Api
from tests.factories import QUEUE, new_beat

NOTHING = {"completed": 0, "failed": 0, "cancelled": 0}


async def figures(api: Api, what: str) -> dict[str, Any]:
    response = await api.client.get(f"/api/v1/{what}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def fresh(api: Api, what: str) -> dict[str, Any]:
    """The figures, when they are next read: submitting has read them to tell a place in line."""
    api.clock.advance(timedelta(seconds=2))
    return await figures(api, what)


async def test_the_figures_of_nothing(api: Api) -> None:
    assert await figures(api, "stats") == {
        "as_of": "2026-03-01T12:00:00Z",
        "jobs": {"pending": 0, "running": 0} | NOTHING,
        "by_queue": [],
        "by_task_type": [],
        "by_owner": [],
        "by_error_code": [],
        "oldest_due_seconds": None,
        "throughput": {"last_minute": NOTHING, "last_5_minutes": NOTHING, "last_hour": NOTHING},
        "wait_seconds": None,
        "run_seconds": None,
    }


async def test_jobs_are_counted_by_what_they_are(api: Api) -> None:
    await api.submitted()
    await api.submitted(run_at="2026-03-01T13:00:00Z")
    await api.submitted(task_type="summary", owner_service="telephony")
    await api.report(await api.lent(queues=[QUEUE]), "release")
    await api.report(await api.lent(task_types=["summary"]), "fail", error_code="bad_input")
    stats = await fresh(api, "stats")
    assert stats["jobs"] == {"pending": 2, "running": 0, "completed": 0, "failed": 1, "cancelled": 0}
    assert stats["by_queue"] == [
        {"queue": QUEUE, "pending": 2, "due": 1, "running": 0} | NOTHING,
        {"queue": None, "pending": 0, "due": 0, "running": 0} | NOTHING | {"failed": 1},
    ]
    assert [(each["task_type"], each["failed"]) for each in stats["by_task_type"]] == [("llm_chat", 0), ("summary", 1)]
    assert [(each["owner_service"], each["pending"]) for each in stats["by_owner"]] == [
        ("beeline", 2),
        ("telephony", 0),
    ]
    assert stats["by_error_code"] == [{"error_code": "bad_input", "jobs": 1}]


async def test_the_figures_tell_how_long_jobs_wait_and_take(api: Api) -> None:
    await api.submitted(task_type="summary")
    await api.submitted()
    api.clock.advance(timedelta(seconds=4))
    job = await api.lent(task_types=["summary"])
    api.clock.advance(timedelta(seconds=10))
    await api.report(job, "complete", result={})
    stats = await figures(api, "stats")
    assert stats["wait_seconds"] == {"p50": 4, "p95": 4, "p99": 4}
    assert stats["run_seconds"] == {"p50": 10, "p95": 10, "p99": 10}
    assert stats["oldest_due_seconds"] == 14
    assert stats["throughput"]["last_minute"] == {"completed": 1, "failed": 0, "cancelled": 0}
    api.clock.advance(timedelta(minutes=4))
    throughput = (await figures(api, "stats"))["throughput"]
    assert [throughput[window]["completed"] for window in throughput] == [0, 1, 1]


async def test_figures_are_read_anew_every_two_seconds(api: Api) -> None:
    before = await figures(api, "stats")
    await api.submitted()
    assert await figures(api, "stats") == before
    api.clock.advance(timedelta(seconds=2))
    after = await figures(api, "stats")
    assert (after["as_of"], after["jobs"]["pending"]) == ("2026-03-01T12:00:02Z", 1)


async def test_a_worker_is_listed_while_it_lives(api: Api) -> None:
    await api.store.beat(new_beat(running={QUEUE: 1}))
    api.clock.advance(timedelta(seconds=14))
    [worker] = (await figures(api, "workers"))["workers"]
    assert worker == {
        "worker_id": "worker-1",
        "host": "gpu-1",
        "queues": [QUEUE],
        "slots_per_queue": 4,
        "running": {QUEUE: 1},
        "started_at": "2026-03-01T12:00:00Z",
        "seen_at": "2026-03-01T12:00:00Z",
    }
    api.clock.advance(timedelta(seconds=1))
    assert await figures(api, "workers") == {"workers": []}


async def place_of(api: Api, **changes: Any) -> tuple[int | None, int | None, str | None]:
    job_id = await api.submitted(**changes)
    job = (await api.client.get(f"/api/v1/jobs/{job_id}")).json()
    return job["position"], job["eta_seconds"], job["waiting_for"]


async def test_a_job_tells_how_many_are_before_it(api: Api) -> None:
    await api.submitted()
    await api.submitted(priority="low")
    assert await place_of(api) == (1, None, "worker")
    assert await place_of(api, priority="high") == (0, None, "worker")


async def test_a_job_tells_what_it_waits_for(api: Api) -> None:
    assert await place_of(api, run_at="2026-03-01T13:00:00Z") == (None, None, "run_at")
    assert await place_of(api, task_type="summary") == (0, None, "external_worker")
    await api.store.beat(new_beat())
    assert await place_of(api) == (0, 0, "slot")


async def test_the_wait_is_estimated_from_runs_that_ended_lately(api: Api) -> None:
    await api.submitted(task_type="summary")
    await api.report(await api.lent(), "complete", result={})
    api.clock.advance(timedelta(seconds=2))
    assert await place_of(api, task_type="summary") == (0, 300, "external_worker")
    assert await place_of(api, task_type="summary") == (1, 600, "external_worker")


async def test_a_job_that_does_not_wait_tells_nothing_of_it(api: Api) -> None:
    job_id = await api.submitted()
    await api.claim()
    job = (await api.client.get(f"/api/v1/jobs/{job_id}")).json()
    assert (job["position"], job["eta_seconds"], job["waiting_for"]) == (None, None, None)
