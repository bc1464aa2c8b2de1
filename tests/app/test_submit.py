from __future__ import annotations

from typing import Any

import pytest

from app.wire.body import ENVELOPE_BYTES
from tests.app.conftest import MAX_INPUT_BYTES, WANTED, Api, pointers, problem
from tests.factories import QUEUE

ENVELOPE = b'{"owner_service":"beeline","task_type":"summary","model_profile":"external"'


def body(raw_input: bytes, more: bytes = b"") -> bytes:
    return ENVELOPE + b',"input":' + raw_input + more + b"}"


async def test_a_submitted_job_is_stored_and_told_in_full(api: Api) -> None:
    response = await api.submit(
        owner_ref="beeline/7",
        priority="high",
        max_attempts=5,
        run_at="2026-03-01T15:00:00+03:00",
        deadline_at="2026-03-01T13:00:00Z",
        labels={"team": "refunds"},
    )
    job = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/api/v1/jobs/{job['id']}"
    assert job == {
        **WANTED,
        "id": job["id"],
        "owner_ref": "beeline/7",
        "priority": "high",
        "status": "pending",
        "queue": QUEUE,
        "result": None,
        "error_code": None,
        "error_message": None,
        "attempts": 0,
        "max_attempts": 5,
        "crashes": 0,
        "progress": None,
        "run_at": "2026-03-01T12:00:00Z",
        "deadline_at": "2026-03-01T13:00:00Z",
        "batch_id": None,
        "labels": {"team": "refunds"},
        "position": 0,
        "eta_seconds": None,
        "waiting_for": "worker",
        "worker_id": None,
        "lease_expires_at": None,
        "created_at": "2026-03-01T12:00:00Z",
        "started_at": None,
        "finished_at": None,
        "updated_at": "2026-03-01T12:00:00Z",
    }


async def test_what_is_left_out_has_its_default(api: Api) -> None:
    job = (await api.submit()).json()
    assert (job["owner_ref"], job["priority"], job["max_attempts"]) == ("", "normal", 3)


async def test_a_submitted_job_wakes_a_worker(api: Api) -> None:
    await api.submitted()
    assert api.tickets.published == [(QUEUE, 1)]


async def test_a_job_that_is_not_served_here_waits_without_a_queue(api: Api) -> None:
    assert (await api.submit(task_type="summary")).json()["queue"] is None


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "b": 1,\n  "a" : [1.10, 1e400, "\\u00fc \\ud83d\\ude00 \xc3\xbc"], "a": 2 }',
        b'{"text":"\\\\u0000 \\\\ud800"}',
        b"{}",
    ],
)
async def test_the_input_comes_back_byte_for_byte(api: Api, raw: bytes) -> None:
    response = await api.client.post("/api/v1/jobs", content=body(raw))
    assert b'"input":' + raw + b"," in response.content
    again = await api.client.get(response.headers["location"])
    assert b'"input":' + raw + b"," in again.content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"   ", "truncated"),
        (b"{", "truncated"),
        (b'{"owner_service": "a",}', "trailing comma"),
        (b'{"colour": 1', "truncated"),
        (b'{"max_attempts": 0, nonsense', "malformed"),
        (body(b'{"a": tru}'), "malformed"),
        (body(b'{"a": NaN}'), "malformed"),
        (body(b'{"a": "\x00"}'), "malformed"),
        (body(b'{"a": "\\u0000", "b": NaN}'), "malformed"),
        (body(b"{}") + b"{}", "trailing"),
        (b"\xef\xbb\xbf" + body(b"{}"), "malformed"),
        (body(b'{"a": "\xff"}'), "UTF-8"),
        (body(b'{"\xc3\x28": 1}'), "UTF-8"),
        (body(b"{}", b',"owner_ref":"\xff"'), "UTF-8"),
        (body(b"{}").decode().encode("utf-16"), "UTF-8"),
        (body(b"[" * 20_000 + b"]" * 20_000), "deeply"),
        (body(b'{"a":' * 10_000 + b'"\\u0000"' + b"}" * 10_000), "deeply"),
        (b'{"colour":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "deeply"),
    ],
)
async def test_a_body_that_cannot_be_read_is_400(api: Api, content: bytes, said: str) -> None:
    response = await api.client.post("/api/v1/jobs", content=content)
    assert said in problem(response, 400)["detail"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"colour": "red"}, "/colour"),
        ({"a/b~c": 1}, "/a~1b~0c"),
        ({"batch_id": str(QUEUE)}, "/batch_id"),
        ({"callback_url": "https://example.org"}, "/callback_url"),
        ({"deadline_at": "2026-03-01T12:00:00"}, "/deadline_at"),
        ({"deadline_at": "0001-01-01T00:00:00+01:00"}, "/deadline_at"),
        ({"deadline_at": "2026-03-01T12:00:00Z", "run_at": "2026-03-01T12:00:00Z"}, "/deadline_at"),
        ({"labels": []}, "/labels"),
        ({"labels": {"a": 1}}, "/labels"),
        ({"labels": {"a": None}}, "/labels"),
        ({"labels": {"": "x"}}, "/labels"),
        ({"labels": {"a b": "x"}}, "/labels"),
        ({"labels": {"a\n": "x"}}, "/labels"),
        ({"labels": {"a" * 64: "x"}}, "/labels"),
        ({"labels": {"a": "x" * 201}}, "/labels"),
        ({"labels": {"a": "\x00"}}, "/labels/a"),
        ({"labels": {f"n{number}": "x" for number in range(17)}}, "/labels"),
        ({"owner_service": 7}, "/owner_service"),
        ({"owner_service": ""}, "/owner_service"),
        ({"owner_service": "-a"}, "/owner_service"),
        ({"owner_service": "a\n"}, "/owner_service"),
        ({"task_type": "a" * 101}, "/task_type"),
        ({"model_profile": "ä"}, "/model_profile"),
        ({"owner_ref": "x" * 501}, "/owner_ref"),
        ({"owner_ref": None}, "/owner_ref"),
        ({"priority": "urgent"}, "/priority"),
        ({"priority": 1}, "/priority"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"max_attempts": 101}, "/max_attempts"),
        ({"max_attempts": "3"}, "/max_attempts"),
        ({"run_at": "2026-03-01T12:00:00"}, "/run_at"),
        ({"run_at": "tomorrow"}, "/run_at"),
        ({"run_at": 1}, "/run_at"),
        ({"run_at": "9999-12-31T23:59:59-01:00"}, "/run_at"),
        ({"input": "text"}, "/input"),
        ({"input": []}, "/input"),
        ({"input": None}, "/input"),
        ({"input": {"messages": []}}, "/input/messages"),
        ({"input": {"topic": "neither messages nor user"}}, "/input"),
        ({"input": {"messages": [{"role": "robot", "content": "Hi"}]}}, "/input/messages/0/role"),
        ({"input": {"messages": [{"role": "user", "content": 1}]}}, "/input/messages/0/content"),
        ({"input": {"user": "Hi", "max_tokens": -1}}, "/input/max_tokens"),
        ({"input": {"user": "Hi\x00"}}, "/input/user"),
        ({"input": {"messages": [{"role": "user", "content": "\ud800"}]}}, "/input/messages/0/content"),
        ({"input": {"deep": [1, {"a/b": ["\udfff"]}]}}, "/input/deep/1/a~1b/0"),
        ({"input": {"user": "Hi", "more": {"\x00": 1}}}, "/input/more"),
        ({"owner_ref": "\x00"}, "/owner_ref"),
        ({"owner_ref": "\udc00"}, "/owner_ref"),
    ],
)
async def test_a_wrong_field_is_422_and_named(api: Api, changes: dict[str, Any], pointer: str) -> None:
    assert pointers(await api.submit(**changes)) == [pointer]


async def test_a_pattern_is_told_as_any_language_reads_it(api: Api) -> None:
    [error] = problem(await api.submit(task_type="call summary"), 422)["errors"]
    assert error["detail"] == "Expected `str` matching regex '^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}$'"


async def test_sixteen_labels_of_the_longest_kind_are_accepted(api: Api) -> None:
    labels = {f"{number:063}": "ü" * 200 for number in range(16)}
    assert (await api.submit(labels=labels)).json()["labels"] == labels


@pytest.mark.parametrize("field", ["owner_service", "task_type", "model_profile", "input"])
async def test_a_missing_field_is_422_and_named(api: Api, field: str) -> None:
    wanted = {name: value for name, value in WANTED.items() if name != field}
    assert pointers(await api.client.post("/api/v1/jobs", json=wanted)) == [f"/{field}"]


async def test_a_body_that_is_no_object_is_422(api: Api) -> None:
    assert pointers(await api.client.post("/api/v1/jobs", json=[WANTED])) == [""]


async def test_a_nul_in_a_member_that_another_of_the_same_name_hides_is_found(api: Api) -> None:
    response = await api.client.post("/api/v1/jobs", content=body(b'{"a": "\\u0000", "a": 1}'))
    assert pointers(response) == ["/input/a"]


async def test_a_task_type_on_a_profile_of_the_wrong_kind_says_so_with_its_code(api: Api) -> None:
    document = problem(await api.submit(task_type="transcription"), 422)
    assert document["error_code"] == "unsupported_task"


async def test_an_input_over_its_limit_is_413(api: Api) -> None:
    document = problem(await api.submit(input={"user": "x" * MAX_INPUT_BYTES}), 413)
    assert f"{MAX_INPUT_BYTES} are accepted (MAX_INPUT_BYTES)" in document["detail"]


async def test_a_body_over_its_limit_is_413(api: Api) -> None:
    document = problem(await api.submit(owner_ref="x" * (MAX_INPUT_BYTES + ENVELOPE_BYTES)), 413)
    assert document["type"] == "urn:problem:ai-service:too-large"
    assert f"more than {MAX_INPUT_BYTES + ENVELOPE_BYTES} bytes, which is what MAX_INPUT_BYTES" in document["detail"]


async def test_nothing_is_stored_when_the_job_is_refused(api: Api) -> None:
    await api.submit(max_attempts=0)
    await api.submit(input={"user": "Hi", "max_tokens": -1})
    assert (await api.client.get("/api/v1/jobs")).json()["jobs"] == []


async def test_a_schema_that_is_none_is_refused_where_it_stands(api: Api) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"a": {"type": "strin"}}}}}
    response = await api.submit(input={"user": "Hello", "response_format": wanted})
    assert pointers(response) == ["/input/response_format/json_schema/schema/properties/a/type"]
