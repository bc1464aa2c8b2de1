from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from app.wire.submit import MOST_JOBS, read_batch
from domain.errors import BadInput
from tests.app.conftest import MAX_BATCH_BYTES, MAX_INPUT_BYTES, WANTED, Api, pointers, problem
from tests.factories import QUEUE

INPUT = {"user": "Hello"}


async def send(api: Api, jobs: Sequence[Any], **more: Any) -> httpx.Response:
    return await api.client.post("/api/v1/jobs/batch", content=json.dumps({"jobs": jobs} | more))


async def stored(api: Api) -> int:
    return len((await api.client.get("/api/v1/jobs")).json()["jobs"])


async def test_a_batch_is_stored_and_told_in_its_order(api: Api) -> None:
    response = await send(api, [WANTED | {"owner_ref": ref} for ref in "abc"])
    batch = response.json()
    assert response.status_code == 201
    assert (batch["created"], batch["existing"]) == (3, 0)
    assert [(job["index"], job["status"]) for job in batch["jobs"]] == [(0, "pending"), (1, "pending"), (2, "pending")]
    jobs = [(await api.client.get(f"/api/v1/jobs/{job['id']}")).json() for job in batch["jobs"]]
    assert [job["owner_ref"] for job in jobs] == ["a", "b", "c"]
    assert {job["batch_id"] for job in jobs} == {batch["batch_id"]}


async def test_a_batch_wakes_workers(api: Api) -> None:
    await send(api, [WANTED, WANTED])
    assert api.tickets.published == [(QUEUE, 2)]


async def test_a_job_is_what_the_defaults_and_itself_say_and_itself_wins_as_a_whole(api: Api) -> None:
    defaults = WANTED | {"priority": "low", "labels": {"a": "1", "b": "2"}}
    await send(api, [{}, {"priority": "high", "labels": {"a": "3"}}], defaults=defaults)
    listed = (await api.client.get("/api/v1/jobs?order=created_at&include=input")).json()["jobs"]
    first, second = ({name: job[name] for name in ("priority", "labels", "input")} for job in listed)
    assert first == {"priority": "low", "labels": {"a": "1", "b": "2"}, "input": INPUT}
    assert second == {"priority": "high", "labels": {"a": "3"}, "input": INPUT}


async def test_inputs_come_back_byte_for_byte_whether_from_the_job_or_the_defaults(api: Api) -> None:
    common = b'"owner_service":"a","task_type":"t","model_profile":"p"'
    content = b'{"defaults":{' + common + b',"input":{ "d" :1.10}},"jobs":[{}, {"input" : {"x": [ 1e400 ],"x":2}}\n]}'
    assert (await api.client.post("/api/v1/jobs/batch", content=content)).status_code == 201
    listed = (await api.client.get("/api/v1/jobs?include=input")).content
    assert b'"input":{ "d" :1.10}' in listed
    assert b'"input":{"x": [ 1e400 ],"x":2}' in listed


async def test_one_bad_job_among_ten_thousand_is_named_and_nothing_is_stored(api: Api) -> None:
    jobs: list[dict[str, Any]] = [{}] * MOST_JOBS
    jobs[7_117] = {"max_attempts": 0}
    assert pointers(await send(api, jobs, defaults=WANTED)) == ["/jobs/7117/max_attempts"]
    assert await stored(api) == 0


async def test_ten_thousand_jobs_are_taken_and_one_more_is_not(api: Api) -> None:
    response = await send(api, [{}] * MOST_JOBS, defaults=WANTED)
    assert response.json()["created"] == MOST_JOBS
    assert pointers(await send(api, [{}] * (MOST_JOBS + 1), defaults=WANTED)) == ["/jobs"]


async def test_no_job_is_no_batch(api: Api) -> None:
    assert pointers(await send(api, [])) == ["/jobs"]


@pytest.mark.parametrize(
    ("job", "pointer"),
    [
        ({"colour": "red"}, "/jobs/1/colour"),
        ({"batch_id": "x"}, "/jobs/1/batch_id"),
        ({"priority": 1}, "/jobs/1/priority"),
        ({"input": []}, "/jobs/1/input"),
        ({"input": {"messages": [{"role": "robot", "content": ""}]}}, "/jobs/1/input/messages/0/role"),
        ({"input": {"user": "\0"}}, "/jobs/1/input/user"),
        ({"run_at": "9999-12-31T23:59:59-01:00"}, "/jobs/1/run_at"),
        ({"run_at": "2026-03-01T12:00:00Z", "deadline_at": "2026-03-01T11:00:00Z"}, "/jobs/1/deadline_at"),
        ({"idempotency_key": ""}, "/jobs/1/idempotency_key"),
        ([], "/jobs/1"),
        (None, "/jobs/1"),
        (7, "/jobs/1"),
    ],
)
async def test_what_is_wrong_with_a_job_is_pointed_at(api: Api, job: Any, pointer: str) -> None:
    assert pointers(await send(api, [{}, job], defaults=WANTED)) == [pointer]
    assert await stored(api) == 0


@pytest.mark.parametrize("field", ["owner_service", "task_type", "model_profile", "input"])
async def test_what_neither_the_job_nor_the_defaults_have_is_missing(api: Api, field: str) -> None:
    defaults = {name: value for name, value in WANTED.items() if name != field}
    assert pointers(await send(api, [WANTED, {}], defaults=defaults)) == [f"/jobs/1/{field}"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"defaults": {"priority": "urgent"}}, "/defaults/priority"),
        ({"defaults": {"idempotency_key": "k"}}, "/defaults/idempotency_key"),
        ({"defaults": {"colour": 1}}, "/defaults/colour"),
        ({"defaults": {"owner_ref": "\0"}}, "/defaults/owner_ref"),
        ({"defaults": []}, "/defaults"),
        ({"defaults": None}, "/defaults"),
        ({"jobs": {}}, "/jobs"),
        ({"jobs": None}, "/jobs"),
        ({"batch_id": "x"}, "/batch_id"),
    ],
)
async def test_what_is_wrong_with_the_batch_is_pointed_at(api: Api, changes: dict[str, Any], pointer: str) -> None:
    content = json.dumps({"jobs": [WANTED]} | changes)
    assert pointers(await api.client.post("/api/v1/jobs/batch", content=content)) == [pointer]


async def test_a_batch_without_jobs_misses_them(api: Api) -> None:
    assert pointers(await api.client.post("/api/v1/jobs/batch", json={})) == ["/jobs"]


async def test_twenty_problems_are_told_at_once(api: Api) -> None:
    wrong = await send(api, [{"max_attempts": 0}] * 30, defaults=WANTED)
    assert pointers(wrong) == [f"/jobs/{index}/max_attempts" for index in range(20)]
    unlike = await send(api, [{"input": {"user": 1}}] * 30, defaults=WANTED)
    assert pointers(unlike) == [f"/jobs/{index}/input/user" for index in range(20)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"{", "truncated"),
        (b'{"jobs": [{}, }]}', "malformed"),
        (b'{"jobs": [{}], "colour": ]}', "malformed"),
        (b'{"jobs": [{"input": {"a": "\xff"}}]}', "/jobs/0: The body is not UTF-8"),
        (b'{"jobs": [{"\xff": 1}], "defaults": {"owner_ref": "x"}}', "/jobs/0: The body is not UTF-8"),
        (b'{"jobs": [{}], "defaults": {"owner_ref": "\xe4"}}', "/defaults: The body is not UTF-8"),
        (rb'{"jobs": [{"owner_ref": "\ud800, half of a pair"}]}', "malformed"),
        (b'{"jobs": [{"input": ' + b"[" * 20_000 + b"]" * 20_000 + b"}]}", "deeply"),
        ('{"jobs": [{}]}'.encode("utf-16"), "malformed"),
    ],
)
async def test_a_batch_that_cannot_be_read_is_400(api: Api, content: bytes, said: str) -> None:
    response = await api.client.post("/api/v1/jobs/batch", content=content)
    assert said in problem(response, 400)["detail"]
    assert await stored(api) == 0


async def test_a_batch_over_its_limit_is_413_and_names_the_variable_to_raise(api: Api) -> None:
    response = await api.client.post("/api/v1/jobs/batch", content=b" " * (MAX_BATCH_BYTES + 1))
    detail = problem(response, 413)["detail"]
    assert f"{MAX_BATCH_BYTES} bytes" in detail
    assert "MAX_BATCH_BYTES" in detail


async def test_a_batch_may_be_larger_than_one_job_but_its_jobs_may_not(api: Api) -> None:
    content = json.dumps({"jobs": [WANTED] * 1_000})
    assert len(content) > 70 * MAX_INPUT_BYTES
    assert (await api.client.post("/api/v1/jobs/batch", content=content)).status_code == 201
    large = WANTED | {"input": {"user": "x" * MAX_INPUT_BYTES}}
    assert "/jobs/1: " in problem(await send(api, [WANTED, large]), 413)["detail"]


async def test_keys_find_jobs_that_are_there_already_whatever_their_state(api: Api) -> None:
    first = await api.submitted(idempotency_key="one")
    await api.complete(first)
    batch = (await send(api, [{"idempotency_key": "one"}, {"idempotency_key": "two"}], defaults=WANTED)).json()
    assert (batch["created"], batch["existing"]) == (1, 1)
    assert batch["jobs"][0] == {"index": 0, "id": first, "status": "completed"}
    again = (await send(api, [{"idempotency_key": "one"}, {"idempotency_key": "two"}], defaults=WANTED)).json()
    assert (again["created"], again["existing"]) == (0, 2)
    assert [job["id"] for job in again["jobs"]] == [job["id"] for job in batch["jobs"]]


async def test_a_key_of_another_job_is_pointed_at_and_nothing_is_stored(api: Api) -> None:
    await api.submitted(idempotency_key="one")
    jobs = [{"idempotency_key": "two"}, {"idempotency_key": "one", "priority": "low"}]
    assert pointers(await send(api, jobs, defaults=WANTED)) == ["/jobs/1/idempotency_key"]
    assert await stored(api) == 1


async def test_a_key_for_the_whole_batch_is_refused(api: Api) -> None:
    body = {"jobs": [WANTED]}
    response = await api.client.post("/api/v1/jobs/batch", json=body, headers={"Idempotency-Key": "one"})
    assert pointers(response) == ["/idempotency_key"]


async def test_batch_is_no_job_of_that_name(api: Api) -> None:
    response = await api.client.get("/api/v1/jobs/batch")
    assert response.status_code == 405


def test_a_large_batch_costs_little_more_memory_than_its_bytes() -> None:
    job = {"task_type": "t", "model_profile": "p", "input": {"text": "x" * 10_000}}
    body = json.dumps({"defaults": {"owner_service": "a"}, "jobs": [job] * 2_000}).encode()
    tracemalloc.start()
    try:
        assert len(read_batch(body)) == 2_000
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(body)
    finally:
        tracemalloc.stop()


def test_millions_of_jobs_are_refused_before_they_are_kept() -> None:
    body = b'{"jobs":[' + b"0," * 5_000_000 + b"0]}"
    tracemalloc.start()
    try:
        with pytest.raises(BadInput):
            read_batch(body)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
