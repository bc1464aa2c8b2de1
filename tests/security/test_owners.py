"""What is one owner's stays theirs: another's token cannot read, follow, steer, count or guess it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.keyring import Keyring
from tests.app.conftest import WANTED, Api, build
from tests.factories import NO_JOB

TOKENS: dict[str, Any] = {
    "anna-token": {"owner": "anna", "rights": ["submit", "read", "work", "operate"]},
    "bert-token": {"owner": "bert", "rights": ["submit", "read", "work", "operate"]},
}
ANNA, BERT = ({"Authorization": f"Bearer {token}"} for token in TOKENS)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(TOKENS))
    built = build(Keyring(tokens=path))
    async with built.client:
        yield built


async def ask(api: Api, who: dict[str, str], method: str, path: str, body: Any = None) -> httpx.Response:
    return await api.client.request(method, path, headers=who, content=None if body is None else json.dumps(body))


async def submitted(api: Api, who: dict[str, str], **fields: Any) -> dict[str, Any]:
    wanted = {name: value for name, value in WANTED.items() if name != "owner_service"}
    answer = await ask(api, who, "POST", "/api/v1/jobs", wanted | fields)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def told(answer: httpx.Response, job_id: str) -> tuple[int, dict[str, str], str]:
    """All that an answer tells, without the id that was asked for."""
    return answer.status_code, dict(answer.headers), answer.text.replace(job_id, "ID")


CALLS: tuple[tuple[str, str, Any], ...] = (
    ("GET", "", None),
    ("GET", "?wait=1", None),
    ("GET", "/runs", None),
    ("GET", "/events", None),
    ("POST", "/cancel", None),
    ("POST", "/retry", None),
    ("DELETE", "", None),
    ("POST", "/heartbeat", {"lease_token": str(NO_JOB)}),
    ("POST", "/complete", {"lease_token": str(NO_JOB), "result": {}}),
    ("POST", "/fail", {"lease_token": str(NO_JOB), "error_code": "timeout"}),
    ("POST", "/release", {"lease_token": str(NO_JOB)}),
)


@pytest.mark.parametrize("state", ["pending", "running", "completed"])
async def test_another_owners_job_answers_as_one_that_does_not_exist(api: Api, state: str):
    """In every state, to every call, to the letter: else its existence could be guessed."""
    job = await submitted(api, ANNA, task_type="elsewhere")
    if state != "pending":
        claimed = await ask(api, ANNA, "POST", "/api/v1/jobs/claim", {"worker_id": "w"})
        [leased] = claimed.json()["jobs"]
        lease = {"lease_token": leased["lease_token"]}
    if state == "completed":
        await ask(api, ANNA, "POST", f"/api/v1/jobs/{job['id']}/complete", lease | {"result": {"x": "secret"}})
    before = (await ask(api, ANNA, "GET", f"/api/v1/jobs/{job['id']}")).json()

    for method, path, body in CALLS:
        theirs = await ask(api, BERT, method, f"/api/v1/jobs/{job['id']}{path}", body)
        nobodys = await ask(api, BERT, method, f"/api/v1/jobs/{NO_JOB}{path}", body)
        assert theirs.status_code == 404, f"{method} {path}"
        assert told(theirs, job["id"]) == told(nobodys, str(NO_JOB)), f"{method} {path}"
    if state == "running":
        stolen = await ask(api, BERT, "POST", f"/api/v1/jobs/{job['id']}/complete", lease | {"result": {}})
        assert stolen.status_code == 404, "not even with its lease"

    assert (await ask(api, ANNA, "GET", f"/api/v1/jobs/{job['id']}")).json() == before


async def test_lists_and_counts_know_ones_own_jobs_only(api: Api):
    job = await submitted(api, ANNA, owner_ref="anna/1", labels={"x": "1"})
    for query in ("", "?owner_ref=anna/1", "?label.x=1", "?status=pending", "?order=created_at"):
        assert (await ask(api, BERT, "GET", f"/api/v1/jobs{query}")).json() == {"jobs": [], "next_cursor": None}
    named = await ask(api, BERT, "GET", "/api/v1/jobs?owner_service=anna")
    assert named.status_code == 403
    assert (await ask(api, BERT, "GET", "/api/v1/jobs?owner_service=bert&owner_service=anna")).status_code == 403

    stats = (await ask(api, BERT, "GET", "/api/v1/stats")).text
    assert "anna" not in stats
    assert '"pending":1' not in stats.replace(" ", "")
    queues = await ask(api, BERT, "GET", "/api/v1/queues")
    assert job["id"] not in queues.text
    assert "anna" not in queues.text


async def test_a_cursor_of_another_owner_shows_nothing_of_theirs(api: Api):
    for _ in range(3):
        await submitted(api, ANNA)
    cursor = (await ask(api, ANNA, "GET", "/api/v1/jobs?limit=1")).json()["next_cursor"]
    answer = await ask(api, BERT, "GET", f"/api/v1/jobs?limit=1&cursor={cursor}")
    assert answer.status_code == 200
    assert answer.json()["jobs"] == []


async def test_steering_by_filter_touches_ones_own_jobs_only(api: Api):
    job = await submitted(api, ANNA, owner_ref="same")
    for what in ("cancel", "retry"):
        for where in ({"all": True}, {"ids": [job["id"]]}, {"owner_ref": "same"}, {"status": "pending"}):
            answer = await ask(api, BERT, "POST", f"/api/v1/jobs/{what}", where)
            assert answer.json() == {"matched": 0, "changed": 0}
        assert (await ask(api, BERT, "POST", f"/api/v1/jobs/{what}", {"owner_service": "anna"})).status_code == 403
    erased = await ask(api, BERT, "POST", "/api/v1/jobs/erase", {"owner_ref": "same"})
    assert erased.json() == {"erased": 0, "unfinished": 0}
    refused = await ask(api, BERT, "POST", "/api/v1/jobs/erase", {"owner_ref": "same", "owner_service": "anna"})
    assert refused.status_code == 403
    assert (await ask(api, ANNA, "GET", f"/api/v1/jobs/{job['id']}")).json()["status"] == "pending"


async def test_nobody_submits_or_claims_for_another(api: Api):
    await submitted(api, ANNA, task_type="elsewhere")
    wanted = WANTED | {"owner_service": "anna"}
    assert (await ask(api, BERT, "POST", "/api/v1/jobs", wanted)).status_code == 403
    for batch in ({"jobs": [wanted]}, {"defaults": {"owner_service": "anna"}, "jobs": [wanted]}):
        assert (await ask(api, BERT, "POST", "/api/v1/jobs/batch", batch)).status_code == 403
    claim = {"worker_id": "w", "limit": 100}
    assert (await ask(api, BERT, "POST", "/api/v1/jobs/claim", claim)).json() == {"jobs": []}
    named = await ask(api, BERT, "POST", "/api/v1/jobs/claim", claim | {"owner_services": ["anna"]})
    assert named.status_code == 403


async def test_an_idempotency_key_tells_nothing_of_another_owners(api: Api):
    first = await submitted(api, ANNA, idempotency_key="k")
    second = await submitted(api, BERT, idempotency_key="k")
    third = await submitted(api, BERT, idempotency_key="other", input={"user": "quite another"})
    assert len({first["id"], second["id"], third["id"]}) == 3
