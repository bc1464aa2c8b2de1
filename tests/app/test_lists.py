from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.app.conftest import Api, pointers
from tests.factories import NO_JOB


async def listed(api: Api, query: str = "") -> list[str]:
    response = await api.client.get(f"/api/v1/jobs?{query}")
    assert response.status_code == 200, response.text
    return [job["owner_ref"] for job in response.json()["jobs"]]


async def pages(api: Api, query: str) -> list[str]:
    refs: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        response = (await api.client.get(f"/api/v1/jobs?{query}{cursor and f'&cursor={cursor}'}")).json()
        refs += [job["owner_ref"] for job in response["jobs"]]
        cursor = response["next_cursor"]
    return refs


@pytest.mark.parametrize(
    ("query", "refs"),
    [
        ("owner_ref=a", "a"),
        ("owner_ref=a&owner_ref=b", "ba"),
        ("owner_ref=", ""),
        ("owner_ref=nobody", ""),
        ("priority=high", "b"),
        ("priority=high&priority=normal", "ba"),
        ("queue=gpu.llm", "ba"),
        ("queue=gpu.speech", ""),
        ("status=cancelled", "c"),
        ("error_code=cancelled", "c"),
        ("error_code=timeout", ""),
        ("batch_id=01981a52-1c00-7f00-8a2b-5d4c3b2a1908", ""),
        ("label.team=red", "ba"),
        ("label.team=red&label.kind=x", "b"),
        ("label.team=red&label.team=blue", "cba"),
        ("label.team=", ""),
        ("label.nothing=red", ""),
        ("owner_ref=a&priority=high", ""),
        ("label.team=red&priority=normal&status=pending", "a"),
    ],
)
async def test_filters_narrow_and_their_values_widen(api: Api, query: str, refs: str) -> None:
    await api.submitted(owner_ref="a", labels={"team": "red"})
    await api.submitted(owner_ref="b", labels={"team": "red", "kind": "x"}, priority="high")
    cancelled = await api.submitted(owner_ref="c", labels={"team": "blue"}, priority="low", task_type="summary")
    await api.client.post(f"/api/v1/jobs/{cancelled}/cancel")
    assert await listed(api, query) == list(refs)


@pytest.mark.parametrize(
    ("query", "refs"),
    [
        ("created_after=2026-03-01T12:00:00Z", "cba"),
        ("created_after=2026-03-01T12:01:00Z", "cb"),
        ("created_after=2026-03-01T15:01:00%2B03:00", "cb"),
        ("created_before=2026-03-01T12:01:00Z", "a"),
        ("created_before=2026-03-01T12:00:00Z", ""),
        ("created_after=2026-03-01T12:01:00Z&created_before=2026-03-01T12:02:00Z", "b"),
        ("created_after=2026-03-01T12:02:00Z&created_before=2026-03-01T12:01:00Z", ""),
    ],
)
async def test_creation_is_bounded_below_inclusive_and_above_exclusive(api: Api, query: str, refs: str) -> None:
    for ref in "abc":
        await api.submitted(owner_ref=ref)
        api.clock.advance(timedelta(minutes=1))
    assert await listed(api, query) == list(refs)


async def test_a_list_goes_in_either_order(api: Api) -> None:
    for ref in "abc":
        await api.submitted(owner_ref=ref)
    assert await listed(api, "order=created_at") == ["a", "b", "c"]
    assert await listed(api, "order=-created_at") == ["c", "b", "a"]


@pytest.mark.parametrize(("order", "refs"), [("created_at", "abcde"), ("-created_at", "edcba")])
async def test_pages_follow_one_another_without_gaps_also_among_jobs_of_one_moment(
    api: Api, order: str, refs: str
) -> None:
    for ref in "abcde":
        await api.submitted(owner_ref=ref)
        if ref == "c":
            api.clock.advance(timedelta(microseconds=1))
    assert await pages(api, f"limit=2&order={order}") == list(refs)
    assert await pages(api, f"limit=5&order={order}") == list(refs)


@pytest.mark.parametrize(
    "other", ["", "status=pending", "owner_ref=a&owner_ref=b", "label.x=1", "created_before=2027-01-01T00:00:00Z"]
)
async def test_a_cursor_of_another_query_is_422(api: Api, other: str) -> None:
    for _ in range(2):
        await api.submitted(owner_ref="a")
    cursor = (await api.client.get("/api/v1/jobs?limit=1&owner_ref=a")).json()["next_cursor"]
    assert pointers(await api.client.get(f"/api/v1/jobs?limit=1&cursor={cursor}&{other}")) == ["/cursor"]


async def test_a_cursor_of_the_other_order_is_422(api: Api) -> None:
    for _ in range(2):
        await api.submitted()
    cursor = (await api.client.get("/api/v1/jobs?limit=1")).json()["next_cursor"]
    assert pointers(await api.client.get(f"/api/v1/jobs?order=created_at&cursor={cursor}")) == ["/cursor"]


async def test_values_in_another_order_are_the_same_query(api: Api) -> None:
    for ref in "aab":
        await api.submitted(owner_ref=ref)
    query = "limit=1&owner_ref=a&owner_ref=b"
    cursor = (await api.client.get(f"/api/v1/jobs?{query}")).json()["next_cursor"]
    assert await listed(api, f"limit=1&owner_ref=b&owner_ref=a&cursor={cursor}") == ["a"]


@pytest.mark.parametrize(
    ("include", "fields"),
    [
        ("", set()),
        ("include=input", {"input"}),
        ("include=result", {"result"}),
        ("include=input,result", {"input", "result"}),
        ("include=result&include=input", {"input", "result"}),
    ],
)
async def test_rows_carry_what_was_asked_for(api: Api, include: str, fields: set[str]) -> None:
    await api.complete(await api.submitted())
    await api.submitted()
    pending, completed = (await api.client.get(f"/api/v1/jobs?{include}")).json()["jobs"]
    assert {"input", "result"} & completed.keys() == {"input", "result"} & pending.keys() == fields
    if "result" in fields:
        assert (pending["result"], completed["result"]) == (None, {"schema_version": "test.v1"})


async def test_a_list_tells_no_place_in_line(api: Api) -> None:
    await api.submitted()
    [job] = (await api.client.get("/api/v1/jobs")).json()["jobs"]
    assert (job["position"], job["eta_seconds"], job["waiting_for"]) == (None, None, None)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("order=priority", "/order"),
        ("order=created_at&order=created_at", "/order"),
        ("include=everything", "/include/0"),
        ("include=input,", "/include/1"),
        ("include=", "/include/0"),
        ("priority=urgent", "/priority/0"),
        ("priority=1", "/priority/0"),
        ("error_code=oops", "/error_code/0"),
        ("batch_id=7", "/batch_id/0"),
        ("queue=%20", "/queue/0"),
        ("created_after=yesterday", "/created_after"),
        ("created_after=2026-03-01", "/created_after"),
        ("created_after=2026-03-01T12:00:00", "/created_after"),
        ("created_before=9999-12-31T23:59:59-01:00", "/created_before"),
        ("created_after=2026-03-01T12:00:00Z&created_after=2026-03-01T12:00:00Z", "/created_after"),
        ("owner_ref=%00", "/owner_ref"),
        (f"owner_ref={'x' * 501}", "/owner_ref/0"),
        ("labels=x", "/labels"),
        ("label=x", "/label"),
        ("label.=x", "/label."),
        ("label.a%20b=x", "/label.a b"),
        ("label.a=%00", "/label.a"),
        (f"label.a={'x' * 201}", "/label.a"),
        (f"label.{'a' * 64}=x", f"/label.{'a' * 64}"),
        ("&".join(f"label.a{number}=x" for number in range(17)), ""),
        ("where=x", "/where"),
    ],
)
async def test_what_cannot_be_asked_is_422_and_named(api: Api, query: str, pointer: str) -> None:
    assert pointers(await api.client.get(f"/api/v1/jobs?{query}")) == [pointer]


async def test_the_runs_of_a_job_are_its_history(api: Api) -> None:
    job_id = await api.submitted(task_type="summary")
    first = await api.lent(worker_id="one")
    api.clock.advance(timedelta(seconds=3))
    await api.report(first, "fail", error_code="timeout", error_message="too slow")
    await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    await api.client.post(f"/api/v1/jobs/{job_id}/retry")
    await api.lent(worker_id="two")
    runs: list[dict[str, Any]] = (await api.client.get(f"/api/v1/jobs/{job_id}/runs")).json()["runs"]
    assert runs == [
        {
            "started_at": "2026-03-01T12:00:00Z",
            "ended_at": "2026-03-01T12:00:03Z",
            "worker_id": "one",
            "outcome": "failed",
            "error_code": "timeout",
            "error_message": "too slow",
            "attempts": [],
        },
        {
            "started_at": "2026-03-01T12:00:03Z",
            "ended_at": None,
            "worker_id": "two",
            "outcome": None,
            "error_code": None,
            "error_message": None,
            "attempts": [],
        },
    ]


async def test_a_job_that_never_ran_has_no_runs(api: Api) -> None:
    assert (await api.client.get(f"/api/v1/jobs/{await api.submitted()}/runs")).json() == {"runs": []}


@pytest.mark.parametrize("job_id", [NO_JOB, "claim", "batch", "not-a-uuid"])
async def test_the_runs_of_no_job_are_404(api: Api, job_id: str) -> None:
    assert (await api.client.get(f"/api/v1/jobs/{job_id}/runs")).status_code == 404
