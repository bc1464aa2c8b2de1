"""Every door of the API, tried with everything but the right key."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from app import keyfile, keyring
from app.api import auth
from app.api.auth import RIGHT
from app.keyring import Keyring
from domain.access import Right
from tests.app.conftest import Api, build
from tests.factories import NO_JOB
from tests.security.conftest import Listening, listening

OPEN = (
    "/healthz",
    "/readyz",
    "/health",
    "/health/detail",
    "/health/provider",
    "/metrics",
    "/schema",
    "/schema/openapi.json",
)
"""What is told to everybody; below /schema/files lie the files of the pages."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "get", "PROPFIND")
MASTER = "m4ster-key"
LIMITED = {right: f"{right}-only-key" for right in Right}


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Api]:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({token: {"owner": "*", "rights": [right]} for right, token in LIMITED.items()}))
    built = build(Keyring(MASTER, path))
    async with built.client:
        yield built


@pytest.fixture
async def doors(guarded: Api) -> AsyncIterator[Listening]:
    async with listening(guarded.app) as here:
        yield here


def routes(app: Litestar) -> Iterator[tuple[str, str, tuple[Right, ...] | None]]:
    """Every route of the application, and the rights of which it asks for one; None: it asks for nothing."""
    for route in app.routes:
        handlers = route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]
        for handler in handlers:
            named = handler.opt.get(RIGHT)
            rights = named if named is None or isinstance(named, tuple) else (Right(named),)
            for method in sorted(getattr(handler, "http_methods", {"GET"}) - {"OPTIONS"}):
                yield method, concrete(route.path), rights


def concrete(path: str) -> str:
    return (
        path.replace("{job_id:str}", NO_JOB)
        .replace("{upload_id:str}", NO_JOB)
        .replace("{name:str}", "gpu.llm")
        .replace("{file_path:path}", "x")
    )


def is_open(path: str) -> bool:
    return path in OPEN or path.startswith(("/schema/", "/schema/files"))


async def status(doors: Listening, method: str, path: str, *fields: str) -> int:
    lines = (f"{method} {path} HTTP/1.1", "Host: x", "Content-Length: 0", "Connection: close", *fields)
    line = await doors.call()
    await line.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
    found = await line.status()
    line.hang_up()
    return found


REFUSED_KEYS = (
    (),
    ("Authorization:",),
    ("Authorization: Bearer",),
    ("Authorization: Bearer wrong-key",),
    (f"Authorization: Bearer {MASTER}x",),
    (f"Authorization: Bearer {MASTER[:-1]}",),
    (f"Authorization: Bearer {MASTER.upper()}",),
    (f"Authorization: {MASTER}",),
    (f"Authorization: Basic {MASTER}",),
    (f"Authorization: Token {MASTER}",),
    (f"Authorization: Bearer, Bearer {MASTER}",),
    (f"Authorization: Bearer\t{MASTER}",),
    (f'Authorization: Bearer "{MASTER}"',),
    (f"Authorization: Bearer {MASTER}, Bearer {MASTER}",),
    (f"X-Authorization: Bearer {MASTER}",),
    (f"Proxy-Authorization: Bearer {MASTER}",),
    (f"Cookie: token={MASTER}; Authorization=Bearer {MASTER}",),
    (f"X-Api-Key: {MASTER}",),
)


async def test_every_route_but_the_open_ones_wants_a_key(guarded: Api, doors: Listening):
    tried = list(routes(guarded.app))
    assert len(tried) > 25
    for method, path, rights in tried:
        found = await status(doors, method, path)
        if rights is None:
            assert is_open(path), f"{method} {path} asks for nothing"
            assert found in {200, 404, 503}
        else:
            assert found == 401, f"{method} {path}"


async def test_what_is_not_the_key_opens_nothing(guarded: Api, doors: Listening):
    for method, path, rights in list(routes(guarded.app)):
        for fields in REFUSED_KEYS if rights else ():
            assert await status(doors, method, path, *fields) == 401, f"{method} {path} with {fields}"


async def test_two_keys_in_one_request_are_not_a_choice(doors: Listening):
    """Whichever a proxy in front looked at, the other must not open the door."""
    for keys in ((MASTER, "wrong-key"), ("wrong-key", MASTER)):
        fields = [f"Authorization: Bearer {key}" for key in keys]
        assert await status(doors, "GET", "/api/v1/jobs", *fields) == 401


async def test_a_key_in_the_query_opens_nothing(doors: Listening):
    for name in ("token", "access_token", "Authorization", "authorization"):
        assert await status(doors, "GET", f"/api/v1/jobs?{name}=Bearer%20{MASTER}") == 401


async def test_a_key_opens_what_its_right_says_and_no_other_route(guarded: Api, doors: Listening):
    for method, path, rights in list(routes(guarded.app)):
        for key_right, key in LIMITED.items():
            found = await status(doors, method, path, f"Authorization: Bearer {key}")
            if rights is None or key_right in rights:
                assert found not in {401, 403}, f"{method} {path} with {key}"
            else:
                assert found == 403, f"{method} {path} with {key}"


async def test_no_method_passes_by_the_guard(guarded: Api, doors: Listening):
    paths = sorted({path for _, path, rights in routes(guarded.app) if rights})
    for path in paths:
        for method in METHODS:
            assert await status(doors, method, path) in {400, 401, 405}, f"{method} {path}"
        assert await status(doors, "OPTIONS", path) == 204


async def test_a_method_in_a_field_changes_nothing(doors: Listening):
    for field in ("X-HTTP-Method-Override: POST", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz"):
        assert await status(doors, "GET", "/api/v1/jobs", field) == 401
        assert await status(doors, "GET", "/healthz", field) == 200


ODD_PATHS = (
    "/api/v1/jobs/",
    "//api/v1/jobs",
    "/api//v1/jobs",
    "/api/v1//jobs",
    "/./api/v1/jobs",
    "/healthz/../api/v1/jobs",
    "/schema/../api/v1/jobs",
    "/schema/files/../../api/v1/jobs",
    "/schema/files/%2e%2e/%2e%2e/api/v1/jobs",
    "/schema/files/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    "/schema/files//etc/passwd",
    "/schema/files/%2fetc/passwd",
    "/schema/files/..%5c..%5cetc/passwd",
    "/schema/files/swagger-ui.css%00.html",
    "/schema/files/" + "a" * 5000,
    "/schema/files/" + "a/" * 3000,
    "/schema/files/%ff%fe",
    "/healthz;/api/v1/jobs",
    "/healthz%2f..%2fapi/v1/jobs",
    "/healthz/%2e%2e/api/v1/jobs",
    "/API/v1/jobs",
    "/api/V1/JOBS",
    "/api%2fv1%2fjobs",
    "/%61pi/v1/jobs",
    "/api/v1/%6aobs",
    "/api/v1/jobs%00",
    "/api/v1/jobs%2f",
    "/api/v1/jobs;x=y",
    "/api/v1/jobs%3f",
    "/api/v1/jobs%23",
    "/api/v1/jobs/%0d%0aX:%20y",
    "/api/v1/jobs/.",
    "/api/v1/jobs/..",
    "/api/v1/jobs/../jobs",
    f"/api/v1/jobs/{NO_JOB}/",
    f"/api/v1/jobs/%2e%2e/jobs/{NO_JOB}",
    "/queue/status/",
    "//queue/status",
    "/queue/./status",
    "/queue%2fstatus",
    "http://x/api/v1/jobs",
    "http://x/healthz/../api/v1/jobs",
    "*",
    "x:443",
    "//",
    "/\xc0\xae\xc0\xae/api/v1/jobs",
    "/%c0%ae%c0%ae/api/v1/jobs",
)


async def test_no_odd_path_leads_around_the_guard(doors: Listening):
    for path in ODD_PATHS:
        for method in ("GET", "POST", "HEAD", "DELETE"):
            assert await status(doors, method, path) in {400, 401, 404, 405}, f"{method} {path}"


async def test_the_doors_that_are_open_tell_no_secret_and_no_job(guarded: Api, doors: Listening):
    await guarded.store.add([])
    for path in OPEN:
        lines = (f"GET {path} HTTP/1.1", "Host: x", "Connection: close")
        answer = await doors.ask("\r\n".join(lines).encode() + b"\r\n\r\n")
        assert answer.status == 200
        assert not [key for key in (MASTER, *LIMITED.values()) if key.encode() in answer.body]


def test_keys_are_looked_up_by_their_digest_and_compared_nowhere():
    """A comparison of texts stops at the first difference, and so its time tells where that is."""
    compared = [
        ast.unparse(node)
        for module in (auth, keyring, keyfile)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Compare) and not all(isinstance(kind, ast.Is | ast.IsNot) for kind in node.ops)
    ]
    assert compared
    assert not [each for each in compared if re.search(r"\b(given|token|digest|reveal)\b", each)]
    assert "self._keys.get(digest_of(token))" in inspect.getsource(Keyring.caller)


def test_a_digest_is_long_and_of_the_whole_key():
    digests = {keyfile.digest_of(key) for key in (b"a", b"b", b"a" * 1000, b"a" * 1001, b"", b"a\0", b"a\0b")}
    assert len(digests) == 7
    assert {len(digest) >= 16 for digest in digests} == {True}
