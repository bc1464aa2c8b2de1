from __future__ import annotations

import pytest

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
