from __future__ import annotations

from tests.app.conftest import Api, problem


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


async def test_a_pending_job_cannot_be_retried(api: Api) -> None:
    job_id = await api.submitted()
    document = problem(await api.client.post(f"/api/v1/jobs/{job_id}/retry"), 409)
    assert "pending" in document["detail"]
