"""Uploads over HTTP: what is taken, whose it is, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.keyring import Keyring
from domain.upload import CHUNK
from tests.app.conftest import MAX_UPLOAD_BYTES, Api, build, pointers, problem
from tests.factories import NO_JOB

PATH = "/api/v1/uploads"
WAV = {"content-type": "audio/wav"}
BODY = bytes(range(256)) * 8


async def upload(api: Api, content: Any = BODY, **options: Any) -> httpx.Response:
    options = {"headers": WAV, "params": {"owner_service": "beeline"}} | options
    return await api.client.post(PATH, content=content, **options)


async def send_form(api: Api, body: bytes, boundary: str = "boundary=b") -> httpx.Response:
    return await upload(api, body, headers={"content-type": f"multipart/form-data; {boundary}"})


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


async def content(api: Api, answer: httpx.Response) -> bytes:
    got = await api.client.get(f"{PATH}/{answer.json()['upload_id']}/content")
    assert got.status_code == 200, got.text
    assert got.headers["content-length"] == str(len(got.content))
    assert got.headers["content-type"] == "application/octet-stream"
    return got.content


async def nothing_is_left(api: Api) -> bool:
    await api.store.uploads.prune()
    return not (api.store.uploads._uploads or api.store.uploads._chunks or api.store.uploads._leftovers)


async def test_an_upload_is_kept_as_it_came(api: Api):
    answer = await upload(api)
    assert answer.status_code == 201, answer.text
    upload_id = answer.json()["upload_id"]
    assert answer.json() == {"upload_id": upload_id, "bytes": len(BODY)}
    assert answer.headers["location"] == f"{PATH}/{upload_id}"
    told = (await api.client.get(answer.headers["location"])).json()
    assert told == {"upload_id": upload_id, "bytes": len(BODY), "created_at": "2026-03-01T12:00:00Z"}
    assert await content(api, answer) == BODY


@pytest.mark.parametrize("kind", ["audio/ogg; codecs=opus", "video/mp4", "application/octet-stream", "AUDIO/WAV", None])
async def test_the_bytes_themselves_may_be_of_any_such_type_or_none(api: Api, kind: str | None):
    answer = await upload(api, headers={"content-type": kind} if kind else {})
    assert answer.status_code == 201, answer.text


async def test_a_form_holds_the_file_in_its_field(api: Api):
    answer = await api.client.post(PATH, files={"file": ("a.wav", BODY, "audio/wav")}, params={"owner_service": "x"})
    assert answer.status_code == 201, answer.text
    assert await content(api, answer) == BODY


async def test_other_fields_of_a_form_are_left_unread(api: Api):
    body = part("note", b"hello") + part("file", BODY, '; filename="\xd0\xb0.wav"') + part("more", b"x") + b"--b--\r\n"
    answer = await send_form(api, body)
    assert answer.status_code == 201, answer.text
    assert await content(api, answer) == BODY


async def test_a_large_one_comes_and_goes_in_pieces(api: Api):
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(60):
            yield bytes([number]) * 30_001

    answer = await upload(api, pieces())
    assert answer.json()["bytes"] == 60 * 30_001
    assert await content(api, answer) == b"".join([piece async for piece in pieces()])
    [chunks] = api.store.uploads._chunks.values()
    assert {len(chunk) for chunk in chunks.values()} == {CHUNK, 60 * 30_001 % CHUNK}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing like it",
        part("file", BODY),
        part("file", BODY)[:-20],
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n",
        part("x", b"") * 100 + b"--b--\r\n",
    ],
)
async def test_what_is_no_form_is_refused_and_not_kept(api: Api, body: bytes):
    problem(await send_form(api, body), 400)
    assert await nothing_is_left(api)


@pytest.mark.parametrize("boundary", ["", "boundary=", f"boundary={'x' * 201}"])
async def test_a_form_needs_a_boundary(api: Api, boundary: str):
    problem(await send_form(api, part("file", BODY) + b"--b--\r\n", boundary), 400)


async def test_a_form_without_the_file_or_with_two_is_refused(api: Api):
    assert pointers(await send_form(api, part("audio", BODY) + b"--b--\r\n")) == ["/file"]
    assert pointers(await send_form(api, part("file", BODY) * 2 + b"--b--\r\n")) == ["/file"]
    assert await nothing_is_left(api)


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded; a=b", "audio"])
async def test_what_says_it_is_something_else_is_refused(api: Api, kind: str):
    assert pointers(await upload(api, headers={"content-type": kind})) == [""]


async def test_an_empty_one_is_refused(api: Api):
    assert pointers(await upload(api, b"")) == [""]
    assert pointers(await send_form(api, part("file", b"") + b"--b--\r\n")) == [""]


async def test_one_of_just_the_limit_is_taken(api: Api):
    assert (await upload(api, bytes(MAX_UPLOAD_BYTES))).status_code == 201


async def test_one_that_says_it_is_larger_is_refused_unread(api: Api):
    async def unread() -> AsyncIterator[bytes]:
        yield b"x"
        raise AssertionError("it was read")

    for size in (MAX_UPLOAD_BYTES + 1, 10**12):
        answer = await upload(api, unread(), headers=WAV | {"content-length": str(size)})
        assert "MAX_UPLOAD_BYTES" in problem(answer, 413)["detail"]


async def test_one_that_turns_out_larger_is_refused_and_not_kept(api: Api):
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    assert "MAX_UPLOAD_BYTES" in problem(await upload(api, endless()), 413)["detail"]
    form = part("file", bytes(MAX_UPLOAD_BYTES + 1)) + b"--b--\r\n"
    assert "MAX_UPLOAD_BYTES" in problem(await send_form(api, form), 413)["detail"]
    assert await nothing_is_left(api)


async def test_its_owner_must_be_known(api: Api):
    assert pointers(await upload(api, params={})) == ["/owner_service"]
    assert pointers(await upload(api, params={"owner_service": "a b"})) == ["/owner_service"]
    assert pointers(await upload(api, params={"owner": "x"})) == ["/owner"]


@pytest.mark.parametrize("upload_id", [NO_JOB, "nonsense", "%00", "1" * 500])
async def test_one_that_is_not_there_is_not_found(api: Api, upload_id: str):
    for call in (api.client.get(f"{PATH}/{upload_id}"), api.client.get(f"{PATH}/{upload_id}/content")):
        problem(await call, 404)
    problem(await api.client.delete(f"{PATH}/{upload_id}"), 404)


async def test_it_can_be_removed_while_no_job_needs_it(api: Api):
    answer = await upload(api)
    given = {"upload_id": answer.json()["upload_id"]}
    job_id = await api.submitted(task_type="transcribe", model_profile="theirs", input=given)
    refused = problem(await api.client.delete(answer.headers["location"]), 409)
    assert refused["type"] == "urn:problem:ai-service:upload-in-use"
    await api.client.post(f"/api/v1/jobs/{job_id}/cancel")
    assert (await api.client.delete(answer.headers["location"])).status_code == 204
    problem(await api.client.get(answer.headers["location"]), 404)


TOKENS = {
    "lion-token": {"owner": "lion"},
    "bear-token": {"owner": "bear"},
    "reads-token": {"owner": "lion", "rights": ["read"]},
    "works-token": {"owner": "lion", "rights": ["work"]},
    "everybodys-token": {"owner": "*"},
}


@pytest.fixture
async def owned(tmp_path: Path) -> AsyncIterator[Api]:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(TOKENS))
    built = build(Keyring(tokens=path))
    async with built.client:
        yield built


def by(key: str) -> dict[str, str]:
    return WAV | {"authorization": f"Bearer {key}-token"}


async def test_it_is_the_tokens_owners_and_nobody_elses(owned: Api):
    answer = await upload(owned, headers=by("lion"), params={})
    assert answer.status_code == 201, answer.text
    path = answer.headers["location"]
    for key in ("lion", "reads", "everybodys"):
        assert (await owned.client.get(path, headers=by(key))).status_code == 200
    problem(await owned.client.get(path, headers=by("bear")), 404)
    problem(await owned.client.get(f"{path}/content", headers=by("bear")), 404)
    problem(await owned.client.delete(path, headers=by("bear")), 404)
    problem(await upload(owned, headers=by("lion"), params={"owner_service": "bear"}), 403)


async def test_a_worker_may_have_the_recording_and_no_more(owned: Api):
    path = (await upload(owned, headers=by("lion"), params={})).headers["location"]
    assert (await owned.client.get(f"{path}/content", headers=by("works"))).content == BODY
    problem(await owned.client.get(path, headers=by("works")), 403)
    problem(await upload(owned, headers=by("works"), params={}), 403)
    problem(await owned.client.delete(path, headers=by("reads")), 403)
