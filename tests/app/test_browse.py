from __future__ import annotations

import pytest

from tests.app.conftest import Api, pointers, problem
from tests.factories import NO_JOB


async def listed(api: Api, query: str = "") -> list[str]:
    return [job["owner_ref"] for job in (await api.client.get(f"/api/v1/jobs?{query}")).json()["jobs"]]


async def test_a_list_is_newest_first_and_leaves_out_input_and_result(api: Api) -> None:
    for ref in "abc":
        await api.submitted(owner_ref=ref)
    response = (await api.client.get("/api/v1/jobs")).json()
    assert [job["owner_ref"] for job in response["jobs"]] == ["c", "b", "a"]
    assert response["next_cursor"] is None
    assert not {"input", "result"} & response["jobs"][0].keys()


async def test_filters_narrow_and_their_values_widen(api: Api) -> None:
    await api.submitted(owner_ref="a", owner_service="beeline")
    await api.submitted(owner_ref="b", owner_service="mts", task_type="summary")
    await api.submitted(owner_ref="c", owner_service="tele2", model_profile="other")
    assert await listed(api, "owner_service=beeline&owner_service=mts") == ["b", "a"]
    assert await listed(api, "owner_service=beeline&task_type=summary") == []
    assert await listed(api, "model_profile=other") == ["c"]
    assert await listed(api, "status=pending&status=running") == ["c", "b", "a"]
    assert await listed(api, "status=completed") == []


async def test_a_walk_shows_each_job_once_while_new_ones_arrive(api: Api) -> None:
    for number in range(10):
        await api.submitted(owner_ref=str(number))
    seen: list[str] = []
    query: dict[str, str] | None = {"limit": "3"}
    while query:
        page = (await api.client.get("/api/v1/jobs", params=query)).json()
        seen += [job["owner_ref"] for job in page["jobs"]]
        query = page["next_cursor"] and {"limit": "3", "cursor": page["next_cursor"]}
        await api.submitted(owner_ref="new")
    assert seen == [str(number) for number in reversed(range(10))]


async def test_a_cursor_is_good_only_for_its_own_filters(api: Api) -> None:
    for _ in range(3):
        await api.submitted()
    cursor = (await api.client.get("/api/v1/jobs?limit=1&status=pending&status=failed")).json()["next_cursor"]
    same = await api.client.get(f"/api/v1/jobs?limit=2&status=failed&status=pending&cursor={cursor}")
    other = await api.client.get(f"/api/v1/jobs?limit=1&status=pending&cursor={cursor}")
    assert len(same.json()["jobs"]) == 2
    assert pointers(other) == ["/cursor"]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("cursor=", "/cursor"),
        ("cursor=x", "/cursor"),
        ("cursor=%C3%BC%00", "/cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "/cursor"),
        ("limit=0", "/limit"),
        ("limit=501", "/limit"),
        ("limit=ten", "/limit"),
        ("limit=1&limit=2", "/limit"),
        ("limit=99999999999999999999", "/limit"),
        ("status=done", "/status/0"),
        ("status=pending&status=", "/status/1"),
        ("owner_service=%00", "/owner_service/0"),
        ("owner_service=%FF", "/owner_service/0"),
        ("owner-service=beeline", "/owner-service"),
        ("wait=1", "/wait"),
    ],
)
async def test_a_wrong_or_unknown_parameter_is_422_and_named(api: Api, query: str, pointer: str) -> None:
    assert pointers(await api.client.get(f"/api/v1/jobs?{query}")) == [pointer]


@pytest.mark.parametrize("query", ["include=input", "include=input,result", "include=result&include=input"])
async def test_rows_hold_payloads_where_these_were_asked_for(api: Api, query: str) -> None:
    await api.submitted()
    [row] = (await api.client.get(f"/api/v1/jobs?{query}")).json()["jobs"]
    assert row["input"] == {"user": "Hello"}


async def test_one_job_is_told_in_full(api: Api) -> None:
    job_id = await api.submitted()
    await api.complete(job_id, b'{ "answer" : 42 }')
    response = await api.client.get(f"/api/v1/jobs/{job_id}")
    assert response.status_code == 200
    assert response.json()["status"] == "completed"
    assert b'"result":{ "answer" : 42 }' in response.content


async def test_a_running_job_names_its_worker(api: Api) -> None:
    job_id = await api.submitted()
    await api.claim()
    job = (await api.client.get(f"/api/v1/jobs/{job_id}")).json()
    assert (job["status"], job["worker_id"], job["lease_expires_at"]) == ("running", "worker-1", "2026-03-01T12:00:30Z")


@pytest.mark.parametrize("job_id", [NO_JOB, "42", "%00", "%C3%BC", "not-a-uuid"])
@pytest.mark.parametrize(("method", "action"), [("GET", ""), ("POST", "/cancel"), ("POST", "/retry")])
async def test_an_unknown_job_is_404(api: Api, method: str, action: str, job_id: str) -> None:
    document = problem(await api.client.request(method, f"/api/v1/jobs/{job_id}{action}"), 404)
    assert document["type"] == "urn:problem:ai-service:job-not-found"
    assert document["instance"] == f"/api/v1/jobs/{job_id}{action}"
