"""The status of providers over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from domain.circuit import Circuit, CircuitState
from domain.errors import ErrorCode, StorageUnavailable
from domain.queue import QueueState
from domain.routing import ModelKind, Profile, Routes
from tests.app.conftest import Api, problem
from tests.factories import QUEUE

PROFILES = [
    Profile("qwen2.5-14b", ModelKind.CHAT, QUEUE, "vllm", "qwen", ("claude",)),
    Profile("claude", ModelKind.CHAT, "gpu.cloud", "anthropic", "claude-sonnet-4-5"),
]


async def status(api: Api) -> list[dict[str, Any]]:
    response = await api.client.get("/api/v1/providers/status")
    assert response.status_code == 200, response.text
    return list(response.json()["providers"])


async def test_each_profile_is_told_with_how_its_server_is(api: Api) -> None:
    api.routes[:] = [Routes(PROFILES)]
    claude, qwen = await status(api)
    assert claude["profile"] == "claude"
    assert qwen == {
        "profile": "qwen2.5-14b",
        "kind": "chat",
        "provider": "vllm",
        "model": "qwen",
        "queue": QUEUE,
        "fallbacks": ["claude"],
        "reachable": True,
        "serves_model": True,
        "authorised": True,
        "models": ["qwen"],
        "trouble": None,
        "latency_ms": 12.5,
        "circuit": {"state": "closed", "reason": None},
        "asked_at": "2026-03-01T12:00:00Z",
    }


async def test_one_that_is_down_is_told_with_its_trouble(api: Api) -> None:
    api.health.down.add("qwen2.5-14b")
    [qwen] = await status(api)
    assert (qwen["reachable"], qwen["latency_ms"], qwen["models"]) == (False, None, None)
    assert qwen["trouble"] == "The provider accepts no connections."


async def test_an_open_circuit_is_told_with_its_reason(api: Api) -> None:
    opened = Circuit(CircuitState.OPEN, ErrorCode.AUTH_ERROR, "a text of the provider")
    await api.store.queues.change_circuit(QUEUE, lambda _circuit, _now: opened)
    [qwen] = await status(api)
    assert qwen["circuit"] == {"state": "open", "reason": "auth_error"}


async def test_the_servers_are_told_of_while_postgres_is_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> list[QueueState]:
        raise StorageUnavailable

    monkeypatch.setattr(api.store.queues, "states", away)
    [qwen] = await status(api)
    assert (qwen["reachable"], qwen["circuit"]) == (True, None)


async def test_nothing_configured_is_an_empty_list(api: Api) -> None:
    api.routes[:] = [Routes()]
    assert await status(api) == []


async def test_it_needs_a_token_where_there_are_any(guarded_api: Api) -> None:
    problem(await guarded_api.client.get("/api/v1/providers/status"), 401)
