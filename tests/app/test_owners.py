"""Each token sees and touches its own owner's jobs, and only what its rights allow."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.handlers import HTTPRouteHandler

from app.api.auth import RIGHT
from app.keyring import Keyring
from domain.access import Right
from tests.app.conftest import WANTED, Api, build, pointers, problem

EVERYTHING = ["submit", "read", "work"]
TOKENS: dict[str, Any] = {
    "ours-token": {"owner": "ours", "rights": EVERYTHING, "priority": "low"},
    "theirs-token": {"owner": "theirs", "rights": EVERYTHING},
    "root-token": "*",
}
JOB = {name: value for name, value in WANTED.items() if name != "owner_service"} | {"task_type": "summary"}

RIGHTS = {
    Right.SUBMIT: {
        "submit_job",
        "submit_batch",
        "cancel_job",
        "retry_job",
        "erase_job",
        "cancel_jobs",
        "retry_jobs",
        "erase_jobs",
        "upload",
        "delete_upload",
        "chat",
        "chat_stream",
        "enqueue_chat",
        "withdraw_chat",
    },
    Right.READ: {
        "list_jobs",
        "get_job",
        "list_runs",
        "follow_job",
        "get_stats",
        "list_queues",
        "list_workers",
        "get_queue_status",
        "get_upload",
        "get_upload_content",
        "get_providers_status",
        "get_infra_status",
        "get_queued_chat",
    },
    Right.WORK: {"claim_jobs", "heartbeat_job", "complete_job", "fail_job", "release_job", "get_upload_content"},
    Right.OPERATE: {
        "pause_queue",
        "resume_queue",
        "close_circuit",
        "pause_queues",
        "resume_queues",
        "start_queues",
        "stop_queues",
    },
}


class Owners:
    """Callers of two owners, and one of all."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def call(self, who: str, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {who}-token"}
        content = None if body is None else json.dumps(body)
        return await self.api.client.request(method, f"/api/v1{path}", content=content, headers=headers)

    async def submitted(self, who: str, **changes: Any) -> str:
        response = await self.call(who, "POST", "/jobs", JOB | changes)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def lent(self, who: str) -> dict[str, Any]:
        [job] = (await self.call(who, "POST", "/jobs/claim", {"worker_id": who})).json()["jobs"]
        return dict(job)


@pytest.fixture
async def owners(tmp_path: Path) -> AsyncIterator[Owners]:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(TOKENS))
    api = build(Keyring(tokens=path))
    async with api.client:
        yield Owners(api)


async def test_a_token_gives_its_jobs_their_owner_and_their_priority(owners: Owners) -> None:
    response = await owners.call("ours", "POST", "/jobs", JOB)
    assert (response.json()["owner_service"], response.json()["priority"]) == ("ours", "low")
    named = await owners.call("ours", "POST", "/jobs", JOB | {"owner_service": "ours", "priority": "high"})
    assert named.json()["priority"] == "high"


async def test_who_has_no_owner_must_name_one(owners: Owners) -> None:
    assert pointers(await owners.call("root", "POST", "/jobs", JOB)) == ["/owner_service"]
    batch = {"jobs": [JOB | {"owner_service": "ours"}, JOB]}
    assert pointers(await owners.call("root", "POST", "/jobs/batch", batch)) == ["/jobs/1/owner_service"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/jobs", JOB | {"owner_service": "theirs"}),
        ("POST", "/jobs/batch", {"jobs": [JOB, JOB | {"owner_service": "theirs"}]}),
        ("GET", "/jobs?owner_service=theirs", None),
        ("GET", "/jobs?owner_service=ours&owner_service=theirs", None),
        ("POST", "/jobs/cancel", {"owner_service": "theirs"}),
        ("POST", "/jobs/retry", {"owner_service": ["ours", "theirs"]}),
        ("POST", "/jobs/erase", {"owner_service": "theirs", "owner_ref": "x"}),
        ("POST", "/jobs/claim", {"worker_id": "w", "owner_services": ["theirs"]}),
    ],
)
async def test_to_name_another_owner_is_403(owners: Owners, method: str, path: str, body: object) -> None:
    document = problem(await owners.call("ours", method, path, body), 403)
    assert document["type"] == "urn:problem:ai-service:forbidden"
    assert (await owners.call("root", "GET", "/jobs")).json()["jobs"] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "?wait=1", None),
        ("GET", "/runs", None),
        ("GET", "/events", None),
        ("POST", "/cancel", None),
        ("POST", "/retry", None),
        ("DELETE", "", None),
        ("POST", "/heartbeat", {}),
        ("POST", "/complete", {"result": {}}),
        ("POST", "/fail", {"error_code": "timeout"}),
        ("POST", "/release", {}),
    ],
)
async def test_another_owners_job_does_not_exist(
    owners: Owners, method: str, path: str, body: dict[str, Any] | None
) -> None:
    await owners.submitted("theirs")
    job = await owners.lent("theirs")
    body = None if body is None else body | {"lease_token": job["lease_token"]}
    problem(await owners.call("ours", method, f"/jobs/{job['id']}{path}", body), 404)
    assert (await owners.call("theirs", "GET", f"/jobs/{job['id']}")).json()["status"] == "running"


async def test_lists_claims_and_figures_are_of_the_callers_own(owners: Owners) -> None:
    await owners.submitted("theirs")
    mine = await owners.submitted("ours")
    assert [job["id"] for job in (await owners.call("ours", "GET", "/jobs")).json()["jobs"]] == [mine]
    assert len((await owners.call("root", "GET", "/jobs")).json()["jobs"]) == 2
    owners.api.clock.advance(timedelta(seconds=2))
    stats = (await owners.call("ours", "GET", "/stats")).json()
    assert [each["owner_service"] for each in stats["by_owner"]] == ["ours"]
    claimed = (await owners.call("ours", "POST", "/jobs/claim", {"worker_id": "w", "limit": 9})).json()["jobs"]
    assert [job["id"] for job in claimed] == [mine]


async def test_steering_all_means_all_of_the_callers_own(owners: Owners) -> None:
    theirs = await owners.submitted("theirs", owner_ref="x")
    await owners.submitted("ours", owner_ref="x")
    assert (await owners.call("ours", "POST", "/jobs/cancel", {"all": True})).json() == {"matched": 1, "changed": 1}
    assert (await owners.call("ours", "POST", "/jobs/retry", {"ids": [theirs]})).json() == {"matched": 0, "changed": 0}
    erased = await owners.call("ours", "POST", "/jobs/erase", {"owner_ref": "x"})
    assert erased.json() == {"erased": 1, "unfinished": 0}
    assert (await owners.call("theirs", "GET", f"/jobs/{theirs}")).json()["status"] == "pending"


async def test_the_same_key_of_two_owners_is_two_jobs(owners: Owners) -> None:
    assert await owners.submitted("ours", idempotency_key="k") != await owners.submitted("theirs", idempotency_key="k")


def asks(handler: HTTPRouteHandler, right: Right) -> bool:
    named = handler.opt.get(RIGHT)
    return right in named if isinstance(named, tuple) else named == right


def test_every_route_names_the_right_that_it_asks_for(owners: Owners) -> None:
    handlers = [
        handler
        for route in owners.api.app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler) and route.path.startswith(("/api/v1", "/queue", "/chat"))
    ]
    asked = {right: {str(each.operation_id) for each in handlers if asks(each, right)} for right in RIGHTS}
    named = {right: {name for name in names if name != "None"} for right, names in asked.items()}
    assert named == RIGHTS
