"""External workers: claims, heartbeats, and every way that a run ends."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.wire.work import MAX_PROGRESS_BYTES
from domain.ports import RescueTerms
from tests.app.conftest import LEASE_TIMEOUT, MAX_RESULT_BYTES, WANTED, Api, pointers, problem, until
from tests.factories import NO_JOB, NOW, QUEUE, new_lease

CLAIM = {"worker_id": "outside-1"}
CHAT = {"schema_version": "ai.chat_result.v1", "content": "Hi", "model": "m", "duration_ms": 1}


async def claim(api: Api, **wanted: Any) -> httpx.Response:
    return await api.client.post("/api/v1/jobs/claim", json=CLAIM | wanted)


async def claimed(api: Api, **wanted: Any) -> list[str]:
    response = await claim(api, **wanted)
    assert response.status_code == 200, response.text
    return [job["owner_ref"] for job in response.json()["jobs"]]


async def outside(api: Api, **changes: Any) -> str:
    """A job that only an external worker can do."""
    return await api.submitted(task_type="summary", **changes)


async def test_a_claimed_job_is_whole_and_comes_with_its_lease(api: Api) -> None:
    job_id = await outside(api, labels={"a": "b"})
    job = await api.lent(lease_timeout=60)
    assert (job["id"], job["status"], job["worker_id"]) == (job_id, "running", "outside-1")
    assert (job["input"], job["labels"]) == (WANTED["input"], {"a": "b"})
    assert job["lease_expires_at"] == "2026-03-01T12:01:00Z"
    assert len(job["lease_token"]) == 36


async def test_a_lease_lasts_as_configured_where_the_claim_does_not_say(api: Api) -> None:
    await outside(api)
    expires_at = (NOW + LEASE_TIMEOUT).isoformat().replace("+00:00", "Z")
    assert (await api.lent())["lease_expires_at"] == expires_at


async def test_nothing_to_do_is_no_error(api: Api) -> None:
    assert (await claim(api)).json() == {"jobs": []}


async def test_two_workers_never_get_one_job(api: Api) -> None:
    for _ in range(5):
        await outside(api)
    answers = await asyncio.gather(*(claim(api, worker_id=f"w{number}", limit=2) for number in range(4)))
    ids = [job["id"] for answer in answers for job in answer.json()["jobs"]]
    assert len(ids) == len(set(ids)) == 5


async def test_urgent_jobs_come_first_and_older_ones_among_equals(api: Api) -> None:
    for ref, priority in [("a", "low"), ("b", "normal"), ("c", "high"), ("d", "normal")]:
        await outside(api, owner_ref=ref, priority=priority)
    assert await claimed(api, limit=3) == ["c", "b", "d"]


@pytest.mark.parametrize(
    ("wanted", "refs"),
    [
        ({}, ["a", "b", "c"]),
        ({"task_types": ["summary"]}, ["b", "c"]),
        ({"task_types": ["summary", "llm_chat"]}, ["a", "b", "c"]),
        ({"task_types": ["other"]}, []),
        ({"model_profiles": ["qwen2.5-14b"]}, ["a", "b"]),
        ({"owner_services": ["telephony"]}, ["c"]),
        ({"queues": [QUEUE]}, ["a"]),
        ({"queues": ["gpu.speech"]}, []),
        ({"task_types": ["summary"], "model_profiles": ["other"]}, ["c"]),
    ],
)
async def test_a_claim_takes_only_what_matches(api: Api, wanted: dict[str, Any], refs: list[str]) -> None:
    await api.submitted(owner_ref="a")
    await outside(api, owner_ref="b")
    await outside(api, owner_ref="c", owner_service="telephony", model_profile="other")
    assert await claimed(api, limit=100, **wanted) == refs


async def test_a_job_is_not_claimed_before_its_time(api: Api) -> None:
    await outside(api, run_at="2026-03-01T12:00:01Z")
    assert await claimed(api) == []


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"worker_id": ""}, "/worker_id"),
        ({"worker_id": None}, "/worker_id"),
        ({"limit": 0}, "/limit"),
        ({"limit": 101}, "/limit"),
        ({"limit": 1.5}, "/limit"),
        ({"lease_timeout": 4.9}, "/lease_timeout"),
        ({"lease_timeout": 86_401}, "/lease_timeout"),
        ({"lease_timeout": "15m"}, "/lease_timeout"),
        ({"wait": 31}, "/wait"),
        ({"wait": -1}, "/wait"),
        ({"task_types": []}, "/task_types"),
        ({"task_types": "summary"}, "/task_types"),
        ({"task_types": ["a"] * 101}, "/task_types"),
        ({"queues": [""]}, "/queues/0"),
        ({"queues": None}, "/queues"),
        ({"owner_service": "a"}, "/owner_service"),
    ],
)
async def test_a_claim_that_makes_no_sense_is_422(api: Api, changes: dict[str, Any], pointer: str) -> None:
    assert pointers(await claim(api, **changes)) == [pointer]


async def test_a_claim_without_a_worker_is_422(api: Api) -> None:
    assert pointers(await api.client.post("/api/v1/jobs/claim", json={})) == ["/worker_id"]


async def test_a_claim_waits_for_work_and_gets_it(api: Api) -> None:
    asked = asyncio.create_task(claim(api, wait=30))
    await until(lambda: api.watch.seeking == 1)
    job_id = await outside(api)
    assert [job["id"] for job in (await asked).json()["jobs"]] == [job_id]
    assert api.watch.seeking == 0


async def test_a_claim_that_waited_in_vain_gets_nothing(api: Api) -> None:
    assert (await claim(api, wait=0.01)).json() == {"jobs": []}
    assert api.watch.seeking == 0


async def test_of_those_who_wait_one_gets_the_job_and_the_others_wait_on(api: Api) -> None:
    asked = [asyncio.create_task(claim(api, wait=30)) for _ in range(3)]
    await until(lambda: api.watch.seeking == 3)
    await outside(api)
    done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    await until(lambda: api.watch.seeking == 2)
    assert [len(task.result().json()["jobs"]) for task in done] == [1]
    api.watch.dismiss()
    assert [response.json()["jobs"] for response in await asyncio.gather(*waiting)] == [[], []]


async def test_a_process_that_stops_answers_waiting_claims(api: Api) -> None:
    asked = asyncio.create_task(claim(api, wait=30))
    await until(lambda: api.watch.seeking == 1)
    api.watch.dismiss()
    assert (await asked).json() == {"jobs": []}


async def test_a_worker_that_waits_looks_by_itself_now_and_then(api: Api) -> None:
    """Of a job that becomes due no event tells."""
    object.__setattr__(api.services.claims, "look_every", 0.001)
    await outside(api, run_at="2026-03-01T12:00:01Z")
    asked = asyncio.create_task(claim(api, wait=30))
    await until(lambda: api.watch.seeking == 1)
    api.clock.advance(timedelta(seconds=2))
    await api.store.promote_due()
    assert len((await asked).json()["jobs"]) == 1


async def test_a_heartbeat_renews_the_lease_for_as_long_as_was_claimed(api: Api) -> None:
    await outside(api)
    job = await api.lent(lease_timeout=60)
    api.clock.advance(timedelta(seconds=50))
    response = await api.report(job, "heartbeat")
    assert response.json() == {"job_id": job["id"], "lease_expires_at": "2026-03-01T12:01:50Z"}


async def test_a_heartbeat_may_say_how_far_the_run_is(api: Api) -> None:
    job_id = await outside(api)
    job = await api.lent()
    await api.report(job, "heartbeat", progress={"percent": 40})
    await api.report(job, "heartbeat")
    assert (await api.client.get(f"/api/v1/jobs/{job_id}")).json()["progress"] == {"percent": 40}


@pytest.mark.parametrize("progress", [[], 7, "text", None])
async def test_progress_that_is_no_object_is_422(api: Api, progress: Any) -> None:
    await outside(api)
    assert pointers(await api.report(await api.lent(), "heartbeat", progress=progress)) == ["/progress"]


async def test_progress_over_its_limit_is_413(api: Api) -> None:
    await outside(api)
    job = await api.lent()
    response = await api.report(job, "heartbeat", progress={"text": "x" * MAX_PROGRESS_BYTES})
    assert str(MAX_PROGRESS_BYTES) in problem(response, 413)["detail"]


async def test_a_completed_job_has_its_result_byte_for_byte(api: Api) -> None:
    await outside(api)
    job = await api.lent()
    body = b'{"lease_token":"%s","result":{ "x" : [1.10, "\\u00e4"] }}' % job["lease_token"].encode()
    response = await api.client.post(f"/api/v1/jobs/{job['id']}/complete", content=body)
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["attempts"]) == ("completed", 1)
    assert b'"result":{ "x" : [1.10, "\\u00e4"] }' in response.content


async def test_the_same_completion_again_is_200_and_changes_nothing(api: Api) -> None:
    await outside(api)
    job = await api.lent()
    first = await api.report(job, "complete", result={"a": 1, "b": 2})
    again = await api.report(job, "complete", result={"b": 2, "a": 1})
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


async def test_another_result_under_an_ended_lease_is_409(api: Api) -> None:
    job_id = await outside(api)
    job = await api.lent()
    await api.report(job, "complete", result={"a": 1})
    document = problem(await api.report(job, "complete", result={"a": 2}), 409)
    assert document["type"] == "urn:problem:ai-service:lease-lost"
    assert (await api.client.get(f"/api/v1/jobs/{job_id}")).json()["result"] == {"a": 1}


@pytest.mark.parametrize(
    ("result", "pointer"),
    [
        ([], "/result"),
        (None, "/result"),
        ("text", "/result"),
        ({"text": "\0"}, "/result/text"),
        ({"text": "\ud800"}, "/result/text"),
        (CHAT | {"content": 1}, "/result/content"),
        ({"schema_version": "ai.chat_result.v1"}, "/result/content"),
    ],
)
async def test_a_result_that_cannot_be_kept_is_422_and_the_run_goes_on(api: Api, result: Any, pointer: str) -> None:
    job_id = await outside(api)
    job = await api.lent()
    assert pointers(await api.report(job, "complete", result=result)) == [pointer]
    assert await api.status(job_id) == "running"


@pytest.mark.parametrize("result", [{}, CHAT, CHAT | {"more": [1]}, {"schema_version": "render.v9"}])
async def test_any_object_is_a_result_and_one_of_ours_must_fit(api: Api, result: dict[str, Any]) -> None:
    await outside(api)
    assert (await api.report(await api.lent(), "complete", result=result)).json()["result"] == result


async def test_a_result_over_its_limit_is_413_and_the_run_goes_on(api: Api) -> None:
    job_id = await outside(api)
    job = await api.lent()
    document = problem(await api.report(job, "complete", result={"text": "x" * MAX_RESULT_BYTES}), 413)
    assert f"{MAX_RESULT_BYTES} are accepted (MAX_RESULT_BYTES)" in document["detail"]
    document = problem(await api.report(job, "complete", result={"text": "x" * 100_000}), 413)
    assert "MAX_RESULT_BYTES" in document["detail"]
    assert await api.status(job_id) == "running"


async def test_a_failed_run_is_tried_again_as_the_table_says(api: Api) -> None:
    await outside(api)
    job = await api.lent()
    failed = (await api.report(job, "fail", error_code="timeout", error_message="too slow")).json()
    assert (failed["status"], failed["error_code"], failed["error_message"]) == ("pending", "timeout", "too slow")
    assert (failed["attempts"], failed["run_at"], failed["waiting_for"]) == (1, "2026-03-01T12:00:30Z", "run_at")


async def test_a_worker_may_ask_for_a_longer_delay(api: Api) -> None:
    await outside(api)
    failed = (await api.report(await api.lent(), "fail", error_code="timeout", retry_after=120)).json()
    assert failed["run_at"] == "2026-03-01T12:02:00Z"


async def test_a_failure_that_is_final_ends_the_job(api: Api) -> None:
    await outside(api)
    failed = (await api.report(await api.lent(), "fail", error_code="bad_input")).json()
    assert (failed["status"], failed["error_message"], failed["position"]) == ("failed", "", None)


async def test_the_same_failure_again_is_200_and_counts_once(api: Api) -> None:
    await outside(api)
    job = await api.lent()
    first = await api.report(job, "fail", error_code="timeout")
    again = await api.report(job, "fail", error_code="timeout")
    assert (again.status_code, again.json()) == (200, first.json())


async def test_of_a_long_message_two_thousand_characters_are_kept(api: Api) -> None:
    await outside(api)
    failed = await api.report(await api.lent(), "fail", error_code="bad_input", error_message="x" * 5_000)
    assert len(failed.json()["error_message"]) == 2_000


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({}, "/error_code"),
        ({"error_code": "oops"}, "/error_code"),
        ({"error_code": None}, "/error_code"),
        ({"error_code": "timeout", "error_message": "\0"}, "/error_message"),
        ({"error_code": "timeout", "retry_after": -1}, "/retry_after"),
        ({"error_code": "timeout", "retry_after": 86_401}, "/retry_after"),
        ({"error_code": "timeout", "result": {}}, "/result"),
    ],
)
async def test_a_failure_outside_the_contract_is_422(api: Api, more: dict[str, Any], pointer: str) -> None:
    job_id = await outside(api)
    assert pointers(await api.report(await api.lent(), "fail", **more)) == [pointer]
    assert await api.status(job_id) == "running"


async def test_a_released_job_is_back_in_its_old_place_and_nothing_is_counted(api: Api) -> None:
    await outside(api, owner_ref="first")
    await outside(api, owner_ref="second")
    job = await api.lent()
    released = (await api.report(job, "release")).json()
    assert (released["status"], released["attempts"], released["position"]) == ("pending", 0, 0)
    assert released["waiting_for"] == "external_worker"
    assert (await api.report(job, "release")).status_code == 200
    assert await claimed(api) == ["first"]


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("heartbeat", {"progress": {"a": 1}}),
    ("complete", {"result": {}}),
    ("fail", {"error_code": "timeout"}),
    ("release", {}),
]


async def lose_by_cancel(api: Api, job: dict[str, Any]) -> None:
    await api.client.post(f"/api/v1/jobs/{job['id']}/cancel")


async def lose_by_retry(api: Api, job: dict[str, Any]) -> None:
    await api.client.post(f"/api/v1/jobs/{job['id']}/retry")
    assert (await api.lent())["id"] == job["id"]


async def lose_by_time(api: Api, job: dict[str, Any]) -> None:
    api.clock.advance(LEASE_TIMEOUT + timedelta(seconds=1))
    await api.store.rescue(RescueTerms(3, timedelta(0)))


LOST = [(lose, *way) for lose in (lose_by_cancel, lose_by_retry, lose_by_time) for way in WAYS]


@pytest.mark.parametrize(("lose", "how", "more"), LOST)
async def test_a_lost_lease_changes_nothing_and_is_409(api: Api, lose: Any, how: str, more: dict[str, Any]) -> None:
    job_id = await outside(api, max_attempts=1)
    job = await api.lent()
    await lose(api, job)
    before = (await api.client.get(f"/api/v1/jobs/{job_id}")).json()
    document = problem(await api.report(job, how, **more), 409)
    assert document["type"] == "urn:problem:ai-service:lease-lost"
    assert (await api.client.get(f"/api/v1/jobs/{job_id}")).json() == before


@pytest.mark.parametrize(("how", "more"), WAYS)
async def test_another_jobs_token_is_a_lost_lease(api: Api, how: str, more: dict[str, Any]) -> None:
    await outside(api)
    await outside(api)
    mine, other = await api.lent(), await api.lent()
    problem(await api.report(mine | {"lease_token": other["lease_token"]}, how, **more), 409)
    assert [await api.status(job["id"]) for job in (mine, other)] == ["running", "running"]


@pytest.mark.parametrize(("how", "more"), WAYS)
@pytest.mark.parametrize("job_id", [NO_JOB, "nonsense"])
async def test_an_unknown_job_is_404(api: Api, how: str, more: dict[str, Any], job_id: str) -> None:
    problem(await api.report({"id": job_id, "lease_token": str(new_lease().token)}, how, **more), 404)


@pytest.mark.parametrize(("how", "more"), WAYS)
@pytest.mark.parametrize("token", [None, "", "7", 7])
async def test_a_token_that_cannot_be_one_is_422(api: Api, how: str, more: dict[str, Any], token: Any) -> None:
    await outside(api)
    job = await api.lent()
    assert pointers(await api.report(job | {"lease_token": token}, how, **more)) == ["/lease_token"]


@pytest.mark.parametrize(("how", "more"), WAYS)
async def test_a_way_to_report_knows_its_fields_only(api: Api, how: str, more: dict[str, Any]) -> None:
    await outside(api)
    assert pointers(await api.report(await api.lent(), how, **more, colour="red")) == ["/colour"]


@pytest.mark.parametrize("how", [how for how, _ in WAYS])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"lease_token": "\xe4"}', b"[" * 5_000])
async def test_a_report_that_cannot_be_read_is_400(api: Api, how: str, content: bytes) -> None:
    await outside(api)
    job = await api.lent()
    problem(await api.client.post(f"/api/v1/jobs/{job['id']}/{how}", content=content), 400)
    assert await api.status(job["id"]) == "running"


async def test_a_built_in_workers_job_is_not_kept_by_a_heartbeat(api: Api) -> None:
    await api.submitted()
    held = await api.claim()
    job = {"id": str(held.id), "lease_token": str(held.lease.token)}
    problem(await api.report(job, "heartbeat"), 409)


async def test_claim_is_no_job_of_that_name(api: Api) -> None:
    assert (await api.client.get("/api/v1/jobs/claim")).status_code == 405
