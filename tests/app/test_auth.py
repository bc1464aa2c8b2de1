"""The guard: who is let in, how often, and to what."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar, Router, delete, get, post
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.params import RawBody
from structlog.testing import capture_logs

from app.api.auth import RIGHT, caller_of, guard_of
from app.api.injected import Calling
from app.api.problems import problem_of
from app.keyring import Keyring
from domain.access import Right
from tests.app.conftest import WANTED, Api, build, problem
from tests.fakes import FakeClock

OPEN = {"/health", "/health/detail", "/health/provider", "/healthz", "/metrics", "/readyz"}
TELLS_MORE = {"/health/detail"}
"""Open ones that tell those more whose token they know."""

TOKENS: dict[str, Any] = {
    "telephony-token": "telephony",
    "reading-token": {"owner": "telephony", "rights": ["read"]},
    "pool-token": {"owner": "*", "rights": ["work"], "priority": "low", "weight": 2},
    "operating-token": {"owner": "*", "rights": ["operate"]},
    "patient-token": {"owner": "beeline", "rate": 2},
    "slow-token": {"owner": "beeline", "rate": 0.3},
}
ALL_RIGHTS = "all-rights"


@get("/caller", opt={RIGHT: Right.READ})
async def tell_caller(caller: Calling) -> dict[str, Any]:
    return {
        "owner": caller.owner,
        "rights": sorted(caller.rights),
        "priority": caller.priority.name,
        "weight": caller.weight,
    }


@get("/read", opt={RIGHT: Right.READ})
async def read() -> None: ...


@post("/submit", opt={RIGHT: Right.SUBMIT})
async def submit(body: RawBody) -> None: ...


@delete("/erase", opt={RIGHT: Right.SUBMIT})
async def erase() -> None: ...


@get("/claims", opt={RIGHT: Right.WORK})
async def look_for_work() -> None: ...


@post("/claim", opt={RIGHT: Right.WORK})
async def claim(caller: Calling) -> str | None:
    return caller.owner


@post("/pause", opt={RIGHT: Right.OPERATE})
async def pause() -> None: ...


ROUTES = {
    "submit": ("POST", "/submit"),
    "erase": ("DELETE", "/erase"),
    "read": ("GET", "/read"),
    "claims": ("GET", "/claims"),
    "claim": ("POST", "/claim"),
    "pause": ("POST", "/pause"),
}


class Door:
    """A small application behind the guard."""

    def __init__(self, keyring: Keyring, clock: FakeClock) -> None:
        self.clock = clock
        router = Router(
            "/",
            guards=[guard_of(keyring)],
            route_handlers=[tell_caller, read, submit, erase, look_for_work, claim, pause],
        )
        app = Litestar(
            [router],
            dependencies={"caller": Provide(caller_of, sync_to_thread=False)},
            exception_handlers={Exception: problem_of},
            openapi_config=None,
            logging_config=None,
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", app)), base_url="http://test")

    async def ask(self, route: str, token: str | None) -> httpx.Response:
        method, path = ROUTES.get(route, ("GET", f"/{route}"))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.client.request(method, path, headers=headers)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    path, clock = tmp_path / "tokens.json", FakeClock()
    path.write_text(json.dumps(TOKENS))
    door = Door(Keyring(ALL_RIGHTS, path, clock=clock.monotonic), clock)
    async with door.client:
        yield door


@pytest.mark.parametrize("token", [None, "", "telephony-toke", "telephony-token2", "telephony"])
async def test_without_a_token_of_the_service_nothing_opens(door: Door, token: str | None):
    for route in ROUTES:
        response = await door.ask(route, token)
        problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


OPENED = {
    "telephony-token": {"submit", "erase", "read"},
    "reading-token": {"read"},
    "pool-token": {"claims", "claim"},
    "operating-token": {"pause"},
    ALL_RIGHTS: set(ROUTES),
}


@pytest.mark.parametrize("token", OPENED)
async def test_a_token_opens_what_its_rights_say_and_nothing_else(door: Door, token: str):
    statuses = {route: (await door.ask(route, token)).status_code for route in ROUTES}
    assert {route for route, status in statuses.items() if status < 300} == OPENED[token]
    assert {status for status in statuses.values() if status >= 300} <= {403}


async def test_who_lacks_a_right_is_told_which(door: Door):
    refused = problem(await door.ask("claim", "reading-token"), 403)
    assert refused["type"] == "urn:problem:ai-service:forbidden"
    assert "'work'" in refused["detail"]


async def test_a_controller_learns_who_calls(door: Door):
    seen = (await door.ask("caller", "telephony-token")).json()
    assert seen == {"owner": "telephony", "rights": ["read", "submit"], "priority": "NORMAL", "weight": 1.0}
    seen = (await door.ask("caller", ALL_RIGHTS)).json()
    assert (seen["owner"], seen["rights"]) == (None, sorted(Right))


async def test_an_open_api_lets_anybody_do_anything():
    door = Door(Keyring(), FakeClock())
    async with door.client:
        for token in (None, "any-token"):
            assert {(await door.ask(route, token)).status_code < 300 for route in ROUTES} == {True}
            assert (await door.ask("caller", token)).json()["owner"] is None


async def test_over_its_rate_a_token_waits_as_long_as_it_is_told(door: Door):
    assert [(await door.ask("read", "patient-token")).status_code for _ in range(3)] == [200, 200, 429]
    refused = await door.ask("read", "patient-token")
    assert problem(refused, 429)["type"] == "urn:problem:ai-service:rate-limited"
    assert refused.headers["retry-after"] == "1"

    door.clock.advance(timedelta(seconds=1))
    assert [(await door.ask("read", "patient-token")).status_code for _ in range(3)] == [200, 200, 429]


async def test_the_wait_is_told_in_whole_seconds_rounded_up(door: Door):
    await door.ask("read", "slow-token")
    assert (await door.ask("read", "slow-token")).headers["retry-after"] == "4"
    door.clock.advance(timedelta(seconds=2.5))
    assert (await door.ask("read", "slow-token")).headers["retry-after"] == "1"


async def test_what_a_token_may_not_do_counts_as_well(door: Door):
    assert [(await door.ask("claim", "patient-token")).status_code for _ in range(3)] == [403, 403, 429]


async def test_a_refusal_does_not_wait_for_the_body(door: Door):
    sent = []

    async def body() -> AsyncIterator[bytes]:
        sent.append(True)
        yield b"{}"

    response = await door.client.post("/submit", content=body(), headers={"Authorization": "Bearer wrong-token"})
    problem(response, 401)
    assert not sent


async def test_no_answer_and_no_log_holds_a_token(door: Door):
    with capture_logs() as logs:
        answers = [await door.ask(route, token) for route in ROUTES for token in (*TOKENS, "wrong-token")]
    assert {answer.status_code for answer in answers} >= {200, 401, 403, 429}
    told = " ".join(f"{answer.headers} {answer.text}" for answer in answers)
    assert not [token for token in (*TOKENS, "wrong-token") if token in f"{told} {logs}"]


def described(app: Litestar) -> dict[str, list[HTTPRouteHandler]]:
    """The handlers that the API's description names, by path."""
    return {
        route.path: [handler for handler in route.route_handlers if handler.resolve_include_in_schema()]
        for route in app.routes
        if hasattr(route, "route_handlers") and not route.path.startswith("/schema")
    }


async def test_every_route_but_the_open_ones_is_guarded_and_asks_for_a_right(api: Api):
    for path, handlers in described(api.app).items():
        for handler in handlers:
            assert bool(handler.resolve_guards()) == (path not in OPEN - TELLS_MORE), path
            assert (RIGHT in handler.opt) == (path not in OPEN), path


async def test_the_whole_api_knows_owners_tokens(tmp_path: Path):
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(TOKENS))
    api = build(Keyring(tokens=path))
    async with api.client:
        statuses = {}
        for token in ("wrong-token", "reading-token", "telephony-token"):
            headers = {"Authorization": f"Bearer {token}"}
            wanted = WANTED | {"owner_service": "telephony"}
            statuses[token] = (await api.client.post("/api/v1/jobs", json=wanted, headers=headers)).status_code
    assert statuses == {"wrong-token": 401, "reading-token": 403, "telephony-token": 201}
