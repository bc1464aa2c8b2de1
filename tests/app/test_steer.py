from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.app.conftest import Api, pointers, problem
from tests.factories import QUEUE, new_id


async def steer(api: Api, how: str, **which: Any) -> httpx.Response:
    return await api.client.post(f"/api/v1/jobs/{how}", content=json.dumps(which))


async def steered(api: Api, how: str, **which: Any) -> tuple[int, int]:
    response = await steer(api, how, **which)
    assert response.status_code == 200, response.text
    return response.json()["matched"], response.json()["changed"]


async def statuses(api: Api) -> dict[str, str]:
    return {job["owner_ref"]: job["status"] for job in (await api.client.get("/api/v1/jobs")).json()["jobs"]}


async def one_of_each(api: Api) -> None:
    """A job in every state, each named by it."""
    await api.submitted(owner_ref="completed", task_type="one")
    await api.report(await api.lent(), "complete", result={})
    await api.submitted(owner_ref="failed", task_type="one", labels={"team": "red"})
    await api.report(await api.lent(), "fail", error_code="bad_input")
    cancelled = await api.submitted(owner_ref="cancelled", task_type="one")
    await api.client.post(f"/api/v1/jobs/{cancelled}/cancel")
    await api.submitted(owner_ref="running", task_type="one", labels={"team": "blue"})
    await api.lent()
    await api.submitted(owner_ref="pending", priority="high")


async def test_cancelling_twice_is_cancelling_once(api: Api) -> None:
    job_id = await api.submitted()
    first = await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    second = await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["status"] == "cancelled"
    assert first.json()["error_code"] == "cancelled"
    assert first.json() == second.json()


async def test_a_completed_job_cannot_be_cancelled(api: Api) -> None:
    job_id = await api.submitted()
    await api.complete(job_id)
    problem(await api.client.post(f"/api/v1/jobs/{job_id}/cancel"), 409)


async def test_a_cancelled_job_can_be_started_afresh(api: Api) -> None:
    job_id = await api.submitted()
    await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    response = await api.client.post(f"/api/v1/jobs/{job_id}/retry")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["error_code"]) == ("pending", None)
    assert (response.json()["position"], response.json()["waiting_for"]) == (0, "worker")


async def test_a_retry_resets_the_deadline(api: Api) -> None:
    job_id = await api.submitted(deadline_at="2026-03-01T13:00:00Z")
    await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (await api.client.post(f"/api/v1/jobs/{job_id}/retry")).json()["deadline_at"] is None


async def test_a_pending_job_cannot_be_retried(api: Api) -> None:
    job_id = await api.submitted()
    document = problem(await api.client.post(f"/api/v1/jobs/{job_id}/retry"), 409)
    assert "pending" in document["detail"]


async def test_cancelling_many_means_those_that_have_not_ended(api: Api) -> None:
    await one_of_each(api)
    assert await steered(api, "cancel", all=True) == (2, 2)
    assert await statuses(api) == {
        "pending": "cancelled",
        "running": "cancelled",
        "cancelled": "cancelled",
        "failed": "failed",
        "completed": "completed",
    }
    assert await steered(api, "cancel", all=True) == (0, 0)


async def test_retrying_many_means_those_that_failed_or_run(api: Api) -> None:
    await one_of_each(api)
    api.tickets.published.clear()
    assert await steered(api, "retry", all=True) == (2, 2)
    assert await statuses(api) == {
        "pending": "pending",
        "running": "pending",
        "cancelled": "cancelled",
        "failed": "pending",
        "completed": "completed",
    }


async def test_a_retry_of_many_wakes_workers(api: Api) -> None:
    job_id = await api.submitted()
    await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    api.tickets.published.clear()
    api.clock.advance(timedelta(seconds=1))
    await steered(api, "retry", status="cancelled")
    assert api.tickets.published == [(QUEUE, 1)]


@pytest.mark.parametrize(
    ("which", "matched"),
    [
        ({"status": "pending"}, ["pending"]),
        ({"status": ["pending", "running"]}, ["pending", "running"]),
        ({"status": ["completed"]}, ["completed"]),
        ({"owner_service": "beeline"}, ["pending", "running"]),
        ({"owner_service": ["nobody"]}, []),
        ({"owner_ref": ["running", "failed"]}, ["running"]),
        ({"task_type": "one"}, ["running"]),
        ({"model_profile": "other"}, []),
        ({"queue": QUEUE}, ["pending"]),
        ({"priority": "high"}, ["pending"]),
        ({"priority": ["normal", "low"]}, ["running"]),
        ({"error_code": "bad_input", "status": "failed"}, ["failed"]),
        ({"batch_id": str(new_id())}, []),
        ({"labels": {"team": "blue"}}, ["running"]),
        ({"labels": {"team": ["red", "blue"]}}, ["running"]),
        ({"labels": {"team": "blue", "other": "x"}}, []),
        ({"created_after": "2026-03-01T12:00:00Z"}, ["pending", "running"]),
        ({"created_before": "2026-03-01T12:00:00Z"}, []),
        ({"all": True}, ["pending", "running"]),
        ({"all": True, "priority": "high"}, ["pending"]),
        ({"ids": [str(new_id())]}, []),
    ],
)
async def test_filters_say_which_jobs_and_a_dry_run_only_counts(
    api: Api, which: dict[str, Any], matched: list[str]
) -> None:
    await one_of_each(api)
    before = await statuses(api)
    assert await steered(api, "cancel", dry_run=True, **which) == (len(matched), 0)
    assert await statuses(api) == before
    await steered(api, "cancel", **which)
    changed = [ref for ref, status in (await statuses(api)).items() if status != before[ref]]
    assert sorted(changed) == sorted({"pending", "running"} & set(matched))


async def test_jobs_are_named_by_their_ids(api: Api) -> None:
    first, _, third = [await api.submitted(owner_ref=ref) for ref in "abc"]
    assert await steered(api, "cancel", ids=[first, third, first]) == (2, 2)
    assert await statuses(api) == {"a": "cancelled", "b": "pending", "c": "cancelled"}


async def test_more_jobs_than_fit_one_commit_are_all_moved(api: Api) -> None:
    content = json.dumps({"defaults": {"owner_service": "a", "task_type": "t", "model_profile": "p", "input": {}}})
    await api.client.post("/api/v1/jobs/batch", content=content[:-1] + ', "jobs": [' + ",".join(["{}"] * 2_500) + "]}")
    assert await steered(api, "cancel", all=True) == (2_500, 2_500)


@pytest.mark.parametrize("how", ["cancel", "retry"])
@pytest.mark.parametrize(
    ("which", "pointer"),
    [
        ({}, ""),
        ({"all": False}, ""),
        ({"dry_run": True}, ""),
        ({"labels": {}}, "/labels"),
        ({"ids": []}, "/ids"),
        ({"ids": [""]}, "/ids/0"),
        ({"ids": "all"}, "/ids"),
        ({"status": []}, "/status"),
        ({"status": "done"}, "/status"),
        ({"status": ["pending", "done"]}, "/status/1"),
        ({"status": None}, "/status"),
        ({"owner_ref": ["x"] * 101}, "/owner_ref"),
        ({"owner_ref": "\0"}, "/owner_ref"),
        ({"owner_service": ""}, "/owner_service"),
        ({"queue": "a b"}, "/queue"),
        ({"priority": 1}, "/priority"),
        ({"labels": {"a b": "x"}}, "/labels"),
        ({"labels": {"a": []}}, "/labels"),
        ({"created_after": "yesterday"}, "/created_after"),
        ({"created_before": "9999-12-31T23:59:59-01:00"}, "/created_before"),
        ({"all": 1}, "/all"),
        ({"state": "pending"}, "/state"),
        ({"limit": 7}, "/limit"),
    ],
)
async def test_a_filter_that_says_nothing_or_nonsense_is_422_and_nothing_is_moved(
    api: Api, how: str, which: dict[str, Any], pointer: str
) -> None:
    await one_of_each(api)
    before = await statuses(api)
    assert pointers(await steer(api, how, **which)) == [pointer]
    assert await statuses(api) == before


@pytest.mark.parametrize("how", ["cancel", "retry", "erase"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"all": true}{}', b'{"owner_ref": "\xe4"}', b"[" * 5_000])
async def test_a_body_that_cannot_be_read_is_400(api: Api, how: str, content: bytes) -> None:
    problem(await api.client.post(f"/api/v1/jobs/{how}", content=content), 400)


@pytest.mark.parametrize("how", ["cancel", "retry", "erase"])
async def test_how_to_steer_many_is_no_job_of_that_name(api: Api, how: str) -> None:
    assert (await api.client.get(f"/api/v1/jobs/{how}")).status_code == 405
