from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.app.conftest import Api, pointers, problem
from tests.factories import NO_JOB


async def erase(api: Api, **which: Any) -> httpx.Response:
    return await api.client.post("/api/v1/jobs/erase", content=json.dumps(which))


async def ended(api: Api, **changes: Any) -> str:
    job_id = await api.submitted(**changes)
    await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    return job_id


async def test_an_erased_job_is_gone_with_all_that_was_known_of_it(api: Api) -> None:
    job_id = await api.submitted()
    await api.complete(job_id)
    response = await api.client.delete(f"/api/v1/jobs/{job_id}")
    assert (response.status_code, response.content) == (204, b"")
    for path in ("", "/runs", "/events"):
        problem(await api.client.get(f"/api/v1/jobs/{job_id}{path}"), 404)
    assert (await api.client.get("/api/v1/jobs")).json()["jobs"] == []


async def test_a_job_is_erased_once(api: Api) -> None:
    job_id = await ended(api)
    await api.client.delete(f"/api/v1/jobs/{job_id}")
    problem(await api.client.delete(f"/api/v1/jobs/{job_id}"), 404)


async def test_a_job_that_has_not_ended_cannot_be_erased(api: Api) -> None:
    job_id = await api.submitted()
    assert "pending" in problem(await api.client.delete(f"/api/v1/jobs/{job_id}"), 409)["detail"]
    await api.claim()
    assert "running" in problem(await api.client.delete(f"/api/v1/jobs/{job_id}"), 409)["detail"]
    assert await api.status(job_id) == "running"


@pytest.mark.parametrize("job_id", [NO_JOB, "nonsense"])
async def test_erasing_no_job_is_404(api: Api, job_id: str) -> None:
    problem(await api.client.delete(f"/api/v1/jobs/{job_id}"), 404)


async def test_all_that_is_about_something_is_erased_but_what_has_not_ended(api: Api) -> None:
    await ended(api, owner_ref="call-7")
    await ended(api, owner_ref="call-7")
    await ended(api, owner_ref="call-8")
    await ended(api, owner_ref="call-7", owner_service="telephony")
    pending = await api.submitted(owner_ref="call-7")
    response = await erase(api, owner_service="beeline", owner_ref="call-7")
    assert response.json() == {"erased": 2, "unfinished": 1}
    left = [(job["owner_service"], job["owner_ref"]) for job in (await api.client.get("/api/v1/jobs")).json()["jobs"]]
    assert left == [("beeline", "call-7"), ("telephony", "call-7"), ("beeline", "call-8")]
    assert await api.status(pending) == "pending"


async def test_erasing_what_is_not_there_is_no_error(api: Api) -> None:
    response = await erase(api, owner_service="beeline", owner_ref="call-7")
    assert (response.status_code, response.json()) == (200, {"erased": 0, "unfinished": 0})


@pytest.mark.parametrize(
    ("which", "pointer"),
    [
        ({}, "/owner_ref"),
        ({"owner_service": "beeline"}, "/owner_ref"),
        ({"owner_ref": "call-7"}, "/owner_service"),
        ({"owner_service": "beeline", "owner_ref": ""}, "/owner_ref"),
        ({"owner_service": "beeline", "owner_ref": ["call-7"]}, "/owner_ref"),
        ({"owner_service": "beeline", "owner_ref": "call-7", "all": True}, "/all"),
        ({"owner_service": "", "owner_ref": "call-7"}, "/owner_service"),
    ],
)
async def test_an_erasure_without_owner_or_reference_is_422_and_erases_nothing(
    api: Api, which: dict[str, Any], pointer: str
) -> None:
    job_id = await ended(api)
    assert pointers(await erase(api, **which)) == [pointer]
    assert await api.status(job_id) == "cancelled"
