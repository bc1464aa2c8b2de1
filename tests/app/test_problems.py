from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from domain.errors import StorageUnavailable
from domain.job import Job, JobId
from tests.app.conftest import WANTED, Api, problem
from tests.factories import NO_JOB, new_id


async def fail(_: JobId) -> Job:
    raise RuntimeError("SELECT secret FROM jobs")


async def be_away(_: JobId) -> Job:
    raise StorageUnavailable


async def test_a_storage_that_is_away_is_503_and_says_when_to_come_back(api: Api) -> None:
    api.store.away = True
    response = await api.submit()
    problem(response, 503)
    assert int(response.headers["retry-after"]) > 0


async def test_a_storage_that_goes_away_during_a_read_is_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.store, "get", be_away)
    problem(await api.client.get(f"/api/v1/jobs/{new_id()}"), 503)


async def test_an_unhandled_error_is_logged_and_tells_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.store, "get", fail)
    with capture_logs() as logs:
        response = await api.client.get(f"/api/v1/jobs/{(job_id := new_id())}")
    problem(response, 500)
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert (logs[0]["event"], logs[0]["path"]) == ("request_failed", f"/api/v1/jobs/{job_id}")


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/api/v1", "/api/v1/nope", "/api/v2/jobs", "/schema/nope", "/schema/files/nope"]
)
async def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    assert problem(await api.client.get(path), 404)["instance"] == path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/jobs", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/healthz", "GET, HEAD, OPTIONS"),
        ("BREW", "/healthz", "GET, HEAD, OPTIONS"),
        ("HEAD", f"/api/v1/jobs/{NO_JOB}/cancel", "OPTIONS, POST"),
    ],
)
async def test_a_method_that_the_path_does_not_know_is_405(api: Api, method: str, path: str, allowed: str) -> None:
    response = await api.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["allow"] == allowed


async def test_options_says_what_a_path_knows(api: Api) -> None:
    response = await api.client.options("/api/v1/jobs")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_options_of_an_unknown_path_is_404(api: Api) -> None:
    assert (await api.client.options("/nope")).status_code == 404


async def test_head_is_get_without_its_body(api: Api) -> None:
    await api.submitted()
    got = await api.client.get("/api/v1/jobs")
    asked = await api.client.head("/api/v1/jobs")
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic s3cret-à", "s3cret-à", "Bearer s3cret"]
)
async def test_without_the_token_nothing_is_told(guarded_api: Api, given: str | None) -> None:
    headers = {} if given is None else {b"authorization": given.encode()}
    for path in ("/api/v1/jobs", f"/api/v1/jobs/{new_id()}"):
        response = await guarded_api.client.get(path, headers=headers)
        problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_token_opens_the_api(guarded_api: Api, scheme: str) -> None:
    headers = {b"authorization": f"{scheme} s3cret-à".encode()}
    response = await guarded_api.client.post("/api/v1/jobs", json=WANTED, headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/schema", "/schema/openapi.json", "/schema/files/swagger-ui.css"]
)
async def test_some_doors_are_open(guarded_api: Api, path: str) -> None:
    assert (await guarded_api.client.get(path)).status_code == 200
