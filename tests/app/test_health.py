from __future__ import annotations

import pytest

from domain.routing import Routes
from tests.app.conftest import Api


async def test_a_process_that_answers_lives(api: Api) -> None:
    api.store.away = True
    response = await api.client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("postgres", "broker", "status", "word"),
    [
        (True, True, 200, "ok"),
        (True, False, 200, "degraded"),
        (False, True, 503, "down"),
        (False, False, 503, "down"),
    ],
)
async def test_postgres_is_needed_and_the_broker_is_not(
    api: Api, postgres: bool, broker: bool, status: int, word: str
) -> None:
    api.store.away, api.tickets.up = not postgres, broker
    response = await api.client.get("/readyz")
    components = {"postgres": "ok" if postgres else "down", "broker": "ok" if broker else "down"}
    assert (response.status_code, response.json()) == (status, {"status": word, "components": components})


async def test_health_is_told_under_the_old_address_too(api: Api) -> None:
    api.store.away = True
    response = await api.client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_the_active_provider_is_told_to_anybody(guarded_api: Api) -> None:
    response = await guarded_api.client.get("/health/provider")
    assert response.status_code == 200
    assert response.json() == {
        "name": "qwen2.5-14b",
        "model": "Qwen/Qwen2.5-14B-Instruct",
        "configured": True,
        "kind": "vllm",
    }


async def test_without_an_active_provider_none_is_configured(api: Api) -> None:
    api.routes[:] = [Routes()]
    response = await api.client.get("/health/provider")
    assert response.json() == {"name": None, "model": None, "configured": False, "kind": None}
