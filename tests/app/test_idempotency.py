from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.wire.idempotency import fingerprint
from tests.app.conftest import WANTED, Api, pointers


async def submit(api: Api, header: str | bytes | None = None, **changes: Any) -> httpx.Response:
    headers = {} if header is None else {b"Idempotency-Key": header.encode() if isinstance(header, str) else header}
    return await api.client.post("/api/v1/jobs", content=json.dumps(WANTED | changes), headers=headers)


async def stored(api: Api) -> int:
    return len((await api.client.get("/api/v1/jobs")).json()["jobs"])


async def test_the_same_request_again_finds_the_same_job(api: Api) -> None:
    first, second = await submit(api, '"call-7"'), await submit(api, '"call-7"')
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert await stored(api) == 1


async def test_it_finds_the_job_whatever_has_become_of_it(api: Api) -> None:
    job_id = (await submit(api, "call-7")).json()["id"]
    await api.complete(job_id)
    again = (await submit(api, "call-7")).json()
    assert (again["id"], again["status"], again["result"]) == (job_id, "completed", {"schema_version": "test.v1"})


@pytest.mark.parametrize(
    ("header", "field"),
    [("call-7", "call-7"), ('"call-7"', "call-7"), (r'"a \"b\" \\ c"', r'a "b" \ c'), ("ü", "ü"), ('b"c', 'b"c')],
)
async def test_the_header_quoted_or_bare_is_the_same_as_the_field(api: Api, header: str, field: str) -> None:
    first = await submit(api, header)
    assert (await submit(api, idempotency_key=field)).json()["id"] == first.json()["id"]
    assert (await submit(api, header, idempotency_key=field)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":{"user":"Hello"},"model_profile":"qwen2.5-14b","task_type":"llm_chat","owner_service":"beeline"}',
        (
            b'{ "task_type" : "llm_chat", "owner_service":"be\\u0065line", "input":{"user":"Hello"},\n'
            b'"model_profile":"qwen2.5-14b"}'
        ),
    ],
)
async def test_what_says_the_same_in_other_bytes_is_the_same(api: Api, body: bytes) -> None:
    first = await submit(api, "k")
    again = await api.client.post("/api/v1/jobs", content=body, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])


@pytest.mark.parametrize(
    "changes", [{"priority": "normal"}, {"owner_ref": "x"}, {"input": {"user": "Bye"}}, {"input": {"user": "Hello "}}]
)
async def test_another_body_under_the_same_key_is_422_and_stores_nothing(api: Api, changes: dict[str, Any]) -> None:
    await submit(api, "k")
    response = await submit(api, "k", **changes)
    assert pointers(response) == ["/idempotency_key"]
    assert response.json()["type"] == "urn:problem:ai-service:bad-input"
    assert await stored(api) == 1


async def test_a_key_is_its_owners(api: Api) -> None:
    first = await submit(api, "k")
    other = await submit(api, "k", owner_service="telephony", input={"user": "Something else"})
    assert other.status_code == 201
    assert other.json()["id"] != first.json()["id"]


async def test_a_key_lives_as_long_as_its_job(api: Api) -> None:
    job_id = (await submit(api, "k")).json()["id"]
    await api.complete(job_id)
    assert (await api.client.delete(f"/api/v1/jobs/{job_id}")).status_code == 204
    assert (await submit(api, "k", owner_ref="another")).status_code == 201


async def test_concurrent_twins_are_one_job(api: Api) -> None:
    responses = await asyncio.gather(*(submit(api, "k") for _ in range(20)))
    assert sorted(response.status_code for response in responses) == [200] * 19 + [201]
    assert len({response.json()["id"] for response in responses}) == 1


async def test_without_a_key_the_same_request_is_another_job(api: Api) -> None:
    assert (await submit(api)).json()["id"] != (await submit(api)).json()["id"]


@pytest.mark.parametrize(
    "header", ["", '""', '"a', '"a"b', '"a" ; x=1', r'"a\b"', "a" * 256, '"' + "a" * 256 + '"', "a\tb", b"\xff", "\x7f"]
)
async def test_a_header_that_is_no_key_is_422(api: Api, header: str | bytes) -> None:
    assert pointers(await submit(api, header)) == ["/idempotency_key"]
    assert await stored(api) == 0


@pytest.mark.parametrize("key", ["", "a" * 256, "a\nb", "a\n", "\u0085", "\0", "\ud800", 7, None])
async def test_a_field_that_is_no_key_is_422(api: Api, key: Any) -> None:
    assert pointers(await submit(api, idempotency_key=key)) == ["/idempotency_key"]


async def test_the_longest_key_is_accepted(api: Api) -> None:
    assert (await submit(api, "a" * 255)).status_code == 201


async def test_a_header_and_a_field_that_differ_are_422(api: Api) -> None:
    assert pointers(await submit(api, "a", idempotency_key="b")) == ["/idempotency_key"]


async def test_two_headers_that_differ_are_422(api: Api) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    response = await api.client.post("/api/v1/jobs", json=WANTED, headers=headers)
    assert pointers(response) == ["/idempotency_key"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a":1,"b":2}', b'{ "b" : 2, "a" : 1 }', True),
        (b'{"a":1,"idempotency_key":"x"}', b'{"idempotency_key":"y","a":1}', True),
        (b'{"a":{"idempotency_key":"x"}}', b'{"a":{"idempotency_key":"y"}}', False),
        (b'{"a":"\\u00fc"}', '{"a":"ü"}'.encode(), True),
        (b'{"a":100}', b'{"a":1e2}', False),
        (b'{"a":1.0}', b'{"a":1.00}', True),
        (b'{"a":[1,2]}', b'{"a":[2,1]}', False),
        (b'{"a":' + b"9" * 5_000 + b"}", b'{"a": ' + b"9" * 5_000 + b"}", False),
        (b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}", b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}", True),
    ],
)
def test_fingerprints_are_of_what_is_said(one: bytes, other: bytes, same: bool) -> None:
    assert (fingerprint(one) == fingerprint(other)) is same
    assert len(fingerprint(one)) == 16
